# SPDX-License-Identifier: Apache-2.0
"""Configurations and metadata of a packed bundle: the package's copy by name, settings of the training, versions."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from monai.bundle import ConfigParser

from ..bundle.trained import TrainedBundle
from ..errors import InputError
from ..files import read_object
from .path_leaks import names_a_path

__all__ = ["NAME", "VENDORED", "names_folders", "packed_config", "packed_metadata", "vendored"]

NAME, VENDORED = "dtlp_components", "scripts.dtlp_components"
SCANS = "$@dataset_dir + '/imagesTs'"


def packed_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """
    A workflow's configuration as it is in a packed folder.

    Targets name the package in ``scripts``, places are relative to the folder, and the scans that a bundle of ``new``
    was made from are no longer named.

    Args:
        config: with the settings of the training in it; not changed.
    """
    packed: dict[str, Any] = vendored(deepcopy(dict(config)))
    packed["bundle_root"] = "."
    packed.pop("_comment", None)
    if isinstance(packed.get("input"), str) and "@dataset_dir" not in packed["input"]:
        packed["input"] = SCANS
    hint = packed.get("prepare_hint")
    if isinstance(hint, str):
        packed["prepare_hint"] = (
            "" if names_folders(hint) else hint.replace(f"python -m {NAME}", f"python -m {VENDORED}")
        )
    return packed


def names_folders(hint: str) -> bool:
    """Whether a command names folders of somebody's, and with them, often, patients: that of ``new`` does."""
    return f"{NAME} new " in hint or names_a_path(hint)


def vendored(content: Any) -> Any:
    """
    Change every ``_target_`` of ``dtlp_components``, at any depth, to the package's copy in ``scripts``, in place.
    """
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        # a recipe names what it overrides by an id that may end in _target_
        if isinstance(value, str) and str(key).endswith("_target_") and value.startswith(f"{NAME}."):
            content[key] = value.replace(NAME, VENDORED, 1)
        else:
            vendored(value)
    return content


def packed_metadata(trained: TrainedBundle) -> dict[str, Any]:
    """
    Metadata with the trained network's shapes, and the versions of what is installed, without a build's suffix.

    Raises:
        InputError: if a package that it names is not installed.
    """
    parser = ConfigParser(read_object(trained.folder / "configs" / "metadata.json"))
    for id, value in trained.metadata_settings.items():
        parser[id] = value
    metadata: dict[str, Any] = parser.get()
    try:
        for package in ("monai", "pytorch", "numpy"):
            metadata[f"{package}_version"] = _installed({"pytorch": "torch"}.get(package, package))
        metadata["required_packages_version"] = {
            package: _installed(package) for package in metadata["required_packages_version"]
        }
    except PackageNotFoundError as error:
        raise InputError(
            f"{trained.folder}/configs/metadata.json requires {error.name}, which is not installed."
        ) from error
    return metadata


def _installed(package: str) -> str:
    return version(package).partition("+")[0]
