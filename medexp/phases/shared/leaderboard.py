"""A leaderboard as a run leaves it: tables, a page that needs no network, pictures, and all that it can be redrawn from."""

import base64
import json
import re
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from medexp.config.shared import Resampling
from medexp.data.splits import SPLITS
from medexp.errors import DataError
from medexp.evaluation.classification import confusion, roc_labels, roc_points
from medexp.evaluation.intervals import Interval
from medexp.evaluation.leaderboard import (
    PRIMARY,
    Leaderboard,
    Saved,
    leaderboard,
    read_predictions,
    spread_table,
)
from medexp.files import read_csv
from medexp.markdown import as_markdown
from medexp.phases.shared.publishing import Summary
from medexp.reporting import Reporter
from medexp.tracking.figures import as_written, bars, confusion_matrix, roc
from medexp.tracking.past import artifact, artifacts

CALLED = {"balanced_accuracy": "balanced accuracy", "accuracy": "accuracy", "macro_f1": "macro-F1", "auroc": "AUROC"}
"""Metrics in the order of the tables, and their names there."""
PAGE, PREDICTIONS = "leaderboard.html", "predictions.parquet"
_LINES = 8  # curves that can be told apart in one picture
_FILES = (PREDICTIONS, "spread.csv", "class_to_idx.json", "class_counts.csv", "leaderboard.json")


@dataclass(frozen=True)
class Judging:
    """What a leaderboard was judged on.

    Attributes:
        title: Of the page.
        source: Where the data came from, in words.
        split: The split of the judged rows.
        counts: Participants by class and split: a row a class, its name in the column `class`, and a column a split.
        resampling: How the intervals were drawn.
        notes: What else a reader must know, a sentence each.
    """

    title: str
    source: str
    split: str
    counts: pd.DataFrame
    resampling: Resampling
    notes: Sequence[str] = ()


def count_classes(rows: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """`Judging.counts` of a table with columns patient, label (the name of the class) and split."""
    people = rows.drop_duplicates(["patient", "split"])
    splits = [split for split in ("train", "val", "test") if split in set(people["split"])]
    splits += sorted(set(people["split"]) - {*splits})
    table = pd.crosstab(people["label"], people["split"]).reindex(index=list(classes), columns=splits, fill_value=0)
    return table.rename_axis("class").rename_axis(None, axis=1).reset_index()


def log_leaderboard(reporter: Reporter, board: Leaderboard, judging: Judging, predictions: pd.DataFrame) -> None:
    """All that a run, or a folder, gets of a leaderboard.

    `leaderboard.csv`, `leaderboard.md`, `leaderboard.html` (one file, pictures and all), `differences.csv`, and pictures in
    `figures/`; and what these are redrawn from: `predictions.parquet`, `spread.csv`, `class_to_idx.json`, `class_counts.csv`
    and `leaderboard.json`.

    Args:
        reporter: Takes them.
        board: The leaderboard.
        judging: What it was judged on.
        predictions: As of `medexp.evaluation.leaderboard.predictions_table`, of all splits that there are predictions of.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / PREDICTIONS
        predictions.to_parquet(file, index=False)
        reporter.file(file)
    reporter.table(spread_table([row.entry for row in board.rows]), "spread.csv")
    reporter.text(json.dumps({name: index for index, name in enumerate(board.classes)}, indent=2), "class_to_idx.json")
    reporter.table(judging.counts, "class_counts.csv")
    kept = {key: value for key, value in vars(judging).items() if key != "counts"}
    reporter.text(json.dumps(kept | {"resampling": asdict(judging.resampling)}, indent=2), "leaderboard.json")
    reporter.table(board.table(), "leaderboard.csv")
    reporter.table(board.differences(), "differences.csv")
    reporter.text(in_markdown(board, judging), "leaderboard.md")
    with tempfile.TemporaryDirectory() as folder:
        drawn = {}
        for path, figure in draw(board).items():
            drawn[path] = Path(folder) / f"{path}.png"
            as_written(figure).savefig(drawn[path], dpi=120)
        reporter.text(as_page(board, judging, {path: _embedded(file) for path, file in drawn.items()}), PAGE)
        for file in drawn.values():
            reporter.file(file, "figures")


def has_leaderboard(run_id: str) -> bool:
    """Whether a run kept one."""
    return set(_FILES) <= set(artifacts(run_id))


def read_run(run_id: str, called: str) -> tuple[Saved, Judging, pd.DataFrame]:
    """What `log_leaderboard` left in a run: its entries, what they were judged on, and all of its predictions.

    Raises:
        DataError: The run has no such artifacts, or what is in them is damaged; all problems at once.
    """
    with tempfile.TemporaryDirectory() as folder:
        found = {name: artifact(run_id, name, Path(folder)) for name in _FILES}
        if missing := [name for name, path in found.items() if path is None]:
            advice = "Give a run of oct or of leaderboard that ended well"
            raise DataError(f"run {called}: logged no {', '.join(missing)}. {advice}")
        paths = {name: path for name, path in found.items() if path is not None}
        try:
            predictions = pd.read_parquet(paths[PREDICTIONS])
            spread = read_csv(paths["spread.csv"])
            counts = read_csv(paths["class_counts.csv"])
            indices = json.loads(paths["class_to_idx.json"].read_text(encoding="utf-8"))
            kept = json.loads(paths["leaderboard.json"].read_text(encoding="utf-8"))
            judging = Judging(**kept | {"counts": counts, "resampling": Resampling(**kept["resampling"])})
            classes = sorted(indices, key=indices.__getitem__)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            told = " ".join(str(error).split())
            raise DataError(
                f"run {called}: its artifacts cannot be read ({told}). Give a run of oct that ended well"
            ) from error
    saved = read_predictions(predictions, f"run {called}", judging.split, classes, spread)
    return saved, judging, predictions


def redraw(run_id: str, called: str, reporter: Reporter) -> Leaderboard:
    """Make all that a run logged of its leaderboard anew from its predictions; errors as of `read_run`."""
    saved, judging, predictions = read_run(run_id, called)
    board = leaderboard(saved.entries, saved.patients, saved.classes, judging.resampling)
    log_leaderboard(reporter, board, judging, predictions)
    return board


def figures_of(board: Leaderboard) -> dict[str, Interval]:
    """Every figure with its interval, as `<entry>/<metric>`, in characters that a metric's name may have."""
    named = {_safe(row.entry.name): row for row in board.rows}
    if len(named) < len(board.rows):
        named = {f"{index}_{_safe(row.entry.name)}": row for index, row in enumerate(board.rows, 1)}
    return {f"{name}/{metric}": interval for name, row in named.items() for metric, interval in row.scores.items()}


def summary_of(board: Leaderboard, headline: str, judging: Judging, following: Sequence[str] = ()) -> Summary:
    """What a phase that ends with a leaderboard says of it."""
    head, rows = _cells(board, 3)
    short = ["", "balanced acc.", "AUROC", "kind"]
    narrow = [
        [row.entry.name, row.scores[PRIMARY].in_a_cell(2), row.scores["auroc"].in_a_cell(2, bounds=False), row.entry.kind]
        for row in board.rows
    ]
    return Summary(
        headline=headline,
        title=f"{_on(board, judging)}; intervals of {board.confidence:.0%}, by participant",
        head=head,
        rows=rows,
        words=[board.sentence, *board.words, *judging.notes],
        narrow=(short, narrow),
        following=following,
        first=board.first,
    )


def in_markdown(board: Leaderboard, judging: Judging) -> str:
    """`leaderboard.md`."""
    counts = judging.counts.astype(str)
    paragraphs = [
        f"# {judging.title}",
        f"**{board.sentence}**",
        *(f"**{line}**" for line in board.first),
        f"{_on(board, judging)}; intervals of {board.confidence:.0%}, by participant; figures are means over seeds.",
        as_markdown(*_cells(board, 3)),
        "\n".join(f"- {line}" for line in (*board.words, *judging.notes)),
        "Differences in balanced accuracy:",
        "\n".join(f"- {pair.told}" for pair in (*board.order, *board.controls)) or "- none",
        "Participants by class and split:",
        as_markdown([*map(str, counts)], counts.to_numpy().tolist()),
    ]
    return "\n\n".join(paragraphs) + "\n"


def draw(board: Leaderboard) -> dict[str, Figure]:
    """The pictures by name: intervals, confusion matrices and ROC curves of the first seed, the spread of the features."""
    classes = _short(board.classes)
    every = np.ones((1, len(board.patients)))
    metrics = {CALLED[name]: {row.entry.label: row.scores[name] for row in board.rows} for name in (PRIMARY, "auroc")}
    figures = {"leaderboard": bars(metrics, "with intervals by participant")}
    for index, row in enumerate(board.rows, 1):
        seed, one = next(iter(row.entry.predictions.items()))
        title = textwrap.fill(f"{row.entry.label}, seed {seed}", 36)
        figures[f"confusion_{index}_{_safe(row.entry.name)}"] = confusion_matrix(confusion(one, every)[0], classes, title)
    every_encoder = [row.entry for row in board.rows if row.entry.kind != "control"]
    encoders = every_encoder[:_LINES]
    part = f"{len(encoders)} of {len(every_encoder)} models" if len(encoders) < len(every_encoder) else ""
    for label in roc_labels(next(iter(board.rows[0].entry.predictions.values()))):
        curves = {one.label: roc_points(next(iter(one.predictions.values())), label) for one in encoders}
        if curves:
            figures[f"roc_{label}_{_safe(classes[label].rstrip('…'))}"] = roc({classes[label]: curves}, part)
    spreads = {row.entry.label: row.entry.spread for row in board.rows if row.entry.spread}
    if spreads:
        panels = {
            "relative SD": {name: one.relative_sd for name, one in spreads.items()},
            "effective rank / most": {
                name: one.effective_rank / max(min(one.dimensions, one.cases - 1), 1) for name, one in spreads.items()
            },
        }
        drawn = {
            panel: {name: Interval(value, np.nan, np.nan, 0) for name, value in values.items()}
            for panel, values in panels.items()
        }
        figures["spread"] = bars(drawn, "how much features differ from case to case")
    return figures


def as_page(board: Leaderboard, judging: Judging, pictures: Mapping[str, str]) -> str:
    """`leaderboard.html`: one file that asks for nothing, whatever stands in names.

    Args:
        board: The leaderboard.
        judging: What it was judged on.
        pictures: As data URIs, by the names of `draw`.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    groups = {
        kind: [(path, uri) for path, uri in pictures.items() if path.startswith(f"{kind}_")] for kind in ("confusion", "roc")
    }
    counts = judging.counts
    return environment.get_template("leaderboard.html.jinja").render(
        board=board,
        judging=judging,
        on=_on(board, judging),
        called=CALLED,
        primary=PRIMARY,
        chance=1 / max(len(np.unique(board.truth)), 1),
        columns=[row.entry for row in board.rows],
        matrix=[
            (row.entry, [board.pair(row.entry.name, other.entry.name) for other in board.rows])
            for row in board.rows
            if row.entry.kind == "checkpoint" and len(board.rows) > 1
        ],
        spreads=[(row.entry.label, row.entry.spread) for row in board.rows if row.entry.spread],
        counts=(list(counts), counts.to_numpy().tolist()),
        groups=groups,
    )


def _cells(board: Leaderboard, digits: int) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the table in Markdown."""
    head = ["", "kind", *CALLED.values(), "SD over seeds", *(f"F1 {name}" for name in _short(board.classes)), "effective rank"]
    rows = []
    for row in board.rows:
        shown = [row.scores[name].in_a_cell(digits, bounds=name in (PRIMARY, "auroc")) for name in CALLED]
        deviation, spread = row.seeds_sd[PRIMARY], row.entry.spread
        own = ["-" if np.isnan(deviation) else f"{deviation:.{digits}f}", *(f"{value:.{digits}f}" for value in row.class_f1)]
        rank = f"{spread.effective_rank:.1f}" if spread else "-"
        rows.append([row.entry.label, row.entry.kind, *shown, *own, rank])
    return head, rows


def _short(classes: Sequence[str]) -> list[str]:
    """Names of classes for a table's head and a picture's axes, told apart."""
    short = [textwrap.shorten(name.replace("_", " "), 24, placeholder="…") for name in classes]
    return short if len({*short}) == len(short) else [f"{index} {name}" for index, name in enumerate(short)]


def _on(board: Leaderboard, judging: Judging) -> str:
    people = f"{judging.source}: {len(set(board.patients))} participants"
    if judging.resampling.folds:
        return f"{people}, judged out of fold"
    return f"{people} of the split {judging.split}" if judging.split in SPLITS else people


def _embedded(picture: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()


def _safe(name: str) -> str:
    """A name as part of a file's."""
    return re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII)[:60]
