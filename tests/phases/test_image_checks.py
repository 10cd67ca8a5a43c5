"""The checks of phases 2.1 to 2.3: each passes when it should, and fails when the thing that it holds is broken."""

import copy
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from medexp.checks import Severity
from medexp.config.networks import UNetConfig
from medexp.evaluation.intervals import Interval
from medexp.models.checkpoints import save_checkpoint
from medexp.models.classifier.network import EncoderClassifier
from medexp.models.heads import ClassificationHead
from medexp.models.unet.network import MultiTaskModel
from medexp.phases import phase
from medexp.phases.phase2_1 import checks as of_warm_up
from medexp.phases.phase2_2 import checks as of_head
from medexp.phases.phase2_3 import checks as of_both

NAN = math.nan
SIZE = UNetConfig(base_filters=4, depth=2)


def small() -> MultiTaskModel:
    torch.manual_seed(0)
    return MultiTaskModel(1, SIZE.base_filters, SIZE.depth)


def state() -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in small().state_dict().items()}


# --------------------------------------------------------------------------------------------------------------- phase 2.1


@pytest.mark.parametrize(("filters", "depth"), [(32, 3), (4, 2), (5, 1), (3, 4)])
def test_the_arithmetic_agrees_with_the_network(filters: int, depth: int) -> None:
    size = UNetConfig(filters, depth)
    check = of_warm_up.parameters(MultiTaskModel(1, filters, depth), size)
    assert check.passed and check.id in phase("phase2_1").checks
    assert check.measured["total"] == sum(of_warm_up.expected_parameters(size).values())


def test_the_specifications_counts_stand_in_the_threshold() -> None:
    assert of_warm_up.expected_parameters(UNetConfig(32, 3)) == {
        "encoder": 1_172_640,
        "seg_decoder": 775_073,
        "cls_head": 66_306,
    }
    check = of_warm_up.parameters(MultiTaskModel(), UNetConfig(32, 3))
    for count in ("1,172,640", "775,073", "66,306", "2,014,019"):
        assert count in check.threshold


def with_bias(net: MultiTaskModel) -> None:
    block = net.encoder.blocks[0]
    assert isinstance(block, nn.Sequential)
    block[0] = nn.Conv2d(1, SIZE.base_filters, 3, padding=1)


def another_head(net: MultiTaskModel) -> None:
    net.cls_head = ClassificationHead(16, classes=3)


def another_decoder(net: MultiTaskModel) -> None:
    net.seg_decoder.out = nn.Conv2d(SIZE.base_filters, 3, 1)


@pytest.mark.parametrize("change", [with_bias, another_head, another_decoder])
def test_a_network_of_another_size_fails(change: Callable[[MultiTaskModel], None]) -> None:
    net = small()
    change(net)
    check = of_warm_up.parameters(net, SIZE)
    assert not check.passed and check.blocks


@pytest.mark.parametrize(
    ("mean", "brain", "mask", "passed"),
    [
        (0.51, 0.1, 0.2, True),
        (0.5, 0.1, 0.2, False),
        (0.2, 0.1, 0.1, False),
        (NAN, 0.1, 0.2, False),
        (0.6, 0.7, 0.2, False),
        (0.6, 0.1, 0.6, False),
    ],
)
def test_dice_must_exceed_the_bar_and_what_looks_at_no_image(mean: float, brain: float, mask: float, passed: bool) -> None:
    controls = {name: Interval(value, 0.0, 0.9, 8) for name, value in (("baseline", brain), ("mean_mask", mask))}
    check = of_warm_up.segmentation(Interval(mean, 0.1, 0.9, 8), controls, 0.5)
    assert check.passed is passed and check.blocks is not passed
    assert check.id in phase("phase2_1").checks and "> 0.5" in check.threshold
    assert "mean mask of the training slices" in check.threshold and check.measured["mean_mask"] == mask


# --------------------------------------------------------------------------------------------------------------- phase 2.2


@pytest.mark.parametrize(("found", "passed"), [(0.71, True), (0.70, False), (0.3, False), (NAN, False)])
def test_accuracy_must_exceed_the_bar(found: float, passed: bool) -> None:
    check = of_head.accuracy(found, 0.70)
    assert check.passed is passed and check.severity is Severity.BLOCKING
    assert check.id in phase("phase2_2").checks


@pytest.mark.parametrize(
    ("found", "low", "passed"),
    [(0.8, 0.01, True), (0.8, 0.0, False), (0.8, -0.1, False), (0.8, NAN, False), (0.5, -0.3, False)],
)
def test_a_head_must_do_better_than_the_majority_class_by_more_than_chance(found: float, low: float, passed: bool) -> None:
    constant = 0.6
    check = of_head.majority(Interval(found - constant, low, 0.3, 8), found, constant)
    assert check.passed is passed and check.severity is Severity.BLOCKING
    assert check.measured["majority"] == constant, "the majority's accuracy stands beside"


def frozen(after: dict[str, torch.Tensor], trained: int = 66_306) -> tuple[bool, str]:
    check = of_head.frozen(state(), after, trained, 66_306)
    assert check.blocks is not check.passed
    return check.passed, str(check.measured["changed"])


def test_nothing_changed_passes() -> None:
    assert frozen(state()) == (True, "none")


@pytest.mark.parametrize("key", list(small().state_dict()))
def test_any_tensor_that_changed_by_the_smallest_step_fails(key: str) -> None:
    after = state()
    flat = after[key].view(-1)
    flat[0] = flat[0] + 1 if flat.dtype == torch.int64 else torch.nextafter(flat[0], torch.tensor(9.0))
    assert frozen(after) == (False, key)


def test_a_step_of_training_mode_fails_by_batch_norms_statistics() -> None:
    """The mistake that freezing alone does not prevent: no gradient, and yet the running mean moved."""
    net = small().requires_grad_(False)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    net.train()(torch.randn(4, 1, 16, 16))
    check = of_head.frozen(before, net.state_dict(), 10, 10)
    assert not check.passed and "running_mean" in str(check.measured["changed"])


@pytest.mark.parametrize("trained", [66_305, 263_170, 0])
def test_another_number_of_trained_parameters_fails(trained: int) -> None:
    assert frozen(state(), trained) == (False, "none")


def test_tensors_that_went_or_came_fail() -> None:
    first, *_ = state()
    assert frozen({key: value for key, value in state().items() if key != first}) == (False, first)
    assert not frozen(state() | {"new": torch.zeros(1)})[0]
    assert not of_head.frozen({}, {}, 5, 5).passed, "nothing was compared"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    made = {name: tmp_path / f"{name}_model.pt" for name in ("best", "last")}
    save_checkpoint(state(), made["best"])
    save_checkpoint({key: value + 1 for key, value in state().items()}, made["last"])
    return made


def test_checkpoints_that_load_and_are_what_is_registered_pass(files: dict[str, Path]) -> None:
    check = of_head.checkpoints(files, small(), state(), "best")
    assert check.passed
    assert check.measured == {"best": "loads", "best_is_registered": True, "last": "loads"}


def test_a_last_checkpoint_is_held_against_what_is_registered_where_it_is_the_kept_one(files: dict[str, Path]) -> None:
    check = of_head.checkpoints(files, small(), state(), "last")
    assert not check.passed and check.measured["last_is_registered"] is False
    moved = {key: value + 1 for key, value in state().items()}
    assert of_head.checkpoints(files, small(), moved, "last").passed


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-300])


def drop_a_key(path: Path) -> None:
    save_checkpoint(dict(list(state().items())[1:]), path)


def add_a_key(path: Path) -> None:
    save_checkpoint(state() | {"new": torch.zeros(1)}, path)


@pytest.mark.parametrize("name", ["best", "last"])
@pytest.mark.parametrize("spoil", [truncate, drop_a_key, add_a_key, Path.unlink])
def test_a_checkpoint_that_does_not_load_fails(files: dict[str, Path], name: str, spoil: Callable[[Path], None]) -> None:
    spoil(files[name])
    check = of_head.checkpoints(files, small(), state(), "best")
    assert not check.passed and check.blocks
    assert check.measured[name] != "loads" and f"{name}_model.pt" in str(check.measured[name])


def test_a_best_checkpoint_that_is_not_what_is_registered_fails(files: dict[str, Path]) -> None:
    registered = state()
    registered["encoder.blocks.0.1.running_mean"][0] += 1e-6
    check = of_head.checkpoints(files, small(), registered, "best")
    assert not check.passed and check.measured["best_is_registered"] is False


@pytest.mark.parametrize("name", ["best", "last"])
def test_a_checkpoint_that_was_not_written_fails(files: dict[str, Path], name: str) -> None:
    del files[name]
    assert not of_head.checkpoints(files, small(), state(), "best").passed


def test_the_checkpoint_of_a_classifier_of_volumes_is_held_alike(files: dict[str, Path]) -> None:
    net = EncoderClassifier(small().encoder, ClassificationHead(16))
    for path in files.values():
        save_checkpoint(net.state_dict(), path)
    assert of_head.checkpoints(files, copy.deepcopy(net), net.state_dict(), "last").passed


# --------------------------------------------------------------------------------------------------------------- phase 2.3


@pytest.mark.parametrize(
    ("gain", "passed"), [(0.1, True), (0.0, True), (-0.02, True), (-0.021, False), (-0.5, False), (NAN, False)]
)
@pytest.mark.parametrize("check_id", ["P2_3-DICE", "P2_3-ACCURACY"])
def test_a_loss_beyond_the_margin_fails(check_id: str, gain: float, passed: bool) -> None:
    interval = Interval(gain, gain - 0.1, gain + 0.1, 8)
    check = of_both.kept(check_id, "Dice", "phase 2.1", interval, 0.8, 0.8 + gain, 0.02)
    assert check.passed is passed and check.blocks is not passed
    assert check.id in phase("phase2_3").checks
    assert check.measured["before"] == 0.8 and check.measured["low"] == pytest.approx(gain - 0.1, nan_ok=True)
    assert ("tell if it was chance" in check.advice) is (gain > -0.12)


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.1, 0.3, "does better than phase 2.1"),
        (-0.3, -0.1, "does worse than phase 2.1"),
        (-0.1, 0.1, "no difference from phase 2.1 that could be measured"),
        (0.0, 0.1, "no difference from phase 2.1 that could be measured"),
        (NAN, NAN, "too few patients"),
    ],
)
def test_what_joint_training_added_is_said_plainly(low: float, high: float, words: str) -> None:
    gain, nothing = Interval(0.1, low, high, 8), Interval(0.0, -0.1, 0.1, 8)
    assert words in of_both.gained("Dice", "phase 2.1", gain)
    assert "+0.100" in of_both.gained("Dice", "phase 2.1", gain), "a difference, with its sign"
    check = of_both.joint(gain, nothing)
    assert check.passed is (low > 0) and check.severity is Severity.DIAGNOSTIC and words in check.advice
    assert of_both.joint(nothing, gain).passed is (low > 0)
