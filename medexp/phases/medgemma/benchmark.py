"""All scenarios through all models, among them the adapter as it is registered: who is right about what.

MODELS is the table of them: another one is another line, a function from scenarios to probabilities.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from peft import PeftModel

from medexp import registry
from medexp.arrays import Array
from medexp.data.scenarios.cases import Scenario
from medexp.data.scenarios.steps import Ask
from medexp.errors import DataError, RegistryError
from medexp.evaluation.classification import Predictions, accuracy, gain
from medexp.evaluation.intervals import Interval
from medexp.evaluation.proportions import mcnemar
from medexp.evaluation.rules import keyword_rule
from medexp.models.kinds import Architecture
from medexp.phases.medgemma import checks
from medexp.phases.medgemma.arms import ADAPTER, BASE, JUDGED, UNADAPTED, Arm
from medexp.phases.medgemma.asking import Asking, answers
from medexp.phases.medgemma.comparison import Answered, answered
from medexp.phases.medgemma.config import MedgemmaConfig
from medexp.phases.medgemma.reading import asking_of, read_data
from medexp.phases.medgemma.report import as_given, log_answered, rows_of
from medexp.phases.shared.context import Context
from medexp.phases.shared.packaging import parent_of
from medexp.phases.shared.publishing import Summary
from medexp.registry.contracts import preprocessing_of
from medexp.registry.leaks import learned_cases
from medexp.registry.loading import load_verified
from medexp.registry.packages import PROCESSOR, network_of, read_json
from medexp.registry.store import Pulled


@dataclass(frozen=True)
class Bench:
    """What models may go by.

    Attributes:
        ctx: Device, batch size and progress.
        asking: What makes prompts, as the adapter's contract says.
        net: The adapter on its base.
        scenarios: All of them.
        labels: Their answers (N,), 0 and 1; of these the majority class goes by their shares alone.
    """

    ctx: Context[MedgemmaConfig]
    asking: Asking
    net: PeftModel
    scenarios: Sequence[Scenario]
    labels: Array

    def ask(self, arm: Arm) -> pd.DataFrame:
        """What a language model says of all scenarios."""
        return answers(self.ctx, self.asking, self.net, self.scenarios, [arm])


def majority(bench: Bench) -> Array:
    """The most frequent answer, whatever is asked."""
    share = float(np.mean(bench.labels))
    return np.tile([1 - share, share], (len(bench.scenarios), 1))


def keywords(bench: Bench) -> Array:
    """The keyword rule of the described project, which sees no image."""
    return np.eye(2)[[keyword_rule(f"{one.instruction}\n{one.input}") for one in bench.scenarios]]


def base(bench: Bench) -> Array:
    """The base without the adapter."""
    return bench.ask(UNADAPTED)[[0, 1]].to_numpy(np.float64)


def base_and_adapter(bench: Bench) -> Array:
    """The base with the adapter."""
    return bench.ask(JUDGED)[[0, 1]].to_numpy(np.float64)


MODELS: Mapping[str, tuple[str, Callable[[Bench], Array]]] = {
    ADAPTER: ("the base with the adapter", base_and_adapter),
    BASE: ("the base without the adapter", base),
    "rule": ("the keyword rule", keywords),
    "majority": ("the majority class", majority),
}
"""By name: what it is in words, and what gives probabilities (N, 2) of ERROR and CORRECT."""


def benchmark(ctx: Context[MedgemmaConfig]) -> None:
    """All of it. What the adapter was trained on is told apart: only what it has not seen says what it is worth.

    Raises:
        RegistryError: `adapter` is none of a vision-language model, or its base is not here.
        DataError: Scenarios cannot be used.
    """
    config = ctx.config
    pulled, net, asking = registered(config, ctx)
    ctx.built_on({"adapter": parent_of(pulled)})
    data = read_data(ctx, pooled=True)
    ctx.given(data, {}, "")
    rows = data.manifest
    scenarios = [data.cases[case] for case in rows["case"]]
    bench = Bench(ctx, asking, net, scenarios, rows["label"].to_numpy())
    truth = rows["label"].to_numpy()
    models = {name: (called, Predictions(truth, say(bench))) for name, (called, say) in MODELS.items()}
    judged = pd.concat([data.judged(split) for split in ("train", "val", "test")])
    seen = rows["case"].isin(learned_cases([pulled], judged)).to_numpy()
    if seen.all():
        raise DataError(f"{data.source}: {pulled.name} version {pulled.version} was trained on all {len(rows)} of them")
    found = _part(rows, models, ~seen, ctx)
    log_answered(ctx, found, data, f"{len(found.rows)} scenarios that the adapter was not trained on")
    told: list[Any] = [pd.DataFrame({"case": rows["case"], "modality": rows["modality"], "label": truth, "seen": seen})]
    told += [pd.Series(one.probabilities[:, 1], name=f"probability_{name}") for name, (_, one) in models.items()]
    ctx.run.reporter.table(pd.concat(told, axis=1), "answers.csv")
    owners, one, other = list(found.rows["patient"]), found.predictions[ADAPTER], found.predictions[BASE]
    over_base = gain(accuracy, one, other, owners, ctx.resampling)
    chance = mcnemar(one.predicted == one.truth, other.predicted == other.truth)
    ctx.check(checks.better_than_base(over_base, chance, len(owners)))
    for name, by in found.shares.items():
        ctx.intervals(f"benchmark/{name}/", by["all"])
    head, table = rows_of(found)
    beside = rows_of(_part(rows, models, seen, ctx)) if seen.any() else None
    ctx.finish(
        Summary(
            headline=f"benchmark of {pulled.name} version {pulled.version}, on {data.source}",
            compared_by=("benchmark/adapter/accuracy", "accuracy"),
            title=f"{pulled.name} version {pulled.version}: {len(owners)} scenarios that it was not trained on, of "
            f"{len(set(owners))} families",
            head=head,
            rows=table,
            words=[
                f"The adapter's accuracy minus that of the base: {over_base.as_gain} (exact McNemar test: p = {chance:.2g}).",
                "figures/heat_maps.png shows who is right about what, wrong.csv and figures/wrong/ what each got wrong.",
            ],
            beside=(f"{int(seen.sum())} scenarios that it was trained on, which say nothing of it", *beside)
            if beside
            else None,
            following=_following(ctx, pulled, over_base),
        )
    )


def registered(config: MedgemmaConfig, ctx: Context[MedgemmaConfig]) -> tuple[Pulled, PeftModel, Asking]:
    """The registered adapter on its base, and what makes prompts as its contract says.

    Raises:
        RegistryError: It is none of a vision-language model, or its base is not here.
    """
    pulled = registry.pull(config.adapter)
    contract = read_json(pulled.folder, "contract.json")
    architecture: Architecture = network_of(contract)
    steps = preprocessing_of(pulled.folder, config.adapter)
    net = load_verified(pulled.folder, config.model)
    if steps.find(Ask) is None or not isinstance(net, PeftModel):
        raise RegistryError(f"adapter={config.adapter}: is no adapter of a vision-language model; give one of medgemma")
    asked = replace(config, data=replace(config.data, question=steps.get(Ask).question))
    net = net if getattr(net.get_base_model(), "is_quantized", False) else net.to(ctx.device)
    return pulled, net, asking_of(pulled.folder / PROCESSOR, architecture["config"], asked, ctx.cache)


def _following(ctx: Context[MedgemmaConfig], pulled: Pulled, over_base: Interval) -> list[str]:
    """One that is better than its base is used; in the place of another one the next is trained, on the same scenarios."""
    if over_base.above:
        return [
            f"Next, use it:     mlflow run . -e predict -P model=models:/{pulled.name}/{pulled.version} -P input=NEW.jsonl"
        ]
    given = as_given(replace(ctx.config, folds=0))
    return [f"Next, train more: mlflow run . -e medgemma -P lora.rank={2 * ctx.config.lora.rank}{given}"]


def _part(
    rows: pd.DataFrame, models: Mapping[str, tuple[str, Predictions]], among: NDArray[np.bool_], ctx: Context[MedgemmaConfig]
) -> Answered:
    """What models said of some of the scenarios."""
    part = {name: (called, said.of(among)) for name, (called, said) in models.items()}
    return answered(rows[among].reset_index(drop=True), part, replace(ctx.resampling, folds=0))
