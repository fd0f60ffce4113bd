# SPDX-License-Identifier: Apache-2.0
"""What changes a volume or a batch of them. Reading files is in ``data``."""
