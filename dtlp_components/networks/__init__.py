# SPDX-License-Identifier: Apache-2.0
"""
Networks and what belongs to one: stages, diffusion, moving average, weights. They know nothing of pseudo-labels or
data.
"""
