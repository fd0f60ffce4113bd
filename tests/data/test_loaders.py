# SPDX-License-Identifier: Apache-2.0
"""Endless draws: each depends on the seed and its number alone."""

from __future__ import annotations

import random
import subprocess
import sys
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import CacheDataset, MetaTensor
from monai.transforms import (
    Compose,
    EnsureTyped,
    RandFlipd,
    RandGaussianNoised,
    RandRotated,
    RandScaleIntensityd,
    RandSpatialCropd,
    SomeOf,
    SpatialPadd,
)
from torch import Tensor

from dtlp_components.data.loaders import EndlessDataLoader, RandomDraws


def cases(count: int) -> list[dict[str, Any]]:
    """Volumes (1, 4, 5, 6), each with a number of its own to know it by."""
    rng = np.random.default_rng(0)
    return [{"image": torch.from_numpy(rng.random((1, 4, 5, 6), dtype=np.float32)), "case": i} for i in range(count)]


def augmentation() -> Compose:
    """A crop and some transforms that draw from random states of their own, also one within another."""
    return Compose(
        [
            SpatialPadd("image", (4, 5, 6)),
            RandSpatialCropd("image", (3, 4, 5), random_size=False),
            SomeOf(
                [
                    RandFlipd("image", prob=0.5, spatial_axis=0),
                    RandScaleIntensityd("image", factors=0.5, prob=0.9),
                    RandGaussianNoised("image", prob=0.9),
                    RandRotated("image", range_z=0.5, prob=0.9),
                ],
                num_transforms=2,
            ),
        ]
    )


def make_loader(count: int = 3, batch_size: int = 2, seed: int = 0, num_workers: int = 0) -> EndlessDataLoader:
    return EndlessDataLoader(cases(count), augmentation(), batch_size, seed=seed, num_workers=num_workers)


def first(loader: EndlessDataLoader, batches: int) -> list[dict[str, Tensor]]:
    return list(islice(iter(loader), batches))


def are_equal(one: list[dict[str, Tensor]], other: list[dict[str, Tensor]]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(torch.equal(a[key], b[key]) for a, b in pairs for key in ("image", "case"))


def test_two_loaders_of_a_seed_draw_the_same_and_of_another_seed_do_not() -> None:
    assert are_equal(first(make_loader(seed=1), 6), first(make_loader(seed=1), 6))
    assert not are_equal(first(make_loader(seed=1), 6), first(make_loader(seed=2), 6))


def test_second_pass_of_a_loader_draws_the_same() -> None:
    loader = make_loader()
    assert are_equal(first(loader, 4), first(loader, 4))


def test_worker_process_draws_what_the_main_process_draws() -> None:
    assert are_equal(first(make_loader(num_workers=1), 4), first(make_loader(num_workers=0), 4))


@pytest.mark.parametrize("iteration", [1, 2, 5])
def test_start_at_goes_on_exactly_where_the_run_was(iteration: int) -> None:
    whole = first(make_loader(), 8)
    loader = make_loader()
    loader.start_at(iteration)
    assert are_equal(first(loader, 8 - iteration), whole[iteration:])


@pytest.mark.slow
@pytest.mark.parametrize(("count", "batch_size"), [(3, 2), (5, 2), (4, 4)])
def test_every_case_comes_once_per_round_in_an_order_that_changes(count: int, batch_size: int) -> None:
    batches = first(make_loader(count, batch_size), 4 * count)
    drawn = torch.cat([batch["case"] for batch in batches]).tolist()
    rounds = [drawn[i : i + count] for i in range(0, len(drawn), count)]
    assert all(sorted(cases_of_round) == list(range(count)) for cases_of_round in rounds)
    assert len({tuple(cases_of_round) for cases_of_round in rounds}) > 1


def test_case_is_transformed_anew_in_every_round() -> None:
    images = [batch["image"] for batch in first(make_loader(count=1, batch_size=1), 6)]
    assert all(not torch.equal(a, b) for a, b in pairwise(images))


def test_fewer_cases_than_a_batch_fill_it() -> None:
    batch = first(make_loader(count=1, batch_size=3), 1)[0]
    assert batch["image"].shape == (3, 1, 3, 4, 5)
    assert batch["case"].tolist() == [0, 0, 0]
    assert not torch.equal(batch["image"][0], batch["image"][1])


def test_draws_do_not_depend_on_the_global_random_state(seed: int) -> None:
    expected = first(make_loader(), 3)
    torch.manual_seed(99)
    np.random.seed(99)
    random.seed(99)
    assert are_equal(first(make_loader(), 3), expected)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_drawing_leaves_the_global_random_state_as_it_was(seed: int, num_workers: int) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    first(make_loader(num_workers=num_workers), 3)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]


def test_drawing_leaves_a_cached_case_as_it_was() -> None:
    # a cache hands out its own object where no transform of its own is random
    dataset = CacheDataset(cases(1), Compose([EnsureTyped("image", track_meta=True)]), progress=False)
    image = dataset[0]["image"]
    values, operations = image.clone(), list(image.applied_operations)
    draws = RandomDraws(dataset, augmentation())
    for i in range(5):
        draws[i]
    assert dataset[0]["image"] is image
    assert isinstance(image, MetaTensor)
    assert torch.equal(image, values)
    assert list(image.applied_operations) == operations


def test_item_depends_on_its_number_not_on_what_was_drawn_before() -> None:
    one, other = RandomDraws(cases(3), augmentation()), RandomDraws(cases(3), augmentation())
    for i in range(5):
        one[i]
    assert torch.equal(one[7]["image"], other[7]["image"])


def test_transform_that_is_not_random_is_applied_as_it_is() -> None:
    draws = RandomDraws(cases(3), lambda item: item["case"])
    assert sorted(draws[i] for i in range(3)) == [0, 1, 2]


@pytest.mark.parametrize(("count", "batch_size"), [(0, 2), (3, 0)])
def test_nothing_to_draw_is_refused(count: int, batch_size: int) -> None:
    with pytest.raises(ValueError, match=f"{count} cases, batch size {batch_size}"):
        make_loader(count, batch_size)


MANY = """
import multiprocessing, resource
import torch
from monai.transforms import Compose
from dtlp_components import EndlessDataLoader

if __name__ == "__main__":
    multiprocessing.set_start_method("{method}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    cached = [{{"image": torch.full((1, 4, 4, 4), float(i))}} for i in range(400)]
    batches = iter(EndlessDataLoader(cached, Compose([]), batch_size=4, num_workers=2))
    print(sorted(int(next(batches)["image"].mean((1, 2, 3, 4)).sum()) > 0 for _ in range(3)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_that_are_not_forked_take_any_number_of_cached_scans(tmp_path: Path, method: str) -> None:
    (tmp_path / "many.py").write_text(MANY.format(method=method))
    done = subprocess.run([sys.executable, tmp_path / "many.py"], capture_output=True, text=True, check=False)
    assert done.stdout == "[True, True, True]\n", done.stderr
