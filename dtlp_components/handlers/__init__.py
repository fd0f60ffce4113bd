# SPDX-License-Identifier: Apache-2.0
"""What an engine does beside its iteration: checkpoints, progress, tables. Only what has an ``attach`` belongs here."""
