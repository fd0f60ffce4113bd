# SPDX-License-Identifier: Apache-2.0
"""Trainings that are compared: read from one file, run one after the other or side by side. Scores are ``report``'s."""
