# SPDX-License-Identifier: Apache-2.0
"""How unlabeled voxels get a label: the two teachers, and propagation. The networks behind them are handed in."""
