# SPDX-License-Identifier: Apache-2.0
"""Packing of a trained bundle into one folder, and a zip of it, that need nothing of this project beside them."""

from __future__ import annotations

import re
import shlex
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..bundle.compose import WORKFLOWS
from ..bundle.find import find_bundle
from ..bundle.lint import check_config, check_metadata
from ..bundle.run_monai import run_monai
from ..bundle.trained import TrainedBundle, find_trained
from ..errors import InputError, raise_if_any
from ..files import read_object, sha256, write_text
from ..run_folder import RunFolder
from .packed_config import packed_config, packed_metadata, vendored
from .packed_folder import COPIED, files_of, text_problems, write_folder
from .path_leaks import paths_in

__all__ = ["pack_bundle"]

CHECKSUMS = "SHA256SUMS"
OVERLAYS = ("paper", "published", "multi_gpu_train")
MODEL_ZOO_LIMIT = 25 * 2**20  # bytes a file, see its CONTRIBUTING.md
# what MONAI's commands are told in the packed folder
IN_FOLDER = (
    "--net_id", "network_def", "--meta_file", "configs/metadata.json", "--config_file", "configs/inference.json",
)  # fmt: skip


def pack_bundle(
    bundle: str, output: str, run_dir: str = "", torchscript: bool = False, overwrite: bool = False
) -> None:
    """
    Pack a bundle and its trained weights into one self-contained folder and a zip file of it.

    The folder is a bundle in the form that the MONAI Model Zoo and MONAI Label expect: scripts/ holds a copy of this
    package, to which the configurations refer; features and patch size are those used in training; versions are those
    installed. What `dtlp calibrate` found for the weights is included; scans, datalists and all other logs are not.
    Before the folder is moved into place, MONAI's verify_net_in_out runs in it. Either all files are written or none.

    Args:
        bundle: folder of the bundle, or its name.
        output: folder in which the packed folder, named after the bundle, and its zip file are created.
        run_dir: output_dir of the training run; by default, the bundle's folder.
        torchscript: add models/model.ts.
        overwrite: replace what this command wrote there before, if nothing was changed or added since.

    Raises:
        InputError: if the bundle is not complete, has no weights or names files of this machine, or if what is at
            output is not to be replaced.
    """
    trained = find_trained(str(find_bundle(bundle)), run_dir)
    _check_complete(trained.folder)
    metadata = packed_metadata(trained)
    name, archive_name = _names(trained, metadata)
    target, archive = Path(output, name), Path(output, archive_name)
    _check_target(target, archive, overwrite)
    trained.load_student()  # complains if settings and weights do not fit

    configs = {workflow: packed_config(trained.config(workflow)) for workflow in WORKFLOWS}
    own = trained.folder / "configs"
    for path in (*(own / f"{overlay}.json" for overlay in OVERLAYS), *sorted(own.glob("methods/*.json"))):
        if path.is_file():
            overlay = str(path.relative_to(own).with_suffix(""))
            configs[overlay] = vendored(read_object(path))
            configs[overlay].pop("_comment", None)  # names the folder that it was rendered into
    problems = check_metadata(metadata, configs["inference"]["num_classes"])
    for workflow in WORKFLOWS:
        problems += [f"{workflow}.json, {p}" for p in check_config(trained.config(workflow))]
    for file, content in {**configs, "metadata": metadata}.items():
        problems += [
            f"{file}.json, {id}: {text!r} contains {path}, a path on this machine."
            for id, text, path in paths_in(content)
        ]
    raise_if_any(problems, f"Cannot pack {trained.folder}")

    try:
        Path(output).mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=output, prefix=f".{name}."))
    except OSError as error:
        raise InputError(f"{Path(output).absolute()}: cannot be written to ({error.strerror}).") from error
    try:
        folder = staging / name
        write_folder(trained, folder, configs, metadata)
        raise_if_any(text_problems(folder), f"Cannot pack {trained.folder}")
        run_monai(["verify_net_in_out", *IN_FOLDER], quiet=True, alone_in=folder)
        if torchscript:
            weights = ["--filepath", "models/model.ts", "--ckpt_file", str(RunFolder("").model)]
            run_monai(["ckpt_export", *IN_FOLDER, *weights], quiet=True, alone_in=folder)
        write_text(folder / CHECKSUMS, "".join(f"{sha256(f)}  {path}\n" for path, f in files_of(folder).items()))
        packed_zip = Path(shutil.make_archive(str(staging / "packed"), "zip", staging, name))
        _move(folder, target, staging / "replaced")
        packed_zip.replace(archive)
    except OSError as error:
        raise InputError(f"{Path(output).absolute()}: packing failed: {error}.") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    _report(target, archive)


def _names(trained: TrainedBundle, metadata: Mapping[str, Any]) -> tuple[str, str]:
    """
    Names of the packed folder and of its zip.

    Raises:
        InputError: if the bundle has a name or a version that no file can have.
    """
    name, number = trained.parser().get("bundle_name"), metadata.get("version")
    for key, value in (("bundle_name in configs/inference.json", name), ("version in configs/metadata.json", number)):
        if not isinstance(value, str) or not re.fullmatch(r"\w[\w.+-]*", value):
            raise InputError(
                f"{trained.folder}: {key}: expected letters, digits, '_', '-', '+' and '.', got {value!r}."
            )
    return str(name), f"{name}_v{number}.zip"


def _check_complete(folder: Path) -> None:
    expected = [*(f"configs/{workflow}.json" for workflow in WORKFLOWS), "docs/README.md", *COPIED]
    missing = [path for path in expected if not (folder / path).is_file()]
    if missing:
        raise InputError(f"{folder.absolute()}: expected a complete bundle, got one without {', '.join(missing)}.")


def _check_target(target: Path, archive: Path, overwrite: bool) -> None:
    """
    Raises:
        InputError: if something is there that must not be replaced.
    """
    if target.exists():
        sums = target / CHECKSUMS
        if not sums.is_file():
            raise InputError(
                f"{target.absolute()}: already exists and was not written by this command; choose another --output."
            )
        lines = (line.partition("  ") for line in sums.read_text(encoding="utf-8").splitlines())
        recorded = {path: digest for digest, _, path in lines}
        there = {path: file for path, file in files_of(target).items() if path != CHECKSUMS}
        other = [path for path, file in there.items() if path not in recorded or sha256(file) != recorded[path]]
        if other:
            raise InputError(
                f"{target.absolute()}: contains {', '.join(other[:5])}, changed or added since it was packed; move the "
                "folder, or choose another --output."
            )
    if archive.exists() and not _is_packed(archive, target.name):
        raise InputError(
            f"{archive.absolute()}: already exists and was not written by this command; choose another --output."
        )
    if (target.exists() or archive.exists()) and not overwrite:
        there_is = target if target.exists() else archive
        raise InputError(
            f"{there_is.absolute()}: already exists; add --overwrite True to replace it, or choose another --output."
        )


def _move(folder: Path, target: Path, replaced: Path) -> None:
    """Put a folder in the place of another, which is put back if that fails."""
    if not target.exists():
        folder.rename(target)
        return
    target.rename(replaced)
    try:
        folder.rename(target)
    except BaseException:
        replaced.rename(target)
        raise


def _is_packed(archive: Path, name: str) -> bool:
    return zipfile.is_zipfile(archive) and f"{name}/{CHECKSUMS}" in zipfile.ZipFile(archive).namelist()


def _report(target: Path, archive: Path) -> None:
    files = files_of(target)
    size = sum(file.stat().st_size for file in files.values())
    print(f"\n{target.absolute()}: {len(files)} files, {size / 1e6:.1f} MB\n{archive.absolute()}: "
          f"{archive.stat().st_size / 1e6:.1f} MB")  # fmt: skip
    large = [path for path, file in files.items() if file.stat().st_size > MODEL_ZOO_LIMIT]
    if large:
        print(f"For the Model Zoo's repository, which takes files of up to 25 MB, name in a large_files.yml where to "
              f"download: {', '.join(large)}.")  # fmt: skip
    print(f"\nTry it:\n  cd {shlex.quote(str(target))}\n  python -m monai.bundle run --config_file "
          "configs/inference.json --input SCAN_OR_FOLDER --prediction_dir OUT")  # fmt: skip
