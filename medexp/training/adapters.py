"""Training of an adapter on a vision-language network: transformers' Trainer does it, and what it has to say it says to a
Reporter.

The Trainer's own checkpoint of each epoch is what a training goes on from, with its random state, and `progress.json` says
which of them is whole. What is done with a finished epoch (validation, which one is kept) is as in `medexp.training.loop`.
"""

import json
import math
import traceback
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import torch
from accelerate import Accelerator
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from rich.progress import Progress, TaskID
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from medexp.config.training import AdapterTrainingConfig
from medexp.data.scenarios.prompts import followed_by
from medexp.errors import TrainingDiverged
from medexp.files import replacing
from medexp.models.vision_language.bases import quietly
from medexp.reporting import Reporter
from medexp.terminal import progress_bar
from medexp.training.loop import FitResult, leaving_nothing

IGNORED = -100
"""Label of a token that nothing is learned from, as transformers' losses have it."""
_PROGRESS, _BEST, _ADAPTER = "progress.json", "best.safetensors", "adapter_model.safetensors"
_BEGUN = 64  # training examples, at least, that the loss before the first step is of
_NAMES = {"loss": "loss", "grad_norm": "grad_norm", "learning_rate": "lr_adapter"}


@dataclass(frozen=True)
class Example:
    """One prompt with the answer that is to be given, made once before training.

    Attributes:
        inputs: As the network takes them, by name: ids (1, length), what belongs to each id in the same shape, and its images.
        labels: (1, length): the ids of the answer, and IGNORED for those of the prompt.
    """

    inputs: Mapping[str, Tensor]
    labels: Tensor


def example_of(inputs: Mapping[str, Tensor], answer: Tensor) -> Example:
    """A prompt with its answer behind it.

    Args:
        inputs: Of the prompt, as the processor gives them: input_ids (1, length), and others.
        answer: Ids of the answer, with the end of the turn.
    """
    ids, whole = inputs["input_ids"], followed_by(inputs, answer)
    labels = whole["input_ids"].clone()
    labels[:, : ids.shape[1]] = IGNORED
    return Example(whole, labels)


def collate(examples: Sequence[Example], pad_id: int) -> dict[str, Tensor]:
    """A batch, filled up on the right to its longest example; images are put behind each other."""
    longest = max(example.labels.shape[1] for example in examples)
    fill = {"input_ids": pad_id, "labels": IGNORED}

    def filled(name: str, value: Tensor, length: int) -> Tensor:
        if value.shape != (1, length):
            return value
        return nn.functional.pad(value, (0, longest - length), value=fill.get(name, 0))

    whole = [({**example.inputs, "labels": example.labels}, example.labels.shape[1]) for example in examples]
    return {name: torch.cat([filled(name, one[name], length) for one, length in whole]) for name in whole[0][0]}


def fit_adapter(
    peft: PeftModel,
    train: Sequence[Example],
    val: Sequence[Example],
    training: AdapterTrainingConfig,
    *,
    seed: int,
    accelerator: Accelerator,
    reporter: Reporter,
    folder: Path,
    title: str,
    pad_id: int,
    until: int | None = None,
) -> FitResult:
    """Train an adapter, or go on from where `folder` says that an earlier call stopped.

    Reported are train/loss (mean over the tokens of answers in a step), train/grad_norm and train/lr_adapter of each step of
    the optimiser, and val/loss (mean over the tokens of all answers) of each epoch that is validated.

    Args:
        peft: The adapted network; it ends in eval mode, with the adapter of the kept epoch.
        train: What is learned from.
        val: What is judged by.
        training: Epochs, batch, schedule, clipping.
        seed: Seed of the order of examples and of dropout.
        accelerator: Device, precision and processes.
        reporter: Takes the metrics.
        folder: Gets the Trainer's checkpoints of the last two epochs, `progress.json`, and `best.safetensors`, the adapter of
            the best epoch, where training may stop early.
        title: Name in the progress bar.
        pad_id: Id that shorter examples are filled up with.
        until: Epochs of the schedule of `training.epochs` after which it ends, as in `medexp.training.loop.fit`.

    Raises:
        TrainingDiverged: A loss is not finite.
        StorageError: The state cannot be written.
    """
    base: Any = peft.get_base_model()
    batches = math.ceil(len(train) / (training.batch_size * accelerator.num_processes))
    updates = math.ceil(batches / training.accumulate)
    done = _read(folder / _PROGRESS)
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=training.epochs,
        per_device_train_batch_size=training.batch_size,
        gradient_accumulation_steps=training.accumulate,
        learning_rate=training.lr,
        weight_decay=training.weight_decay,
        max_grad_norm=training.grad_clip,
        lr_scheduler_type="cosine",
        warmup_steps=training.warmup_epochs * updates,
        optim="adamw_torch_fused" if accelerator.device.type == "cuda" else "adamw_torch",
        bf16=accelerator.mixed_precision == "bf16",
        use_cpu=accelerator.device.type == "cpu",
        accelerator_config={"use_configured_state": True},  # device, precision and processes are those that were asked for
        ddp_find_unused_parameters=False,
        seed=seed,
        data_seed=seed,
        dataloader_num_workers=training.workers,
        dataloader_persistent_workers=training.workers > 0,
        dataloader_pin_memory=accelerator.device.type == "cuda",
        remove_unused_columns=False,
        logging_steps=1,
        logging_nan_inf_filter=False,  # it would report the mean of the losses before
        save_strategy="epoch",
        save_total_limit=2,  # that of the epoch before is whole while the next one is written
        report_to="none",
        disable_tqdm=True,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # one process has one device; the Trainer would take all that it sees
    shown = progress_bar(shown=accelerator.is_main_process)
    with leaving_nothing(accelerator), quietly(), shown as progress:
        bar = progress.add_task(title, total=(until or training.epochs) * updates, completed=done.epoch * updates)
        following = _Following(done, training, accelerator, reporter, folder, title, until, progress, bar, val, pad_id, train)
        trainer = _Trainer(
            model=peft,
            args=arguments,
            data_collator=lambda examples: collate(examples, pad_id),
            train_dataset=train,
            callbacks=[following],
        )
        trainer.remove_callback(PrinterCallback)
        for step, metrics in done.reported:
            reporter.metrics(metrics, step)
        before = str(folder / done.checkpoint) if done.checkpoint else None
        try:
            with _told_of_memory(peft, train, training, pad_id), _as_trained(base, training):
                if not following.over:
                    trainer.train(resume_from_checkpoint=before)
                elif before is not None:
                    _restore(peft, Path(before) / _ADAPTER)
        finally:
            accelerator.unwrap_model(peft, keep_fp32_wrapper=False)  # of autocast: what is scored says its own precision
        del trainer  # with the states of its optimiser
    accelerator.wait_for_everyone()
    chosen = training.patience > 0 and until is None
    if chosen:
        _restore(peft, folder / _BEST)
    peft.eval()
    return FitResult(
        pd.DataFrame(done.history),
        done.best_epoch if chosen else done.epoch - 1,
        done.best_epoch,
        done.best_value,
        np.array([]),
        [],
        chosen,
        "loss",
        "minimize",
    )


def answer_loss(net: nn.Module, examples: Sequence[Example], pad_id: int, batch_size: int, accelerator: Accelerator) -> float:
    """Mean loss over the tokens of all answers, in nats; every process of a launch computes its share.

    Args:
        net: The network; it is judged as it is, and left in the mode in which it was.
        examples: Prompts with their answers.
        pad_id: Id that shorter examples are filled up with.
        batch_size: Examples at a time.
        accelerator: Device, precision and processes.
    """
    mine = examples[accelerator.process_index :: accelerator.num_processes]
    total = torch.zeros(2, dtype=torch.float64 if accelerator.device.type != "mps" else torch.float32)
    was = net.training
    net.eval()
    with torch.no_grad(), accelerator.autocast():
        for first in range(0, len(mine), batch_size):
            batch = collate(mine[first : first + batch_size], pad_id)
            tokens = int((batch["labels"][:, 1:] != IGNORED).sum())
            loss = net(**{name: value.to(accelerator.device) for name, value in batch.items()}).loss
            total += torch.tensor([float(loss) * tokens, tokens], dtype=total.dtype)
    net.train(was)
    summed: Tensor = accelerator.reduce(total.to(accelerator.device), reduction="sum")
    return float(summed[0] / summed[1])


@dataclass
class _Progress:
    """How far a training has come, as `progress.json` holds it; `checkpoint` is the folder of the last whole one, `begun` the
    loss on training examples before the first step."""

    epoch: int = 0
    best_epoch: int = -1
    best_value: float = math.nan
    checkpoint: str = ""
    begun: float = math.nan
    history: list[dict[str, float]] = field(default_factory=list)
    reported: list[tuple[int, dict[str, float]]] = field(default_factory=list)


class _Trainer(Trainer):
    """transformers' own, which does not count the operations of each step: nobody reads them, and counting walks through all
    modules."""

    def floating_point_ops(self, inputs: Any) -> int:  # noqa: ARG002
        return 0


@dataclass
class _Following(TrainerCallback):
    """What is done with a Trainer's steps and epochs."""

    done: _Progress
    training: AdapterTrainingConfig
    accelerator: Accelerator
    reporter: Reporter
    folder: Path
    title: str
    until: int | None
    progress: Progress
    bar: TaskID
    val: Sequence[Example]
    pad_id: int
    train: Sequence[Example]
    readings: list[dict[str, float]] = field(default_factory=list)

    @property
    def epochs(self) -> int:
        return self.until or self.training.epochs

    @property
    def over(self) -> bool:
        """Whether no epoch is to follow."""
        done, patience = self.done, self.training.patience
        judged = done.epoch % self.training.validate_every == 0 and done.best_epoch >= 0
        return done.epoch >= self.epochs or bool(patience and judged and done.epoch - done.best_epoch > patience)

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """What the base knows of what it is to learn, by which one tells whether anything was learned."""
        if not self.done.epoch:
            some = self.train[:: max(1, len(self.train) // _BEGUN)]
            self.done.begun = answer_loss(kwargs["model"], some, self.pad_id, self.training.batch_size, self.accelerator)

    def on_log(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """A step of the optimiser."""
        logs: dict[str, float] = kwargs["logs"]
        reading = {_NAMES[name]: value for name, value in logs.items() if name in _NAMES}
        if not reading:
            return  # the Trainer's last words, on its speed
        epoch = self.done.epoch
        if bad := [name for name, value in reading.items() if not math.isfinite(value)]:
            told = f"{', '.join(bad)} is not finite in epoch {epoch + 1}"
            half = "" if self.training.precision == "fp32" else ", or set training.precision=fp32"
            raise TrainingDiverged(f"{self.title}: {told}; lower training.lr{half}")
        self._report({f"train/{name}": value for name, value in reading.items()}, state.global_step - 1)
        self.readings.append(reading)
        self.progress.advance(self.bar)

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:  # noqa: ARG002
        """Validation; the epoch's checkpoint is written after it."""
        model: PeftModel = kwargs["model"]
        done, training, step = self.done, self.training, state.global_step
        row: dict[str, float] = {"epoch": done.epoch, "step": step}
        row |= {f"train/{name}": float(value) for name, value in pd.DataFrame(self.readings).mean().items()}
        row["train/lr_adapter"] = self.readings[-1]["lr_adapter"]
        row["train/begun"] = done.begun
        self.readings.clear()
        value: float | None = None
        last = done.epoch + 1 == self.epochs
        if self.until is None and ((done.epoch + 1) % training.validate_every == 0 or last):
            value = row["val/loss"] = answer_loss(model, self.val, self.pad_id, training.batch_size, self.accelerator)
            if not math.isfinite(value):
                raise TrainingDiverged(
                    f"{self.title}: validation loss is {value} in epoch {done.epoch + 1}; lower training.lr"
                )
        self._report({name: value for name, value in row.items() if name == "epoch" or name.startswith("val/")}, step)
        done.history.append(row)
        if value is not None and not value >= done.best_value:
            done.best_epoch, done.best_value = done.epoch, value
            if training.patience and self.accelerator.is_main_process:
                with replacing(self.folder / _BEST) as temporary:
                    save_file(get_peft_model_state_dict(model, save_embedding_layers=False), temporary)
        done.epoch += 1
        control.should_training_stop = control.should_training_stop or self.over
        validated = "" if value is None else f", validation loss {value:.3f}"
        said = f"  {self.title}: epoch {done.epoch}/{self.epochs}, loss {row['train/loss']:.3f}{validated}"
        if self.accelerator.is_main_process:
            self.progress.console.print(said)

    def on_save(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """The checkpoint is whole; from here on it is the one to go on from."""
        self.done.checkpoint = f"checkpoint-{state.global_step}"
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            with replacing(self.folder / _PROGRESS) as temporary:
                temporary.write_text(json.dumps(asdict(self.done)))
        self.reporter.flush()

    def _report(self, metrics: Mapping[str, float], step: int) -> None:
        self.done.reported.append((step, dict(metrics)))
        self.reporter.metrics(metrics, step)


def _read(path: Path) -> _Progress:
    return _Progress(**json.loads(path.read_text())) if path.is_file() else _Progress()


@contextmanager
def _as_trained(base: Any, training: AdapterTrainingConfig) -> Iterator[None]:
    """Without the cache of keys and values, which a training step only fills, and with checkpointing where that is wanted."""
    configs = {id(config): config for config in (base.config, base.config.get_text_config())}.values()
    before = [vars(config).get("use_cache") for config in configs]
    for config in configs:
        config.use_cache = False
    try:
        if training.gradient_checkpointing:
            base.activation_checkpointing_enable()
        yield
    finally:
        base.activation_checkpointing_disable()
        for config, was in zip(configs, before, strict=True):
            config.use_cache = was
            if was is None:
                del config.use_cache


def _restore(peft: PeftModel, path: Path) -> None:
    set_peft_model_state_dict(peft, load_file(path))


@dataclass(frozen=True)
class Memory:
    """What a training takes, in bytes, measured on one scenario and on two of them.

    Attributes:
        weights: The network with its adapter.
        states: Gradients of the adapter and AdamW's two averages of them.
        step: What a step holds besides, whatever its batch.
        per_scenario: What a step holds for each scenario of its batch.
        available: All that a training may use, what the network lies in included.
    """

    weights: int
    states: int
    step: int
    per_scenario: int
    available: int

    @property
    def fixed(self) -> int:
        """What a training takes whatever its batch."""
        return self.weights + self.states + self.step

    @property
    def batch_size(self) -> int:
        """The largest batch that fits; 0 where not one scenario does."""
        return max(0, (self.available - self.fixed) // max(self.per_scenario, 1))

    def __str__(self) -> str:
        amounts = (self.fixed, self.per_scenario, self.available)
        sizes = [f"{value / 1e9:.2f} GB" if value >= 1e8 else f"{value / 1e6:.0f} MB" for value in amounts]
        fits = f"training.batch_size={self.batch_size} fits" if self.batch_size else "not one scenario fits"
        return f"{sizes[0]}, and {sizes[1]} for each scenario of a batch, of {sizes[2]}: {fits}"


def memory_of(peft: PeftModel, example: Example, training: AdapterTrainingConfig, pad_id: int) -> Memory:
    """Measure what a training takes, by forward and backward passes over one scenario, once and twice in a batch.

    On CUDA it is the device's own peak. Elsewhere it is what autograd keeps for the backward pass, and the gradient of the
    logits, the largest of those that come and go: a lower bound, most of all under gradient checkpointing, where the inside of
    one layer comes on top.

    Args:
        peft: The adapted network, where it is trained; its gradients are cleared.
        example: The longest of them.
        training: Precision and gradient checkpointing.
        pad_id: Id of padding.
    """
    tensors = {value.untyped_storage().data_ptr(): value for value in (*peft.parameters(), *peft.buffers())}
    held = sum(value.untyped_storage().nbytes() for value in tensors.values())
    trained = sum(value.numel() * value.element_size() for value in peft.parameters() if value.requires_grad)
    was = peft.training
    peft.train()
    try:
        with _as_trained(peft.get_base_model(), training):
            one, two = (_step_bytes(peft, [example] * size, training, pad_id, tensors.keys()) for size in (1, 2))
    finally:
        peft.zero_grad(set_to_none=True)
        peft.train(was)
    each = max(two - one, 1)
    return Memory(held, 3 * trained, max(one - each, 0), each, held + _free(next(peft.parameters()).device))


@contextmanager
def _told_of_memory(
    peft: PeftModel, examples: Sequence[Example], training: AdapterTrainingConfig, pad_id: int
) -> Iterator[None]:
    """Have an error that memory is out say, as a note, what batch would have fitted, measured when it is out."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error):
            traceback.clear_frames(error.__traceback__)  # they hold what did not fit
            longest = max(examples, key=lambda example: example.labels.shape[1])
            try:
                memory, half = memory_of(peft, longest, training, pad_id), max(1, training.batch_size // 2)
                fits = memory.batch_size < training.batch_size  # else other things than were measured took the memory
                error.add_note(f"measured: {memory}" if fits else f"training.batch_size={half} is worth a try")
            except (MemoryError, RuntimeError):
                error.add_note("not even one scenario fits")
        raise


def _step_bytes(
    peft: PeftModel, examples: Sequence[Example], training: AdapterTrainingConfig, pad_id: int, weights: Collection[int]
) -> int:
    device = next(peft.parameters()).device
    batch = {name: value.to(device) for name, value in collate(examples, pad_id).items()}
    kept: dict[int, int] = {}

    def keep(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return value

    peft.zero_grad(set_to_none=True)
    cuda = device.type == "cuda"
    before = 0
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    half = torch.autocast(device.type, torch.bfloat16, enabled=training.precision == "bf16-mixed")
    counted = nullcontext() if cuda else torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value)
    with half, counted:
        output = peft(**batch)
    output.loss.backward()
    if cuda:
        return torch.cuda.max_memory_allocated(device) - before
    return sum(kept.values()) + output.logits.numel() * 4


def _free(device: torch.device) -> int:
    """Bytes that nothing holds; of CUDA, what torch holds and does not use counts as such."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + unused)
    return int(psutil.virtual_memory().available)
