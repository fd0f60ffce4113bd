# SPDX-License-Identifier: Apache-2.0
"""
A bundle from somebody's own folders (``new``): find, inspect, plan, write. Published data sets are in ``datasets``.
"""
