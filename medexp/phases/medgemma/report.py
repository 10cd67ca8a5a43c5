"""What medgemma leaves behind: tables and pictures of who said what, a registered adapter, and the last lines."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from medexp.config.flags import flag
from medexp.data.manifest import seen_cases
from medexp.data.pictures import read_rgb
from medexp.data.preprocessing import Preprocessing
from medexp.data.scenarios.cases import ANSWERS
from medexp.data.scenarios.prepared import PreparedScenarios
from medexp.files import replacing
from medexp.models.checkpoints import weights_digest
from medexp.models.vision_language.adapters import save_adapter
from medexp.models.vision_language.bases import Base, load_base
from medexp.phases.medgemma import PHASE
from medexp.phases.medgemma.adapter import Trained, dtype_of
from medexp.phases.medgemma.arms import ADAPTER, BASE, BLIND, JUDGED, OTHER, PARAPHRASE, SWAPPED
from medexp.phases.medgemma.asking import Asking
from medexp.phases.medgemma.comparison import OVERALL, SHARES, Answered, Compared
from medexp.phases.medgemma.config import MedgemmaConfig
from medexp.phases.shared.classification import calibration_of, log_judged, per_case
from medexp.phases.shared.context import Context
from medexp.phases.shared.folds import Evidence
from medexp.phases.shared.packaging import contract, made_with, packaged
from medexp.phases.shared.publishing import Summary, selection
from medexp.registry import store
from medexp.registry.package import Learned, Package, Parent
from medexp.registry.packages import ADAPTER as ADAPTER_FILES
from medexp.registry.packages import ADAPTER_KIND, PROCESSOR, TRAINING
from medexp.tracking.figures import curves, gallery, heat_maps

MODEL, BASE_MODEL = "medgemma_lora_adapter", "medgemma_base"
"""Names of the models that are registered; the second is the embedded base."""

ENOUGH = 100
"""Scenarios from which on a share is told without a word on their number: 90 of 100 right has an interval of 82 to 95 %."""

_LONGEST = 130  # characters of a scenario's text below its picture
_PANELS = {"true_positive": "true positives: CORRECT said CORRECT", "true_negative": "true negatives: ERROR said ERROR"}


def log_answered(ctx: Context[MedgemmaConfig], found: Answered, data: PreparedScenarios, on: str) -> None:
    """`models.csv`, `wrong.csv` and the heat maps of who is right about what; each model's worst wrong answers as a picture.

    Args:
        ctx: Where it is logged.
        found: What models said.
        data: The scenarios.
        on: Which these are, in words.
    """
    reporter, table, names = ctx.run.reporter, found.table, list(found.called)
    reporter.table(table, "models.csv")
    panels, texts = {}, {}
    for metric, title in _PANELS.items():
        rows = table[table["metric"] == metric]
        grid = rows.pivot_table(index="model", columns="modality", values="estimate", aggfunc="first", dropna=False)
        order = [*sorted(set(grid.columns) - {OVERALL}), OVERALL]
        counted = rows.assign(
            text=[
                f"{one['estimate']:.0%}\n{one['right']}/{one['of']}" if one["of"] else "-" for one in rows.to_dict("records")
            ]
        )
        called = [found.called[name] for name in names]
        panels[title] = grid.loc[names, order].set_axis(called, axis=0)
        texts[title] = counted.pivot_table(index="model", columns="modality", values="text", aggfunc="first").loc[names, order]
    reporter.figure(heat_maps(panels, texts, f"Right answers by model and modality, {on}"), "figures/heat_maps.png")
    wrong = _wrong(found, data)
    reporter.table(wrong, "wrong.csv")
    for name, rows in wrong.groupby("model", sort=False):
        worst = rows.sort_values("probability", ascending=False).head(ctx.config.scoring.shown)
        images = [np.asarray(read_rgb(data.cases[case].image)) for case in worst["case"]]
        captions = [
            f"{row['case']}\n{_end_of(row['input'])}\nis {row['truth']}, said {row['said']}: {row['probability']:.2f}"
            for row in worst.to_dict("records")
        ]
        title = f"{found.called[str(name)]}: {len(rows)} of {len(found.rows)} wrong, the most certain first"
        reporter.figure(gallery(images, captions, title, of=len(rows)), f"figures/wrong/{name}.png")


def _end_of(text: str) -> str:
    """The end of a text, where what is proposed stands, for a caption."""
    return text if len(text) <= _LONGEST else f"… {text[-_LONGEST:].partition(' ')[2]}"


def _wrong(found: Answered, data: PreparedScenarios) -> pd.DataFrame:
    """One row a model and scenario that it got wrong: model, case, modality, truth, said, probability (of what it said), and
    what it was asked and should have said."""
    rows = []
    for name, said in found.predictions.items():
        for place in np.flatnonzero(said.predicted != said.truth):
            scenario = data.cases[found.rows["case"][place]]
            answer: dict[str, Any] = {"truth": ANSWERS[said.truth[place]], "said": ANSWERS[said.predicted[place]]}
            answer |= {"probability": round(float(said.probabilities[place].max()), 4)}
            text = {"input": scenario.input, "output": scenario.output, "image": scenario.image.name}
            rows.append({"model": name, "case": scenario.id, "modality": scenario.modality, **answer, **text})
    columns = ["model", "case", "modality", "truth", "said", "probability", "input", "output", "image"]
    return pd.DataFrame(rows, columns=columns)


def publish(
    ctx: Context[MedgemmaConfig],
    base: Base,
    asking: Asking,
    data: PreparedScenarios,
    done: Trained,
    compared: Compared,
    evidence: Evidence,
) -> None:
    """Register the adapter, and the embedded base where this store does not have it yet."""
    config, folder = ctx.config, ctx.run.folder
    if config.model is None:  # it is registered, and where it lies on this machine says nothing
        base = replace(base, source=BASE_MODEL)
    save_adapter(done.net, base, folder / "adapter")
    asking.processor.save_pretrained(folder / "processor")
    made: dict[str, Any] = {
        "base": base.source,
        "revision": base.revision,
        "base_sha256": base.digest,
        "quantize": config.quantize,
        "dtype": dtype_of(config),
    }
    made |= {"run": ctx.run.id, "scenarios": len(data.ids("train")), "epochs": done.fitted.epoch + 1}
    made |= {name: asdict(getattr(config, name)) for name in ("lora", "training", "data")}
    made |= {"loss": [float(value) for value in done.fitted.history["train/loss"]]}
    with replacing(folder / TRAINING) as temporary:
        temporary.write_text(json.dumps(made, indent=2) + "\n")
    for path in (folder / "adapter", folder / "processor", folder / TRAINING):
        ctx.run.reporter.file(path)
    judged = compared.judged
    logits = "logits (B, T, vocabulary); by them the summed log-probability of each whole answer, ERROR and CORRECT"
    steps = Preprocessing("scenarios", (asking.ask(JUDGED),))
    unknown = {"logits": {"what": "answers", "classes": list(ANSWERS), "calibration": "not measured"}}
    parent = _parent(ctx, base, contract(BASE_MODEL, logits, steps, unknown), folder / "processor")
    ctx.publish(
        packaged(
            ctx,
            MODEL,
            data,
            split=config.judged,
            output=logits,
            preprocessing=steps,
            outputs={"logits": {**unknown["logits"], "calibration": calibration_of(judged)}},
            facts=_facts(config, data, compared, evidence),
            architecture={"kind": ADAPTER_KIND, "base": base.architecture},
            weights={},
            parents={"base": parent},
            per_case=per_case(judged.rows, ANSWERS, judged.predictions),
            figures=_figures(compared, judged.on),
            extra={ADAPTER_FILES: folder / "adapter", PROCESSOR: folder / "processor", TRAINING: folder / TRAINING},
        )
    )


def _parent(ctx: Context[MedgemmaConfig], base: Base, said: Mapping[str, Any], processor: Path) -> Parent:
    """The base as the adapter names it: the embedded one is registered, with what goes in and comes out; another one is known
    by its files."""
    if ctx.config.model is not None:
        return Parent(base.source, None, None, base.digest)
    net = load_base(base, quantize="none", dtype=torch.float32, device=torch.device("cpu"))
    weights = net.state_dict()  # by the names that the network has: files of transformers have others
    if found := store.find_by_weights(BASE_MODEL, weights_digest(weights)):
        return Parent(**asdict(found))
    package = Package(
        name=BASE_MODEL,
        architecture=base.architecture,
        contract=said,
        weights=weights,
        cases=seen_cases(pd.DataFrame({"split": [], "patient": [], "case": []}), ()),  # drawings, which are in no scenario
        learned=Learned("drawn images with captions", phantoms=True),
        facts=made_with(ctx),
        extra={PROCESSOR: processor},
    )
    return ctx.publish(package, judged=False)


def _facts(config: MedgemmaConfig, data: PreparedScenarios, compared: Compared, evidence: Evidence) -> dict[str, str | None]:
    """What the card says of scenarios and training, by item of CLAIM."""
    training, families = config.training, data.manifest["patient"].nunique()
    limits = [*compared.beside.first, *_few_words(compared)]
    return {
        "Reference standard": f"the outputs of {data.source}",
        "Assignment to partitions": f"{len(data.cases)} scenarios of {families} families, none of which is in two splits, but "
        "where files named train, val and test put it there",
        "Training": f"{training.epochs} epochs, {training.optimizer}, rate {training.lr:g}, batches of "
        f"{training.batch_size * training.accumulate}, the loss of the whole outputs; LoRA rank {config.lora.rank}, alpha "
        f"{config.lora.alpha:g}, on {', '.join(config.lora.targets)} of the decoder; all settings: config.yaml of the run",
        "Selection of the final model": evidence.selection(selection(training, "the lowest validation loss")),
        "Limitations": " ".join(limits) or None,
    }


def _figures(compared: Compared, on: str) -> dict[str, str]:
    """For the card: the adapter's shares, in all and by modality, and what stands beside them."""
    shares = compared.answered.shares
    told = {f"{on} {SHARES[name]}, {where}": str(one) for where, by in shares[ADAPTER].items() for name, one in by.items()}
    told |= {
        f"{on} accuracy of {called}": str(shares[name][OVERALL]["accuracy"])
        for name, called in compared.answered.called.items()
    }
    return told | compared.beside.figures


def finish(
    ctx: Context[MedgemmaConfig],
    data: PreparedScenarios,
    told: pd.DataFrame,
    done: Trained,
    compared: Compared,
    evidence: Evidence,
) -> None:
    """Log all of it, and the last lines."""
    reporter, config = ctx.run.reporter, ctx.config
    judged, answered = compared.judged, compared.answered
    log_judged(ctx, judged, lambda case: np.asarray(read_rgb(data.cases[case].image)), shown=0)  # figures/wrong shows them
    log_answered(ctx, answered, data, judged.on)
    reporter.table(told.rename(columns={0: "probability_error", 1: "probability_correct"}), "answers.csv")
    reporter.table(compared.wording, "wording.csv")
    reporter.table(compared.replies, "replies.csv")
    reporter.table(done.fitted.history, "training_log.csv")
    reporter.figure(curves(done.fitted.history), "figures/curves.png")
    for name, by in answered.shares.items():
        prefix = "val/final/" if name == ADAPTER else f"{name}/"
        known = name == ADAPTER or name in compared.beside.controls  # whose accuracy is logged among the scores and controls
        ctx.intervals(prefix, {key: one for key, one in by[OVERALL].items() if not (known and key == "accuracy")})
    few = compared.few
    if few is not None:
        ctx.intervals("test/", few.shares[ADAPTER][OVERALL])
    head, rows = rows_of(answered)
    if few is not None:
        head.append(f"test: accuracy ({len(few.rows)})")
        for row, name in zip(rows, answered.called, strict=True):
            row.append(few.shares[name][OVERALL]["accuracy"].in_a_cell(2) if name in few.shares else "-")
    by_modality = [
        [where, *(one.in_a_cell(2) for one in by.values())]
        for where, by in answered.shares[ADAPTER].items()
        if where != OVERALL
    ]
    made = f"models:/{MODEL}/{ctx.published[-1].version}" if ctx.published else config.adapter
    ctx.finish(
        Summary(
            headline=f"medgemma, profile {config.profile}, rank {config.lora.rank}, on {data.source}",
            compared_by=("val/final/accuracy", "accuracy"),
            title=f"{judged.on}: {len(answered.rows)} scenarios of {answered.rows['patient'].nunique()} families",
            head=head,
            rows=rows,
            words=[
                *words_of(compared),
                *compared.beside.words,
                *_few_words(compared),
                evidence.caveat("accuracy", done.fitted, ctx.resampling, test=few is not None or config.judged == "test"),
            ],
            first=compared.beside.first,
            narrow=_narrow(answered, few),
            beside=("the adapter by modality", ["", *SHARES.values()], by_modality),
            following=[f"Next, benchmark:  mlflow run . -e medgemma -P mode=benchmark -P adapter={made}{as_given(config)}"],
        )
    )


def rows_of(found: Answered) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of a closing table: a model each, and its shares in all."""
    head = ["", *(f"{called} ({count})" for called, count in _counted(found).items())]
    every = found.shares.items()
    return head, [[found.called[name], *(one.in_a_cell(2) for one in by[OVERALL].values())] for name, by in every]


def _counted(found: Answered) -> dict[str, int]:
    """What is told of each model, in words, and of how many scenarios."""
    truth = found.rows["label"]
    counts = {"accuracy": len(truth), "true_positive": int((truth == 1).sum()), "true_negative": int((truth == 0).sum())}
    return {called: counts[name] for name, called in SHARES.items()}


def _narrow(found: Answered, few: Answered | None) -> tuple[list[str], list[list[str]]]:
    """The closing table for a terminal: an interval of the accuracy alone."""
    head = ["", f"accuracy ({len(found.rows)})", *(called for name, called in SHARES.items() if name != "accuracy")]
    rows = []
    for name, by in found.shares.items():
        shares = by[OVERALL]
        rest = [one.in_a_cell(2, bounds=False) for metric, one in shares.items() if metric != "accuracy"]
        rows.append([found.called[name], shares["accuracy"].in_a_cell(2), *rest])
        if few is not None:
            told = few.shares[name][OVERALL]["accuracy"].in_a_cell(2) if name in few.shares else "-"
            rows[-1].append(told)
    return head + ([f"test ({len(few.rows)})"] if few is not None else []), rows


def words_of(compared: Compared) -> list[str]:
    """What the figures say, plainly."""
    gains, wording, replies = compared.gains, compared.wording, compared.replies
    p = f"exact McNemar test: p = {compared.chance:.2g}"
    told = [
        gains[BASE].told(
            few=f"Too few scenarios to tell the adapter from the base in accuracy ({p})",
            better=f"Better than the base without the adapter in accuracy ({p})",
            worse=f"Worse than the base without the adapter in accuracy ({p})",
            same=f"No better than the base in accuracy, as far as can be measured ({p})",
            unit=PHASE.units[1],
        ),
        gains[OTHER].told(
            few="Too few scenarios to tell whether the image counts",
            better="The image counts: with another scenario's image accuracy falls",
            worse="With another scenario's image accuracy rises",
            same="Whether the image counts cannot be seen: what another scenario's image changes in accuracy",
            unit=PHASE.units[1],
        ),
        gains[BLIND].told(
            few="Too few scenarios to tell what the text alone gives",
            better="Without any image accuracy falls",
            worse="Without any image accuracy rises",
            same="Without any image accuracy is as good, as far as can be measured",
            unit=PHASE.units[1],
        ),
        compared.beside.gains["majority"]["accuracy"].told(
            few="Too few scenarios to tell the adapter from always giving the same answer",
            better="Better than always giving the same answer in accuracy",
            worse="Worse than always giving the same answer in accuracy",
            same="No better than always giving the same answer in accuracy, as far as can be measured",
            unit=PHASE.units[1],
        ),
    ]
    said = compared.answered.predictions["rule"].predicted
    if len(said) and np.ptp(said) == 0:
        told.append(f"The keyword rule says {ANSWERS[said[0]]} to all: as far as its words go, the texts are alike.")
    asked = wording[wording["arm"].str.startswith(PARAPHRASE)]
    if len(asked):
        told.append(
            f"Worded otherwise (wordings: {len(asked)}) accuracy goes from {asked['accuracy'].min():.2f} to "
            f"{asked['accuracy'].max():.2f}; up to {asked['changed'].max():.0%} of the answers change."
        )
    swapped = wording.set_index("arm").loc[SWAPPED]
    told.append(f"With ERROR named first {swapped['changed']:.0%} of the answers change (accuracy {swapped['accuracy']:.2f}).")
    for row in replies.to_dict("records"):
        who = "The adapter's" if row["arm"] == ADAPTER else "The base's"
        told.append(
            f"{who} own replies: {row['accuracy']:.2f} right; {row['unparsed']:.0%} give both answers or neither, and "
            "count as wrong."
        )
    return told


def _few_words(compared: Compared) -> list[str]:
    """What the scenarios that are told beside come to."""
    if (few := compared.few) is None:
        return []
    share = few.shares[ADAPTER][OVERALL]["accuracy"]
    right = int((few.predictions[ADAPTER].predicted == few.predictions[ADAPTER].truth).sum())
    enough = "" if len(few.rows) >= ENOUGH else ": too few to tell much"
    return [f"The {len(few.rows)} scenarios of the test split: {right} right, {share}{enough}."]


def as_given(config: MedgemmaConfig) -> str:
    """What a command says to take the same scenarios and settings; after folds, which trained on all of these, others."""
    given: dict[str, str | None] = {
        "profile": "" if config.profile == "demo" else config.profile,
        "scenarios": "OTHERS.jsonl" if config.folds else ",".join(config.files),
        "image_dir": config.image_dir,
        "model": config.model,
    }
    return "".join(f" {flag(key, value)}" for key, value in given.items() if value)
