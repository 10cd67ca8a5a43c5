"""Embeddings: computed once for an encoder and a volume, and again when a file in the cache is damaged."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import DivisiblePad

from medexp.config import DataConfig
from medexp.data.brats import image_files, read_case
from medexp.data.cases import Case
from medexp.data.facts import CaseFacts, describe_cases
from medexp.data.transforms import preprocess
from medexp.evaluation.embeddings import Embeddings, embed_volumes
from medexp.models.builders import build
from medexp.models.swin import SwinEncoder
from tests.data.small_cases import AFFINE, save, write_case

CPU = torch.device("cpu")


def encoder(seed: int) -> SwinEncoder:
    torch.manual_seed(seed)
    net = build({"kind": "swin_encoder", "in_channels": 4, "feature_size": 12, "window_size": 2})
    assert isinstance(net, SwinEncoder)
    return net.eval()


@pytest.fixture(scope="module")
def nets() -> dict[str, SwinEncoder]:
    return {"first": encoder(0), "second": encoder(1)}


@pytest.fixture
def cases(tmp_path: Path) -> tuple[Case, ...]:
    """Three cases; the last has the voxels of the first."""
    for name, seed in {"a": 0, "b": 1, "c": 0}.items():
        write_case(tmp_path, name, seed=seed, seg=None)
    return tuple(Case(name, name, image_files(tmp_path / name), None) for name in "abc")


@pytest.fixture
def settings() -> DataConfig:
    return DataConfig({}, "(.+)", (), (2.0, 2.0, 3.0), (64, 32, 32), 0.0, 0.5, 1)


@pytest.fixture
def embed(
    tmp_path: Path, nets: dict[str, SwinEncoder], cases: tuple[Case, ...], settings: DataConfig
) -> Callable[..., Embeddings]:
    def run(**changed: Any) -> Embeddings:
        data = changed.get("data", settings)
        facts: dict[str, CaseFacts] = {fact.case: fact for fact in describe_cases(cases, data, tmp_path / "cache")}
        asked = changed.get("cases", cases)
        return embed_volumes(changed.get("nets", nets), asked, facts, data, tmp_path / "cache", CPU)

    return run


def test_features_are_those_of_the_preprocessed_volume(
    embed: Callable[..., Embeddings], nets: dict[str, SwinEncoder], cases: tuple[Case, ...], settings: DataConfig
) -> None:
    found = embed()
    image = torch.as_tensor(DivisiblePad(k=32)(preprocess(read_case(cases[1], {}), settings)["image"]))[None]
    with torch.inference_mode():
        assert np.allclose(found.features["second"][1], nets["second"](image)[0].numpy(), atol=1e-5)
    assert {name: rows.shape for name, rows in found.features.items()} == {"first": (3, 192), "second": (3, 192)}
    assert np.array_equal(found.features["first"][0], found.features["first"][2])
    assert found.computed == 4, "exact duplicates are embedded once"


def test_nothing_is_computed_twice(
    embed: Callable[..., Embeddings], nets: dict[str, SwinEncoder], cases: tuple[Case, ...], settings: DataConfig
) -> None:
    first = embed(nets={"first": nets["first"]})
    assert first.computed == 2
    again = embed()
    assert again.computed == 2, "the second encoder's alone"
    assert np.array_equal(again.features["first"], first.features["first"])
    assert embed(cases=cases[::-1]).computed == 0
    assert embed(nets={"renamed": encoder(0)}).computed == 0, "the weights count, and not their name"
    assert embed(nets={"first": encoder(7)}).computed == 2
    assert embed(data=replace(settings, spacing=(2.0, 2.0, 2.0))).computed == 4
    assert embed(data=replace(settings, input_size=(64, 64, 32))).computed == 4


def test_the_same_voxels_that_lie_otherwise_are_another_volume(
    embed: Callable[..., Embeddings], cases: tuple[Case, ...], tmp_path: Path
) -> None:
    before = embed(cases=cases[:1]).features["first"]
    for path in cases[0].images:
        save(path, np.asanyarray(nib.load(path).dataobj), AFFINE @ np.diag([1, 1, -1, 1]))
    after = embed(cases=cases[:1])
    assert after.computed == 2
    assert not np.array_equal(after.features["first"], before)


@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty", "other"])
def test_a_damaged_file_is_computed_again(embed: Callable[..., Embeddings], tmp_path: Path, damage: str) -> None:
    before = embed()
    entries = sorted((tmp_path / "cache" / "embeddings").iterdir())
    assert len(entries) == 4 and all(entry.suffix == ".safetensors" for entry in entries)
    content = bytearray(entries[0].read_bytes())
    if damage == "flipped":
        content[-3] ^= 1
    spoilt = {"flipped": content, "truncated": content[:-40], "empty": b"", "other": b"not what it was"}[damage]
    entries[0].write_bytes(bytes(spoilt))
    after = embed()
    assert after.computed == 1
    for name, rows in before.features.items():
        assert np.array_equal(after.features[name], rows)
    assert embed().computed == 0
