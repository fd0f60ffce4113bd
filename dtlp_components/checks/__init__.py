# SPDX-License-Identifier: Apache-2.0
"""What is checked before a run starts. Nothing here builds a network or writes a result."""
