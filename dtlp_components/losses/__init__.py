# SPDX-License-Identifier: Apache-2.0
"""Loss terms that MONAI does not have. What is only reported, never trained on, is in ``metrics``."""
