# SPDX-License-Identifier: Apache-2.0
"""Known data sets, one module each with its ``prepare`` command. Scans that nobody published are in ``own_data``."""
