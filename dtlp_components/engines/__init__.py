# SPDX-License-Identifier: Apache-2.0
"""The iteration itself and its schedule. Engines import no network, loss or labeler; those are handed in."""
