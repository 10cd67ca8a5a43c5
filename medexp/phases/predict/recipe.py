"""A registered model on new files: found, prepared as its contract says, predicted, written, scored where a truth is there.

Cases are read ahead in threads while one is predicted, and each is written before the next: memory does not grow with their
number, and the same command again goes on where it was stopped.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd

import medexp
from medexp import registry
from medexp.addresses import local_path
from medexp.data.images.cases import LabelledImage
from medexp.data.images.kaggle import meant_by
from medexp.data.inputs import Inputs
from medexp.data.manifest import data_digest
from medexp.data.parallel import ahead
from medexp.data.splits import patient_of
from medexp.data.storage import local, local_folder
from medexp.data.volumes.phantoms import ensure_phantoms
from medexp.errors import ConfigError, DataError, MedexpError, StorageError, all_problems
from medexp.models.kinds import ONLY
from medexp.phases.predict import PHASE, checks
from medexp.phases.predict.config import PredictConfig
from medexp.phases.predict.report import log_predicted, picture, summary, volumes_in_mm3
from medexp.phases.predict.scoring import intervals, scored, truth_of, why_not_read
from medexp.phases.predict.work import Done, Work
from medexp.phases.predict.written import Record, claim, record_of, release, tables, write_mask, write_record
from medexp.phases.shared.context import Context, context
from medexp.phases.shared.packaging import parent_of
from medexp.registry.external import log_external
from medexp.registry.predictors import Ready
from medexp.registry.store import resolve
from medexp.terminal import followed
from medexp.tracking.datasets import log_datasets
from medexp.tracking.stores import find_store

_SEED = 2  # of the phantoms: no base was trained on them, and no probe


def run(config: PredictConfig) -> None:
    """The whole phase; `PredictConfig` says what can be set.

    Raises:
        DataError: Nothing of the input can be predicted.
        RegistryError: There is no such model, or its contract names something that this version of medexp does not know.
        ConfigError: The output is no place for these predictions.
    """
    find_store()
    resolve(config.model)  # looked for before there is a run, or a store, of nothing
    with context(PHASE, config) as ctx:
        work = read(ctx)
        done = predict(ctx, work)
        rows = tables(work.folder, done.records, done.problems)
        scores = scores_of(done, rows)
        found = intervals(scores, work.truth, config)
        leaks = checks.leaks(work, done, config.evaluate)
        ctx.check(checks.all_predicted(work, done), *leaks)
        digest = log_inputs(ctx, work, done)
        log_predicted(ctx, work, rows, scores, found)
        seen = [checks.in_words(check) for check in leaks if not check.passed]
        if config.evaluate and not done.scored:
            raise DataError(
                all_problems("evaluate=true: no truth can be read", [one["truth_not_read"] for one in done.records])
            )
        if config.evaluate and not seen and not done.problems:
            print(log_external(work.predictor, ctx.run.id, work.source, digest, found))
        ctx.finish(summary(ctx, work, done, rows, found, seen))


def read(ctx: Context[PredictConfig]) -> Work:
    """The model and the cases; the place of the output is claimed when both are good.

    Raises:
        DataError: There are no cases, or none that the model can take.
        ConfigError: `evaluate` has nothing to go by, or the output is no place for these predictions.
    """
    config = ctx.config
    predictor = registry.predictor(config.model, str(ctx.device), config.features, config.base)
    paths = [local(path, ctx.cache) for path in config.input]
    if paths and predictor.pulled:
        ctx.built_on({"model": parent_of(predictor.pulled)})
        ctx.meet_real_cases()
    embedded = [] if paths else [ensure_phantoms("meningioma", config.phantoms, _SEED, ctx.cache)]
    patient = patient_of(config.data.patient_pattern)
    images = local_folder(config.image_dir, ctx.cache) if config.image_dir else None
    inputs = together(
        [predictor.find(path, patient, images, config.data.suffixes, config.data.classes) for path in paths or embedded]
    )
    if not inputs.cases:
        told = list(inputs.problems.values()) or ["no case in it"]
        raise DataError(all_problems(f"input for {predictor.called}", told))
    truth = truth_of(predictor, inputs, config)
    if config.evaluate and not any(map(truth.of, inputs.cases)):
        folders = sorted({case.path.parent for case in inputs.cases if isinstance(case, LabelledImage)})
        meant = f". Say which of their folders show no tumour and which one: {said}" if (said := meant_by(folders)) else ""
        raise ConfigError(
            "evaluate=true: no truth that the model can be held against lies beside the cases: a segmentation, folders no/ "
            f"and yes/ of pictures, a column label of a table, or the output of a scenario{meant}"
        )
    made_with: dict[str, Any] = {"model": predictor.called, "digest": predictor.digest, "kind_of_features": predictor.features}
    made_with |= {"values": dict(truth.painted), "preprocessing": predictor.preprocessing.in_words}
    folder = local_path(config.output) if config.output else ctx.run.folder / "predictions"
    claim(folder, paths, made_with)
    return Work(predictor, inputs, ", ".join(config.input) or "meningioma phantoms", truth, folder, made_with)


def together(found: Sequence[Inputs]) -> Inputs:
    """The cases of several paths.

    Raises:
        DataError: An id is in two of them, or is no text.
    """
    ids = Counter([case.id for one in found for case in one.cases] + [name for one in found for name in one.problems])
    if odd := [ascii(name) for name in ids if not name.isprintable() and name.encode(errors="replace").decode() != name]:
        raise DataError(f"input: {', '.join(odd)} is no text in UTF-8, and stands in no table; rename it")
    if twice := sorted(name for name, times in ids.items() if times > 1):
        raise DataError(f"input: the case {', '.join(twice)} is in several paths; give a table with a column id")
    return Inputs(
        [case for one in found for case in one.cases],
        {name: told for one in found for name, told in one.problems.items()},
        {name: label for one in found for name, label in one.labels.items()},
    )


def predict(ctx: Context[PredictConfig], work: Work) -> Done:
    """Every case that is not done yet; one that fails is a problem, and the others go on.

    Raises:
        DataError: None could be predicted.
        StorageError: The output cannot be written.
    """
    records: list[Record] = []
    problems, before = dict(work.inputs.problems), 0
    every = work.inputs.cases
    coming = ahead([partial(begin, work, case) for case in every], ctx.config.data.jobs)
    for case, ready_soon in zip(every, followed(coming, len(every), "predicting"), strict=True):
        try:
            known, stamp, ready = ready_soon.result()
            if ready is None:
                records.append(known)
                before += 1
            else:
                records.append(predicted(ctx, work, ready, stamp, len(records) - before))
        except StorageError:
            raise
        except MedexpError as error:
            problems[case.id] = " ".join(str(error).split())
            print(f"{case.id}: not predicted: {problems[case.id]}", flush=True)
    if not records:
        release(work.folder)
        raise DataError(all_problems(f"none of {len(problems)} cases can be predicted", list(problems.values())))
    return Done(records, problems, before)


def begin(work: Work, case: Any) -> tuple[Record, str, Ready | None]:
    """What is known of a case from before, the digest of its files, and the case as the network takes it; None if it is done.

    Raises:
        DataError: It cannot be read, or the output was made of other files.
    """
    stamp, known = work.predictor.content(case), record_of(work.folder, case.id)
    if known and known["sha256"] != stamp:
        raise DataError(f"case {case.id}: its files are others than those that {work.folder} was made of; give another output")
    if not known or any(known[key] != value for key, value in beside(work, case).items()):
        return known, stamp, brought(work, case)
    return known, stamp, None


def brought(work: Work, case: Any) -> Ready:
    """A case as the network takes it, with its truth where that can be read: nobody needs it to predict."""
    known = work.truth.of(case) is not None
    try:
        return work.predictor.ready(case, work.truth.classes, identify=known)
    except DataError as error:
        if getattr(case, "label", None) is None:
            raise
        ready = work.predictor.ready(case)
        return replace(ready, unfit=why_not_read(error))


def beside(work: Work, case: Any) -> Record:
    """What scores and intervals follow from beside the files of a case: it may be corrected, or come later."""
    return {"patient": case.patient, "truth": work.truth.of(case)}


def predicted(ctx: Context[PredictConfig], work: Work, ready: Ready, stamp: str, number: int) -> Record:
    """A case predicted, written and, if it is one of the first, drawn."""
    found, case = work.predictor.answer(ready, work.truth.painted or None), ready.case
    sizes = {name: list(tensor.shape[1:]) for name, tensor in ready.given.items()}
    record: Record = {
        "case": case.id,
        **beside(work, case),
        **write_mask(work.folder, found),
        **{key: value for key, value in work.made_with.items() if key != "values" or value},
        "files": [path.name for path in case.images],
        "sha256": stamp,
        "network_saw": sizes.get(ONLY, sizes),
        "outside": list(ready.outside),
        "mm3": volumes_in_mm3(found, ready, work.truth.painted),
        "medexp": medexp.__version__,
        "run": ctx.run.id,
        "calibration": next((one["calibration"] for one in work.predictor.outputs.values() if "calibration" in one), None),
        "truth_not_read": ready.unfit,
        "scores": scored(work.predictor, work.truth, ready, found),
        "identity": ready.identity,
    }
    written = write_record(work.folder, found, record)
    if number < ctx.config.shown:
        picture(ctx, work.predictor, ready, found)
    return written


def scores_of(done: Done, rows: pd.DataFrame) -> pd.DataFrame:
    """A row a case whose truth is known: what was predicted, and its scores. Cases of the same voxels are one patient's,
    whatever they are called: they tell nothing that the first did not."""
    first: dict[str, str] = {}
    scored = [
        {"case": record["case"], "of": first.setdefault(record["identity"]["voxels_sha256"], record["patient"])}
        | record["scores"]
        for record in done.scored
    ]
    table = pd.DataFrame(scored, columns=None if scored else ["case", "of"])
    return rows.merge(table, on="case").assign(patient=lambda both: both["of"]).drop(columns="of")


def log_inputs(ctx: Context[PredictConfig], work: Work, done: Done) -> str:
    """The cases as an input of the run; their digest."""
    manifest = pd.DataFrame([{key: record[key] for key in ("case", "patient", "sha256")} for record in done.records])
    manifest = manifest.assign(split="predicted").sort_values("case", ignore_index=True)
    digest = data_digest(manifest)
    log_datasets(ctx.run, manifest, {"predicted": digest}, work.source, PHASE.name)
    return digest
