# SPDX-License-Identifier: Apache-2.0
"""``python -m dtlp_components`` is the command ``dtlp``."""

from __future__ import annotations

from .cli import main

if __name__ == "__main__":
    main()
