"""Copies that are not equal are found, unlike pictures and volumes are not, and both lie in one split."""

import io
import itertools
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from medexp.data.manifest import data_digest
from medexp.data.prepared import Prepared
from medexp.data.splits import Splits, make_splits, patient_groups
from medexp.data.twins import LEAST, find_twins, like, perceptual_hash
from tests.data.volumes.small_cases import a_case, a_fact
from tests.small import data_config


def a_head(seed, dimensions=2, side=96, symmetric=0.0):
    """An ellipsoid of smooth random tissue, as bright as another one, on black; with so much of its mirror image in it."""
    rng = np.random.default_rng(seed)
    edge = 1.2 if dimensions == 2 else 1.0
    axes = np.meshgrid(*[np.linspace(-edge, edge, side)] * dimensions, indexing="ij")
    inside = sum((axis / radius) ** 2 for axis, radius in zip(axes, (0.95, 0.8, 0.85), strict=False)) < 1
    tissue = ndimage.gaussian_filter(rng.normal(size=inside.shape), side / (20 if dimensions == 2 else 10))
    tissue += symmetric * np.flip(tissue, 1 if dimensions == 2 else 0)
    return (inside * (120 + 40 * tissue / tissue.std())).clip(0, 255).astype(np.float32)


def saved(pixels, **how):
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", **how)
    return np.asarray(Image.open(file), np.float32)


def resized(pixels, width, height):
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC), np.float32)


COPIES = {
    "saved anew": lambda pixels: saved(pixels, quality=30),
    "half the size": lambda pixels: resized(pixels, 48, 48),
    "twice the size": lambda pixels: resized(pixels, 192, 192),
    "of another aspect": lambda pixels: resized(pixels, 96, 70),
    "darker": lambda pixels: pixels * 0.6,
    "brighter": lambda pixels: (pixels * 1.2 + 20).clip(0, 255),
    "of another gamma": lambda pixels: 255 * (pixels / 255) ** 0.7,
    "cropped": lambda pixels: pixels[5:-5, 5:-5],
    "cropped into the head": lambda pixels: pixels[12:-12, 12:-12],
    "with a border": lambda pixels: np.pad(pixels, 10),
    "mirrored": np.fliplr,
    "upside down": np.flipud,
    "turned by a quarter": np.rot90,
    "mirrored and turned": lambda pixels: np.rot90(np.fliplr(pixels)),
    "mirrored, cropped into the head": lambda pixels: np.fliplr(pixels)[12:-12, 12:-12],
    "turned and saved anew": lambda pixels: saved(np.rot90(pixels), quality=30),
    "half the size, brighter, saved anew": lambda pixels: saved(resized(pixels, 48, 48) * 1.2, quality=50),
}


@pytest.mark.parametrize("change", COPIES)
def test_a_copy_of_a_picture_is_found_and_no_other_picture(change):
    pictures = [a_head(seed) for seed in range(12)]
    hashes = [perceptual_hash(pixels, cropped=True) for pixels in pictures]
    copies = [perceptual_hash(COPIES[change](pixels), cropped=True) for pixels in pictures]
    found = like(copies, hashes)
    back = like(hashes, copies)
    assert {*zip(found["one"], found["other"], strict=True)} | {*zip(back["other"], back["one"], strict=True)} == {
        (place, place) for place in range(12)
    }


def test_a_copy_of_a_volume_is_found_and_no_other_volume():
    """All have one outline, which tells nothing."""
    volumes = [a_head(seed, 3, 64) for seed in range(6)]
    hashes = [perceptual_hash(voxels) for voxels in volumes]
    for change in (
        lambda voxels: ndimage.zoom(voxels, 0.75, order=1),
        lambda voxels: voxels * 3 + np.random.default_rng(0).normal(0, 3, voxels.shape),
        lambda voxels: voxels + np.random.default_rng(0).normal(0, 15, voxels.shape),
        lambda voxels: ndimage.rotate(voxels, 4, (0, 1), reshape=False, order=1),
        lambda voxels: ndimage.gaussian_filter(voxels, 1),
        lambda voxels: voxels[1:-1, 1:-1, 1:],
        lambda voxels: np.pad(voxels, 4),
        lambda voxels: voxels[::-1],
        lambda voxels: ndimage.zoom(voxels[::-1], 0.75, order=1),
        lambda voxels: voxels[::-1, ::-1],  # an affine that says LPS where it is RAS
    ):
        found = like([perceptual_hash(change(voxels)) for voxels in volumes], hashes)
        assert [*zip(found["one"], found["other"], strict=True)] == [(place, place) for place in range(6)]


@pytest.mark.parametrize(("dimensions", "side"), [(2, 96), (3, 40)])
def test_heads_that_are_nearly_their_own_mirror_image_are_no_copies_of_each_other(dimensions, side):
    heads = [a_head(seed, dimensions, side, symmetric=0.9) for seed in range(6)]
    hashes = [perceptual_hash(head) for head in heads]
    mirrored = [perceptual_hash(np.flip(head, 1 if dimensions == 2 else 0)) for head in heads]
    found = like(mirrored, hashes)
    assert [*zip(found["one"], found["other"], strict=True)] == [(place, place) for place in range(6)]


def test_a_constant_picture_is_like_none_and_a_tiny_one_is_hashed():
    flat, tiny = perceptual_hash(np.full((20, 20), 7.0)), perceptual_hash(np.eye(16))
    assert like([flat, flat], [flat, tiny]).empty
    assert {len(view) for view in (*flat, *tiny)} <= set(LEAST)


def planted(count, copies):
    """Cases with a hash each, of which some are those of others, a little changed; each is of a patient of its own."""
    rng = np.random.default_rng(0)
    values = rng.integers(0, 16, (count, 256))
    for copy, original in copies.items():
        values[copy] = values[original]
        values[copy, :40] ^= 1
    hashes = [("".join(f"{value:x}" for value in row),) * 2 for row in values]
    names = [f"p{place:05d}" for place in range(count)]
    cases = [a_case(name, name) for name in names]
    return cases, [a_fact(name, f"voxels of {name}", views) for name, views in zip(names, hashes, strict=True)]


@given(
    st.lists(st.tuples(st.integers(0, 11), st.integers(12, 23)), max_size=5, unique_by=lambda pair: pair[1]), st.integers(0)
)
def test_copies_are_drawn_into_one_split(pairs, seed):
    cases, facts = planted(24, {copy: original for original, copy in pairs})
    splits = make_splits(cases, facts, data_config(val_fraction=0.3, test_fraction=0.2), seed)
    for original, copy in pairs:
        assert splits.of(cases[original].id) == splits.of(cases[copy].id)
    assert len(patient_groups(cases, facts)) == 24 - len(pairs)


def test_pairs_are_listed_with_how_alike_they_are():
    cases, facts = planted(6, {4: 1})
    facts[5] = replace(facts[5], voxels_sha256=facts[0].voxels_sha256, perceptual_hash=facts[0].perceptual_hash)
    found = find_twins(cases, facts)
    assert found.loc[0].tolist() == ["p00000", "p00005", 1.0, True]
    assert found.loc[1, ["case", "other", "exact"]].tolist() == ["p00001", "p00004", False]
    assert len(found) == 2 and 0.92 < found.loc[1, "similarity"] < 1
    same = [a_case(case.id, "one patient") for case in cases]
    assert find_twins(same, facts).empty, "of one patient anyhow"


class Slice:
    def __init__(self, scan, number):
        self.id, self.patient, self.scan = f"{scan}-{number}", scan, scan


@pytest.mark.parametrize(("alike", "groups"), [(3, 4), (8, 3), (10, 3)])
def test_scans_are_copies_where_most_of_their_slices_are(alike, groups):
    cases = [Slice(scan, number) for scan in "abcd" for number in range(10)]
    _, facts = planted(40, {10 + place: place for place in range(alike)})
    facts = [replace(fact, case=case.id) for fact, case in zip(facts, cases, strict=True)]
    assert len(patient_groups(cases, facts)) == groups
    assert len(find_twins(cases, facts)) == (alike if groups == 3 else 0)


def test_copies_under_two_names_are_one_patient_of_intervals_and_two_of_the_manifest():
    """The leak guard knows them by both names, and the data are the ones that they were."""
    cases, facts = planted(12, {4: 1, 9: 1})
    known = {fact.case: fact for fact in facts}
    rows = [{"case": case.id, "patient": case.patient, "split": "val", "sha256": case.id} for case in cases]
    named = {case.id: case for case in cases}
    data = Prepared(named, known, Splits((), tuple(sorted(named)), ()), pd.DataFrame(rows), "made up")
    judged = data.rows("val").set_index("case")["patient"]
    assert judged.nunique() == 10 and {judged["p00004"], judged["p00009"]} == {"p00001"}
    assert data.owners(["p00009", "p00005"]) == ["p00001", "p00005"]
    assert data.manifest["patient"].nunique() == data.judged("val")["patient"].nunique() == 12
    assert data.digests["val"] == data.digest == data_digest(pd.DataFrame(rows))


def test_cases_that_are_all_alike_are_no_copies():
    """They would be one group, of which no split could be made."""
    cases, facts = planted(10, dict.fromkeys(range(1, 6), 0))
    assert len(patient_groups(cases, facts)) == 10
    assert len(find_twins(cases, facts)) == 15
    exact = [replace(fact, voxels_sha256="same") if place < 6 else fact for place, fact in enumerate(facts)]
    assert len(patient_groups(cases, exact)) == 5


def test_thousands_are_compared_by_matrix_products():
    """A loop in Python over 4.5 million pairs would take minutes."""
    cases, facts = planted(3000, {2999: 0})
    calls = itertools.count()
    sys.setprofile(lambda *_: next(calls))
    try:
        found = find_twins(cases, facts)
    finally:
        sys.setprofile(None)
    assert len(found) == 1
    assert next(calls) < 450_000
