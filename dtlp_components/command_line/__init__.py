# SPDX-License-Identifier: Apache-2.0
"""
How a table of functions becomes a command line: reading a command, its help, its call. Not which commands there are.
"""
