# SPDX-License-Identifier: Apache-2.0
"""From weights to those who use them: segment, export, pack. Nothing here trains."""
