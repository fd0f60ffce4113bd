# SPDX-License-Identifier: Apache-2.0
"""Which scans to label next, and what a trained model proposes for the others."""
