# SPDX-License-Identifier: Apache-2.0
"""From a volume to labels: windows, flips, slab by slab. Writing them is in ``transforms`` and ``handlers``."""
