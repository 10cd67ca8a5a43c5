"""Training of an adapter by transformers' Trainer: what is learned from, what is reported, kills, and memory."""

import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from torch import Tensor

from medexp.config.networks import DecoderLoraConfig
from medexp.config.training import AdapterTrainingConfig
from medexp.errors import TrainingDiverged
from medexp.models.kinds import kind_of
from medexp.models.vision_language.adapters import add_adapter, digests, untouched
from medexp.models.vision_language.bases import Base, find_base, load_base
from medexp.phases.shared.launch import forget_precision, start_accelerator
from medexp.reporting import NullReporter
from medexp.training.adapters import (
    IGNORED,
    Example,
    Memory,
    answer_loss,
    collate,
    example_of,
    fit_adapter,
    memory_of,
)
from medexp.training.loop import FitResult
from tests.gemma import tiny_gemma

TRAINING = AdapterTrainingConfig(
    epochs=2,
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
    lr=1e-2,
    gradient_checkpointing=False,
)
PAD = 0


class Recorder(NullReporter):
    """Keeps metrics, and is interrupted after so many of them."""

    def __init__(self, stop_after: int = 10**9) -> None:
        self.values: list[tuple[int, dict[str, float]]] = []
        self.stop_after = stop_after

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        self.values.append((step, dict(values)))
        if len(self.values) == self.stop_after:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    folder = tmp_path_factory.mktemp("gemma")
    return find_base(str(tiny_gemma(folder / "base")), None, folder)


def adapted(base: Base, dropout: float = 0.1) -> PeftModel:
    net = load_base(base, quantize="none", dtype=torch.float32, device=torch.device("cpu"))
    torch.manual_seed(0)
    return add_adapter(net, DecoderLoraConfig(rank=2, alpha=4.0, dropout=dropout, targets=("q_proj", "v_proj")))


def examples(base: Base, count: int, seed: int = 0) -> list[Example]:
    """Images of noise with words; answers of two lengths."""
    prompts = [kind_of(base.architecture).example(base.architecture, {}, _seeded(seed + at)) for at in range(count)]
    firsts = [{name: value[:1] for name, value in prompt.items()} for prompt in prompts]
    return [example_of(first, torch.tensor([20, 30, 40, 1][at % 2 :])) for at, first in enumerate(firsts)]


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def trained(
    base: Base,
    folder: Path,
    reporter: NullReporter | None = None,
    training: AdapterTrainingConfig = TRAINING,
    seed: int = 5,
    until: int | None = None,
    dropout: float = 0.1,
    train: list[Example] | None = None,
) -> tuple[PeftModel, FitResult]:
    peft = adapted(base, dropout)
    forget_precision()
    fitted = fit_adapter(
        peft,
        examples(base, 5) if train is None else train,
        examples(base, 3, 100),
        training,
        seed=seed,
        accelerator=start_accelerator("cpu", 1, training.precision),
        reporter=reporter or Recorder(),
        folder=folder,
        title="adapter",
        pad_id=PAD,
        until=until,
    )
    return peft, fitted


class Trained(NamedTuple):
    """A training that nothing interrupted."""

    peft: PeftModel
    fitted: FitResult
    values: list[tuple[int, dict[str, float]]]
    folder: Path


@pytest.fixture(scope="module")
def whole(base: Base, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    recorder, folder = Recorder(), tmp_path_factory.mktemp("whole")
    return Trained(*trained(base, folder, recorder), recorder.values, folder)


def held(peft: PeftModel) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in get_peft_model_state_dict(peft, save_embedding_layers=False).items()}


def same(one: PeftModel, other: PeftModel) -> bool:
    return all(torch.equal(value, held(other)[name]) for name, value in held(one).items())


def test_each_step_and_epoch_is_reported_and_nothing_else_is_said_or_written(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    recorder = Recorder()
    before = digests(adapted(base))
    capfd.readouterr()
    peft, fitted = trained(base, tmp_path / "state", recorder)
    lines = [line for line in "".join(capfd.readouterr()).splitlines() if line.strip()]
    assert [line.strip().split(",")[0] for line in lines[:2]] == [f"adapter: epoch {epoch}/2" for epoch in (1, 2)]
    assert len(lines) <= 3  # and the bar
    assert [*(tmp_path / "here").iterdir()] == []
    steps = [(step, values) for step, values in recorder.values if "train/loss" in values]
    assert [step for step, _ in steps] == [*range(6)]
    assert all(values.keys() == {"train/loss", "train/grad_norm", "train/lr_adapter"} for _, values in steps)
    rates = [values["train/lr_adapter"] for _, values in steps]
    assert rates[0] == 0 and max(rates) == rates[3] == TRAINING.lr and rates[3:] == sorted(rates[3:], reverse=True)
    epochs = [(step, values) for step, values in recorder.values if "val/loss" in values]
    assert [(step, values["epoch"]) for step, values in epochs] == [(3, 0), (6, 1)]
    history = fitted.history
    assert history["val/loss"].tolist() == [values["val/loss"] for _, values in epochs]
    assert (fitted.epoch, fitted.chosen, fitted.monitor, fitted.direction) == (1, False, "loss", "minimize")
    assert untouched(peft, before) == []
    assert not peft.training
    assert peft.get_base_model().config.get_text_config().use_cache  # type: ignore[union-attr,operator]


@pytest.mark.parametrize("stop_after", [2, 6])
def test_an_interrupted_training_ends_in_the_same_adapter_to_the_bit(
    base: Base, tmp_path: Path, whole: Trained, stop_after: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        trained(base, tmp_path, Recorder(stop_after))
    half = tmp_path / "checkpoint-6"  # what is left of one that was being written
    half.mkdir(exist_ok=True)
    (half / "adapter_model.safetensors").write_bytes(b"")
    resumed = Recorder()
    peft, fitted = trained(base, tmp_path, resumed)
    assert same(peft, whole.peft)
    assert resumed.values == whole.values
    assert fitted.history.equals(whole.fitted.history)


def test_a_kill_between_a_checkpoint_and_the_word_that_it_is_whole_costs_an_epoch(
    base: Base, tmp_path: Path, whole: Trained
) -> None:
    class Keeping(Recorder):
        """Keeps what the first epoch wrote."""

        def flush(self) -> None:
            if not (tmp_path / "kept").exists():
                shutil.copyfile(tmp_path / "state" / "progress.json", tmp_path / "kept")

    trained(base, tmp_path / "state", Keeping())
    (tmp_path / "kept").replace(tmp_path / "state" / "progress.json")
    peft, fitted = trained(base, tmp_path / "state")
    assert same(peft, whole.peft) and fitted.history.equals(whole.fitted.history)


def test_a_finished_training_is_not_trained_again(base: Base, whole: Trained) -> None:
    before = (whole.folder / "progress.json").stat().st_mtime_ns
    recorder = Recorder()
    peft, fitted = trained(base, whole.folder, recorder)
    assert same(peft, whole.peft) and recorder.values == whole.values and fitted.history.equals(whole.fitted.history)
    assert (whole.folder / "progress.json").stat().st_mtime_ns == before


def test_another_seed_gives_another_adapter_and_checkpointing_the_same(base: Base, tmp_path: Path, whole: Trained) -> None:
    assert not same(trained(base, tmp_path / "seed", seed=6)[0], whole.peft)
    checkpointed, _ = trained(base, tmp_path / "kept", training=replace(TRAINING, gradient_checkpointing=True))
    assert same(checkpointed, whole.peft)
    assert not checkpointed.get_base_model().is_activation_checkpointing  # type: ignore[union-attr]


def test_steps_put_together_weigh_each_token_alike(base: Base, tmp_path: Path) -> None:
    """Answers have three or four tokens: a mean of the means of halves would be another."""
    train, once = examples(base, 4), replace(TRAINING, epochs=1, warmup_epochs=0, grad_clip=1e6)
    recorders = Recorder(), Recorder()
    batch = replace(once, batch_size=4)
    steps = replace(once, batch_size=1, accumulate=4)
    one, _ = trained(base, tmp_path / "one", recorders[0], batch, dropout=0.0, train=train)
    other, _ = trained(base, tmp_path / "other", recorders[1], steps, dropout=0.0, train=train)
    first, second = (recorder.values[0][1] for recorder in recorders)
    assert first["train/loss"] == pytest.approx(second["train/loss"], abs=1e-5)
    assert first["train/grad_norm"] == pytest.approx(second["train/grad_norm"], rel=1e-4)
    assert first["train/loss"] == pytest.approx(_by_hand(adapted(base).eval(), train), abs=1e-5)
    assert all(torch.allclose(value, held(other)[name], atol=1e-4) for name, value in held(one).items())


def _by_hand(peft: Any, given: list[Example]) -> float:
    """The mean loss of the tokens of all answers, one example at a time."""
    losses = []
    for example in given:
        with torch.no_grad():
            scores = peft(**example.inputs).logits[0].log_softmax(dim=-1)
        labels = example.labels[0]
        losses += [-float(scores[at - 1, labels[at]]) for at in range(1, len(labels)) if labels[at] != IGNORED]
    return sum(losses) / len(losses)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_validation_does_not_depend_on_how_examples_are_put_together(base: Base, size: int) -> None:
    peft, given = adapted(base).eval(), examples(base, 3)
    forget_precision()
    found = answer_loss(peft, given, PAD, size, start_accelerator("cpu", 1))
    assert found == pytest.approx(_by_hand(peft, given), abs=1e-5)
    assert peft.training is False


def test_a_batch_is_filled_up_and_learns_from_answers_alone(base: Base) -> None:
    long, short = examples(base, 2)
    batch = collate([short, long], PAD)
    length = long.labels.shape[1]
    sequences = {name: value.shape for name, value in batch.items() if name != "pixel_values"}
    assert sequences == dict.fromkeys(("input_ids", "attention_mask", "token_type_ids", "labels"), (2, length))
    assert (batch["labels"] != IGNORED).sum(dim=1).tolist() == [3, 4]
    learned = batch["labels"] != IGNORED
    assert torch.equal(batch["labels"][learned], batch["input_ids"][learned])
    assert (batch["input_ids"][0, -1], batch["attention_mask"][0, -1]) == (PAD, 0)
    assert batch["attention_mask"][1].all() and not batch["token_type_ids"][:, -4:].any()
    assert batch["pixel_values"].shape[0] == 2


def test_it_ends_where_it_is_told_to_and_judges_nothing(base: Base, tmp_path: Path, whole: Trained) -> None:
    recorder = Recorder()
    _, fitted = trained(base, tmp_path, recorder, until=1)
    assert (fitted.epoch, fitted.best_epoch, fitted.chosen) == (0, -1, False)
    mine = [values for _, values in recorder.values if "train/loss" in values]
    assert mine == [values for _, values in whole.values if "train/loss" in values][:3]
    assert not any("val/loss" in values for _, values in recorder.values)


def test_patience_keeps_the_best_epoch_also_when_gone_on_with(base: Base, tmp_path: Path) -> None:
    """At this rate validation soon gets worse."""
    training = replace(TRAINING, epochs=8, warmup_epochs=0, patience=1, lr=3.0)
    peft, fitted = trained(base, tmp_path, training=training)
    losses = fitted.history["val/loss"]
    assert fitted.chosen and fitted.epoch == fitted.best_epoch == losses.idxmin() < len(losses) - 1 < 7
    forget_precision()
    again = answer_loss(peft, examples(base, 3, 100), PAD, 2, start_accelerator("cpu", 1))
    assert again == pytest.approx(fitted.best_value, abs=1e-6)
    assert same(trained(base, tmp_path, training=training)[0], peft)


def test_a_loss_that_is_not_finite_names_the_key(base: Base, tmp_path: Path) -> None:
    one, *others = examples(base, 5)
    broken = Example({**one.inputs, "pixel_values": one.inputs["pixel_values"] * torch.inf}, one.labels)
    with pytest.raises(TrainingDiverged, match="loss, grad_norm is not finite in epoch 1; lower training.lr"):
        trained(base, tmp_path, train=[broken, *others])


def test_in_bf16_the_adapter_stays_float32_and_is_scored_in_what_the_scorer_asks_for(
    base: Base, tmp_path: Path, whole: Trained
) -> None:
    recorder = Recorder()
    peft, _ = trained(base, tmp_path, recorder, replace(TRAINING, precision="bf16-mixed"))
    assert {value.dtype for value in held(peft).values()} == {torch.float32}
    assert recorder.values != whole.values
    losses = [[values["train/loss"] for _, values in one if "train/loss" in values] for one in (recorder.values, whole.values)]
    assert losses[0] == pytest.approx(losses[1], abs=0.05)
    with torch.no_grad():
        given = examples(base, 1)[0].inputs
        half = PeftModel.forward(peft, **given).logits
        assert torch.equal(peft(**given).logits, half)
    forget_precision()


def test_memory_grows_with_the_prompt_and_less_so_where_layers_are_computed_again(base: Base) -> None:
    peft = adapted(base).eval()
    short, long = examples(base, 1)[0], example_of(examples(base, 1)[0].inputs, torch.full((200,), 9))
    small, large = (memory_of(peft, example, TRAINING, PAD) for example in (short, long))
    again = memory_of(peft, long, replace(TRAINING, gradient_checkpointing=True), PAD)
    trainable = sum(value.numel() for value in held(peft).values())
    assert small.weights == 4 * sum(value.numel() for value in {*peft.parameters()}) + _buffers(peft)
    assert small.states == large.states == 3 * 4 * trainable
    assert 5 * small.per_scenario < large.per_scenario and again.per_scenario < 0.9 * large.per_scenario
    assert all(value.grad is None for value in peft.parameters()) and peft.training is False


def _buffers(peft: PeftModel) -> int:
    return sum(value.numel() * value.element_size() for value in {*peft.buffers()})


@pytest.mark.parametrize(("available", "size", "told"), [(100, 6, "training.batch_size=6 fits"), (40, 0, "not one scenario")])
def test_the_largest_batch_is_what_is_left_by_what_one_scenario_takes(available: int, size: int, told: str) -> None:
    memory = Memory(weights=20, states=5, step=10, per_scenario=10, available=available)
    assert memory.batch_size == size
    assert told in str(memory)


def test_where_memory_is_out_the_batch_that_fits_is_told(base: Base, tmp_path: Path) -> None:
    one, *others = examples(base, 5)
    large = Example({**one.inputs, "pixel_values": one.inputs["pixel_values"].expand(10**9, -1, -1, -1)}, one.labels)
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator") as error:
        trained(base, tmp_path, train=[*others, large])
    named = re.search(r"training.batch_size=(\d+)", error.value.__notes__[0])
    assert named and int(named[1]) < 2, "no batch as large as the one that did not fit"
