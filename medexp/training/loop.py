"""The one fit loop, on accelerate: one process or many, CPU, CUDA or MPS, fp32 or bf16.

Everything random in an epoch follows from (seed, epoch), a case's index and how often the epoch had it before, so a training
that goes on after a kill does the rest of its epochs exactly as it would have done: no random state is saved, and none can be
forgotten.

The last epoch is kept, and none is chosen: by a few dozen validation cases a choice cost more than it brought
(docs/epochs.md).
Early stopping alone chooses, and keeps the best epoch.
"""

import gc
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import DistributedDataParallelKwargs
from monai.optimizers import WarmupCosineSchedule
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset, Sampler

from medexp.arrays import Array
from medexp.config.training import TrainingConfig
from medexp.errors import TrainingDiverged
from medexp.models.checkpoints import load_training_state, save_checkpoint
from medexp.reporting import Reporter
from medexp.terminal import progress_bar

Batch = Mapping[str, Any]
_STEPS_PER_READING = 10  # reading a loss waits for the device; once in ten steps costs nothing
_WORSE = 10.0  # times the loss before the first step, or of 1: a training that ends above that has undone what there was


@dataclass(frozen=True)
class Group:
    """Parameters that share a learning rate.

    Attributes:
        name: Appears in the metric `train/lr_<name>`.
        lr: Learning rate at the end of the warm-up.
        parameters: They require gradients, also where they start later.
        starts: Epoch, from 0, from which they are trained. Until then they have no gradients, and neither steps nor weight
            decay change them; AdamW's averages of their gradients begin with that epoch, and their learning rate is what the
            one schedule of the whole training then says. Buffers, such as batch norm's statistics, know no groups.
        weight_decay: Of these parameters; None: that of the training.
        clipped_alone: Whether its gradients are clipped by their own norm, as those of networks that are trained side by side
            and have nothing to do with each other.
        key: The configuration's key of its learning rate, for messages; empty: `training.lr_<name>`.
    """

    name: str
    lr: float
    parameters: Sequence[nn.Parameter]
    starts: int = 0
    weight_decay: float | None = None
    clipped_alone: bool = False
    key: str = ""


@dataclass(frozen=True)
class Objective:
    """What a training minimises and how it is judged.

    Attributes:
        loss: From (module, batch, epoch) to scalars; `loss` is minimised, and reported as `train/loss`. The others are its
            parts, reported as `train/loss_<part>`: pages sort by name, and the loss comes before what it is made of.
        validate: From (module in eval mode, epoch) to scores, reported under `val/`: numbers, or values of cases by patient,
            of which the mean is reported; of the criterion such values, in the same order each time, or nobody can tell what
            its choice made of it, and a column of them a candidate, of which the best mean counts, where the best of several
            trained side by side is kept. Called in every process.
        monitor: The criterion: the score by which training stops early. Its best value is the best epoch's; the earliest of
            equals.
        direction: Whether its largest or its smallest value is the best. NaN is never better than anything.
        told: Parts of the loss that are printed beside it: those that epochs and arms can be compared by where it is not the
            same sum in all of them.
    """

    loss: Callable[[nn.Module, Batch, int], dict[str, Tensor]]
    validate: Callable[[nn.Module, int], Mapping[str, float | pd.Series | pd.DataFrame]]
    monitor: str
    direction: Literal["maximize", "minimize"] = "maximize"
    told: Sequence[str] = ()

    def figure(self, score: float | pd.Series | pd.DataFrame) -> float:
        """What a score is reported as, and an epoch chosen by."""
        means = np.atleast_1d(np.mean(score, axis=0) if isinstance(score, pd.DataFrame) else np.mean(score))
        return float((np.fmax if self.direction == "maximize" else np.fmin).reduce(means))

    def better(self, value: float, best: float) -> bool:
        """Whether a monitored value is better than the best so far, which is NaN where there is none."""
        if math.isnan(value) or math.isnan(best):
            return not math.isnan(value)
        if math.isclose(value, best, rel_tol=1e-12):  # the same cases right in another order add up otherwise
            return False
        return value > best if self.direction == "maximize" else value < best


@dataclass(frozen=True)
class FitResult:
    """A finished training; the module holds the kept epoch's weights.

    Attributes:
        history: One row an epoch: `epoch`, `step`, the mean of each training scalar, and the validation's where there was one.
        epoch: The kept one, from 0: the last, or, where training may stop early, the best.
        best_epoch: Epoch of the best monitored value, from 0; -1 where nothing was validated.
        best_value: That value; NaN where nothing was validated.
        cases: The monitored values of cases at each validated epoch (epochs, cases), of several candidates one after another;
            none where validation gave their mean alone.
        patients: Patient of each of these cases.
        chosen: Whether the kept epoch was chosen by these values.
        monitor: What they are.
        direction: Which way they are better.
    """

    history: pd.DataFrame
    epoch: int
    best_epoch: int
    best_value: float
    cases: Array
    patients: Sequence[str]
    chosen: bool
    monitor: str
    direction: Literal["maximize", "minimize"]


@dataclass
class _Progress:
    """How far a training has come, as `last.pt` holds it beside the weights."""

    epoch: int = 0
    best_epoch: int = -1
    best_value: float = math.nan
    history: list[dict[str, float]] = field(default_factory=list)
    reported: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    cases: list[list[float]] = field(default_factory=list)
    patients: list[str] = field(default_factory=list)


Collate = Callable[[list[Any]], Any]
"""From the items of a batch to the batch: tensors in dicts and lists, which go to the device."""

Order = Callable[[int], NDArray[np.intp]]
"""From an epoch to the indices of its items, in order; every epoch has as many."""


def permutations(size: int, seed: int) -> Order:
    """Each of `size` items once an epoch, in an order that follows from (seed, epoch)."""
    return lambda epoch: np.random.default_rng([seed, epoch]).permutation(size)


class EpochSampler(Sampler[tuple[int, int, int]]):
    """The items of an epoch; yields (epoch, index, how often the epoch had that index before): a data set's randomness follows
    from these."""

    def __init__(self, order: Order) -> None:
        self.order, self.epoch, self.size = order, 0, len(order(0))

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        indices = pd.Series(self.order(self.epoch))
        repeats = indices.groupby(indices).cumcount()
        return zip(repeat(self.epoch), indices.tolist(), repeats.tolist())


def fit(
    module: nn.Module,
    groups: Sequence[Group],
    data: Dataset[Any],
    objective: Objective,
    training: TrainingConfig,
    *,
    seed: int,
    accelerator: Accelerator,
    reporter: Reporter,
    folder: Path,
    title: str,
    prefix: str = "",
    order: Order | None = None,
    collate: Collate | None = None,
    until: int | None = None,
    ema: float = 0.0,
    loading: Mapping[str, Any] | None = None,
    quiet: bool = False,
) -> FitResult:
    """Train a module, or go on from where `folder` says that an earlier call stopped.

    Args:
        module: The network; the parameters that require gradients are trained and, with its buffers, saved.
        groups: The same parameters with their learning rates; one group at least trains from epoch 0.
        data: Takes (epoch, index, repeat), as `EpochSampler` yields them; see `medexp.data.volumes.datasets.training_dataset`.
        objective: Loss, validation and what makes an epoch the best.
        training: Epochs, batch, schedule, clipping.
        seed: Seed of the order of cases and of dropout.
        accelerator: Device, precision, processes and accumulation.
        reporter: Takes the metrics.
        folder: Gets `last.pt` (after every epoch, to go on from) and `best.pt` (the best epoch's weights).
        title: Name in the progress bar.
        prefix: Put before the names of metrics, such as `control/`.
        order: Which items an epoch has, and in which order; without it all of them once, shuffled.
        collate: Makes a batch of items that do not stack, such as token sequences of several lengths; without it their tensors
            are stacked.
        until: Epochs of the schedule of `training.epochs` after which it ends, with the weights that it then has: nothing is
            validated and no epoch is chosen. None: all of them, or as many as early stopping leaves.
        ema: Decay of the moving average of the weights after each update, 0 to below 1, which is what is validated and kept;
            the weights before the first update are no part of it. 0: the weights themselves.
        loading: Arguments of torch's DataLoader, where others than its own are wanted.
        quiet: Whether no line is printed of an epoch, and none is left of the progress bar: of trainings that take no time and
            are many.

    Raises:
        TrainingDiverged: A loss is not finite, or what validation is told of a case; the monitored value is NaN in every epoch
            or in the one that is kept; or that one's loss is more than _WORSE times that before the first step.
        StorageError: The state cannot be written; the state of the epoch before is kept.
    """
    sampler = EpochSampler(order or permutations(len(data), seed))  # type: ignore[arg-type]
    learner = _prepared(module, groups, data, sampler, collate, training, accelerator, ema, loading or {})
    steps, epochs, lower = len(learner.loader), until or training.epochs, _lower(training, groups)
    done = _go_on_from(folder / "last.pt", learner)
    for step, metrics in done.reported:
        reporter.metrics(metrics, step)

    def report(metrics: Mapping[str, float], step: int) -> None:
        named = {f"{prefix}{name}": float(value) for name, value in metrics.items()}
        done.reported.append((step, named))
        reporter.metrics(named, step)

    def stops(epoch: int) -> bool:
        judged = epoch % training.validate_every == 0 and done.best_epoch >= 0
        return training.patience > 0 and judged and epoch - done.best_epoch > training.patience

    shown = accelerator.is_main_process and done.epoch < epochs and not stops(done.epoch)  # none of what is trained already
    with leaving_nothing(accelerator), progress_bar(shown=shown, transient=quiet) as progress:
        bar = progress.add_task(title, total=epochs * steps, completed=done.epoch * steps)
        for epoch in range(done.epoch, epochs):
            if stops(epoch):
                break
            sampler.epoch = epoch
            torch.manual_seed(int(np.random.SeedSequence([seed, epoch, accelerator.process_index]).generate_state(1)[0]))
            readings: list[dict[str, float]] = []
            with _waiting(groups, epoch):
                for reading in _read(_steps(learner, objective, training, epoch)):
                    _demand_finite(reading, title, epoch, lower)
                    report({f"train/{name}": value for name, value in reading.items()}, epoch * steps + len(readings))
                    readings.append(reading)
                    progress.advance(bar)
            row: dict[str, float] = {"epoch": epoch, "step": (epoch + 1) * steps}
            row |= {f"train/{name}": float(value) for name, value in pd.DataFrame(readings).mean().items()}
            row |= {f"train/lr_{name}": rate for name, rate in _rates(learner, epoch).items()}
            if until is None and ((epoch + 1) % training.validate_every == 0 or epoch + 1 == epochs):
                module.eval()
                with learner.average.in_place(), _told_of(title, epoch, lower):
                    scores = objective.validate(module, epoch)
                row |= {f"val/{name}": objective.figure(value) for name, value in scores.items()}
                if isinstance(monitored := scores[objective.monitor], pd.Series | pd.DataFrame):
                    done.cases += np.atleast_2d(monitored.to_numpy().T).tolist()
                    done.patients = list(map(str, monitored.index))
            report({k: v for k, v in row.items() if k.startswith(("val/", "train/lr_"))}, (epoch + 1) * steps)
            value = row.get(f"val/{objective.monitor}")
            done.epoch = epoch + 1
            done.history.append(row)
            if value is not None and objective.better(value, done.best_value):
                done.best_epoch, done.best_value = epoch, value
                if accelerator.is_main_process:
                    with learner.average.in_place():
                        save_checkpoint(_trained(module), folder / "best.pt")
            if accelerator.is_main_process:
                save_checkpoint(vars(done) | _state(learner), folder / "last.pt")
            reporter.flush()
            if not quiet:
                validated = "" if value is None else f", validation {objective.monitor} {value:.3f}"
                parts = ", ".join(f"{part} {row[f'train/loss_{part}']:.3f}" for part in objective.told)
                of = f" ({parts})" if parts else ""
                said = f"  {title}: epoch {epoch + 1}/{epochs}, loss {row['train/loss']:.3f}{of}{validated}"
                progress.console.print(said)
    chosen, last = training.patience > 0 and until is None, done.history[-1].get(f"val/{objective.monitor}", math.nan)
    if until is None and (done.best_epoch < 0 or (math.isnan(last) and not chosen)):
        where = "any epoch" if done.best_epoch < 0 else f"the last epoch, {done.epoch}, which would be kept"
        told = f"validation {objective.monitor} is not a number in {where}"
        raise TrainingDiverged(f"{title}: {told}; validate on cases for which it is defined, or {lower}")
    kept = done.best_epoch if chosen else done.epoch - 1
    begun = {name.removeprefix(prefix): value for name, value in done.reported[0][1].items()}
    _demand_no_worse(begun, done.history[kept], title, kept, lower)
    accelerator.wait_for_everyone()
    learner.average.put()
    if chosen:
        _restore(module, load_training_state(folder / "best.pt"))
    module.eval()
    return FitResult(
        pd.DataFrame(done.history),
        kept,
        done.best_epoch,
        done.best_value,
        np.array(done.cases),
        done.patients,
        chosen,
        objective.monitor,
        objective.direction,
    )


@dataclass
class _Average:
    """Moving average of the weights that are trained: of the i-th of n updates they count decay^(n - i), in parts of the sum.

    Attributes:
        decay: 0 to below 1.
        parameters: What is averaged; nothing where no average is kept.
        values: The average, in the same order.
        updates: How many there were.
    """

    decay: float
    parameters: list[nn.Parameter]
    values: list[Tensor]
    updates: int = 0

    def update(self) -> None:
        """After a step of the optimiser."""
        self.updates += 1
        if self.values:
            share = (1 - self.decay) / (1 - self.decay**self.updates)
            get_ema_multi_avg_fn(1 - share)(self.values, self.parameters, self.updates)

    @torch.no_grad()
    def put(self) -> None:
        """Let the weights be the average, for good."""
        for parameter, value in zip(self.parameters, self.values, strict=True):
            parameter.copy_(value)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The weights are the average, and then again what they were."""
        own = [parameter.detach().clone() for parameter in self.parameters]
        self.put()
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(self.parameters, own, strict=True):
                    parameter.copy_(value)


@dataclass(frozen=True)
class _Learner:
    """A network and what moves its weights, on their device: `module` is the network, `wrapped` what accelerate made of it."""

    module: nn.Module
    wrapped: nn.Module
    loader: DataLoader[Any]
    groups: Sequence[Group]
    adamw: torch.optim.AdamW
    optimizer: AcceleratedOptimizer
    schedule: WarmupCosineSchedule
    accelerator: Accelerator
    average: _Average


def _prepared(
    module: nn.Module,
    groups: Sequence[Group],
    data: Dataset[Any],
    sampler: EpochSampler,
    collate: Collate | None,
    training: TrainingConfig,
    accelerator: Accelerator,
    ema: float,
    loading: Mapping[str, Any],
) -> _Learner:
    settings: dict[str, Any] = {
        "persistent_workers": training.workers > 0,
        "pin_memory": accelerator.device.type == "cuda",
        "generator": torch.Generator(),  # its own: starting workers would draw from the one that dropout draws from
        **loading,
    }
    loader = DataLoader(
        data,
        batch_size=training.batch_size,
        sampler=sampler,
        num_workers=training.workers,
        collate_fn=collate,
        **settings,
    )
    adamw = torch.optim.AdamW(
        [
            {"params": list(group.parameters), "lr": group.lr, "name": group.name}
            | ({} if group.weight_decay is None else {"weight_decay": group.weight_decay})
            for group in groups
        ],
        weight_decay=training.weight_decay,
        fused=accelerator.device.type == "cuda",
    )
    accelerator.gradient_accumulation_steps = training.accumulate
    late = any(group.starts for group in groups)  # the other processes would wait for gradients that nobody computes
    accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=late)
    wrapped, optimizer, loader = accelerator.prepare(module, adamw, loader)
    updates = math.ceil(len(loader) / training.accumulate)
    schedule = WarmupCosineSchedule(adamw, training.warmup_epochs * updates, training.epochs * updates)
    averaged = [parameter for group in groups for parameter in group.parameters if ema]
    average = _Average(ema, averaged, [parameter.detach().clone() for parameter in averaged])
    return _Learner(module, wrapped, loader, groups, adamw, optimizer, schedule, accelerator, average)


def _steps(learner: _Learner, objective: Objective, training: TrainingConfig, epoch: int) -> Iterator[dict[str, Tensor]]:
    """The steps of an epoch: moves the weights, and yields the scalars of each step as they lie on the device."""
    accelerator, optimizer = learner.accelerator, learner.optimizer
    together = [parameter for group in learner.groups if not group.clipped_alone for parameter in group.parameters]
    clipped = [*([together] if together else []), *(group.parameters for group in learner.groups if group.clipped_alone)]
    learner.module.train()
    for batch in learner.loader:
        with accelerator.accumulate(learner.wrapped):
            parts = {
                name if name == "loss" else f"loss_{name}": one
                for name, one in objective.loss(learner.wrapped, batch, epoch).items()
            }
            accelerator.backward(parts["loss"])
            if accelerator.sync_gradients:
                norms = [accelerator.clip_grad_norm_(parameters, training.grad_clip) for parameters in clipped]
                parts["grad_norm"] = torch.stack(norms).max()
            optimizer.step()
            optimizer.zero_grad()
        if accelerator.sync_gradients:
            learner.schedule.step()
            learner.average.update()
        yield {name: value.detach() for name, value in parts.items()}


@contextmanager
def leaving_nothing(accelerator: Accelerator) -> Iterator[None]:
    """What a training leaves behind goes at its end. It is not looked for in what was there before: that takes most of a
    second of each training, however small."""
    gc.freeze()
    try:
        yield
        accelerator.free_memory()
    finally:
        gc.unfreeze()


@contextmanager
def _waiting(groups: Sequence[Group], epoch: int) -> Iterator[None]:
    """Groups that start later require no gradients: nothing is computed for them, and AdamW passes over what has none.

    Between epochs all require them again, so that what is saved and restored is the same in every epoch.
    """
    parameters = [parameter for group in groups if epoch < group.starts for parameter in group.parameters]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _rates(learner: _Learner, epoch: int) -> dict[str, float]:
    """Learning rate of each group at the end of an epoch; 0 where it waits."""
    pairs = zip(learner.groups, learner.adamw.param_groups, strict=True)
    return {group.name: held["lr"] if epoch >= group.starts else 0.0 for group, held in pairs}


def _state(learner: _Learner) -> dict[str, Any]:
    return {
        "weights": _trained(learner.module),
        "optimizer": learner.adamw.state_dict(),
        "schedule": learner.schedule.state_dict(),
        "average": {"values": learner.average.values, "updates": learner.average.updates},
    }


def _go_on_from(path: Path, learner: _Learner) -> _Progress:
    """Where an earlier call stopped, with its weights and what moves them; the beginning, where there is no such file."""
    if not path.is_file():
        return _Progress()
    saved = load_training_state(path)
    _restore(learner.module, saved.pop("weights"))
    learner.adamw.load_state_dict(saved.pop("optimizer"))
    learner.schedule.load_state_dict(saved.pop("schedule"))
    average = saved.pop("average", {"values": [], "updates": 0})  # of an earlier version, which kept none
    learner.average.updates = average["updates"]
    for value, kept in zip(learner.average.values, average["values"], strict=True):
        value.copy_(kept)
    return _Progress(**saved)


def _read(losses: Iterator[dict[str, Tensor]]) -> Iterator[dict[str, float]]:
    """The scalars of each step as numbers, read from the device a few steps at a time."""
    waiting: list[dict[str, Tensor]] = []

    def drain() -> Iterator[dict[str, float]]:
        numbers = torch.stack([value.float() for parts in waiting for value in parts.values()]).tolist()
        for parts in waiting:
            yield {name: numbers.pop(0) for name in parts}
        waiting.clear()

    for parts in losses:
        waiting.append(parts)
        if len(waiting) == _STEPS_PER_READING:
            yield from drain()
    if waiting:
        yield from drain()


def _demand_finite(reading: Mapping[str, float], title: str, epoch: int, lower: str) -> None:
    if bad := [name for name, value in reading.items() if not math.isfinite(value)]:
        raise TrainingDiverged(f"{title}: {', '.join(bad)} not finite in epoch {epoch + 1}; {lower}")


def _demand_no_worse(begun: Mapping[str, float], ended: Mapping[str, float], title: str, kept: int, lower: str) -> None:
    """At a rate that is far too high weights are numbers of thirty digits, and what they say of a case still one class or the
    other."""
    losses = [name for name in begun if name.startswith("train/loss")]
    worse = [name for name in losses if ended[name] > _WORSE * max(begun[name], 1.0)]
    if "train/loss" in worse:
        went = {name: f"{begun[name]:.3g} to {ended[name]:.3g}" for name in worse}
        parts = [f"{name.removeprefix('train/loss_')} from {went[name]}" for name in worse if name != "train/loss"]
        told = f" ({', '.join(parts)})" if parts else ""
        raise TrainingDiverged(f"{title}: its loss went from {went['train/loss']} in epoch {kept + 1}{told}; {lower}")


@contextmanager
def _told_of(title: str, epoch: int, lower: str) -> Iterator[None]:
    """What validation finds not to be finite is told with the training and the keys that it hangs on."""
    try:
        yield
    except TrainingDiverged as error:
        raise TrainingDiverged(f"{title}: after epoch {epoch + 1} {error}\nIn a training: {lower}.") from error


def _lower(training: TrainingConfig, groups: Sequence[Group]) -> str:
    """What to do against a training that diverges."""
    own = {group.name: f"training.lr_{group.name}" for group in groups if hasattr(training, f"lr_{group.name}")}
    rates = dict.fromkeys(filter(None, [group.key or own.get(group.name, "") for group in groups]))
    half = "" if training.precision == "fp32" else ", or set its precision to fp32"
    return f"lower {' and '.join(rates) or 'the learning rate'}{half}"


def _trained(module: nn.Module) -> dict[str, Tensor]:
    """What training changes: parameters that require gradients, and buffers, such as the statistics of batch norm."""
    changed = {name: parameter.detach() for name, parameter in module.named_parameters() if parameter.requires_grad}
    return changed | dict(module.named_buffers())


def _restore(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    trained = _trained(module)
    if trained.keys() != weights.keys():
        raise ValueError(f"training state is of another network: {sorted(trained.keys() ^ weights.keys())[:5]}")
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(weights[name])
