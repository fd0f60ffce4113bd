# SPDX-License-Identifier: Apache-2.0
"""Export of a trained student as TorchScript and ONNX, kept only if it labels scans as the original does."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor

from ..bundle.find import find_bundle
from ..bundle.run_monai import run_monai
from ..bundle.trained import TrainedBundle, find_trained
from ..data.scans import find_images
from ..errors import InputError, first_line, raise_if_any

__all__ = ["Difference", "OnnxNetwork", "compare_labels", "export_bundle"]

ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
# names, and a free batch size, for who runs the file without knowing where it is from
ONNX_OPTIONS: dict[str, Any] = {
    "input_names": ["image"],
    "output_names": ["pred"],
    "dynamic_axes": {"image": {0: "batch"}, "pred": {0: "batch"}},
}


@dataclass
class Difference:
    """
    How one network differs from another: voxels with another label, of all voxels, and the largest logit difference,
    which is NaN or infinite if a logit of either is.
    """

    voxels: int = 0
    of: int = 0
    logits: float = 0.0

    @property
    def share(self) -> float:
        """Share of voxels with another label."""
        return self.voxels / self.of if self.of else 0.0

    def add(self, other: Difference) -> None:
        """Count another scan's differences in."""
        self.voxels, self.of = self.voxels + other.voxels, self.of + other.of
        self.logits = float(np.maximum(self.logits, other.logits))  # max() loses NaN


class OnnxNetwork:
    """
    An ONNX file as a network for a sliding window, run by onnxruntime on the CPU.

    Args:
        file: with one input ``(B, C_in, D, H, W)`` and one output, float32.
    """

    def __init__(self, file: Path) -> None:
        import onnxruntime

        self.session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0].name

    def __call__(self, image: Tensor) -> Tensor:
        """``(B, C_in, D, H, W)`` -> logits ``(B, C, D, H, W)``."""
        (logits,) = self.session.run(None, {self.input: torch.as_tensor(image).contiguous().numpy()})
        return torch.from_numpy(logits)


def compare_labels(reference: Tensor, logits: Tensor) -> Difference:
    """
    Compare two networks' logits of one scan.

    Args:
        reference: logits ``(B, C, D, H, W)``.
        logits: of the other network, same shape.

    Raises:
        ValueError: if the shapes differ.
    """
    if reference.shape != logits.shape:
        raise ValueError(f"logits differ in shape: {tuple(reference.shape)} and {tuple(logits.shape)}.")
    labels, others = reference.argmax(dim=1), logits.argmax(dim=1)
    return Difference(int((labels != others).sum()), labels.numel(), float((reference - logits).abs().max()))


def export_bundle(
    bundle: str,
    input: str,
    run_dir: str = "",
    output: str = "",
    torchscript: bool = True,
    onnx: bool = True,
    max_differing: float = 1e-5,
) -> None:
    """
    Export a trained student with MONAI's ``ckpt_export`` and ``onnx_export``, and compare it with the original.

    The original and the exported networks segment the same scans, on the bundle's grid and with its sliding window, on
    the CPU. Exports are kept only if they give the same labels.

    Args:
        bundle: folder of the bundle, or its name.
        input: a scan, or a folder of scans, to compare on.
        run_dir: output_dir of the training run; by default, the bundle's folder.
        output: folder for model.ts and model.onnx, which are replaced; by default, models/ of the training run.
        torchscript: write model.ts.
        onnx: write model.onnx, for the patch size used in training and any batch size.
        max_differing: fraction of voxels whose label may differ: rounding differs slightly, so a voxel with two equally
            likely labels may get either of them.

    Raises:
        InputError: if there is nothing to export or to compare on, a package is missing, a scan cannot be segmented,
            logits are not finite, or labels differ.
    """
    trained = find_trained(str(find_bundle(bundle)), run_dir)
    formats = {"model.ts": torchscript, "model.onnx": onnx}
    names = [name for name, expected in formats.items() if expected]
    if not names:
        raise InputError("--torchscript, --onnx: expected at least one of them to be True; nothing to export.")
    absent = [package for package in ONNX_PACKAGES if find_spec(package) is None]
    if onnx and absent:
        raise InputError(
            f"ONNX requires {', '.join(absent)}: pip install {' '.join(ONNX_PACKAGES)}, or add --onnx False"
        )
    images = [item[Keys.IMAGE] for item in find_images(input, trained.channels)]
    find_problems = trained.parser().get_parsed_content("dataset::find_problems")
    problems = [problem for path in images for problem in find_problems(path)]
    raise_if_any(problems, "Cannot compare on these scans")
    student = trained.load_student()

    target = Path(output) if output else trained.weights.parent
    try:
        target.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=target, prefix=".export."))
    except OSError as error:
        raise InputError(f"{target.absolute()}: cannot be written to ({error.strerror}).") from error
    try:
        networks: dict[str, Callable[[Tensor], Tensor]] = {}
        for name in names:
            run_monai(_export_words(trained, name, staging / name), quiet=True)
            loaded = torch.jit.load(str(staging / name)) if name == "model.ts" else OnnxNetwork(staging / name)
            networks[name] = loaded
        differences = _compare(trained, student, networks, images)
        # the comparison of labels would not show it: argmax takes NaN for a label, and of two infinite logits the first
        broken = [name for name, found in differences.items() if not math.isfinite(found.logits)]
        if broken:
            raise InputError(
                f"{' and '.join(broken)}: expected finite logits, got NaN or infinity, from the export or from "
                f"{trained.weights}; nothing was written."
            )
        wrong = [name for name, found in differences.items() if not found.share <= max_differing]
        if wrong:
            raise InputError(
                f"{' and '.join(wrong)}: labels differ from those of {trained.weights} in more than {max_differing:g} "
                f"of the voxels, so nothing was written. Use --max_differing to allow more."
            )
        for name in names:
            shutil.move(staging / name, target / name)
            print(f"{target / name}: {(target / name).stat().st_size / 1e6:.1f} MB")
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _export_words(trained: TrainedBundle, name: str, file: Path) -> list[str]:
    """The command of MONAI that exports a file, with the settings of the training as overrides."""
    overrides = dict(trained.changed_settings)
    if overrides:  # the metadata repeats some of them, and becomes part of model.ts
        overrides |= {f"_meta_::{id}": value for id, value in trained.metadata_settings.items()}
    if name == "model.onnx":
        config = trained.parser()
        # two volumes: torch.export takes a batch of one for a batch that is always one
        overrides["input_shape"] = [2, config["in_channels"], *config["patch_size"]]
        overrides["converter_kwargs"] = ONNX_OPTIONS
    configs = trained.folder / "configs"
    words = ["ckpt_export" if name == "model.ts" else "onnx_export", "--net_id", "network_def"]
    words += ["--config_file", str(configs / "inference.json"), "--meta_file", str(configs / "metadata.json")]
    words += ["--ckpt_file", str(trained.weights), "--filepath", str(file)]
    for id, value in overrides.items():
        words += [f"--{id}", value if isinstance(value, str) else repr(value).replace("'", '"')]
    return words


def _compare(
    trained: TrainedBundle,
    student: Callable[[Tensor], Tensor],
    networks: Mapping[str, Callable[[Tensor], Tensor]],
    images: Sequence[str],
) -> dict[str, Difference]:
    """Differences of each network from the student over all scans, printed scan by scan."""
    parser = trained.parser()
    parser["device"] = "cpu"
    preprocessing, inferer = parser.get_parsed_content("preprocessing"), parser.get_parsed_content("inferer")
    total = {name: Difference() for name in networks}
    print(f"{'scan':32}{'voxels':>12}" + "".join(f"{name:>14}{'logits':>10}" for name in networks), flush=True)
    for path in images:
        try:
            volume = torch.as_tensor(preprocessing({Keys.IMAGE: path})[Keys.IMAGE]).as_subclass(Tensor)
        except Exception as error:  # readers raise whatever the damage happens to trigger
            raise InputError(f"{path}: cannot be read ({type(error).__name__}: {first_line(error)}).") from error
        with torch.no_grad():
            reference = inferer(volume[None], student)
            found = {name: compare_labels(reference, inferer(volume[None], net)) for name, net in networks.items()}
        for name, difference in found.items():
            total[name].add(difference)
        _print_row(Path(path).name, found)
    _print_row(f"all {len(images)}", total)
    return total


def _print_row(name: str, found: Mapping[str, Difference]) -> None:
    voxels = next(iter(found.values())).of
    cells = "".join(f"{f'{d.voxels} differ':>14}{d.logits:10.1e}" for d in found.values())
    print(f"{name:32}{voxels:12,}{cells}", flush=True)
