# SPDX-License-Identifier: Apache-2.0
"""Pictures and pages that people look at. Numbers come from ``metrics`` and ``handlers``."""
