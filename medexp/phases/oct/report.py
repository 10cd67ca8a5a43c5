"""What the comparison leaves behind: the leaderboard, each encoder's files, a registered classifier, and the last lines."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.torch import save_file

from medexp.addresses import local_path
from medexp.config.flags import flags
from medexp.config.shared import Resampling
from medexp.data.prepared import Prepared
from medexp.errors import StorageError
from medexp.evaluation.leaderboard import PRIMARY, Entry, predictions_table
from medexp.evaluation.optimism import optimism
from medexp.files import replacing
from medexp.models.kinds import ONLY
from medexp.phases.oct.comparison import Compared
from medexp.phases.oct.config import OctConfig
from medexp.phases.oct.encoders import Encoder
from medexp.phases.oct.heads import Head, architecture, of_participants
from medexp.phases.shared.classification import per_case
from medexp.phases.shared.context import Context
from medexp.phases.shared.folds import Evidence
from medexp.phases.shared.leaderboard import Judging, count_classes, log_leaderboard, summary_of
from medexp.phases.shared.packaging import classes, packaged
from medexp.phases.shared.publishing import epochs_in_words, selection
from medexp.registry.package import Package
from medexp.tracking.figures import curves
from medexp.training.loop import FitResult

MODEL = "oct_classifier"
"""Name of the model that is registered."""

_FOLDER = "encoders"


def package(
    ctx: Context[OctConfig], encoder: Encoder, head: Head, data: Prepared[Any, Any], compared: Compared, evidence: Evidence
) -> Package:
    """The chosen encoder with its head, and all that they were judged by."""
    config, names = ctx.config, ctx.config.classes.names
    train, judged = config.train, "val" if config.folds else config.judged
    entry = next(one for one in compared.by_split[judged] if one.name == encoder.name)
    scores = next(row.scores for row in compared.board.rows if row.entry.name == encoder.name)
    frozen = "trained from epoch " + str(config.model.unfreeze_at_epoch) if config.model.trains_encoder else "frozen"
    how = {
        "Training": f"{epochs_in_words(config.training)}, {train.optim}, rate {head.rates.lr:g}, decay "
        f"{head.rates.weight_decay:g}, batches of {config.data.batch_size * train.accumulate}, cross-entropy, class weights "
        f"{train.class_weights}; the encoder was {frozen}; all settings: config.yaml of the run",
        "Selection of the final model": "the encoder with the largest balanced accuracy on the validation participants, seed "
        f"{config.seed}; " + evidence.selection(selection(config.training, "the largest validation balanced accuracy")),
        "Limitations": " ".join(compared.beside.first) or None,
    }
    told = "none: the softmax of a volume's logits as it is; the figures are of the mean of a participant's logits"
    made = packaged(
        ctx,
        MODEL,
        data,
        split=judged,
        output=f"logits (B, {len(names)}): {', '.join(names)}",
        preprocessing=encoder.preprocessing,
        outputs={ONLY: classes(names, told)},
        facts=how,
        architecture=architecture(config, encoder),
        weights=head.classifier.state_dict(),
        parents={"encoder": encoder.parent},
        per_case=per_case(compared.people, names, entry.predictions[config.seed]),
        figures={f"{judged} {name}": str(interval) for name, interval in scores.items()} | compared.beside.figures,
    )
    if encoder.seen is None or made.cases is None:
        return made
    pretrained = encoder.seen.assign(split="train", voxels_sha256="", perceptual_hash="")  # the model has seen them too
    return replace(made, cases=pd.concat([made.cases, pretrained[[*made.cases]]], ignore_index=True))


def finish(
    ctx: Context[OctConfig],
    encoders: Sequence[Encoder],
    heads: Mapping[str, Mapping[int, Head]],
    data: Prepared[Any, Any],
    compared: Compared,
) -> None:
    """Log all of it, and the last lines."""
    config, reporter, board = ctx.config, ctx.run.reporter, compared.board
    names, judged = config.classes.names, "val" if config.folds else config.judged
    tables = []
    for split, entries in compared.by_split.items():
        people = of_participants(data.manifest, data.ids(split))
        ranked = [row.entry for row in board.rows] if split == judged else entries
        tables.append(predictions_table(ranked, list(people["case"]), list(people["patient"]), names, split))
    caveats = []
    if config.train.patience and not config.folds and config.judged == "val":
        caveats.append("Epochs were chosen on these same validation participants: the figures are too good.")
    counts = count_classes(data.manifest, names)
    if data.folds:
        caveats.append(f"Participants were judged out of fold, by {data.folds} trainings.")
    judging = Judging(_title(config), data.source, judged, counts, ctx.resampling, caveats)
    log_leaderboard(reporter, board, judging, pd.concat(tables, ignore_index=True))
    arms = [
        per_case(compared.people, names, next(iter(row.entry.predictions.values()))).assign(arm=row.entry.name)
        for row in sorted(board.rows, key=lambda row: row.entry.name == compared.chosen)  # the registered one last
    ]
    reporter.table(pd.concat(arms, ignore_index=True), "per_case.csv")
    for row in board.rows:
        if row.entry.kind == "checkpoint":  # the others are controls, which stand in the table as such
            ctx.intervals(f"{judged}/" if row.entry.name == compared.chosen else f"{judged}/{row.entry.name}/", row.scores)
    for encoder in encoders:
        if not encoder.is_random:
            _own_files(ctx, encoder, heads[encoder.name], data, compared)
    following = [f"Next, another:    mlflow run . -e oct {_again(config)}"]
    told = summary_of(board, f"{_title(config)}, on {data.source}", judging, following)
    validated = f"{compared.on_validation[compared.chosen]:.3f}"
    words = [
        *told.words,
        f"Registered is {compared.chosen}, the best on the validation participants (balanced accuracy {validated}).",
        *_of_the_choice(heads[compared.chosen][config.seed].fitted, config, ctx.resampling),
        *compared.beside.words,
        "Of several volumes of a participant logits are averaged.",
    ]
    first = [*compared.beside.shortcuts, *told.first]  # the leaderboard names what is no better, and no field of it
    ctx.finish(replace(told, first=first, words=words, compared_by=(f"{judged}/{PRIMARY}", PRIMARY.replace("_", " "))))


def _of_the_choice(fitted: FitResult, config: OctConfig, resampling: Resampling) -> list[str]:
    """What choosing the registered epoch, and the rates of several side by side, made of its validation score; nothing where
    nothing was chosen."""
    train = config.train
    candidates = max(len(train.lr_head_grid), 1) * max(len(train.weight_decay_grid), 1)
    cases = fitted.cases if fitted.chosen else fitted.cases[-candidates:]
    what = [name for name, chosen in (("epoch", fitted.chosen), ("rates", candidates > 1)) if chosen]
    if not what:
        return []
    found = optimism(cases, fitted.patients, fitted.direction, resampling)
    were = "was" if what == ["epoch"] else "were"
    return [found.told(f"Its first seed's {' and '.join(what)} {were} chosen by a validation balanced accuracy of")]


def _again(config: OctConfig) -> str:
    """What a command says to run it on one's own data, or on the same again with the other head."""
    paths = config.paths
    if (volumes := paths.volumes) is None:
        return "-P checkpoints=A.pt,B.pt -P data=FOLDER -P labels=participants.tsv"
    given = {"data": volumes, "labels": paths.labels_tsv, "checkpoints": ",".join(paths.checkpoints)}
    given |= {"profile": "" if config.profile == "demo" else config.profile}
    pooling = "mean" if config.model.head.pooling == "attentive" else "attentive"
    return flags({key: value or None for key, value in {**given, "model.head.pooling": pooling}.items()})


def _title(config: OctConfig) -> str:
    """What is compared, in a line."""
    model = config.model
    mode = f"encoders trained from epoch {model.unfreeze_at_epoch}" if model.trains_encoder else "frozen encoders"
    head = "attentive head" if model.head.pooling == "attentive" else "MLP head" if model.head.hidden else "linear head"
    return f"oct: {mode}, {head}, {config.seeds} seed{'s' if config.seeds > 1 else ''}"


def _own_files(
    ctx: Context[OctConfig], encoder: Encoder, heads: Mapping[int, Head], data: Prepared[Any, Any], compared: Compared
) -> None:
    """An encoder's files, in the run's folder and, where that is wanted, in `log.ckpt_dir`: the first seed's head, and encoder
    and head (which the run's artifacts do without: a frozen encoder is a copy of what was given), and what they said."""
    folder = ctx.run.folder / _FOLDER / encoder.name
    first = heads[ctx.config.seed]
    weights = {name: value.detach().cpu().contiguous() for name, value in first.classifier.state_dict().items()}
    _weights(weights, folder / "best.ckpt")
    _weights({name: value for name, value in weights.items() if name.startswith("head.")}, folder / "head.ckpt")
    for split, entries in compared.by_split.items():
        people = of_participants(data.manifest, data.ids(split))
        entry = next(one for one in entries if one.name == encoder.name)
        _parquet(_said(entry, people, ctx.config.seed), folder / f"{split}_preds.parquet")
    idx = {name: index for index, name in enumerate(ctx.config.classes.names)}
    with replacing(folder / "class_to_idx.json") as temporary:
        temporary.write_text(json.dumps(idx, indent=2) + "\n")
    for file in sorted(folder.iterdir()):
        if file.name != "best.ckpt":
            ctx.run.reporter.file(file, f"{_FOLDER}/{encoder.name}")
    ctx.run.reporter.figure(curves(first.fitted.history), f"{_FOLDER}/{encoder.name}/curves.png")
    if where := ctx.config.log.ckpt_dir:
        copied = local_path(where) / encoder.name
        try:
            shutil.copytree(folder, copied, dirs_exist_ok=True)
            shutil.copy2(ctx.run.folder / "config.yaml", copied)
        except OSError as error:
            raise StorageError(
                f"log.ckpt_dir: {copied} cannot be written ({error}); all of it is in {folder}. Give another folder, or null"
            ) from error


def _said(entry: Entry, people: pd.DataFrame, seed: int) -> pd.DataFrame:
    """pid, y_true, y_pred, and logits up to a constant: the logarithms of the probabilities."""
    found = entry.predictions[seed]
    logits = np.log(np.maximum(found.probabilities, np.finfo(np.float64).tiny))
    return pd.DataFrame(
        {"pid": people["case"], "y_true": found.truth, "y_pred": found.predicted, "logits": list(map(list, logits))}
    )


def _weights(weights: Mapping[str, Any], file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as temporary:
        save_file(dict(weights), temporary)


def _parquet(table: pd.DataFrame, file: Path) -> None:
    with replacing(file) as temporary:
        table.to_parquet(temporary, index=False)
