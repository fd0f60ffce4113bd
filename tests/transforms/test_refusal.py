# SPDX-License-Identifier: Apache-2.0
"""A refusal reaches the user from a thread, a worker and a server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch
from monai.data import CacheDataset, DataLoader, Dataset, MetaTensor
from monai.transforms import Compose, Transform

from dtlp_components.errors import InputError
from dtlp_components.transforms.refusal import file_of, refuse

SENTENCE = "/data/a.nii: has no `published_box`"


class RefuseAll(Transform):
    def __call__(self, item: Any) -> None:
        refuse(SENTENCE)


def test_refusal_in_the_main_thread_is_an_input_error_in_spite_of_monai() -> None:
    with pytest.raises(InputError, match=SENTENCE):
        Compose([RefuseAll()])({})


def test_refusal_in_a_cache_or_a_worker_ends_the_run_with_its_text() -> None:
    # a SystemExit there would be lost, and CacheDataset would wait for ever
    transform = Compose([RefuseAll()])
    with pytest.raises(RuntimeError) as error:
        CacheDataset([{}], transform, num_workers=1, progress=False)
    assert str(error.value.__cause__) == SENTENCE
    with pytest.raises(RuntimeError, match="has no `published_box`"):
        next(iter(DataLoader(Dataset([{}], transform), num_workers=1)))


def test_refusal_inside_a_server_does_not_end_it() -> None:
    # MONAI Label segments in the thread of its event loop, which a SystemExit would leave with the whole server
    async def serve() -> str:
        try:
            Compose([RefuseAll()])({})
        except Exception as error:
            return str(error.__cause__)
        return ""

    assert asyncio.run(serve()) == SENTENCE


def test_file_is_that_of_the_volume_or_of_its_path() -> None:
    volume = MetaTensor(torch.zeros(1, 4, 5, 6), meta={"filename_or_obj": "/data/a.nii"})
    assert file_of(volume) == file_of("/data/a.nii") == "/data/a.nii"
    assert file_of(torch.zeros(1)) == "a volume without a file name"
