# SPDX-License-Identifier: Apache-2.0
"""
DTLP bundles: semi-supervised 3-D segmentation as MONAI bundles. Configs name everything as ``dtlp_components.X``.

The public names are those of :py:mod:`dtlp_components.parts`. They are imported when the first of them is asked for, so
that commands that need neither torch nor MONAI start at once; and then all of them, since MONAI Label unloads a packed
bundle's copy of the package once the network is built: a later import would fail.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .parts import *  # noqa: F403  # for type checkers alone

__version__ = "0.1.0"

# MLflow reports how it is used to its makers; a hospital's machine calls nobody unless it is told to
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


def __getattr__(name: str) -> Any:
    if name.startswith("__") and name != "__all__":  # what Python and its tools look for in any module
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if "__all__" not in globals():
        parts = importlib.import_module(".parts", __name__)
        globals().update({public: getattr(parts, public) for public in ("__all__", *parts.__all__)})
    try:
        return globals()[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return sorted({*globals(), *__getattr__("__all__")})
