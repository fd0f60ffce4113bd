# SPDX-License-Identifier: Apache-2.0
"""
Bundles as JSON: rendered, linted, and read back with the weights that were trained. Nothing here trains or segments.
"""
