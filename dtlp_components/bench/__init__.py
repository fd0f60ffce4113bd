# SPDX-License-Identifier: Apache-2.0
"""How fast training and inference are and how much memory they take. How good they are is in ``metrics``."""
