# SPDX-License-Identifier: Apache-2.0
"""Methods to compare with, one class each: the losses of an iteration. DTLP-Net itself is in ``engines/trainer.py``."""
