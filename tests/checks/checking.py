# SPDX-License-Identifier: Apache-2.0
"""Input checks with settings that pass, and what they say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from dtlp_components.checks.input_checks import InputChecks
from dtlp_components.checks.settings import Settings
from dtlp_components.errors import InputError

SETTINGS: dict[str, Any] = {"num_classes": 2, "patch_size": [16, 32, 48], "norm": "instance"}


def check(arguments: Sequence[str] = (), settings: dict[str, Any] | None = None, **given: Any) -> None:
    InputChecks(**{"labeled": [], **given}, settings=Settings({**SETTINGS, **(settings or {})}, arguments))()


def problems(**given: Any) -> list[str]:
    """Messages of the checks, one per problem."""
    with pytest.raises(InputError) as caught:
        check(**given)
    return str(caught.value).split("\n  - ")[1:]


def problem(**given: Any) -> str:
    (only,) = problems(**given)
    return only
