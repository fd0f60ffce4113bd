# SPDX-License-Identifier: Apache-2.0
"""The phantom is what its documentation promises: seven classes, four scanners, datalists for three tasks."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from dtlp_components.datasets.phantom import draw_phantom, write_phantom
from dtlp_components.errors import InputError

DATALISTS = ("datalist_10.json", "datalist_100.json", "datalist_adapt.json", "datalist_generalize.json")
SECTIONS = ("training", "unlabeled", "validation", "testing")
LIVER, SPLEEN, RIGHT_KIDNEY, LEFT_KIDNEY, AORTA, GALLBLADDER = range(1, 7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("phantom")
    write_phantom(str(path), seed=3, num_training=8, num_validation=4, num_testing=4)
    return path


@pytest.fixture(scope="module")
def lists(folder) -> dict[str, dict]:
    return {name: json.loads((folder / name).read_text()) for name in DATALISTS}


@pytest.fixture(scope="module")
def volumes(folder, lists) -> list[tuple[str, nib.Nifti1Image, nib.Nifti1Image]]:
    """Domain, image and label of every volume."""
    items = [item for section in SECTIONS for item in lists["datalist_100.json"][section]]
    return [(item["domain"], nib.load(folder / item["image"]), nib.load(folder / item["label"])) for item in items]


def by_domain(volumes, measure) -> dict[str, float]:
    """Mean of ``measure(image voxels, label voxels)`` over the volumes of each scanner."""
    values: dict[str, list[float]] = {}
    for domain, image, label in volumes:
        values.setdefault(domain, []).append(measure(image.get_fdata(), np.asanyarray(label.dataobj)))
    return {domain: float(np.mean(found)) for domain, found in values.items()}


@pytest.mark.slow
def test_same_generator_state_draws_the_same_volume_and_another_seed_another_one() -> None:
    first, again, other = (draw_phantom(np.random.default_rng([seed, 0, 0]), "B") for seed in (5, 5, 6))
    for volume, repeated in zip(first, again, strict=True):
        np.testing.assert_array_equal(volume, repeated)
    assert first[1].shape != other[1].shape or (first[1] != other[1]).any()


@pytest.mark.slow
def test_files_are_the_same_whatever_the_number_of_other_sections(folder, tmp_path) -> None:
    write_phantom(str(tmp_path), seed=3, num_training=4, num_validation=0, num_testing=0)
    for file in ("imagesTr/phantom_003.nii.gz", "labelsTr/phantom_003.nii.gz"):
        assert (tmp_path / file).read_bytes() == (folder / file).read_bytes()


@pytest.mark.slow
def test_every_volume_holds_every_organ_and_their_sizes_differ_by_more_than_ten(volumes) -> None:
    for _, _, label in volumes:
        counts = np.bincount(np.asanyarray(label.dataobj).ravel(), minlength=7)
        assert len(counts) == 7
        assert counts.min() > 0
        assert counts[1:].argmax() + 1 == LIVER
        assert counts[1:].argmin() + 1 == GALLBLADDER
        assert counts[LIVER] > 10 * counts[GALLBLADDER]


@pytest.mark.slow
def test_image_and_label_share_their_grid_and_cover_the_field_of_view(volumes) -> None:
    for _, image, label in volumes:
        assert image.shape == label.shape
        np.testing.assert_array_equal(image.affine, label.affine)
        spacing = nib.affines.voxel_sizes(image.affine)
        assert ((spacing > 3.8) & (spacing < 6.3)).all()
        np.testing.assert_allclose(spacing * image.shape, (300, 240, 200), atol=spacing.max())
        assert image.get_data_dtype() == np.int16
        assert label.get_data_dtype() == np.uint8


@pytest.mark.slow
def test_affine_puts_the_organs_on_their_sides_however_the_volume_is_stored(volumes) -> None:
    stored = {}
    for domain, image, label in volumes:
        stored[domain] = "".join(nib.aff2axcodes(image.affine))
        voxels = np.asanyarray(label.dataobj)
        centers = [None, *ndimage.center_of_mass(np.ones_like(voxels), voxels, range(1, 7))]
        ras = [None, *(nib.affines.apply_affine(image.affine, center) for center in centers[1:])]
        # RAS: x grows to the patient's right, z to the head
        assert ras[LIVER][0] > ras[AORTA][0] > ras[SPLEEN][0]
        assert ras[RIGHT_KIDNEY][0] > ras[AORTA][0] > ras[LEFT_KIDNEY][0]
        assert ras[GALLBLADDER][1] > ras[RIGHT_KIDNEY][1]
        assert ras[LIVER][2] > ras[RIGHT_KIDNEY][2]
    assert stored == {"A": "RAS", "B": "RAS", "C": "RAS", "D": "LPS"}


@pytest.mark.slow
def test_scanners_differ_in_contrast_noise_and_resolution(volumes) -> None:
    aorta = by_domain(volumes, lambda image, label: np.median(image[label == AORTA]))
    # inside the liver only noise and the slow drift are left; the difference of neighbors cancels the drift
    noise = by_domain(
        volumes, lambda image, label: np.diff(image, axis=0)[ndimage.binary_erosion(label == LIVER)[:-1]].std()
    )
    spacing = {tuple(np.round(nib.affines.voxel_sizes(image.affine)).astype(int)) for _, image, _ in volumes}
    assert aorta["D"] > aorta["B"] + 20 > aorta["A"] + 40 > aorta["C"] + 40
    assert noise["D"] > 1.4 * max(noise["A"], noise["B"], noise["C"])
    assert len(spacing) > 2


@pytest.mark.slow
def test_partial_volume_leaves_values_between_air_and_body(volumes) -> None:
    for _, image, _ in volumes:
        share = ((image.get_fdata() > -800) & (image.get_fdata() < -250)).mean()
        assert share > 0.01  # no tissue has these HU: only voxels across a surface do


@pytest.mark.slow
def test_datalists_name_existing_files_and_no_case_twice(folder, lists) -> None:
    for name, content in lists.items():
        images = [item["image"] for section in SECTIONS for item in content[section]]
        assert len(set(images)) == len(images), name
        for item in (item for section in SECTIONS for item in content[section]):
            assert all((folder / item[key]).is_file() for key in ("image", "label") if key in item)
        assert content["seed"] == 3
        assert len(content["labels"]) == 7


@pytest.mark.slow
def test_unlabeled_items_carry_no_label_and_all_others_do(lists) -> None:
    for content in lists.values():
        for section in SECTIONS:
            assert all(("label" in item) == (section != "unlabeled") for item in content[section])


@pytest.mark.slow
def test_semi_supervised_list_has_two_labeled_scanners_and_unlabeled_ones_of_all(lists) -> None:
    few, full = lists["datalist_10.json"], lists["datalist_100.json"]
    assert len(few["training"]) == 2  # a tenth of 8 is less than the two promised
    assert len({item["domain"] for item in few["training"]}) == 2
    assert {item["domain"] for item in few["unlabeled"]} == set("ABCD")
    assert {i["image"] for i in few["training"] + few["unlabeled"]} == {i["image"] for i in full["training"]}
    assert full["unlabeled"] == []


@pytest.mark.slow
def test_adaptation_and_generalization_lists_keep_the_target_apart(lists) -> None:
    def domains(name: str) -> list[set[str]]:
        return [{item["domain"] for item in lists[name][section]} for section in SECTIONS]

    assert domains("datalist_adapt.json") == [{"A"}, {"D"}, set(), {"D"}]
    assert domains("datalist_generalize.json") == [set("ABC"), set("ABC"), set("ABC"), {"D"}]


@pytest.mark.slow
def test_default_numbers_are_seven_volumes_per_scanner_and_a_tenth_labeled(tmp_path, monkeypatch) -> None:
    tiny = (np.zeros((2, 2, 2), np.int16), np.zeros((2, 2, 2), np.uint8), np.eye(4))
    monkeypatch.setattr("dtlp_components.datasets.phantom.draw_phantom", lambda rng, domain: tiny)
    content = json.loads(write_phantom(str(tmp_path)).read_text())
    assert [len(content[section]) for section in SECTIONS] == [3, 25, 4, 8]  # round(28 / 10) labeled
    training = content["training"] + content["unlabeled"]
    assert all(sum(item["domain"] == domain for item in training) == 7 for domain in "ABCD")


@pytest.mark.slow
def test_other_seed_does_not_overwrite_a_data_set_in_use(folder) -> None:
    before = (folder / "datalist_10.json").read_bytes()
    with pytest.raises(InputError, match=r"datalist_10.json: already exists with a different split"):
        write_phantom(str(folder), seed=4, num_training=8, num_validation=4, num_testing=4)
    assert (folder / "datalist_10.json").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_training": 3}, "num_training: expected .* 4, got 3"),
        ({"num_testing": "x"}, "num_testing"),
        ({"seed": -1}, "seed"),
    ],
)
def test_number_out_of_range_is_named(tmp_path, arguments, message) -> None:
    with pytest.raises(InputError, match=message):
        write_phantom(str(tmp_path), **arguments)
    assert list(tmp_path.iterdir()) == []
