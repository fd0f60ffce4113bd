# SPDX-License-Identifier: Apache-2.0
"""Segments scans one by one and goes on when one cannot be."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents
from monai.utils import ImageMetaKey

from ..errors import InputError, cause_of
from ..keys import ScanEvents, ScanKeys

__all__ = ["ScanEvaluator"]


class ScanEvaluator(SupervisedEvaluator):
    """
    An evaluator whose iteration is one scan of any size, from its preprocessed image to its written label map.

    A scan that cannot be read (``problem`` in its item), predicted, postprocessed or written leaves a sentence under
    ``problem`` in ``state.output`` and no label map. ``state.output`` is a list with one item, as a decollated one.

    Args:
        segmenter: called with the preprocessed image ``(in_channels, x, y, z)``, the network, its device and a function
            that is told the windows done and their total; returns results by :py:class:`dtlp_components.keys.ScanKeys`,
            volumes on the scan's grid.
        kwargs: see :py:class:`monai.engines.SupervisedEvaluator`; its loader gives lists of one item, uncollated, since
            a batch would be one more copy of the scan.

    Example:
        >>> from monai.data import MetaTensor
        >>> from monai.inferers import SlidingWindowInferer
        >>> meta = {"spatial_shape": [20, 21, 22], "original_affine": torch.eye(4), "filename_or_obj": "scan.nii.gz"}
        >>> evaluator = ScanEvaluator(
        ...     segmenter=ScanSegmenter(SlidingWindowInferer(roi_size=[16, 16, 16])),
        ...     device=torch.device("cpu"),
        ...     val_data_loader=[[{"image": MetaTensor(torch.rand(1, 20, 21, 22), meta=meta)}]],
        ...     network=torch.nn.Conv3d(1, 2, 1),
        ... )
        >>> evaluator.run()
        >>> evaluator.state.output[0]["pred"].shape
        torch.Size([1, 20, 21, 22])
    """

    def __init__(self, segmenter: Callable[..., dict[str, Any]], **kwargs: Any) -> None:
        super().__init__(**kwargs, decollate=False, event_names=list(ScanEvents))
        self.segmenter = segmenter

    def _iteration(self, engine: Any, batchdata: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:  # type: ignore[override]
        (item,) = batchdata
        if ScanKeys.PROBLEM in item:
            return [item]
        image = item[ScanKeys.IMAGE]
        path = image.meta[ImageMetaKey.FILENAME_OR_OBJ]
        names = {str(ScanKeys.IMAGE): path}

        def progress(done: int, total: int) -> None:
            engine.state.windows = (done, total)
            engine.fire_event(ScanEvents.WINDOWS_COMPLETED)

        step = "predicted"
        try:
            with self.mode(self.network):
                results = self.segmenter(image, self.network, self.state.device, progress)
            step = "postprocessed or written"
            engine.state.batch, engine.state.output = [dict(names)], [{**names, **results}]
            engine.fire_event(IterationEvents.FORWARD_COMPLETED)
            engine.fire_event(IterationEvents.MODEL_COMPLETED)  # postprocessing
            output: list[dict[str, Any]] = engine.state.output
            return output
        except (Exception, InputError) as error:  # the other scans are to be segmented all the same
            logging.getLogger("dtlp").debug(f"{path}: cannot be {step}", exc_info=True)
            problem = f"{path}: cannot be {step} ({cause_of(error)})."
            if isinstance(error, torch.OutOfMemoryError):
                problem += " --window_batch_size 1 or --device cpu need less of the GPU's memory."
            return [{**names, str(ScanKeys.PROBLEM): problem}]
