# SPDX-License-Identifier: Apache-2.0
"""Networks: student, training network, diffusion of label maps, mean teacher."""
