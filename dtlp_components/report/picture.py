# SPDX-License-Identifier: Apache-2.0
"""A picture of what a training run has learned: image, reference, prediction and every teacher, side by side."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.networks.utils import eval_mode
from monai.transforms import Compose
from monai.utils.enums import CommonKeys as Keys

from ..bundle.find import find_bundle
from ..bundle.teachers import load_training_networks
from ..bundle.trained import find_trained
from ..data.datalists import load_datalist
from ..data.segmentations import COLORS
from ..errors import InputError
from ..files import whole_file
from ..handlers.pseudo_label_monitor import predict_sources
from ..metrics.overlap import batch_dice
from ..run_folder import RunFolder

__all__ = ["draw_panels", "write_picture"]


def write_picture(
    bundle: str,
    dataset_dir: str,
    output_dir: str,
    file: str = "",
    section: str = "testing",
    case: int = 0,
    datalist: str = "",
) -> Path:
    """
    Draw one scan with its reference, the student's prediction and what each teacher says of it.

    The scan is shown on the training grid. Networks come from the run's last checkpoint, with the features, spacing and
    patch size that the run recorded.

    Args:
        bundle: folder of the bundle, or its name.
        dataset_dir: folder of the data set.
        output_dir: folder of the training run.
        file: PNG to write; ``<output_dir>/pictures/<scan>.png`` if empty.
        section: section of the datalist to take the scan from; it must have labels.
        case: number of the scan in its section, from 0.
        datalist: datalist file; the bundle's own if empty.

    Returns:
        Path of the PNG.

    Raises:
        InputError: if there is no checkpoint or no such scan.
    """
    run = RunFolder(output_dir)
    checkpoint = run.last
    if not checkpoint.is_file():  # before anything that takes time
        raise InputError(f"No checkpoint at {checkpoint.absolute()}: train first, or give the run's output_dir.")
    parser = find_trained(str(find_bundle(bundle)), output_dir).parser("train")
    parser.update({"dataset_dir": dataset_dir, "output_dir": output_dir, "batch_size_unlabeled": 0})
    if datalist:
        parser["datalist"] = datalist

    items = load_datalist(parser.get_parsed_content("datalist"), section, dataset_dir)
    if not 0 <= case < len(items) or Keys.LABEL not in items[case]:
        raise InputError(f"Section `{section}` has {len(items)} scans; found no labeled scan number {case} in it.")
    scan = Compose(parser.get_parsed_content("deterministic_transforms"))(items[case])

    network, teacher = load_training_networks(parser, checkpoint)
    device = next(network.parameters()).device
    student = parser.get_parsed_content("exported_model")
    with eval_mode(network, teacher), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        image = torch.as_tensor(scan[Keys.IMAGE]).as_subclass(torch.Tensor)
        maps = predict_sources(
            image[None].to(device),
            student,
            parser.get_parsed_content("pseudo_labeler"),
            parser.get_parsed_content("inferer"),
        )
    reference = torch.as_tensor(scan[Keys.LABEL]).as_subclass(torch.Tensor).long()[0]
    panels: dict[str, np.ndarray] = {"reference": reference.numpy()}
    for name in ("student", *[name for name in maps if name != "student"]):
        labels = maps[name].argmax(dim=1)[0].cpu()
        dice, present = batch_dice(labels, reference, len(parser["label_names"]))
        title = "prediction (student)" if name == "student" else str(name).replace("_", " ")
        panels[f"{title}\nDice {100 * float(dice[1:][present[1:]].mean()):.1f}"] = labels.numpy()

    name = Path(items[case][Keys.IMAGE]).name.removesuffix(".gz").removesuffix(".nii")
    target = Path(file) if file else run.picture(name)
    draw_panels(image[0].numpy(), panels, list(parser["label_names"]), name, target)
    print(f"Picture: {os.path.abspath(target)}")
    return target


def draw_panels(
    image: np.ndarray, panels: dict[str, np.ndarray], label_names: list[str], title: str, file: Path
) -> None:
    """
    Write a PNG: the slice of a volume that shows most of the reference, bare, then under each label map.

    Args:
        image: ``(D, H, W)`` in RAS orientation.
        panels: title to label map, same shape; the first is the reference and decides on the slice.
        label_names: names by label value, the background first.
        title: heading of the picture.
        file: PNG to write.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise InputError("A picture needs matplotlib: pip install matplotlib") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    reference = next(iter(panels.values()))
    # most classes first, then most voxels
    scores = [
        (len(np.unique(reference[..., z])), int((reference[..., z] > 0).sum())) for z in range(reference.shape[2])
    ]
    z = max(range(len(scores)), key=lambda i: scores[i])
    colors = [(r / 255, g / 255, b / 255) for r, g, b in (COLORS[i % len(COLORS)] for i in range(len(label_names) - 1))]
    cmap = ListedColormap(colors)
    low, high = np.percentile(image, (1, 99))

    columns = 4
    rows = -(-(len(panels) + 1) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.2 * columns, 3.5 * rows + 0.8), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    shown: list[tuple[str, Any]] = [("image", None), *panels.items()]
    for axis, (name, labels) in zip(axes.flat, shown, strict=False):
        # seen as radiologists do: patient's right on the left, front at the top
        axis.imshow(image[::-1, ::-1, z].T, cmap="gray", vmin=low, vmax=high)
        if labels is not None:
            plane = labels[::-1, ::-1, z].T
            axis.imshow(
                np.ma.masked_equal(plane, 0), cmap=cmap, vmin=1, vmax=max(2, len(label_names) - 1), alpha=0.55,
                interpolation="nearest",
            )  # fmt: skip
        axis.set_title(name, fontsize=10)
    handles = [Patch(color=colors[i], label=label) for i, label in enumerate(label_names[1:])]
    figure.legend(handles=handles, loc="lower center", ncol=min(6, len(handles)), frameon=False)
    figure.suptitle(f"{title}, slice {z}")
    figure.tight_layout(rect=(0, 0.06, 1, 0.98))
    with whole_file(file) as part:
        figure.savefig(part, dpi=110)
    plt.close(figure)
