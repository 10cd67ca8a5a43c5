"""Configuration of medgemma: the keys of docs/requirements/medgemma.md, and what an honest score needs beside them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Predicate

from medexp.config.bounds import Count, Natural, Share, Told
from medexp.config.keys import Called, Role, Subject
from medexp.config.networks import DecoderLoraConfig
from medexp.config.shared import (
    CacheDir,
    Confidence,
    Device,
    Folds,
    ImageDir,
    Jobs,
    Modalities,
    OutputDir,
    Profile,
    Resume,
    Samples,
    Scenarios,
    Seed,
    Threads,
    listed,
)
from medexp.config.training import AdapterTrainingConfig

Question = Annotated[
    str,
    Predicate(lambda text: "{first}" in text and "{second}" in text),
    Told("name both answers, as {first} and {second}", repr),
]


@dataclass(frozen=True)
class ScenarioDataConfig:
    """How scenarios are read and asked.

    Args:
        question: What ends a prompt, after the image, the instruction and the input; {first} and {second} stand for the two
            answers, CORRECT and ERROR, of which {first} is CORRECT unless the order is what is looked at.
        either_order: Whether half of the training prompts, by their ids, name ERROR first.
        jobs: Images read in parallel.
    """

    question: Question
    either_order: bool
    jobs: Jobs


@dataclass(frozen=True)
class ScoringConfig:
    """How answers are scored.

    Args:
        batch_size: Prompts at a time.
        paraphrases: Instructions that are put in place of each scenario's own, to see what the wording changes.
        max_new_tokens: Tokens of a reply that is generated; 0 generates none.
        shown: Wrong answers that a picture shows.
    """

    batch_size: Annotated[Count, Role.WHERE]
    paraphrases: Annotated[tuple[str, ...], Role.JUDGING]
    max_new_tokens: Annotated[Natural, Role.JUDGING]
    shown: Annotated[Natural, Role.JUDGING]


@dataclass(frozen=True)
class TargetConfig:
    """What is to be reached. A share is reached when the lower end of its interval is there.

    Args:
        accuracy: Share of the answers that are right.
        true_positive: Share of the appropriate treatments that are called CORRECT.
        true_negative: Share of the inappropriate ones that are called ERROR.
        modalities: Largest difference in accuracy between two modalities.
    """

    accuracy: Annotated[Share, Role.JUDGING]
    true_positive: Annotated[Share, Role.JUDGING]
    true_negative: Annotated[Share, Role.JUDGING]
    modalities: Annotated[Share, Role.JUDGING]


@dataclass(frozen=True)
class ScenarioPhantomConfig:
    """The embedded scenarios, used when none are given: 24 as the requirement has them, and generated ones of their kind.

    Args:
        training: Generated scenarios that are learned from.
        testing: Generated scenarios that are judged.
        seed: Seed of the generated ones, apart from the training's.
    """

    training: Annotated[int, Ge(16), Told("at least 16")]
    testing: Annotated[int, Ge(16), Told("at least 16")]
    seed: Natural


@dataclass(frozen=True)
class MedgemmaConfig:
    """LoRA on the decoder of a vision-language model, scored on clinical scenarios (docs/requirements/medgemma.md).

    Args:
        mode: train, or benchmark: all scenarios through all models, among them `adapter` as it is registered.
        dry_run: Read all of it, run one batch, tell what memory a training takes, and train nothing.
        model: The base: a folder as transformers writes it, or a name such as google/medgemma-4b-it; without it the embedded
            tiny Gemma 3 (demo only).
        revision: Commit of a base that is given by name; without it the newest that is there.
        quantize: Weights of the base in 8 or 4 bits, by bitsandbytes: less memory.
        adapter: What mode=benchmark puts beside the base.
        modalities: The modalities that a scenario may be of.
        judged: The split that the figures are of: val, or test where there is one.
        seed: Seed of the adapter's initial weights, of the order of scenarios and of their split.
        data: How scenarios are read and asked.
        lora: The adapter.
        training: Its training.
        scoring: How answers are scored.
        target: What is to be reached.
    """

    profile: Profile
    mode: Annotated[Literal["train", "benchmark"], Role.WHERE]
    dry_run: Annotated[bool, Role.WHERE]
    resume: Resume
    output_dir: OutputDir
    cache_dir: CacheDir
    seed: Seed
    device: Device
    threads: Threads
    bootstrap_samples: Samples
    confidence: Confidence
    folds: Folds
    judged: Annotated[Literal["test", "val"], Role.JUDGING]
    model: Annotated[str | None, Called(""), Subject()]
    revision: Annotated[str | None, Subject()]
    quantize: Literal["none", "8bit", "4bit"]
    adapter: Annotated[str, Role.WHERE]
    scenarios: Scenarios
    image_dir: ImageDir
    modalities: Modalities
    data: ScenarioDataConfig
    lora: Annotated[DecoderLoraConfig, Role.MENDS]
    training: Annotated[AdapterTrainingConfig, Role.MENDS]
    scoring: ScoringConfig
    target: TargetConfig
    phantoms: Annotated[ScenarioPhantomConfig, Role.CASES]

    @property
    def files(self) -> list[str]:
        """The files of scenarios, one by one."""
        return listed(self.scenarios)

    @property
    def memory(self) -> str:
        """What takes a training's memory, and which keys make it less."""
        size, quantized = self.training.batch_size, "" if self.quantize != "none" else "set quantize=8bit, or "
        lower = "lower training.batch_size and raise training.accumulate by as much" if size > 1 else ""
        kept = "" if self.training.gradient_checkpointing else "set training.gradient_checkpointing=true"
        ways = ", or ".join(filter(None, [lower, kept])) or "give a smaller model"
        return f"batches of {size} scenarios: {quantized}{ways}"

    def problems(self) -> Iterator[str]:
        if self.profile == "full" and not self.files:
            yield "scenarios: profile=full needs real data; give scenarios=FILE.jsonl and image_dir=FOLDER"
        if self.profile == "full" and self.model is None:
            yield "model: profile=full needs a model; give model=FOLDER or model=google/medgemma-4b-it"
        if self.mode == "benchmark" and self.dry_run:
            yield "dry_run: is of mode=train; a benchmark trains nothing"
        if self.judged == "test" and self.folds:
            yield "judged: found test with folds, which judge training and validation together; folds=0"
