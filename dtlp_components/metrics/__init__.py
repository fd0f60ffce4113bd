# SPDX-License-Identifier: Apache-2.0
"""Numbers that are reported: overlap, uncertainty, scores by convention. What has a gradient is in ``losses``."""
