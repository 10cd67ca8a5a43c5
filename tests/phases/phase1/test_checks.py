"""Each check of phase 1 passes on a sound network and fails on the defect that it is there to find."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from medexp.checks import Check, Severity, verdict
from medexp.config.networks import LoraConfig
from medexp.data.volumes.regions import to_regions
from medexp.evaluation.intervals import Interval
from medexp.models.kinds import build
from medexp.models.lora import MergeCertificate, add_lora, lora_parameters, merge_lora
from medexp.models.swin.network import SwinSegmenter
from medexp.phases.phase1 import checks as phase1_checks
from medexp.phases.phase1.config import ValidationConfig

LORA = LoraConfig(rank=2, alpha=4, target_stages=(3, 4), target_modules=("qkv",), lora_dropout=0.0, mode="lora")
VALIDATION = ValidationConfig(0.5, 2, 100, 0.95, 0.80, 0.05)


@pytest.fixture(scope="module")
def base() -> SwinSegmenter:
    torch.manual_seed(0)
    net = build({"kind": "swin_unetr", "in_channels": 4, "out_channels": 3, "feature_size": 12, "window_size": 2})
    assert isinstance(net, SwinSegmenter)
    return net


@pytest.fixture(scope="module")
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 4, 64, 32, 32, generator=generator)
    return image, to_regions(torch.randint(0, 4, (1, 64, 32, 32), generator=generator))


def defect(monkeypatch: pytest.MonkeyPatch, spoil: Callable[[SwinSegmenter], Any]) -> None:
    """Let `add_lora`, as the checks call it, come out with a defect."""

    def add(net: SwinSegmenter, lora: LoraConfig) -> Any:
        adapter = add_lora(net, lora)
        spoil(net)
        return adapter

    monkeypatch.setattr(phase1_checks, "add_lora", add)


def test_a_sound_injection_passes_all_three(base: SwinSegmenter, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    image, regions = batch
    before = copy.deepcopy(base.state_dict())
    checks = [
        phase1_checks.injection(base, LORA, 12, image, regions),
        phase1_checks.initialisation(base, LORA, image),
        phase1_checks.training_step(base, LORA, 1e-3, image, regions),
    ]
    assert [check.outcome for check in checks] == ["PASSED"] * 3
    assert checks[0].measured["lora_trainable"] == 96 * 2 * 12
    assert checks[1].measured["difference"] == 0
    assert all(torch.equal(value, base.state_dict()[key]) for key, value in before.items())  # copies were adapted


def test_2_1_finds_a_wrong_number_of_adapters(base, batch, monkeypatch) -> None:
    monkeypatch.setattr(phase1_checks, "add_lora", lambda net, lora: add_lora(net, replace(lora, target_stages=(4,))))
    check = phase1_checks.injection(base, LORA, 12, *batch)
    assert check.blocks
    assert check.measured["lora_trainable"] != check.measured["expected"]


def test_2_1_finds_an_encoder_weight_that_learns(base, batch, monkeypatch) -> None:
    defect(monkeypatch, lambda net: net.swinViT.layers1[0].requires_grad_(True))
    check = phase1_checks.injection(base, LORA, 12, *batch)
    assert check.blocks
    assert check.measured["frozen_gradient"] > 0


def test_2_2_finds_adapters_that_change_the_output(base, batch, monkeypatch) -> None:
    defect(
        monkeypatch, lambda net: [torch.nn.init.ones_(p) for n, p in lora_parameters(net).items() if "lora_B" in n] and None
    )
    check = phase1_checks.initialisation(base, LORA, batch[0])
    assert check.blocks
    assert check.measured["difference"] > phase1_checks.TOLERANCE
    assert check.advice == "Check that the B matrices start at zero."


def test_2_2_blames_no_adapter_for_what_is_not_finite(base, batch) -> None:
    check = phase1_checks.initialisation(base, LORA, batch[0] * math.nan)
    assert check.blocks
    assert "B matrices" not in check.advice and "computes NaN or infinity" in check.advice


def test_2_3_finds_adapters_that_do_not_learn(base, batch, monkeypatch) -> None:
    defect(monkeypatch, lambda net: next(iter(lora_parameters(net).values())).requires_grad_(False))
    assert phase1_checks.training_step(base, LORA, 1e-3, *batch).blocks


def test_2_3_finds_a_loss_that_is_not_finite(base, batch) -> None:
    image, regions = batch
    check = phase1_checks.training_step(base, LORA, 1e-3, image * math.nan, regions)
    assert check.blocks
    assert math.isnan(check.measured["loss"])
    assert "computes NaN or infinity" in check.advice
    sound = phase1_checks.training_step(base, LORA, 1e-3, *batch)
    assert "requires_grad" in sound.advice


def test_2_3_finds_one_gradient_that_is_not_finite_under_a_loss_that_is(base, batch, monkeypatch) -> None:
    """A square root at zero, an overflow in half precision: Python's min and max would leave NaN out."""

    def spoil(net: SwinSegmenter) -> None:
        last = [parameter for name, parameter in lora_parameters(net).items() if "lora_B" in name][-1]
        last.register_hook(lambda gradient: gradient * math.nan)

    defect(monkeypatch, spoil)
    assert phase1_checks.training_step(base, LORA, 1e-3, *batch).blocks


def merged(base: SwinSegmenter, image: torch.Tensor) -> tuple[MergeCertificate, torch.Tensor, torch.Tensor]:
    net = copy.deepcopy(base).eval()
    adapter = add_lora(net, LORA)
    for name, parameter in lora_parameters(net).items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = net.eval()(image)
        done, certificate = merge_lora(adapter)
        return certificate, before, done.eval()(image)


def test_2_4_passes_a_merge_and_finds_each_way_in_which_one_can_be_wrong(base, batch) -> None:
    certificate, before, after = merged(base, batch[0])
    assert phase1_checks.merge(certificate, before, after).passed
    assert phase1_checks.merge(certificate, before, after + 1e-3).blocks
    assert phase1_checks.merge(certificate, before, after * math.nan).blocks
    for change in (
        {"tensors": {"swinViT.x": 1e-3}},
        {"tensors": {"swinViT.x": math.nan}},
        {"tensors": {}},
        {"left_over": ("lora_A",)},
        {"changed_elsewhere": ("out.weight",)},
    ):
        assert phase1_checks.merge(replace(certificate, **change), before, after).blocks, change


@pytest.mark.parametrize(
    ("dice", "baseline", "passed"),
    [
        (0.81, 0.70, True),
        (0.80, 0.70, False),
        (0.81, 0.77, False),
        (0.5, 0.1, False),
        (math.nan, 0.5, False),
        (0.9, math.nan, False),
    ],
)
def test_2_5_holds_both_bars(dice: float, baseline: float, passed: bool) -> None:
    check = phase1_checks.segmentation({"dice_WT": dice}, {"dice_WT": baseline}, VALIDATION, 15, 16)
    assert check.passed is passed
    assert (check.measured["cases"], check.measured["of"]) == (15, 16)
    assert check.severity is Severity.BLOCKING


@pytest.mark.parametrize(
    ("vol", "loc", "passed"), [(0.1, 0.1, True), (-0.1, 0.1, False), (0.1, 0.0, False), (math.nan, 1, False)]
)
def test_2_6_informs_and_never_blocks(vol: float, loc: float, passed: bool) -> None:
    check = phase1_checks.semantic_heads({"r2_vol": vol, "r2_loc": loc})
    assert check.passed is passed
    assert not check.blocks
    assert verdict([check]) == "PASSED"


GAIN, LOSS, NOTHING = Interval(0.1, 0.05, 0.2, 9), Interval(-0.1, -0.2, -0.05, 9), Interval(0.01, -0.1, 0.1, 9)
UNKNOWN = Interval(0.1, math.nan, math.nan, 1)


@pytest.mark.parametrize(
    ("dice", "features", "passed", "words"),
    [
        (GAIN, GAIN, True, "LoRA with the decoder improved mean Dice over training the decoder alone"),
        (NOTHING, GAIN, False, "LoRA with the decoder changed nothing that could be measured in mean Dice"),
        (GAIN, NOTHING, False, "LoRA with the decoder changed nothing that could be measured in what a linear probe"),
        (LOSS, GAIN, False, "LoRA with the decoder made mean Dice over training the decoder alone worse"),
        (UNKNOWN, UNKNOWN, False, "Too few patients"),
    ],
)
def test_attribution_says_in_plain_words_what_was_found(dice: Interval, features: Interval, passed: bool, words: str) -> None:
    of_dice = {phase1_checks.ON_TOP: dice, phase1_checks.ALONE: NOTHING, "interaction": LOSS}
    found = {
        **dict.fromkeys(("dice", "dice_TC", "dice_ET"), of_dice),
        "dice_WT": of_dice | {phase1_checks.ALONE: LOSS},
        "probe_r2": {phase1_checks.ON_TOP: features, phase1_checks.ALONE: GAIN},
    }
    check: Check = phase1_checks.attribution(found, {"unadapted": 0.1, "random": 0.2})
    assert check.passed is passed
    assert not check.blocks
    assert words in check.advice
    assert "LoRA alone changed nothing that could be measured in mean Dice over the frozen base" in check.advice
    assert f"By region: TC {NOTHING.as_gain}, WT {LOSS.as_gain}, ET {NOTHING.as_gain}." in check.advice
    assert "LoRA alone improved what a linear probe" in check.advice
    assert "Together they bring less than the sum of both" in check.advice
    assert all(interval.as_gain in check.advice for interval in (dice, features)), "differences, with their sign"
    assert check.measured["probe_r2_random"] == 0.2


@pytest.mark.parametrize(
    ("dice", "features", "alone", "told"),
    [
        (GAIN, NOTHING, GAIN, []),
        (NOTHING, NOTHING, NOTHING, ["LoRA is not seen to add anything to training the decoder alone"]),
        (GAIN, GAIN, LOSS, ["LoRA alone made what a linear probe reads from the encoder's features worse"]),
        (LOSS, GAIN, GAIN, ["LoRA with the decoder made mean Dice worse"]),
        (UNKNOWN, UNKNOWN, UNKNOWN, ["LoRA is not seen to add anything to training the decoder alone"]),
    ],
)
def test_what_lora_does_not_add_and_what_it_harms_comes_first(
    dice: Interval, features: Interval, alone: Interval, told: list[str]
) -> None:
    effects = {
        "dice": {phase1_checks.ON_TOP: dice, phase1_checks.ALONE: GAIN},
        "probe_r2": {phase1_checks.ON_TOP: features, phase1_checks.ALONE: alone},
    }
    found = phase1_checks.to_heed(effects)
    assert [line.partition(":")[0] for line in found] == told and not any("nan" in line for line in found)


@pytest.mark.parametrize(
    ("interaction", "words"),
    [(GAIN, "bring more than the sum of both"), (LOSS, "bring less than the sum of both"), (NOTHING, "could not be refuted")],
)
def test_an_interaction_is_said_where_there_is_one(interaction: Interval, words: str) -> None:
    of_both = {phase1_checks.ON_TOP: NOTHING, phase1_checks.ALONE: NOTHING, "interaction": interaction}
    measures = ("dice", "dice_TC", "dice_WT", "dice_ET", "probe_r2")
    assert words in phase1_checks.in_words(dict.fromkeys(measures, of_both))


@pytest.mark.parametrize(
    ("over_mean_mask", "over_base", "passed"),
    [(GAIN, GAIN, True), (NOTHING, GAIN, False), (GAIN, LOSS, False), (UNKNOWN, GAIN, False)],
)
def test_controls_ask_for_an_interval_above_0_over_each(over_mean_mask: Interval, over_base: Interval, passed: bool) -> None:
    check = phase1_checks.controls({"mean_mask": over_mean_mask, "baseline": over_base})
    assert check.passed is passed
    assert not check.blocks
    assert over_mean_mask.as_gain in check.advice and over_base.as_gain in check.advice
