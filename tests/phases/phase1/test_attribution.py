"""Each statement about LoRA, where it holds and is found, and where it does not and is not.

The truth is what a network of known weights makes of a volume. It is adapted after a part of it was spoiled: where adapters
can put that right, and where nothing depends on what they change.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import Dataset

from medexp.config.networks import LoraConfig
from medexp.data.volumes.cases import CHANNELS
from medexp.data.volumes.datasets import evaluation_dataset
from medexp.data.volumes.prepared import PreparedVolumes, prepare_volumes
from medexp.data.volumes.regions import REGIONS, to_regions
from medexp.models.lora import add_lora, freeze_decoder, lora_parameters
from medexp.models.swin.attention import fast_attention
from medexp.models.swin.network import SwinSegmenter, features
from medexp.phases.phase1 import PHASE, checks
from medexp.phases.phase1.arms import EFFECTS, FACTORIAL, crops, effects
from medexp.phases.phase1.config import Phase1Config
from medexp.phases.phase1.features import ByKind, Features, attribute, embed_crops, over_controls, read_off, semantics
from medexp.phases.phase1.mean_mask import score_mean_mask
from medexp.phases.phase1.pretrained import initial
from medexp.phases.phase1.reach import reach, window
from medexp.phases.phase1.segmentation import evaluate
from medexp.phases.shared.context import Context, context
from medexp.reporting import NullReporter
from medexp.tracking.runs import TrackedRun
from medexp.training.loop import Group, Objective, fit
from medexp.training.losses import segmentation_loss
from tests.configured import configured
from tests.small import PHASE1

SIZE = (64, 32, 32)
DICE = [f"dice_{region}" for region in REGIONS]
SETTINGS = PHASE1 | {
    "data.input_size": "[64,32,32]",
    "data.spacing": "[1,1,1]",
    "data.val_fraction": "0.5",
    "data.test_fraction": "0",
    # The teacher outlines what it likes, and noise that fills a box may be like the air of a scanner.
    "data.meant": "[outside_brain,no_background]",
    "training.epochs": "1",
    "training.warmup_epochs": "0",
    "training.batch_size": "1",
}
LORA = LoraConfig(4, 8, (1,), ("qkv", "proj", "linear1", "linear2"), 0.0, "lora")


@dataclass(frozen=True)
class Fixed(Dataset[Any]):
    """The cases as they are, in every epoch."""

    cases: Dataset[Any]

    def __len__(self) -> int:
        return len(self.cases)  # type: ignore[arg-type]

    def __getitem__(self, key: tuple[int, ...]) -> Any:
        return self.cases[key[1]]


@dataclass(frozen=True)
class Home:
    ctx: Context[Phase1Config]
    data: PreparedVolumes
    teacher: SwinSegmenter


def write(folder: Path, number: int, label: np.ndarray) -> None:
    """A case of a patient of its own: smooth noise in a brain that fills the network's input but for a voxel at each side."""
    noise = torch.randn(1, 4, 16, 8, 8, generator=torch.Generator().manual_seed(number))
    smooth = torch.nn.functional.interpolate(noise, size=SIZE, mode="trilinear")[0].numpy()
    brain = np.zeros(SIZE, bool)
    brain[1:-1, 1:-1, 1:-1] = True
    name = f"BraTS-MEN-{number:05d}-000"
    voxels = dict(zip(CHANNELS, ((1000 + 200 * smooth) * brain).astype(np.int16), strict=True)) | {"seg": label}
    (folder / name).mkdir(parents=True, exist_ok=True)
    for kind, values in voxels.items():
        nib.save(nib.Nifti1Image(values, np.eye(4)), folder / name / f"{name}-{kind}.nii.gz")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """Twelve cases, half of them for validation, whose tumours are what `teacher` makes of them."""
    folder = tmp_path_factory.mktemp("attribution")
    config = configured("phase1", SETTINGS, data_dir=folder / "cases", cache_dir=folder / "cache")
    somewhere = np.zeros(SIZE, np.uint8)
    somewhere[20:24, 10:14, 10:14] = 3
    for number in range(12):
        write(folder / "cases", number, somewhere)
    with context(PHASE, config, TrackedRun("", folder, NullReporter())) as ctx:
        torch.manual_seed(0)
        teacher, data = initial(config).eval(), prepare_volumes(config)
        splits = [evaluation_dataset(data, split, config.data, ctx.cache) for split in ("train", "val")]
        items = [cases[index] for cases in splits for index in range(6)]
        with torch.no_grad():
            out = teacher.out.conv.conv
            out.weight[1:], out.bias[1:] = out.weight[:1].clone(), out.bias[:1].clone()
            scores = torch.cat([teacher(item["image"][None])[:, :1] for item in items])
            least = torch.quantile(scores.flatten()[::97], torch.tensor([0.9, 0.8, 0.95]))  # of TC, WT and ET
            out.bias -= least
        for item, (core, whole, enhancing) in zip(items, (scores > least[:, None, None, None]).numpy(), strict=True):
            label = np.select([enhancing, core, whole], [3, 1, 2]).astype(np.uint8)
            write(folder / "cases", int(item["case"].split("-")[2]), label)
        yield Home(ctx, prepare_volumes(config), teacher)


def spoiled(net: SwinSegmenter, stage: int, size: float = 1.0) -> SwinSegmenter:
    """With a change of rank 1 in some layers of a stage, which adapters of that rank can undo."""
    other, generator = copy.deepcopy(net), torch.Generator().manual_seed(0)
    for block in getattr(other.swinViT, f"layers{stage}")[0].blocks:
        for layer in (block.mlp.linear2, block.attn.proj):
            high, wide = layer.weight.shape
            change = torch.randn(high, 1, generator=generator) @ torch.randn(1, wide, generator=generator)
            layer.weight.data += size * change / wide**0.5
    return other


def adapted(home: Home, base: SwinSegmenter, lora: LoraConfig, folder: Path) -> SwinSegmenter:
    """LoRA alone, trained on the training cases."""
    net, ctx = copy.deepcopy(base), home.ctx
    torch.manual_seed(0)
    add_lora(net, lora)
    freeze_decoder(net)

    def loss(module: torch.nn.Module, batch: Any, epoch: int) -> dict[str, torch.Tensor]:
        return {"loss": segmentation_loss(module(batch["image"]), to_regions(batch["label"]), "dice_bce")["segmentation"]}

    fit(
        net,
        [Group("lora", 1e-2, list(lora_parameters(net).values()))],
        Fixed(evaluation_dataset(home.data, "train", ctx.config.data, ctx.cache)),
        Objective(loss, lambda module, epoch: {"epoch": epoch}, "epoch"),
        ctx.config.training,
        seed=0,
        accelerator=ctx.accelerator,
        reporter=NullReporter(),
        folder=folder,
        title="",
    )
    return net


def ids(home: Home) -> list[str]:
    return list(home.data.ids("val"))


def scored(home: Home, net: SwinSegmenter) -> pd.DataFrame:
    return evaluate(home.ctx, home.data, net, "val", hd95=False, on_prediction=lambda *_: None)


def arms_with(home: Home, *dice: float) -> pd.DataFrame:
    """Arms of FACTORIAL with a Dice each, in every case and region."""
    scores = dict(zip(FACTORIAL, dice, strict=True))
    return pd.DataFrame(
        [{"arm": arm, "case": case} | dict.fromkeys(DICE, scores[arm]) for arm in FACTORIAL for case in ids(home)]
    )


def told(home: Home, base: SwinSegmenter, lora: LoraConfig, folder: Path) -> tuple[dict[str, Any], str]:
    """What is measured and said of LoRA where the decoder learns nothing: its arm is the frozen one, LoRA's that of both."""
    frozen, alone = (scored(home, net) for net in (base, adapted(home, base, lora, folder)))
    arms = dict(zip(FACTORIAL, (frozen, frozen, alone, alone), strict=True))
    per_case = pd.concat([scores.assign(arm=arm) for arm, scores in arms.items()])
    nothing = Features(np.zeros((6, 2), np.float32), np.zeros((6, 2), np.float32))
    sources = {name: {"gap10": nothing} for name in ("unadapted", "random", "lora_alone", "adapted")}
    added = attribute(home.ctx, home.data, per_case, read_off(home.ctx, home.data, sources))
    check = checks.attribution(added.effects, added.probes)
    return dict(check.measured), check.advice


def test_lora_that_puts_right_what_was_spoiled_is_found(home: Home, tmp_path: Path) -> None:
    base = spoiled(home.teacher, 1)
    measured, words = told(home, base, LORA, tmp_path)
    assert measured["dice_gain_alone_low"] > 0
    assert "LoRA alone improved mean Dice over the frozen base" in words
    assert "LoRA with the decoder improved mean Dice over training the decoder alone" in words
    assert "That they add up could not be refuted" in words


def test_lora_on_which_nothing_depends_is_not_and_reach_said_so_before(home: Home, tmp_path: Path) -> None:
    base = spoiled(home.teacher, 1)
    for parameter in base.decoder4.transp_conv.parameters():
        torch.nn.init.zeros_(parameter)
    deep = LoraConfig(4, 8, (3, 4), ("qkv", "proj", "linear1", "linear2"), 0.0, "lora")
    measured, words = told(home, base, deep, tmp_path)
    assert measured["dice_gain_alone"] == 0
    assert "LoRA alone changed nothing that could be measured in mean Dice over the frozen base" in words
    item = evaluation_dataset(home.data, "val", home.ctx.config.data, home.ctx.cache)[0]
    assert not reach(base, [window(item["image"], item["label"], SIZE)], deep.target_stages).any


def test_features_that_tell_more_are_found_and_others_are_not(home: Home) -> None:
    """Features that hold the targets, beside noise; and the same noise in another unit."""
    train, held_out = (semantics(home.data, split) for split in ("train", "val"))
    noise = np.random.default_rng(0).normal(size=(2, 6, 10)).astype(np.float32)
    per_case = arms_with(home, 0.5, 0.5, 0.5, 0.5)
    alike, more = (Features(*noise), Features(*(2 * noise))), Features(train, held_out)
    sources: dict[str, ByKind] = {
        "unadapted": {"gap10": alike[0], "multiscale": alike[0], "tumour_weighted": alike[0]},
        "lora_alone": {"gap10": more},
        "adapted": {"gap10": alike[1], "multiscale": more, "tumour_weighted": alike[1]},
    }
    read = "what a linear probe reads from the encoder's features"
    added = attribute(home.ctx, home.data, per_case, read_off(home.ctx, home.data, sources))
    words = checks.in_words(added.effects)
    assert f"LoRA alone improved {read}" in words
    assert f"LoRA with the decoder changed nothing that could be measured in {read}" in words
    assert "LoRA alone changed nothing that could be measured in mean Dice" in words
    multiscale, weighted = checks.other_features_in_words(added.others, added.other_gains)
    before, after = added.others["multiscale"]["unadapted"], added.others["multiscale"]["adapted"]
    assert after > before and f"Of multiscale features: mean R2 {before:.2f} unadapted, {after:.2f} adapted." in multiscale
    assert "The adaptation improved what a linear probe reads from them" in multiscale
    assert "The adaptation changed nothing that could be measured in what a linear probe reads from them" in weighted
    assert list(added.table["features"].unique()) == ["gap10", "multiscale", "tumour_weighted"]
    assert added.probes["multiscale_adapted"] == after and added.probes["adapted"] == added.r2["adapted"]

    other = replace(home.ctx, config=replace(home.ctx.config, features="multiscale"))
    asked = attribute(other, home.data, per_case, read_off(other, home.data, {**sources, "lora_alone": {"multiscale": more}}))
    assert f"LoRA with the decoder improved {read}" in checks.in_words(asked.effects)
    assert asked.r2["adapted"] == after and set(asked.others) == {"gap10", "tumour_weighted"}


def test_features_of_crops_are_those_of_the_crops_also_from_the_cache(home: Home) -> None:
    ctx, data = home.ctx, home.data
    fast_attention(home.teacher)  # as they are embedded
    with torch.no_grad():
        images = [crops(ctx, data, "train")[0, index]["image"][None] for index in range(6)]
        drawn = [features(home.teacher, image, ["gap10"])["gap10"][0].numpy() for image in images]
        for _ in range(2):
            assert np.array_equal(embed_crops(ctx, data, home.teacher), np.stack(drawn))
        other = replace(ctx, config=replace(ctx.config, seed=1))
        assert not np.isclose(embed_crops(other, data, home.teacher), np.stack(drawn)).all()


def test_a_region_that_no_case_holds_leaves_the_others(home: Home) -> None:
    """And a case that holds none is in no comparison."""
    per_case = arms_with(home, 0.5, 0.6, 0.7, 0.8).assign(dice_ET=np.nan)
    per_case.loc[per_case["case"] == ids(home)[0], DICE] = np.nan
    nothing = Features(np.zeros((6, 2), np.float32), np.zeros((6, 2), np.float32))
    sources = {name: {"gap10": nothing} for name in ("unadapted", "random", "lora_alone", "adapted")}
    found = attribute(home.ctx, home.data, per_case, read_off(home.ctx, home.data, sources)).effects
    assert found["dice"]["LoRA over the frozen base"].estimate == pytest.approx(0.2)
    assert found["dice"]["LoRA over the frozen base"].patients == 5
    assert found["dice_ET"]["LoRA over the frozen base"].patients == 0


def test_effects_are_those_of_a_two_by_two_design(home: Home) -> None:
    """Cells of which what each factor brings alone, and what both bring beyond that, are known."""
    rng = np.random.default_rng(0)
    base = rng.normal(0.5, 0.1, 20)
    decoder, lora, together = (mean + rng.normal(0, 0.001, 20) for mean in (0.3, 0.1, -0.05))
    cells = (base, base + decoder, base + lora, base + decoder + lora + together)
    found = effects(pd.DataFrame(dict(zip(FACTORIAL, cells, strict=True))), [str(n) for n in range(20)], home.ctx.resampling)
    expected = {
        "decoder over the frozen base": 0.3,
        "LoRA over the frozen base": 0.1,
        "LoRA over the decoder alone": 0.05,
        "decoder over LoRA alone": 0.25,
        "main effect of the decoder": 0.275,
        "main effect of LoRA": 0.075,
        "interaction": -0.05,
    }
    assert found.keys() == EFFECTS.keys() == expected.keys()
    assert {name: one.estimate for name, one in found.items()} == pytest.approx(expected, abs=0.002)
    assert found["interaction"].high < 0
    assert "Together they bring less than the sum of both" in checks.in_words(
        dict.fromkeys(("dice", *DICE, "probe_r2"), found)
    )


def test_a_network_is_better_than_the_mean_mask_where_tumours_lie_about_and_not_where_they_do_not(home: Home) -> None:
    teacher = scored(home, home.teacher)
    blind = score_mean_mask(home.ctx, home.data)
    assert (blind["arm"] == "mean_mask").all() and set(blind["case"]) == set(ids(home))

    def check(lora: pd.DataFrame, mean_mask: pd.DataFrame) -> Any:
        arms = {"lora": lora, "mean_mask": mean_mask, "baseline": mean_mask}
        per_case = pd.concat([scores.assign(arm=arm) for arm, scores in arms.items()])
        return checks.controls(over_controls(home.ctx, per_case))

    apart = check(teacher, blind)
    assert apart.passed and "The trained network is better in Dice than the mean mask" in apart.advice
    same = check(blind, blind)
    assert not same.passed and not same.blocks and "no better in Dice than the mean mask" in same.advice
    assert "worse in Dice than the mean mask" in check(blind, teacher).advice
