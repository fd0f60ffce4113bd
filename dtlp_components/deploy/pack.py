# SPDX-License-Identifier: Apache-2.0
"""Packing of a trained bundle into one folder, and a zip of it, that need nothing of this project beside them."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from copy import deepcopy
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from ..bundle.find import find_bundle
from ..bundle.lint import check_config, check_metadata
from ..bundle.render import COMMANDS_FROM, ORIGIN
from ..bundle.run_monai import run_monai
from ..bundle.trained import TrainedBundle, find_trained
from ..errors import InputError, raise_if_any
from ..files import read_object, sha256, write_text
from .path_leaks import PATH, names_a_path, paths_in

__all__ = ["pack_bundle", "packed_config", "packed_readme", "vendored"]

PACKAGE = Path(__file__).parents[1]
NAME, VENDORED = "dtlp_components", "scripts.dtlp_components"
CHECKSUMS = "SHA256SUMS"
WORKFLOWS = ("train", "evaluate", "inference")
COPIED = ("LICENSE", "configs/logging.conf", "docs/data_license.txt")
PICTURES = (".png", ".jpg", ".jpeg", ".svg")
MODEL_ZOO_LIMIT = 25 * 2**20  # bytes a file, see its CONTRIBUTING.md
SCANS = "$@dataset_dir + '/imagesTs'"
# what MONAI's commands are told in the packed folder
IN_FOLDER = [
    "--net_id",
    "network_def",
    "--meta_file",
    "configs/metadata.json",
    "--config_file",
    "configs/inference.json",
]


def pack_bundle(
    bundle: str, output: str, run_dir: str = "", torchscript: bool = False, overwrite: bool = False
) -> None:
    """
    Make one self-contained folder, and a zip of it, of a bundle and its trained weights.

    The folder is a bundle as the MONAI Model Zoo and MONAI Label want it: this package lies in scripts/ and the
    configurations name it there, features and patch size are those of the training, versions those that are installed.
    Scans, datalists and logs stay behind. Before it is moved into place, MONAI's verify_net_in_out runs in it. The files
    are written whole or not at all.

    Args:
        bundle: folder of the bundle, or its name.
        output: folder that the packed folder, named like the bundle, and its zip are put into.
        run_dir: output_dir of the training; the bundle's folder if empty.
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

    configs = {workflow: packed_config(trained.parser(workflow).get()) for workflow in WORKFLOWS}
    problems = check_metadata(metadata, configs["inference"]["num_classes"])
    for workflow in WORKFLOWS:
        problems += [f"{workflow}.json, {p}" for p in check_config(trained.parser(workflow).get())]
    for file, content in {**configs, "metadata": metadata}.items():
        problems += [
            f"{file}.json, {id}: {text!r} holds {path}, a path of this machine." for id, text, path in paths_in(content)
        ]
    raise_if_any(problems, f"Cannot pack {trained.folder}")

    try:
        Path(output).mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=output, prefix=f".{name}."))
    except OSError as error:
        raise InputError(f"{Path(output).absolute()}: cannot be written to ({error.strerror}).") from error
    try:
        folder = staging / name
        _write(trained, folder, configs, metadata)
        raise_if_any(_text_problems(folder), f"Cannot pack {trained.folder}")
        run_monai(["verify_net_in_out", *IN_FOLDER], quiet=True, alone_in=folder)
        if torchscript:
            weights = ["--filepath", "models/model.ts", "--ckpt_file", "models/model.pt"]
            run_monai(["ckpt_export", *IN_FOLDER, *weights], quiet=True, alone_in=folder)
        write_text(str(folder / CHECKSUMS), "".join(f"{sha256(f)}  {path}\n" for path, f in _files(folder).items()))
        packed_zip = Path(shutil.make_archive(str(staging / "packed"), "zip", staging, name))
        _move(folder, target, staging / "replaced")
        packed_zip.replace(archive)
    except OSError as error:
        raise InputError(f"{Path(output).absolute()}: packing failed, since {error}.") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    _report(target, archive)


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
    if isinstance(packed.get("input"), str) and os.path.isabs(packed["input"]):
        packed["input"] = SCANS
    hint = packed.get("prepare_hint")
    if isinstance(hint, str):
        packed["prepare_hint"] = (
            "" if names_a_path(hint) else hint.replace(f"python -m {NAME}", f"python -m {VENDORED}")
        )
    return packed


def vendored(content: Any) -> Any:
    """Change every ``_target_`` of ``dtlp_components``, at any depth, to the package's copy in ``scripts``, in place."""
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


def packed_readme(text: str, trained: TrainedBundle, pictures: Mapping[str, str] | None = None) -> str:
    """
    A bundle's README as it is in a packed folder, with a part on the weights under Performance.

    Args:
        text: README of the bundle, with commands from the root of the repository and links into it.
        trained: the bundle and its weights.
        pictures: new target by old one, of pictures that were copied into the folder.
    """
    hint = trained.parser("train").get("prepare_hint")
    if isinstance(hint, str) and names_a_path(hint):
        text = text.replace(hint, "(by the command that made the bundle, from folders that are not part of it)")
    text = text.replace(ORIGIN, f"Packed by `pack`; `scripts/{NAME}` is a copy of the project's package.")
    text = text.replace(COMMANDS_FROM, "From this bundle's folder, the one that holds `configs`.")
    text = text.replace(f"python -m {NAME}", f"python -m {VENDORED}")
    named = re.search(r"--config_file (\S+)/configs/", text)
    if named:  # the bundle's folder, as the commands name it
        text = re.sub(rf"(?<![\w.-]){re.escape(named[1])}/", "", text)
        text = re.sub(rf"(?<![\w./-]){re.escape(named[1])}(?![\w./-])", ".", text)
    text = re.sub(
        r"(!?)\[([^\]]*)\]\((\.\./\.\./[^)]*)\)",  # what leads out of the bundle's folder
        lambda m: _link(m[1], m[2], m[3], pictures or {}),
        text,
    )
    head, performance, rest = text.partition("\n## Performance\n")
    section = _weights_section(trained)
    if not performance:
        return f"{head.rstrip()}\n\n{section}"
    own, heading, others = rest.partition("\n## ")
    return f"{head}{performance}{own.rstrip()}\n\n{section}{heading}{others}"


def _link(mark: str, text: str, target: str, pictures: Mapping[str, str]) -> str:
    if mark:
        return f"![{text}]({pictures[target]})" if target in pictures else ""
    return f"{text} of the project"


def _weights_section(trained: TrainedBundle) -> str:
    """What is known of the weights: their settings where the text above has others, and their scores."""
    written, changed = read_object(trained.folder / "configs" / "inference.json"), trained.changed_settings
    lines = ["### The weights in this folder", ""]
    if changed:
        lines += [
            "Trained with settings other than those named elsewhere in this text; the configurations here have them:",
            "",
            "| key | trained with | the project's |",
            "|---|---|---|",
            *(f"| `{name}` | {json.dumps(value)} | {json.dumps(written[name])} |" for name, value in changed.items()),
            "",
        ]
    scores = [
        read_object(file)
        for file in sorted((trained.run / "evaluation").glob("*_summary.json"))
        if file.stat().st_mtime >= trained.weights.stat().st_mtime  # else they are of other weights
    ]
    if scores:
        lines += [
            "Measured with them, mean ± standard deviation over cases:",
            "",
            "| section | cases | " + " | ".join(f"{name} [{unit}]" for name, unit in scores[0]["units"].items()) + " |",
            "|---|---|" + "---|" * len(scores[0]["units"]),
        ]
        for score in scores:
            cells = [_score(score, name) for name in scores[0]["units"]]
            lines.append(f"| {score['section']} | {score['cases']} | {' | '.join(cells)} |")
        lines += ["", f"Convention {scores[0]['convention']}", ""]
    else:
        lines += ["Their scores were not measured.", ""]
    return "\n".join(lines)


def _score(summary: Mapping[str, Any], name: str) -> str:
    mean, std = summary["mean"].get(name), summary["std"].get(name)
    return "–" if mean is None or std is None else f"{mean:.2f} ± {std:.2f}"


def _installed(package: str) -> str:
    return version(package).partition("+")[0]


def _text_problems(folder: Path) -> list[str]:
    """Absolute paths in the texts of a packed folder; the package's copy is as it was, the configurations were checked."""
    problems = []
    for name, file in _files(folder).items():
        if name.startswith(("scripts/", "models/")) or (name.startswith("configs/") and name.endswith(".json")):
            continue
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture
        # one name alone may as well be a route of a server, /info, or what a folder ends in
        paths = [path for path in dict.fromkeys(PATH.findall(text)) if re.search(r"[/\\][^/\\]+[/\\]", path)]
        problems += [f"{name} of the packed folder holds {path}, a path of this machine." for path in paths]
    return problems


def _names(trained: TrainedBundle, metadata: Mapping[str, Any]) -> tuple[str, str]:
    """
    Names of the packed folder and of its zip.

    Raises:
        InputError: if the bundle has a name or a version that no file can have.
    """
    name, number = trained.parser().get("bundle_name"), metadata.get("version")
    for key, value in (("bundle_name in configs/inference.json", name), ("version in configs/metadata.json", number)):
        if not isinstance(value, str) or not re.fullmatch(r"\w[\w.+-]*", value):
            raise InputError(f"{trained.folder}: {key} is {value!r}; expected letters, digits, '_', '-', '+' and '.'.")
    return str(name), f"{name}_v{number}.zip"


def _check_complete(folder: Path) -> None:
    expected = [*(f"configs/{workflow}.json" for workflow in WORKFLOWS), "docs/README.md", *COPIED]
    missing = [path for path in expected if not (folder / path).is_file()]
    if missing:
        raise InputError(f"{folder.absolute()}: no complete bundle; {', '.join(missing)} not found.")


def _check_target(target: Path, archive: Path, overwrite: bool) -> None:
    """
    Raises:
        InputError: if something is there that must not be replaced.
    """
    if target.exists():
        sums = target / CHECKSUMS
        if not sums.is_file():
            raise InputError(
                f"{target.absolute()}: exists and was not written by this command; choose another --output."
            )
        lines = (line.partition("  ") for line in sums.read_text(encoding="utf-8").splitlines())
        recorded = {path: digest for digest, _, path in lines}
        there = {path: file for path, file in _files(target).items() if path != CHECKSUMS}
        other = [path for path, file in there.items() if path not in recorded or sha256(file) != recorded[path]]
        if other:
            raise InputError(
                f"{target.absolute()}: holds {', '.join(other[:5])}, changed or added since it was packed; move it away, "
                "or choose another --output."
            )
    if archive.exists() and not _is_packed(archive, target.name):
        raise InputError(f"{archive.absolute()}: exists and was not written by this command; choose another --output.")
    if (target.exists() or archive.exists()) and not overwrite:
        there_is = target if target.exists() else archive
        raise InputError(
            f"{there_is.absolute()}: exists; add --overwrite True to replace it, or choose another --output."
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


def _write(trained: TrainedBundle, folder: Path, configs: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
    for path in COPIED:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(trained.folder / path, folder / path)
    for name, content in {**configs, "metadata": metadata}.items():
        write_text(str(folder / f"configs/{name}.json"), _dump(content))
    readme = (trained.folder / "docs/README.md").read_text(encoding="utf-8")
    write_text(
        str(folder / "docs/README.md"), packed_readme(readme, trained, _copy_pictures(readme, trained.folder, folder))
    )
    (folder / "models").mkdir()
    shutil.copyfile(trained.weights, folder / "models/model.pt")
    copy = folder / "scripts" / NAME
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    write_text(str(folder / "scripts/__init__.py"), "# SPDX-License-Identifier: Apache-2.0\n")
    for recipe in copy.rglob("*.json"):  # so that `new` makes bundles that run from this folder
        before = json.loads(recipe.read_text(encoding="utf-8"))
        after = vendored(deepcopy(before))
        if after != before:
            write_text(str(recipe), _dump(after))


def _copy_pictures(readme: str, bundle: Path, folder: Path) -> dict[str, str]:
    """Copy pictures that a README shows and that lie outside of its bundle into ``docs/``; new target by old one."""
    pictures = {}
    for target in re.findall(r"!\[[^\]]*\]\((\.\./\.\./[^)]*)\)", readme):
        picture = bundle / "docs" / target
        if picture.suffix in PICTURES and picture.is_file():
            shutil.copyfile(picture, folder / "docs" / picture.name)
            pictures[target] = picture.name
    return pictures


def _report(target: Path, archive: Path) -> None:
    files = _files(target)
    size = sum(file.stat().st_size for file in files.values())
    print(f"\n{target.absolute()}: {len(files)} files, {size / 1e6:.1f} MB\n{archive.absolute()}: "
          f"{archive.stat().st_size / 1e6:.1f} MB")  # fmt: skip
    large = [path for path, file in files.items() if file.stat().st_size > MODEL_ZOO_LIMIT]
    if large:
        print(f"For the Model Zoo's repository, which takes files of up to 25 MB, name in a large_files.yml where to "
              f"download: {', '.join(large)}.")  # fmt: skip
    print(f"\nTry it:\n  cd {shlex.quote(str(target))}\n"
          "  python -m monai.bundle run --config_file configs/inference.json --input SCAN_OR_FOLDER --prediction_dir OUT")  # fmt: skip


def _files(folder: Path) -> dict[str, Path]:
    """Files of a folder by relative path, sorted; compiled Python, which appears by itself, is left out."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file() and "__pycache__" not in file.parts)
    return {file.relative_to(folder).as_posix(): file for file in files}


def _dump(config: Mapping[str, Any]) -> str:
    return json.dumps(config, indent=4, ensure_ascii=False) + "\n"
