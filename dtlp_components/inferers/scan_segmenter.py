# SPDX-License-Identifier: Apache-2.0
"""From a preprocessed image to labels on the scan's own grid, slab by slab."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from torch import Tensor, nn

from ..keys import ScanKeys
from ..metrics.calibration import Calibration, tempered
from ..metrics.uncertainty import Quality, entropy_bits, jensen_shannon_bits
from ..transforms.scan_grid import SLAB_BYTES, AlignedGrid, check_operations, resample_rows
from .windows import longest_axis, window_rows

__all__ = ["ScanSegmenter"]


class ScanSegmenter:
    """
    Segment one scan in memory that depends on neither the number of classes nor, beyond the image and its labels, the
    scan's size.

    Labels are those of a bundle's ``inferer`` and ``postprocessing``: logits averaged over windows, then as
    :py:class:`dtlp_components.transforms.scan_grid.ScanGridLabelsd` does it. Those keep the logits of all classes of
    the whole preprocessed volume. Here rows of it are resampled and turned into labels as soon as no window touches
    them any more (:py:func:`window_rows` says why none of MONAI's inferers does that).

    Args:
        inferer: a bundle's; its windows, weights and padding are taken.
        uncertainty: make a map of the student's entropy, and of the disagreement if there are teachers.
        teachers: maps windows ``(B, in_channels, *patch)`` to probabilities of each teacher ``(B, C, *patch)``, by
            name.
        calibration: of the network's probabilities, for entropy, scores and the interval of the Dice; labels stay.
        slab_bytes: what a slab of the scan's grid may take while it is resampled; one row is taken whatever it needs.

    Example:
        >>> from monai.data import MetaTensor
        >>> from monai.inferers import SlidingWindowInferer
        >>> meta = {"spatial_shape": [33, 35, 37], "original_affine": torch.eye(4)}  # as LoadImaged gives it
        >>> scan = MetaTensor(torch.rand(1, 33, 35, 37), meta=meta)
        >>> item = ResampleToSpacingd("image", pixdim=[2.0, 2.0, 2.0])({"image": scan})
        >>> segment = ScanSegmenter(SlidingWindowInferer(roi_size=[16, 16, 16], overlap=0.5), uncertainty=True)
        >>> maps = segment(item["image"], torch.nn.Conv3d(1, 3, 1), torch.device("cpu"))
        >>> maps["pred"].shape, maps["entropy"].shape
        (torch.Size([1, 33, 35, 37]), torch.Size([1, 33, 35, 37]))
    """

    def __init__(
        self,
        inferer: SlidingWindowInferer,
        uncertainty: bool = False,
        teachers: Callable[[Tensor], dict[str, Tensor]] | None = None,
        calibration: Calibration | None = None,
        slab_bytes: int = SLAB_BYTES,
    ) -> None:
        self.calibration = calibration
        self.inferer, self.uncertainty, self.slab_bytes = inferer, uncertainty, slab_bytes
        self.teachers = teachers if uncertainty else None

    @torch.no_grad()
    def __call__(
        self,
        image: MetaTensor,
        network: nn.Module,
        device: torch.device,
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, Any]:
        """
        Args:
            image: preprocessed ``(in_channels, x, y, z)``, with the scan's grid in its ``meta``.
            network: maps windows to logits, in eval mode on ``device``.
            device: where windows and slabs are computed; image and results stay on the CPU.
            progress: told the windows done and their total.

        Returns:
            By :py:class:`dtlp_components.keys.ScanKeys`: ``pred``, labels ``(1, x, y, z)`` uint8 on the scan's grid;
            ``quality``, see :py:class:`Quality`; with ``uncertainty``, ``entropy`` and, with teachers,
            ``disagreement``, maps of bits ``(1, x, y, z)`` float32.

        Raises:
            ValueError: if preprocessing moved voxels in a way that the affine does not tell, or logits are not finite.
        """
        check_operations(image)
        grid = AlignedGrid.of(image)
        axis = longest_axis(image.shape[1:], self.inferer.roi_size)
        num_maps = self.uncertainty + (self.teachers is not None)
        labels = torch.zeros(grid.shape, dtype=torch.uint8)
        maps = [torch.zeros(grid.shape) for _ in range(num_maps)]
        quality = Quality()

        rows = window_rows(
            image.as_tensor()[None], lambda x: self._predict(x, network), self.inferer, axis, device, progress
        )
        for place, values in resample_rows(self._probabilities(rows), image, grid, axis, self.slab_bytes):
            probabilities = values[: values.shape[0] - (self.teachers is not None)]
            highest, label = probabilities.max(dim=0)
            labels[place] = label.to(torch.uint8).cpu()
            if self.calibration is not None:
                probabilities = tempered(probabilities, self.calibration.temperature)
                highest = probabilities.gather(0, label[None])[0]
            entropy = entropy_bits(probabilities[None])[0, 0] if self.uncertainty else None
            slabs = [] if entropy is None else [entropy, *values[len(probabilities) :]]
            for whole, slab in zip(maps, slabs, strict=True):
                whole[place] = slab.cpu()
            quality.add(probabilities, highest, label, slabs)
        scores = quality.scores()
        if self.calibration is not None and "expected_dice" in scores:
            interval = self.calibration.interval(scores["expected_dice"])
            scores |= dict(zip(("dice_low", "dice_high"), interval or (), strict=False))
        names = (ScanKeys.ENTROPY, ScanKeys.DISAGREEMENT)
        results: dict[str, Any] = {str(name): grid.back(m, image) for name, m in zip(names, maps, strict=False)}
        return {**results, str(ScanKeys.PRED): grid.back(labels, image), str(ScanKeys.QUALITY): scores}

    def _predict(self, windows: Tensor, network: nn.Module) -> Tensor:
        logits = network(windows).float()
        if self.teachers is None:
            return logits
        opinions = [torch.softmax(logits, dim=1), *self.teachers(windows).values()]
        return torch.cat([logits, jensen_shannon_bits(opinions)], dim=1)

    def _probabilities(self, rows: Iterator[tuple[int, Tensor]]) -> Iterator[tuple[int, Tensor]]:
        for start, values in rows:
            classes = values[: values.shape[0] - (self.teachers is not None)]
            if not torch.isfinite(classes).all():
                raise ValueError("expected finite logits, got NaN or infinity")
            classes.copy_(torch.softmax(classes, dim=0))
            yield start, values
