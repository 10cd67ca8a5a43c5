"""Scenarios as a model is asked them and learns from them, and what it answers."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from peft import PeftModel
from safetensors.torch import load_file, save_file
from scipy.special import softmax

from medexp.data.scenarios.cases import ANSWERS, Scenario
from medexp.data.scenarios.prompts import Processor, Prompt, answer_ids, completion_ids, is_text, prompt_of
from medexp.data.scenarios.steps import Ask
from medexp.errors import DataError, all_problems
from medexp.evaluation.answers import generate, parse, score_answers
from medexp.files import replacing
from medexp.phases.medgemma.arms import JUDGED, Arm, strangers
from medexp.phases.medgemma.config import MedgemmaConfig
from medexp.phases.shared.context import Context
from medexp.terminal import followed
from medexp.training.adapters import Example, example_of

_SAID: dict[str | None, int] = {answer: label for label, answer in enumerate(ANSWERS)} | {None: -1}
_TOGETHER = 4  # batches whose prompts are in memory at once


@dataclass(frozen=True)
class Asking:
    """What makes prompts of scenarios.

    Attributes:
        processor: Of the base.
        context: Tokens that the base takes at most.
        config: How it is asked.
        cache: Root of what is computed once.
    """

    processor: Processor
    context: int
    config: MedgemmaConfig
    cache: Path

    @property
    def pad_id(self) -> int:
        """The token that shorter texts are filled up with."""
        tokenizer = self.processor.tokenizer
        found = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        return int(found)

    def ask(self, arm: Arm) -> Ask:
        """What an arm asks of every scenario."""
        return Ask(self.config.data.question, arm.first)

    def prompt(self, scenario: Scenario, arm: Arm = JUDGED, other: Path | None = None) -> Prompt:
        """A scenario as an arm asks it; `other` is the image of another one."""
        image: Path | Literal["own", "none"] = "none" if arm.image == "none" else "own"
        if arm.image == "other":
            assert other is not None
            image = other
        return prompt_of(
            self.processor, scenario, self.ask(arm), context=self.context, instruction=arm.instruction, image=image
        )

    def demand_fit(self, scenarios: Sequence[Scenario], every: Sequence[Arm]) -> None:
        """That each scenario can be asked in the longest of all ways, and one in all: before hours of training, not
        behind them.

        Raises:
            DataError: A prompt is longer than the context, or its text holds a control token; all problems at once.
        """
        wordings = [arm for arm in every if arm.image == "own"]

        def longest(scenario: Scenario) -> Arm:
            return max(wordings, key=lambda arm: len(scenario.instruction if arm.instruction is None else arm.instruction))

        problems = {}
        for scenario, arm in [*((one, longest(one)) for one in scenarios), *((scenarios[0], arm) for arm in wordings)]:
            try:
                self.prompt(scenario, arm)
            except DataError as error:
                problems[f"{error}" if arm.instruction is None else f"{error} ({arm.called})"] = True
        if problems:
            raise DataError(all_problems("scenarios", [*problems]))

    def examples(self, scenarios: Sequence[Scenario], digests: Mapping[str, str]) -> "Examples":
        """Scenarios to learn from: prompt and image are processed here, once, whatever the number of epochs.

        Args:
            scenarios: All have an answer.
            digests: sha256 of their images' pixels, by id.
        """
        return Examples([self._text(scenario, digests[scenario.id]) for scenario in scenarios])

    def _text(self, scenario: Scenario, digest: str) -> tuple[Example, Path]:
        """Ids and labels of an example, and the file of all else, which is on disk: images may be many, and large."""
        swapped = self.config.data.either_order and hashlib.sha256(scenario.id.encode()).digest()[0] % 2
        prompt = self.prompt(scenario, Arm("", "", first="ERROR") if swapped else JUDGED)
        assert scenario.output is not None
        whole = example_of(prompt.inputs, completion_ids(self.processor, scenario.output))
        text = {name: value for name, value in whole.inputs.items() if is_text(name, prompt)}
        made_by = json.dumps([self.processor.image_processor.to_dict(), digest], sort_keys=True, default=str)
        file = self.cache / "pixels" / f"{hashlib.sha256(made_by.encode()).hexdigest()}.safetensors"
        if not file.is_file():
            pixels = {name: value.contiguous() for name, value in whole.inputs.items() if name not in text}
            with replacing(file) as temporary:
                save_file(pixels, temporary)
        return Example(text, whole.labels), file


@dataclass(frozen=True)
class Examples(Sequence[Example]):
    """Examples whose images are read when they are asked for."""

    texts: Sequence[tuple[Example, Path]]

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Examples(self.texts[index])
        text, file = self.texts[index]
        return Example({**text.inputs, **load_file(file)}, text.labels)

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))


def answers(
    ctx: Context[MedgemmaConfig], asking: Asking, net: PeftModel, scenarios: Sequence[Scenario], every: Sequence[Arm]
) -> pd.DataFrame:
    """What a model answers, however it is asked: a row a scenario and arm.

    Columns: case, arm, 0 and 1 (probabilities of ERROR and CORRECT, the two alone), log_error and log_correct (summed
    log-probabilities of the whole answers), images (in the prompt), reply (what it says by itself; None where it was not
    asked to) and said (0 or 1 where the reply gives one answer; -1: both or neither; None without a reply).
    """
    scoring = ctx.config.scoring
    others = strangers(scenarios, ctx.config.seed) if any(arm.image == "other" for arm in every) else {}
    step, rows = scoring.batch_size * _TOGETHER, []
    parts = [(arm, start) for arm in every for start in range(0, len(scenarios), step)]
    for arm, start in followed(parts, len(parts), "asking", shown=ctx.accelerator.is_main_process):
        some = scenarios[start : start + step]
        prompts = [asking.prompt(one, arm, others.get(one.id)) for one in some]
        with nullcontext() if arm.adapted else net.disable_adapter():
            logs = score_answers(
                net,
                prompts,
                answer_ids(asking.processor),
                pad_id=asking.pad_id,
                batch_size=scoring.batch_size,
                device=ctx.device,
            )
            replies: list[str | None] = [None] * len(some)
            if arm.replies and scoring.max_new_tokens:
                replies[:] = generate(
                    net,
                    prompts,
                    asking.processor,
                    max_new_tokens=scoring.max_new_tokens,
                    batch_size=scoring.batch_size,
                    device=ctx.device,
                )
        for prompt, log, reply in zip(prompts, logs, replies, strict=True):
            shares, said = softmax(log), None if reply is None else _SAID[parse(reply)]
            row: dict[Any, Any] = {"case": prompt.case, "arm": arm.name, 0: shares[0], 1: shares[1]}
            row |= {"log_error": log[0], "log_correct": log[1], "images": prompt.images}
            rows.append(row | {"reply": reply, "said": said})
    return pd.DataFrame(rows)
