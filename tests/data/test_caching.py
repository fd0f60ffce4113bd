# SPDX-License-Identifier: Apache-2.0
"""Preprocessed scans on disk: the same as computed anew, and never those of another pipeline or another scan."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImaged, NormalizeIntensityd, ScaleIntensityRanged, Transform

from dtlp_components import InputError, ScanCache
from dtlp_components.data.caching import describe
from dtlp_components.data.datalists import load_datalist
from tests.together import together


class Counted(Transform):
    """Counts the scans that are preprocessed."""

    calls = 0

    def __call__(self, item: Any) -> Any:
        type(self).calls += 1
        return item


@pytest.fixture(autouse=True)
def _count_from_zero() -> None:
    Counted.calls = 0


@pytest.fixture
def items(tmp_path: Path) -> list[dict[str, Any]]:
    made = []
    for i in range(3):
        path = tmp_path / f"scan{i}.nii.gz"
        values = np.random.default_rng(i).normal(size=(4, 5, 6)).astype(np.float32)
        nib.save(nib.Nifti1Image(values, np.diag([1.0, 2.0, 3.0, 1.0])), path)
        made.append({"image": str(path), "domain": "ct"})
    return made


def pipeline(upper: float = 1.0) -> Compose:
    scale = ScaleIntensityRanged("image", a_min=-1.0, a_max=upper, b_min=0.0, b_max=1.0)
    return Compose([LoadImaged("image", ensure_channel_first=True), scale, Counted()])


def cache(items: list[dict[str, Any]], folder: Path | None, **kwargs: Any) -> ScanCache:
    return ScanCache(items, kwargs.pop("transform", pipeline()), cache_dir=folder, progress=False, **kwargs)


def test_second_run_reads_what_the_first_one_computed(items: list[dict[str, Any]], tmp_path: Path) -> None:
    first = cache(items, tmp_path / "cache")
    assert Counted.calls == 3
    second = cache(items, tmp_path / "cache")
    assert Counted.calls == 3
    for one, other in zip(first, second, strict=True):
        assert isinstance(other["image"], MetaTensor)
        assert other["domain"] == "ct"
        torch.testing.assert_close(other["image"].as_tensor(), one["image"].as_tensor(), rtol=0, atol=0)
        torch.testing.assert_close(other["image"].affine, one["image"].affine)
        assert other["image"].meta["filename_or_obj"] == one["image"].meta["filename_or_obj"]


def test_all_are_on_disk_before_the_first_draw_whatever_memory_holds(
    items: list[dict[str, Any]], tmp_path: Path
) -> None:
    dataset = cache(items, tmp_path / "cache", cache_rate=0.4)
    assert Counted.calls == 3
    assert all(dataset.file_of(i).is_file() for i in range(3))
    for _ in range(3):
        values = [dataset[i]["image"] for i in (0, 1, -1)]
    assert Counted.calls == 3
    expected = [item["image"] for item in cache(items, None)]
    for value, other in zip(values, expected, strict=True):
        torch.testing.assert_close(value.as_tensor(), other.as_tensor(), rtol=0, atol=0)


def test_what_somebody_writes_into_a_draw_is_not_in_the_next(items: list[dict[str, Any]], tmp_path: Path) -> None:
    dataset = cache(items, tmp_path / "cache")
    before = dataset[0]["image"].clone()
    dataset[0]["image"].zero_()
    torch.testing.assert_close(dataset[0]["image"].as_tensor(), before.as_tensor(), rtol=0, atol=0)


def test_start_that_was_interrupted_goes_on_where_it_was(items: list[dict[str, Any]], tmp_path: Path) -> None:
    Path(items[2]["image"]).rename(tmp_path / "away.nii.gz")
    with pytest.raises(Exception, match="applying transform"):
        cache(items, tmp_path / "cache", num_workers=1)
    assert Counted.calls == 2
    (tmp_path / "away.nii.gz").rename(items[2]["image"])
    cache(items, tmp_path / "cache")
    assert Counted.calls == 3


def test_full_disk_ends_the_start_in_a_sentence(
    items: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(packed: Any, file: Path) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("dtlp_components.data.caching._save", full)
    with pytest.raises(InputError, match=r"--cache_dir .*cache: cannot be written to \(No space left on device\)"):
        cache(items, tmp_path / "cache")


@pytest.mark.parametrize(("scans", "kept"), [(10.0, 3), (4.0, 2), (2.0, 1), (1.0, 0)])
def test_memory_that_is_free_decides_how_many_scans_are_kept(
    items: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    scans: float,
    kept: int,
) -> None:
    size = 4 * 5 * 6 * 4  # bytes of a scan
    monkeypatch.setattr("dtlp_components.data.caching.available_memory", lambda: int(scans * size) + 2)
    dataset = cache(items, None, cache_rate="auto")
    assert dataset.cache_num == kept
    assert Counted.calls == max(kept, 1)  # the first one tells how large they are
    assert ("--cache_dir FOLDER caches all of them on disk instead" in caplog.text) == (kept < 3)
    values = [dataset[i]["image"] for i in range(3)]
    for value, item in zip(values, items, strict=True):
        torch.testing.assert_close(value, pipeline()(item)["image"])


def _fill(items: list[dict[str, Any]], folder: Path) -> list[int]:
    dataset = cache(items, folder)
    return [Counted.calls, sum(dataset.file_of(i).is_file() for i in range(3))]


def test_shared_cache_is_filled_once(items: list[dict[str, Any]], tmp_path: Path) -> None:
    zero, one = together(_fill, items, tmp_path / "cache", folder=tmp_path)
    assert zero == [2, 3]
    assert one == [1, 3]


def test_without_a_folder_nothing_is_written(items: list[dict[str, Any]], tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    dataset = cache(items, None)
    assert sorted(tmp_path.iterdir()) == before
    with pytest.raises(ValueError, match="no disk cache"):
        dataset.file_of(0)


def test_other_settings_of_a_transform_are_another_cache(items: list[dict[str, Any]], tmp_path: Path) -> None:
    cache(items, tmp_path / "cache")
    changed = cache(items, tmp_path / "cache", transform=pipeline(upper=3.0))
    assert Counted.calls == 6
    torch.testing.assert_close(changed[0]["image"], pipeline(upper=3.0)(items[0])["image"])


def test_changed_scan_is_preprocessed_again(items: list[dict[str, Any]], tmp_path: Path) -> None:
    cache(items, tmp_path / "cache")
    path = items[1]["image"]
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.float32), np.eye(4)), path)
    os.utime(path, ns=(1, 1))
    again = cache(items, tmp_path / "cache")
    assert Counted.calls == 4
    assert torch.equal(again[1]["image"].as_tensor(), torch.full((1, 4, 5, 6), 0.5))


@pytest.mark.parametrize("content", [b"", b"not a file of torch", None], ids=["empty", "other", "half"])
def test_broken_file_is_made_anew(items: list[dict[str, Any]], tmp_path: Path, content: bytes | None) -> None:
    file = cache(items, tmp_path / "cache").file_of(2)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if content is None else content)
    again = cache(items, tmp_path / "cache")
    with pytest.warns(UserWarning, match=file.name):
        again[2]
    assert Counted.calls == 4
    torch.testing.assert_close(again[2]["image"], pipeline()(items[2])["image"])
    assert torch.load(file, weights_only=True)["domain"] == "ct"


def test_folder_that_cannot_be_made_is_named(items: list[dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"--cache_dir .*file"):
        cache(items, tmp_path / "file" / "cache")
    assert Counted.calls == 0


def test_folder_holds_whole_files_only(items: list[dict[str, Any]], tmp_path: Path) -> None:
    dataset = cache(items, tmp_path / "cache")
    assert sorted((tmp_path / "cache").iterdir()) == sorted(dataset.file_of(i) for i in range(3))


class Nested:
    def __init__(self, inner: Any) -> None:
        self.inner = inner


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (NormalizeIntensityd("image"), NormalizeIntensityd("label")),
        (Nested(np.array([1, 2])), Nested(np.array([1, 3]))),
        (Nested(torch.ones(2)), Nested(torch.ones(2, dtype=torch.float64))),
        (Nested({"a": (1, 2)}), Nested({"a": (2, 1)})),
        (Nested(functools.partial(min, 1)), Nested(functools.partial(min, 2))),
        (Nested(min), Nested(max)),
        (Nested(torch.float32), Nested(torch.float16)),
        (Nested(1), Nested("1")),
        (Nested({1, 2}), Nested({1, 3})),
        ({1: "a"}, {"1": "a"}),
    ],
    ids=lambda thing: type(thing).__name__,  # not str, which has addresses: processes would collect different tests
)
def test_things_that_differ_are_described_differently(one: Any, other: Any) -> None:
    assert describe(one) != describe(other)


def test_description_is_the_same_for_equal_things() -> None:
    assert describe(pipeline()) == describe(pipeline())
    assert describe(Nested({"b", "a"})) == describe(Nested({"a", "b"}))
    assert describe(Nested(Nested([np.float32(1)]))) == describe(Nested(Nested([np.float32(1)])))


def test_thing_that_contains_itself_is_refused() -> None:
    thing = Nested(None)
    thing.inner = [thing]
    with pytest.raises(ValueError, match="contains itself"):
        describe(thing)


@pytest.mark.parametrize("bundle", ["la_5", "synapse_20"])
def test_threads_preprocess_as_one_does(tiny_dataset: Path, bundle: str) -> None:
    """By the transforms of a bundle, which all threads share."""
    parser = ConfigParser()
    parser.read_config(f"bundles/{bundle}/configs/train.json")
    parser["spacing_mm"] = [1.5, 1.0, 2.0]
    parser["open_classes"] = []  # which else read the datalist
    transform = parser.get_parsed_content("train::preprocessing")
    items = load_datalist(str(tiny_dataset / "datalist.json"), "training", str(tiny_dataset)) * 8
    one = ScanCache(items, transform, num_workers=1, progress=False)
    several = ScanCache(items, transform, num_workers=8, progress=False)
    for mine, theirs in zip(one, several, strict=True):
        for key in ("image", "label"):
            assert torch.equal(mine[key].as_tensor(), theirs[key].as_tensor())
            assert mine[key].meta["filename_or_obj"] == theirs[key].meta["filename_or_obj"]


@pytest.mark.parametrize("bundle", ["la_5", "synapse_20", "mmwhs_ct2mr"])
def test_transforms_are_described_alike_before_and_after_use(tiny_dataset: Path, bundle: str, tmp_path: Path) -> None:
    """So that the next run finds what this one made with transforms that another section had used."""
    parser = ConfigParser()
    parser.read_config(f"bundles/{bundle}/configs/train.json")
    parser["spacing_mm"] = [1.5, 1.0, 2.0]
    parser["open_classes"] = []  # which else read the datalist
    transform = parser.get_parsed_content("train::preprocessing")
    before = describe(transform.flatten().transforms)
    items = load_datalist(str(tiny_dataset / "datalist.json"), "training", str(tiny_dataset))
    transform(dict(items[0]))
    assert describe(transform.flatten().transforms) == before
