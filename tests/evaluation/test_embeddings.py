"""Embeddings: computed once for an encoder and its volumes or images, and again when a file in the cache is damaged."""

import copy
import hashlib
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from monai.transforms import DivisiblePad
from safetensors.numpy import load_file
from torch.utils.data import Dataset

from medexp.config.data import DataConfig
from medexp.data.volumes.brats import image_files, read_case
from medexp.data.volumes.cases import Case
from medexp.data.volumes.facts import CaseFacts, describe_cases
from medexp.data.volumes.transforms import preprocess, preprocessing
from medexp.errors import RegistryError, TrainingDiverged
from medexp.evaluation.batches import Batches
from medexp.evaluation.embeddings import Embedder, Embeddings, cases_as_parts, embed_all, images_as_part, volumes_as_parts
from medexp.models.checkpoints import weights_digest
from medexp.models.kinds import build
from medexp.models.swin.network import SwinEncoder, encoder_state
from medexp.models.unet.network import UNetEncoder
from tests.data.volumes.small_cases import AFFINE, save, write_case
from tests.small import data_config

DAMAGE = ["flipped", "truncated", "empty", "other"]


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
    return data_config(spacing=(2.0, 2.0, 3.0), input_size=(64, 32, 32), val_fraction=0.0, test_fraction=0.5)


@pytest.fixture
def embed(
    tmp_path: Path, nets: dict[str, SwinEncoder], cases: tuple[Case, ...], settings: DataConfig
) -> Callable[..., Embeddings]:
    def run(**changed: Any) -> Embeddings:
        data = changed.get("data", settings)
        facts: dict[str, CaseFacts] = {fact.case: fact for fact in describe_cases(cases, data, tmp_path / "cache")}
        asked = changed.get("cases", cases)
        accelerator = Accelerator(cpu=True)
        parts = cases_as_parts(asked, facts, preprocessing(data.spacing, data.input_size), accelerator)
        embedders = {
            name if kind == "gap10" else f"{name} {kind}": Embedder(net, kind)
            for name, net in changed.get("nets", nets).items()
            for kind in changed.get("kinds", ["gap10"])
        }
        return embed_all(embedders, parts, tmp_path / "cache", accelerator)

    return run


def test_features_are_those_of_the_preprocessed_volume(
    embed: Callable[..., Embeddings], nets: dict[str, SwinEncoder], cases: tuple[Case, ...], settings: DataConfig
) -> None:
    found = embed()
    image = torch.as_tensor(DivisiblePad(k=32)(preprocess(read_case(cases[1], {}), settings)["image"]))[None]
    with torch.inference_mode():
        np.testing.assert_allclose(found.features["second"][1], nets["second"](image)[0].numpy(), atol=1e-6)
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


def test_a_volume_is_passed_once_for_all_kinds_and_each_is_kept(
    embed: Callable[..., Embeddings], cases: tuple[Case, ...], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    whole = build({"kind": "swin_unetr", "in_channels": 4, "out_channels": 3, "feature_size": 12, "window_size": 2}).eval()
    passes: list[Any] = []
    whole.get_submodule("swinViT").register_forward_pre_hook(lambda _, given: passes.append(given[0].shape[2:]))
    nets, kinds = {"net": whole}, ["gap10", "multiscale", "tumour_weighted"]

    def volumes() -> int:
        """How many were passed, beside the noise on which the ways to attend are compared."""
        count = sum(shape != (32, 32, 32) for shape in passes)
        passes.clear()
        return count

    together = embed(nets=nets, kinds=kinds, cases=cases[:2])
    assert (volumes(), together.computed) == (2, 6)
    assert {name: found.shape for name, found in together.features.items()} == {
        "net": (2, 192),
        "net multiscale": (2, 192),
        "net tumour_weighted": (2, 372),
    }
    shutil.rmtree(tmp_path / "cache" / "embeddings")
    for kind in kinds:
        (apart,) = embed(nets=nets, kinds=[kind], cases=cases[:2]).features.values()
        assert np.array_equal(apart, together.features["net" if kind == "gap10" else f"net {kind}"])
        assert volumes() == 2
    assert embed(nets=nets, kinds=kinds, cases=cases[:2]).computed == volumes() == 0
    encoder = build({"kind": "swin_encoder", "in_channels": 4, "feature_size": 12, "window_size": 2}).eval()
    encoder.load_state_dict(encoder_state(whole))
    assert embed(nets={"kept": encoder}, kinds=kinds[:2], cases=cases[:2]).computed == 0, "the decoder has no part in these"
    with torch.no_grad():
        next(whole.get_submodule("out").parameters()).add_(1)
    assert embed(nets=nets, kinds=kinds, cases=cases[:1]).computed == 1, "and in these it has"


def test_an_encoder_alone_has_no_features_that_take_a_decoder(embed: Callable[..., Embeddings]) -> None:
    with pytest.raises(RegistryError, match="a SwinEncoder: has no decoder.*phase1_segmenter.*features=gap10 or multiscale"):
        embed(kinds=["tumour_weighted"])


def test_the_same_voxels_that_lie_otherwise_are_another_volume(
    embed: Callable[..., Embeddings], cases: tuple[Case, ...], tmp_path: Path
) -> None:
    before = embed(cases=cases[:1]).features["first"]
    for path in cases[0].images:
        save(path, np.asanyarray(nib.load(path).dataobj), AFFINE @ np.diag([1, 1, -1, 1]))
    after = embed(cases=cases[:1])
    assert after.computed == 2
    assert not np.array_equal(after.features["first"], before)


def name_of(*key: Any) -> str:
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()[:40] + ".safetensors"


def test_an_entry_is_found_again_by_later_versions(
    embed: Callable[..., Embeddings],
    nets: dict[str, SwinEncoder],
    cases: tuple[Case, ...],
    settings: DataConfig,
    tmp_path: Path,
) -> None:
    """What was computed with much patience stands under a name that follows from weights, voxels and preprocessing alone."""
    found = embed(nets={"first": nets["first"]}, cases=cases[:1])
    (fact,) = describe_cases(cases[:1], settings, tmp_path / "cache")
    (entry,) = (tmp_path / "cache" / "embeddings").iterdir()
    made = [preprocessing(settings.spacing, settings.input_size).key, 2]
    weights = weights_digest(nets["first"].state_dict())
    assert entry.name == name_of(weights, "gap10", "flash", fact.sha256, made)
    assert np.array_equal(load_file(entry)["features"], found.features["first"][0])


def test_volumes_that_are_random_are_embedded_each_time(
    nets: dict[str, SwinEncoder], settings: DataConfig, tmp_path: Path
) -> None:
    crops = torch.randn(2, 4, 64, 32, 40, generator=torch.Generator().manual_seed(0))
    accelerator, reads = Accelerator(cpu=True), []

    def read(index: int) -> torch.Tensor:
        reads.append(index)
        return crops[index]

    for _ in range(2):
        made = preprocessing(settings.spacing, settings.input_size)
        parts = volumes_as_parts(read, ["a", "b"], [None, None], made, accelerator)
        found = embed_all({name: Embedder(net, "gap10") for name, net in nets.items()}, parts, tmp_path / "cache", accelerator)
        assert found.computed == 4
    assert reads == [0, 1] * 2, "once for all encoders"
    assert not (tmp_path / "cache").exists()
    with torch.inference_mode():
        wanted = nets["second"](torch.as_tensor(DivisiblePad(k=32)(crops[1]))[None])
    assert np.allclose(found.features["second"][1], wanted[0].numpy(), atol=1e-5)


def test_a_volume_whose_features_are_not_finite_is_named_and_not_kept(
    embed: Callable[..., Embeddings], nets: dict[str, SwinEncoder], cases: tuple[Case, ...], tmp_path: Path
) -> None:
    broken = copy.deepcopy(nets["first"])
    next(broken.parameters()).data.fill_(math.nan)
    with pytest.raises(TrainingDiverged, match=f"broken: the network's output: {cases[0].id}: 192 NaN or infinite values"):
        embed(nets={"broken": broken})
    assert not list((tmp_path / "cache").glob("embeddings/*.safetensors"))


def spoil(entry: Path, damage: str) -> None:
    content = bytearray(entry.read_bytes())
    if damage == "flipped":
        content[-3] ^= 1
    spoilt = {"flipped": content, "truncated": content[:-40], "empty": b"", "other": b"not what it was"}[damage]
    entry.write_bytes(bytes(spoilt))


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_computed_again(embed: Callable[..., Embeddings], tmp_path: Path, damage: str) -> None:
    before = embed()
    entries = sorted((tmp_path / "cache" / "embeddings").iterdir())
    assert len(entries) == 4 and all(entry.suffix == ".safetensors" for entry in entries)
    spoil(entries[0], damage)
    after = embed()
    assert after.computed == 1
    for name, rows in before.features.items():
        assert np.array_equal(after.features[name], rows)
    assert embed().computed == 0


class Pictures(Dataset[dict[str, Any]]):
    """Five images of noise, and how often one was read."""

    def __init__(self) -> None:
        self.read = 0

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.read += 1
        return {"image": torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(index)), "case": f"picture {index}"}


def unet(seed: int) -> UNetEncoder:
    torch.manual_seed(seed)
    return UNetEncoder(1, 4, 2).eval()


@pytest.fixture
def embed_pictures(tmp_path: Path) -> Callable[..., tuple[np.ndarray, bool]]:
    """Features of the pictures; that they were in the cache and that none was read must be one."""

    def run(**changed: Any) -> tuple[np.ndarray, bool]:
        data = Pictures()
        given = {"encoder": unet(0), "pixels": list("abcde"), "settings": [16, 16, 2]} | changed
        accelerator = Accelerator(cpu=True)
        part = images_as_part(Batches(data, 2), given["pixels"], given["settings"], accelerator)
        found = embed_all({"unet": Embedder(given["encoder"])}, [part], tmp_path / "cache", accelerator)
        assert data.read == 5 * found.computed
        return found.features["unet"], not found.computed

    return run


def test_images_whose_features_are_not_finite_are_named(embed_pictures: Callable[..., tuple[np.ndarray, bool]]) -> None:
    broken = unet(0)
    next(broken.parameters()).data.fill_(math.inf)
    with pytest.raises(TrainingDiverged, match=r"(?s)unet: the network's output: 2 problems.*picture 0: .*picture 1: "):
        embed_pictures(encoder=broken)


def test_features_of_images_are_computed_once(embed_pictures: Callable[..., tuple[np.ndarray, bool]], tmp_path: Path) -> None:
    first, known = embed_pictures()
    assert not known and first.dtype == np.float32
    with torch.inference_mode():
        wanted = unet(0)(torch.stack([Pictures()[index]["image"] for index in range(5)]))
    np.testing.assert_allclose(first, wanted.numpy(), atol=1e-6)
    again, known = embed_pictures()
    assert known
    np.testing.assert_array_equal(again, first)
    (entry,) = (tmp_path / "cache" / "embeddings").iterdir()
    computing = [torch.__version__, "cpu", "no"]
    assert entry.name == name_of(weights_digest(unet(0).state_dict()), list("abcde"), [1, 16, 16, 2], computing)


@pytest.mark.parametrize(
    "changed",
    [
        {"encoder": unet(1)},
        {"pixels": list("abcdx")},
        {"pixels": list("bacde")},
        {"settings": [32, 16, 2]},
        {"settings": [16, 16, 4]},
    ],
    ids=["another encoder", "an altered pixel", "another order", "another size", "other batches"],
)
def test_other_features_are_computed_anew(
    embed_pictures: Callable[..., tuple[np.ndarray, bool]], changed: dict[str, Any]
) -> None:
    embed_pictures()
    assert not embed_pictures(**changed)[1]
    assert embed_pictures(**changed)[1] and embed_pictures()[1]


def test_another_precision_or_torch_computes_anew(
    embed_pictures: Callable[..., tuple[np.ndarray, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    embed_pictures()
    changes: list[tuple[object, str, Any]] = [
        (torch, "__version__", "1000.0"),
        (Accelerator, "mixed_precision", "bf16"),
    ]
    for owner, name, value in changes:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, value)
            assert not embed_pictures()[1], name
    assert embed_pictures()[1]


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_features_of_images_are_computed_again(
    embed_pictures: Callable[..., tuple[np.ndarray, bool]], tmp_path: Path, damage: str
) -> None:
    first, _ = embed_pictures()
    (entry,) = (tmp_path / "cache" / "embeddings").iterdir()
    spoil(entry, damage)
    again, known = embed_pictures()
    assert not known
    np.testing.assert_array_equal(again, first)
    assert embed_pictures()[1]
