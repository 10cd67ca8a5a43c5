"""The fit loop: exact resume, accumulation, divergence, and what it reports."""

import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import Dataset

from medexp.config.training import FlowLossConfig, TrainingConfig
from medexp.errors import StorageError, TrainingDiverged
from medexp.models.meanflow.lora import inject_lora
from medexp.models.meanflow.network import MeanFlowUNet, widen
from medexp.reporting import NullReporter
from medexp.training.loop import FitResult, Group, Objective, Order, fit
from medexp.training.meanflow import MeanFlowLoss

TRAINING = TrainingConfig(
    epochs=4,
    optimizer="adamw",
    weight_decay=0.01,
    batch_size=2,
    accumulate=1,
    scheduler="cosine",
    warmup_epochs=1,
    grad_clip=1.0,
    precision="fp32",
    validate_every=1,
    patience=0,
    workers=0,
)


class Points(Dataset[dict[str, torch.Tensor]]):
    """Noisy points of a line; the noise follows from epoch, index and repeat, as augmentation does."""

    def __len__(self) -> int:
        return 7

    def __getitem__(self, key: tuple[int, int, int]) -> dict[str, torch.Tensor]:
        epoch, index, repeat = key
        noise = torch.randn(3, generator=torch.Generator().manual_seed(epoch * 100 + index + repeat * 10_000))
        return {"x": index + noise, "y": torch.tensor([2.0 * index])}


class Recorder(NullReporter):
    """Keeps metrics, and raises Interrupted when a given epoch begins to be flushed: a kill at the worst moment."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.values: list[tuple[int, dict[str, float]]] = []
        self.flushes, self.stop_after = 0, stop_after

    def metrics(self, values: dict[str, float], step: int = 0) -> None:  # type: ignore[override]
        self.values.append((step, dict(values)))
        if self.stop_after is not None and self.flushes == self.stop_after and "train/loss" in values:
            raise KeyboardInterrupt

    def flush(self) -> None:
        self.flushes += 1


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1))


def two_groups(net: nn.Sequential, starts: int) -> list[Group]:
    """The last layer, and the first one from an epoch on."""
    return [Group("last", 1e-2, list(net[2].parameters())), Group("first", 1e-3, list(net[0].parameters()), starts)]


def saved(folder: Path, name: str = "last.pt") -> dict[str, Any]:
    return torch.load(folder / name, weights_only=True)


def train(
    folder: Path,
    reporter: NullReporter,
    training: TrainingConfig = TRAINING,
    scale: float = 1.0,
    seed: int = 5,
    order: Order | None = None,
    see: Callable[[dict[str, torch.Tensor]], None] = lambda batch: None,
    starts: int = 0,
    scores: Sequence[float | pd.Series | pd.DataFrame] | None = None,
    direction: Literal["maximize", "minimize"] = "maximize",
    net: nn.Sequential | None = None,
    ema: float = 0.0,
    lr: float = 1e-2,
) -> FitResult:
    """Trains on the points, the first layer from an epoch on; `see` gets each batch; `scores` are said of the epochs."""
    net = net or network()

    def loss(module: nn.Module, batch: dict[str, torch.Tensor], epoch: int) -> dict[str, torch.Tensor]:
        see(batch)
        return {"loss": scale * nn.functional.mse_loss(module(batch["x"]), batch["y"])}

    def validate(module: nn.Module, epoch: int) -> dict[str, float | pd.Series | pd.DataFrame]:
        assert not module.training
        total = float(sum(p.detach().sum() for p in module.parameters()))
        score = total if scores is None else scores[epoch]
        return {"score": score, "epoch_seen": epoch}

    return fit(
        net,
        [Group("all", lr, list(net.parameters()), key="points.lr")] if starts == 0 else two_groups(net, starts),
        Points(),
        Objective(loss, validate, "score", direction),  # type: ignore[arg-type]
        training,
        seed=seed,
        accelerator=Accelerator(cpu=True),
        reporter=reporter,
        folder=folder,
        title="points",
        order=order,
        ema=ema,
    )


@pytest.mark.parametrize(
    "training",
    [TRAINING, replace(TRAINING, workers=1), replace(TRAINING, accumulate=2)],
    ids=["plain", "a worker", "accumulating"],
)
@pytest.mark.parametrize("stop_after", [0, 1, 3])
def test_an_interrupted_training_ends_in_the_same_metrics_to_the_bit(
    tmp_path: Path, stop_after: int, training: TrainingConfig
) -> None:
    whole, resumed = Recorder(), Recorder()
    expected = train(tmp_path / "whole", whole, training)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", Recorder(stop_after), training)
    found = train(tmp_path / "cut", resumed, training)
    assert resumed.values == whole.values
    assert found.history.equals(expected.history)
    one, other = (saved(tmp_path / name)["weights"] for name in ("whole", "cut"))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_finished_training_is_not_trained_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = Recorder(), Recorder()
    expected = train(tmp_path, first)
    assert "points: epoch 4/4" in (said := capsys.readouterr().out) and "16/16" in said
    before = (tmp_path / "last.pt").stat().st_mtime_ns
    found = train(tmp_path, second)
    assert second.values == first.values
    assert found.history.equals(expected.history)
    assert (tmp_path / "last.pt").stat().st_mtime_ns == before
    assert not capsys.readouterr().out, "no bar of what takes no time"


def test_two_seeded_runs_are_identical_and_the_seed_matters(tmp_path: Path) -> None:
    one, other = Recorder(), Recorder()
    train(tmp_path / "one", one)
    train(tmp_path / "other", other)
    assert one.values == other.values
    third = Recorder()
    train(tmp_path / "third", third, seed=6)
    assert third.values != one.values


def test_every_case_is_seen_once_an_epoch_and_each_step_is_reported(tmp_path: Path) -> None:
    recorder = Recorder()
    result = train(tmp_path, recorder)
    steps = [step for step, values in recorder.values if "train/loss" in values]
    assert steps == list(range(16))  # 4 epochs of ceil(7 / 2) batches
    assert list(result.history["epoch"]) == [0, 1, 2, 3]
    assert list(result.history["step"]) == [4, 8, 12, 16]


def test_the_best_epoch_is_the_one_with_the_largest_monitored_value(tmp_path: Path) -> None:
    result = train(tmp_path, Recorder())
    row = result.history["val/score"]
    assert result.best_epoch == int(row.idxmax())
    assert result.best_value == row.max()


def test_the_schedule_warms_up_and_ends_at_zero(tmp_path: Path) -> None:
    rates = train(tmp_path, Recorder()).history["train/lr_all"]
    assert rates[0] == pytest.approx(1e-2)
    assert rates[3] == pytest.approx(0, abs=1e-9)


def test_accumulation_moves_the_weights_once_in_n_steps(tmp_path: Path) -> None:
    recorder = Recorder()
    train(tmp_path, recorder, replace(TRAINING, accumulate=2, epochs=2))
    norms = [step for step, values in recorder.values if "train/grad_norm" in values]
    assert norms == [1, 3, 5, 7]


def test_early_stopping_waits_for_patience(tmp_path: Path) -> None:
    result = train(tmp_path, Recorder(), replace(TRAINING, patience=1, epochs=30, warmup_epochs=1))
    last = int(result.history["epoch"].iloc[-1])
    assert last < 29
    assert last - result.best_epoch == 1


def test_patience_looks_again_before_it_stops(tmp_path: Path) -> None:
    result = train(tmp_path, Recorder(), replace(TRAINING, patience=1, validate_every=3, epochs=30))
    assert result.history["val/score"].notna().sum() >= 2


def test_a_loss_that_is_not_finite_stops_training_and_keeps_the_epochs_before(tmp_path: Path) -> None:
    with pytest.raises(TrainingDiverged, match=r"points: loss.* not finite in epoch 1; lower points.lr$"):
        train(tmp_path, Recorder(), scale=math.nan)
    assert not (tmp_path / "last.pt").exists()


def test_a_training_that_ends_far_above_where_it_began_has_diverged_although_all_is_finite(tmp_path: Path) -> None:
    """At such a rate weights are numbers of thirty digits, and what they say of a case is still one class or the other."""
    with pytest.raises(TrainingDiverged, match=r"points: its loss went from \S+ to \S+ in epoch 4; lower points.lr$"):
        train(tmp_path, Recorder(), lr=30.0)
    with pytest.raises(TrainingDiverged, match="to .* in epoch 2; lower points.lr$"):
        train(tmp_path / "early", Recorder(), replace(TRAINING, patience=4), lr=30.0, scores=[1, 2, 0, 0])


def test_the_part_of_the_loss_that_grew_is_named(tmp_path: Path) -> None:
    net = network()

    def loss(module: nn.Module, batch: dict[str, torch.Tensor], _: int) -> dict[str, torch.Tensor]:
        far = nn.functional.mse_loss(module(batch["x"]), batch["y"])
        return {"loss": 0.5 + far, "steady": torch.tensor(0.5), "far": far}

    goal = Objective(loss, lambda *_: {"score": 0.0}, "score")  # type: ignore[arg-type]
    groups, cpu = [Group("all", 30.0, list(net.parameters()), key="points.lr")], Accelerator(cpu=True)
    with pytest.raises(TrainingDiverged, match=r"in epoch 4 \(far from \S+ to \S+\); lower points.lr$"):
        fit(
            net,
            groups,
            Points(),
            goal,
            TRAINING,
            seed=5,
            accelerator=cpu,
            reporter=Recorder(),
            folder=tmp_path,
            title="points",
        )


def test_what_validation_finds_not_to_be_finite_is_told_with_the_training_and_its_rate(tmp_path: Path) -> None:
    class Diverged(list[float]):
        def __getitem__(self, epoch: Any) -> Any:
            raise TrainingDiverged("the network's output: case-7: 3 NaN or infinite values.")

    with pytest.raises(
        TrainingDiverged, match=r"(?s)points: after epoch 1 the network's output: case-7: .*lower points.lr\.$"
    ):
        train(tmp_path, Recorder(), scores=Diverged())


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(StorageError, match=str(blocked)):
        train(blocked, Recorder())


def test_the_statistics_of_batch_norm_are_those_of_the_best_epoch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))
    means: list[torch.Tensor] = []

    def loss(module: nn.Module, batch: dict[str, torch.Tensor], epoch: int) -> dict[str, torch.Tensor]:
        return {"loss": nn.functional.mse_loss(module(batch["x"]), batch["y"])}

    def validate(module: nn.Module, epoch: int) -> dict[str, float]:
        means.append(net[0].running_mean.clone())  # type: ignore[union-attr,operator]
        return {"score": float(epoch == 1)}

    data, best = Points(), Objective(loss, validate, "score")  # type: ignore[arg-type]
    fit(
        net,
        [Group("all", 1e-2, list(net.parameters()))],
        data,
        best,
        replace(TRAINING, batch_size=7, patience=9),
        seed=5,
        accelerator=Accelerator(cpu=True),
        reporter=NullReporter(),
        folder=tmp_path,
        title="points",
    )
    assert torch.equal(net[0].running_mean, means[1])  # type: ignore[arg-type]
    assert not torch.equal(means[1], means[-1])


def test_an_epoch_has_the_items_that_its_order_names(tmp_path: Path) -> None:
    seen: list[list[float]] = []
    train(
        tmp_path,
        NullReporter(),
        replace(TRAINING, epochs=2),
        order=lambda epoch: np.array([epoch, 3, 3]),
        see=lambda batch: seen.append(batch["y"].flatten().tolist()),
    )
    assert seen == [[0.0, 6.0], [6.0], [2.0, 6.0], [6.0]]


@pytest.mark.parametrize("workers", [0, 2])
def test_each_draw_of_an_item_in_an_epoch_has_its_own_noise(tmp_path: Path, workers: int) -> None:
    seen: list[tuple[float, float]] = []
    train(
        tmp_path,
        NullReporter(),
        replace(TRAINING, epochs=2, workers=workers),
        order=lambda epoch: np.array([3, 1, 3, 3]),
        see=lambda batch: seen.extend(zip(batch["y"].flatten().tolist(), batch["x"][:, 0].tolist(), strict=True)),
    )
    keys = [(epoch, index, repeat) for epoch in range(2) for index, repeat in ((3, 0), (1, 0), (3, 1), (3, 2))]
    items = [Points()[key] for key in keys]
    assert seen == [(float(item["y"]), float(item["x"][0])) for item in items]


def first_layer(folder: Path, name: str = "last.pt") -> torch.Tensor:
    weights = saved(folder, name)
    return (weights["weights"] if name == "last.pt" else weights)["0.weight"]


def test_a_group_that_starts_later_stays_as_it_was_until_then(tmp_path: Path) -> None:
    """Neither steps nor weight decay move it, and AdamW knows nothing of it: it begins as if the training began there."""
    net, required = network(), []
    found = train(tmp_path, Recorder(), starts=2, net=net, see=lambda _: required.append(net[0].weight.requires_grad))
    assert required == [False] * 8 + [True] * 8
    assert [rate > 0 for rate in found.history["train/lr_first"]] == [
        False,
        False,
        True,
        False,
    ]  # the schedule ends at 0
    steps = {index: float(state["step"]) for index, state in saved(tmp_path)["optimizer"]["state"].items()}
    assert steps == {0: 16, 1: 16, 2: 8, 3: 8}
    assert not torch.equal(first_layer(tmp_path), network()[0].weight)

    train(tmp_path / "waited", Recorder(), replace(TRAINING, epochs=2), starts=2)
    assert torch.equal(first_layer(tmp_path / "waited"), network()[0].weight)
    assert saved(tmp_path / "waited")["optimizer"]["state"].keys() == {0, 1}


@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_a_training_cut_around_the_start_of_a_group_ends_the_same_to_the_bit(tmp_path: Path, stop_after: int) -> None:
    """Interrupted in the epoch before its first, in its first, and in the one after; killed ones start with a new network."""
    whole, resumed = Recorder(), Recorder()
    expected = train(tmp_path / "whole", whole, starts=2)
    net = network()
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", Recorder(stop_after), starts=2, net=net)
    assert all(parameter.requires_grad for parameter in net.parameters())
    found = train(tmp_path / "cut", resumed, starts=2)
    assert resumed.values == whole.values
    assert found.history.equals(expected.history)
    one, other = saved(tmp_path / "whole"), saved(tmp_path / "cut")
    assert all(torch.equal(one["weights"][key], other["weights"][key]) for key in one["weights"])
    assert not torch.equal(one["weights"]["0.weight"], network()[0].weight)
    for index, state in one["optimizer"]["state"].items():
        assert all(torch.equal(value, other["optimizer"]["state"][index][key]) for key, value in state.items())


def test_the_best_epoch_may_be_one_in_which_a_group_waited(tmp_path: Path) -> None:
    net = network()
    found = train(tmp_path, Recorder(), replace(TRAINING, patience=9), starts=2, scores=[0, 1, 0, 0], net=net)
    assert found.best_epoch == 1
    assert torch.equal(net[0].weight, network()[0].weight)
    assert not torch.equal(net[2].weight, network()[2].weight)
    assert not torch.equal(first_layer(tmp_path), net[0].weight)


@pytest.mark.parametrize(
    ("direction", "scores", "best"),
    [
        ("minimize", [3, 1, 2, 1], 1),
        ("maximize", [1, 3, 3, 2], 1),
        ("minimize", [math.nan, 2, math.nan, 1], 3),
        ("maximize", [math.nan, 2, math.nan, 1], 1),
        ("maximize", [-math.inf, -math.inf, math.nan, -math.inf], 0),
        ("maximize", [0.1, 0.7, math.nextafter(0.7, 1), 0.2], 1),  # the same, added up in another order
    ],
)
def test_the_best_epoch_follows_the_direction_and_is_never_one_of_nan(
    tmp_path: Path, direction: Literal["maximize", "minimize"], scores: list[float], best: int
) -> None:
    found = train(tmp_path / "whole", Recorder(), scores=scores, direction=direction)
    assert (found.best_epoch, found.best_value) == (best, scores[best])
    assert (found.epoch, found.chosen) == (3, False)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", Recorder(2), scores=scores, direction=direction)
    again = train(tmp_path / "cut", Recorder(), scores=scores, direction=direction)
    assert (again.best_epoch, again.best_value) == (best, scores[best])
    assert all(
        torch.equal(saved(tmp_path / "whole", "best.pt")[key], value)
        for key, value in saved(tmp_path / "cut", "best.pt").items()
    )


def same_weights(net: nn.Module, saved: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, saved[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("interrupted", [False, True])
@pytest.mark.parametrize(("patience", "kept"), [(0, 3), (3, 1)])
def test_the_last_epoch_is_kept_and_the_best_where_training_may_stop_early(
    tmp_path: Path, patience: int, kept: int, interrupted: bool
) -> None:
    training, scores, net = replace(TRAINING, patience=patience), [1, 3, 3, 2], network()
    if interrupted:
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, Recorder(3), training, scores=scores)
    found = train(tmp_path, Recorder(), training, scores=scores, net=net)
    assert (found.epoch, found.best_epoch, found.chosen) == (kept, 1, patience > 0)
    best, last = saved(tmp_path, "best.pt"), saved(tmp_path)["weights"]
    assert not all(torch.equal(best[name], last[name]) for name in best)
    assert same_weights(net, best if patience else last)


def test_a_last_epoch_that_is_not_a_number_is_not_kept(tmp_path: Path) -> None:
    scores = [1, 3, 3, math.nan]
    with pytest.raises(TrainingDiverged, match="validation score is not a number in the last epoch, 4, which would be kept"):
        train(tmp_path / "last", Recorder(), scores=scores)
    assert train(tmp_path / "best", Recorder(), replace(TRAINING, patience=9), scores=scores).epoch == 1


def test_values_of_cases_are_reported_as_their_mean_and_kept(tmp_path: Path) -> None:
    scores = [pd.Series([epoch, 2.0, 6.0], ["p1", "p1", "p2"]) for epoch in range(4)]
    found = train(tmp_path / "whole", Recorder(), scores=scores)
    assert list(found.history["val/score"]) == pytest.approx([8 / 3, 3, 10 / 3, 11 / 3])
    assert np.array_equal(found.cases, np.stack(scores))
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", Recorder(2), scores=scores)
    gone_on = train(tmp_path / "cut", Recorder(), scores=scores)
    assert np.array_equal(gone_on.cases, found.cases) and gone_on.patients == found.patients == ["p1", "p1", "p2"]


@pytest.mark.parametrize(
    ("direction", "best", "kept"), [("maximize", [4.0, 6.0, 4.0, 5.0], 1), ("minimize", [2.0, 1.5, 1.5, 3.5], 1)]
)
def test_of_candidates_side_by_side_the_best_mean_chooses_and_the_values_of_all_are_kept(
    tmp_path: Path, direction: Literal["maximize", "minimize"], best: list[float], kept: int
) -> None:
    tables = ([[1, 3], [3, 5]], [[4, 1], [8, 2]], [[1, 4], [2, 4]], [[5, 5], [5, 2]])
    scores = [pd.DataFrame(table, index=["p1", "p2"], columns=["a", "b"]) for table in tables]
    found = train(tmp_path, Recorder(), replace(TRAINING, patience=3), scores=scores, direction=direction)
    assert list(found.history["val/score"]) == best and found.epoch == 1
    assert np.array_equal(found.cases[:4], [[1, 3], [3, 5], [4, 8], [1, 2]]) and found.patients == ["p1", "p2"]


def test_patience_counts_from_the_smallest_value_where_that_is_the_best(tmp_path: Path) -> None:
    scores = [5, 3, 4, 4, math.nan, 1]
    found = train(tmp_path, Recorder(), replace(TRAINING, patience=2, epochs=6), scores=scores, direction="minimize")
    assert list(found.history["epoch"]) == [0, 1, 2, 3] and found.best_epoch == 1


def test_a_training_without_a_single_score_has_no_best_epoch(tmp_path: Path) -> None:
    with pytest.raises(TrainingDiverged, match="points: validation score is not a number in any epoch"):
        train(tmp_path, Recorder(), scores=[math.nan] * 4)


class Sentences(Dataset[torch.Tensor]):
    """Tokens, as many as the item's index says and one more."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, key: tuple[int, int, int]) -> torch.Tensor:
        return torch.arange(1, key[1] + 2)


@pytest.mark.parametrize("workers", [0, 1])
def test_items_of_several_lengths_become_a_batch_by_the_collate_function(tmp_path: Path, workers: int) -> None:
    seen: list[list[list[int]]] = []
    net = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 1))

    def loss(module: nn.Module, batch: dict[str, torch.Tensor], epoch: int) -> dict[str, torch.Tensor]:
        seen.append(batch["ids"].tolist())
        return {"loss": (module(batch["ids"]).squeeze(-1) * batch["mask"]).mean()}

    fit(
        net,
        [Group("all", 1e-2, list(net.parameters()))],
        Sentences(),
        Objective(loss, lambda module, epoch: {"score": 1.0}, "score"),  # type: ignore[arg-type]
        replace(TRAINING, epochs=1, warmup_epochs=0, workers=workers),
        seed=5,
        accelerator=Accelerator(cpu=True),
        reporter=NullReporter(),
        folder=tmp_path,
        title="sentences",
        order=lambda epoch: np.array([0, 2, 4, 1]),
        collate=padded,
    )
    assert seen == [[[1, 0, 0], [1, 2, 3]], [[1, 2, 3, 4, 5], [1, 2, 0, 0, 0]]]


def padded(items: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    ids = nn.utils.rnn.pad_sequence(items, batch_first=True)
    return {"ids": ids, "mask": (ids > 0).float()}


def weights_of(net: nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in net.parameters()]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_average_of_the_weights_is_validated_and_kept(tmp_path: Path, accumulate: int) -> None:
    """A weight after the i-th of n updates counts decay^(n - i); training goes on from the weights themselves."""
    training, decay = replace(TRAINING, accumulate=accumulate), 0.8
    plain, net = network(), network()
    after: list[list[torch.Tensor]] = []
    train(tmp_path / "plain", NullReporter(), training, see=lambda batch: after.append(weights_of(plain)), net=plain)
    updated = [*after[1:], weights_of(plain)][accumulate - 1 :: accumulate]
    result = train(tmp_path / "average", NullReporter(), training, net=net, ema=decay)
    parts = torch.tensor([decay ** (len(updated) - i) for i in range(1, len(updated) + 1)])
    for place, found in enumerate(net.parameters()):
        expected = sum(part * one[place] for part, one in zip(parts / parts.sum(), updated, strict=True))
        torch.testing.assert_close(found.detach(), expected)
        assert not torch.equal(found, updated[-1][place])
    assert result.history["val/score"].iloc[-1] == pytest.approx(float(sum(p.detach().sum() for p in net.parameters())))
    kept = saved(tmp_path / "average")
    assert all(torch.equal(kept["weights"][key], value) for key, value in plain.state_dict().items())


@pytest.mark.parametrize("patience", [0, 2])
def test_an_interrupted_training_with_an_average_keeps_the_same_weights_to_the_bit(tmp_path: Path, patience: int) -> None:
    training, scores = replace(TRAINING, patience=patience), [1.0, 3.0, 2.0, 0.0]
    whole, cut, again = network(), network(), network()
    train(tmp_path / "whole", NullReporter(), training, scores=scores, net=whole, ema=0.9)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", Recorder(1), training, scores=scores, net=cut, ema=0.9)
    for _ in range(2):  # goes on, and is not trained again
        train(tmp_path / "cut", NullReporter(), training, scores=scores, net=again, ema=0.9)
        assert all(torch.equal(one, other) for one, other in zip(weights_of(whole), weights_of(again), strict=True))
    without = network()
    train(tmp_path / "without", NullReporter(), training, scores=scores, net=without)
    assert not torch.equal(without[0].weight, whole[0].weight)


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes of one launch left behind."""
    folder = tmp_path_factory.mktemp("launched")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    done = subprocess.run([*launch, __file__, str(folder)], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder


def test_two_processes_agree_on_a_group_that_starts_later(launched: Path) -> None:
    one, other = (torch.load(launched / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert torch.equal(first_layer(launched / "waited"), network()[0].weight)
    assert not torch.equal(one["0.weight"], network()[0].weight)


def flow_gradients(rank: int, wrap: Callable[[nn.Module], nn.Module] = lambda net: net) -> dict[str, torch.Tensor]:
    """Gradients of MeanFlow's loss of what a process has to learn from."""
    torch.manual_seed(0)
    net = MeanFlowUNet(4, (8,), (True,), 8, 1, 4)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.1)
    widen(net, 5)
    adapted = inject_lora(net, 2, 2.0)
    config = FlowLossConfig(1.5, 2.0, 1.0, 1.0, "uniform", "conditional", 1.0, 0.0, 1.0, 0.0, 1.0)
    wrapped = wrap(adapted)  # without it nothing would be averaged
    torch.manual_seed(rank + 1)
    MeanFlowLoss(config, 4, 1)(wrapped, {"z": torch.randn(2, 5, 4, 4, 4)}, 0)["loss"].backward()
    return {name: parameter.grad for name, parameter in adapted.named_parameters() if parameter.grad is not None}


def test_meanflows_gradients_are_averaged_over_two_processes(launched: Path) -> None:
    """A Jacobian-vector product goes around what a launch puts around a network; the pass with gradients must not."""
    found = [torch.load(launched / f"flow{rank}.pt", weights_only=True) for rank in range(2)]
    alone = [flow_gradients(rank) for rank in range(2)]
    assert len(alone[0]) > 8 and alone[0].keys() == found[0].keys()
    for name in alone[0]:
        assert torch.equal(found[0][name], found[1][name]), name
        torch.testing.assert_close(found[0][name], (alone[0][name] + alone[1][name]) / 2, rtol=1e-4, atol=1e-7)
    assert any(float((alone[0][name] - alone[1][name]).norm()) > 0.1 * float(alone[0][name].norm()) for name in alone[0])


if __name__ == "__main__":  # a process of the launch above
    folder, net = Path(sys.argv[1]), network()
    train(folder / "waited", NullReporter(), replace(TRAINING, epochs=2), starts=2)
    train(folder / "trained", NullReporter(), starts=2, scores=range(4), net=net)
    accelerator = Accelerator(cpu=True)
    torch.save(net.state_dict(), folder / f"{accelerator.process_index}.pt")
    gradients = flow_gradients(accelerator.process_index, accelerator.prepare_model)
    torch.save(gradients, folder / f"flow{accelerator.process_index}.pt")
    torch.distributed.destroy_process_group()  # its threads may outlive the interpreter, which then aborts
