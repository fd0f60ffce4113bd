# SPDX-License-Identifier: Apache-2.0
"""
Files and lists: reading scans and judging them, naming, caching, loading. What changes a volume is in ``transforms``.
"""
