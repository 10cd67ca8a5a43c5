"""Latents of pairs: computed once, found again for the same VAE and nothing else, standardised as `Joint` does it."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from medexp.data.pairs.prepared import prepare_pairs
from medexp.errors import ConfigError, TrainingDiverged
from medexp.evaluation.latents import FCDDataset, load_pairs
from medexp.models.autoencoder.network import Autoencoder
from medexp.models.meanflow.joint import Joint
from tests.data.pairs.small_pairs import pair_data, reads, write_bids, write_subject

DATA = pair_data()


def vae(seed: int = 0, **changed: Any) -> Autoencoder:
    torch.manual_seed(seed)
    return Autoencoder(channels=(4, 4, 8), norm_groups=4, **changed)


def joint(strategy: str = "vae", of: Autoencoder | None = None, **changed: Any) -> Joint:
    channels = {"vae": 8, "downsample": 5, "image": 4}[strategy]
    return Joint(of or vae(), strategy, mean=[0.1] * channels, std=[0.5] * channels, **changed)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("pairs")
    return prepare_pairs(reads(root / "cache", write_bids(root / "bids", 3)))


def test_latents_are_those_of_joint_and_come_from_the_cache_the_second_time(prepared, tmp_path):
    cases = [*prepared.cases.values()]
    pairs = load_pairs(cases, DATA)
    for strategy, channels in (("vae", 8), ("downsample", 5), ("image", 4)):
        made = FCDDataset(cases, prepared.facts, DATA, joint(strategy), strategy, tmp_path)
        assert made.computed == len(made) == 3 and made[0]["z"].shape == (channels, 8, 8, 8)
        of_two = joint(strategy).encode(torch.from_numpy(pairs[1].image[None]), torch.from_numpy(pairs[1].mask[None]).float())
        assert torch.equal(made[0, 1, 0]["z"], of_two[0])
        again = FCDDataset(cases[::-1], prepared.facts, DATA, joint(strategy), strategy, tmp_path)
        assert again.computed == 0 and torch.equal(again[2]["z"], made[0]["z"])
    file = max(tmp_path.rglob("*.safetensors"), key=lambda path: path.stat().st_size)
    file.write_bytes(file.read_bytes()[:-8])
    assert FCDDataset(cases, prepared.facts, DATA, joint(), "vae", tmp_path, pairs).computed == 1


def test_whatever_latents_follow_from_makes_others(prepared, tmp_path):
    cases = [*prepared.cases.values()][:1]

    def computed(of: Joint, **changed: Any) -> int:
        return FCDDataset(cases, prepared.facts, replace(DATA, **changed), of, of.strategy, tmp_path).computed

    assert computed(joint()) == 1
    other_mean = Joint(vae(), "vae", mean=[1.0] * 8, std=[2.0] * 8, threshold=0.2)
    assert computed(joint()) == computed(other_mean) == computed(joint(pooling="nearest")) == 0
    assert computed(joint(of=vae(1))) == computed(joint(of=vae(scale_factor=2.0))) == 1
    assert computed(joint("downsample")) == computed(joint("downsample", pooling="nearest")) == 1
    assert computed(joint(), input_size=(32, 32, 36)) == computed(joint(), spacing=(6.0, 6.0, 5.5)) == 1


def test_what_is_refused(prepared, tmp_path):
    cases = [*prepared.cases.values()]
    with pytest.raises(ConfigError, match="data.mask_strategy: found auto; allowed are vae, downsample, image"):
        FCDDataset(cases, prepared.facts, DATA, joint(), "auto", tmp_path)
    with pytest.raises(
        ConfigError, match="found downsample; the latents' mean and standard deviation are those of strategy vae"
    ):
        FCDDataset(cases, prepared.facts, DATA, joint(), "downsample", tmp_path)
    broken = vae()
    with torch.no_grad():
        next(broken.parameters()).fill_(torch.nan)
    with pytest.raises(TrainingDiverged, match="sub-001: "):
        FCDDataset(cases, prepared.facts, DATA, joint(of=broken), "vae", tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_another_mask_of_the_same_image_has_another_latent(tmp_path):
    made = []
    for name, shift in (("one", 0), ("two", 1)):
        for number in (1, 2):
            roi = (
                None if not shift else torch.zeros(24, 26, 22, dtype=torch.uint8).index_fill_(0, torch.tensor([11]), 1).numpy()
            )
            write_subject(tmp_path / name, f"sub-{number}", number, **({} if roi is None else {"roi": roi}))
        prepared = prepare_pairs(reads(tmp_path / "cache", tmp_path / name))
        made.append(FCDDataset([*prepared.cases.values()], prepared.facts, DATA, joint(), "vae", tmp_path / "cache"))
    assert made[0].computed == made[1].computed == 2
    assert torch.equal(made[0][0]["z"][:4], made[1][0]["z"][:4]) and not torch.equal(made[0][0]["z"], made[1][0]["z"])
