"""A labelled table: a TSV with one row a volume, from which a classifier is trained and tested."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from medexp.addresses import local_path
from medexp.config.data import SUFFIXES
from medexp.data.inputs import lines_of
from medexp.data.splits import (
    SPLITS,
    Splits,
    by_label,
    draw_by_label,
    patient_groups,
    split_called,
    straddling,
    written_otherwise,
)
from medexp.data.volumes.brats import image_files
from medexp.data.volumes.cases import CHANNELS, Case
from medexp.data.volumes.facts import CaseFacts
from medexp.errors import DataError, all_problems
from medexp.files import replacing

COLUMNS = ("id", "path", "label", "patient")
"""Columns that a table must have; `split` may stand beside them, any other is not read."""

_FORM = f"A TSV (or CSV) has the columns {', '.join(COLUMNS)} and, if it is split, split ({', '.join(SPLITS)})"


@dataclass(frozen=True)
class LabelledTable:
    """What a table says, before any volume was read.

    Attributes:
        path: The file.
        cases: Its cases without segmentations, in the order of the rows.
        labels: Label of each case, by id.
        split_of: Split of each case, by id; empty for a table without the column `split`.
        words: From each split that the table calls otherwise to what it calls it.
    """

    path: Path
    cases: tuple[Case, ...]
    labels: Mapping[str, str]
    split_of: Mapping[str, str]
    words: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels there are, sorted; at least two."""
        return tuple(sorted(set(self.labels.values())))


def read_table(
    path: Path, channels: Sequence[str] = CHANNELS, suffixes: Mapping[str, tuple[str, ...]] = SUFFIXES
) -> LabelledTable:
    """A table as it stands. Reads no volume.

    Args:
        path: Tab-separated, or with commas where it is called .csv; UTF-8, with Unix or Windows line ends. `id` is unique,
            `path` is a case's BraTS folder or a 4D NIfTI file whose last axis is the channels, relative to the table's folder
            or absolute; `patient` says whose it is; `split` is train, val or test, or a
            word that means one (`split_called`). What no case has, `split_table` draws.
        channels: The channels in the order that is wanted, of CHANNELS.
        suffixes: How the names of files end, by channel.

    Raises:
        DataError: All problems at once: an unreadable or empty file, missing or repeated columns, rows of another width,
            empty values, a character that nobody sees, an id twice, an unknown split, a patient in two splits, one label only,
            labels or patients that differ in capitals alone, no case to train on, a label that training has not, a path that
            is missing or holds no volume.
    """
    names, rows = _rows(path)
    problems = [f"no column {name}; {_FORM}" for name in COLUMNS if name not in names]
    problems += [
        f"column {name} stands {count} times; keep one" for name, count in Counter(names).items() if name and count > 1
    ]
    if problems:
        raise DataError(all_problems(f"table {path}", [*problems, f"found the columns {', '.join(map(repr, names))}"]))
    values: list[dict[str, str]] = []
    wanted = [name for name in (*COLUMNS, "split") if name in names]
    for number, line in rows:
        if len(line) != len(names):
            problems.append(f"line {number}: {len(line)} values, the header has {len(names)} columns")
            continue
        found = {name: value.strip() for name, value in zip(names, line, strict=True)}
        problems += [f"line {number}: {name} is empty" for name in wanted if not found[name]]
        problems += [
            f"line {number}: {name} {found[name]!a} has a character that nobody sees"
            for name in wanted
            if not found[name].isprintable()
        ]
        values.append(found)
    for name, count in Counter(row["id"] for row in values).items():
        if name and count > 1:
            problems.append(f"id {name} stands {count} times; an id names one row")
    said = {row["id"]: row["split"] for row in values} if "split" in names else {}
    meant = {word: split_called(word) for word in sorted(set(said.values()))}
    problems += [
        f"unknown split {word!r}; allowed are {', '.join(SPLITS)}" for word, split in meant.items() if word and not split
    ]
    split_of = {case: meant[word] or "" for case, word in said.items()}
    words = {split: [word for word in meant if meant[word] == split] for split in SPLITS}
    cases = []
    for row in values:
        images: tuple[Path, ...] = ()
        try:
            where = (path.parent / local_path(row["path"])).absolute()
            images = image_files(where, channels, suffixes) if row["path"] else ()
        except DataError as error:
            problems.append(f"id {row['id']}: {error}")
        cases.append(Case(row["id"], row["patient"], images, None))
    others = {split: called for split, called in words.items() if {*called} - {split}}
    table = LabelledTable(path, tuple(cases), {row["id"]: row["label"] for row in values}, split_of, others)
    problems += straddling({case: [split] for case, split in split_of.items()}, cases, [])
    problems += _class_problems(table)
    if problems:
        raise DataError(all_problems(f"table {path}", problems, "Correct the table."))
    return table


def split_table(
    table: LabelledTable, facts: Iterable[CaseFacts], fraction: float, seed: int, judged: str | None = "test"
) -> Splits:
    """The splits that the table gives; where no case is to be judged on, patients of train, or of the whole table where it has
    no splits, are drawn for that by `seed`, label by label.

    Patients who share copies of a volume (`medexp.data.twins`) are drawn together. Of the patients of each label `fraction` is
    drawn: at least one, and at least one is left; a patient with several labels counts for the most frequent one.

    Args:
        table: The table.
        facts: `medexp.data.volumes.facts.describe_cases` of its cases.
        fraction: Share of the patients that is drawn, above 0 and below 1.
        seed: Seed of the draw.
        judged: The split that is judged on, test or val; None: nobody is drawn, and folds judge.

    Raises:
        DataError: All problems at once: exact duplicates in two splits or under two labels, a label with too few patients.
    """
    facts = list(facts)
    problems = _duplicates_with_two_labels(table, facts)
    problems += straddling({case: [split] for case, split in table.split_of.items()}, [], facts)
    given = {split: [case for case, part in table.split_of.items() if part == split] for split in SPLITS}
    free = [case for case in table.cases if table.split_of.get(case.id, "train") == "train"]
    groups = {} if judged is None or given[judged] else by_label(patient_groups(free, facts), table.labels)
    where = " in train" if table.split_of else ""
    problems += [
        f"label {label}: {len(groups[label])} patients{where}; train and {judged} take one each. Add patients, or "
        + (f"cases with the split {judged}" if table.split_of else "a split column")
        for label in (table.classes if groups else ())
        if len(groups[label]) < 2
    ]
    if problems:
        raise DataError(all_problems(f"table {table.path}", problems, "Correct the table."))
    if not table.split_of:
        given["train"] = [case.id for case in free]
    if groups and judged:
        drawn = draw_by_label(groups, lambda size: (min(max(1, round(size * fraction)), size - 1), 0), seed)
        given |= {"train": [*drawn.train], judged: [*drawn.test]}
    return Splits(**{split: tuple(sorted(cases)) for split, cases in given.items()})


def split_words(table: LabelledTable, splits: Splits, judged: str | None) -> list[str]:
    """What a reader must know of the splits of a table that has some: which words were read as which, and what was drawn."""
    words = [f"{table.path}: split {' and '.join(map(repr, called))} read as {split}" for split, called in table.words.items()]
    if table.split_of and judged and judged not in table.split_of.values():
        drawn = {case.patient for case in table.cases if case.id in getattr(splits, judged)}
        words.append(f"{table.path}: no case has the split {judged}; {len(drawn)} patients of train are drawn for it.")
    return words


def table_manifest(table: LabelledTable, facts: Iterable[CaseFacts], splits: Splits) -> pd.DataFrame:
    """One row a case, sorted: case, patient, label, split, sha256 (voxels and affine) and voxels_sha256 (voxels alone)."""
    facts_of = {fact.case: fact for fact in facts}
    rows = [
        {
            "case": case.id,
            "patient": case.patient,
            "label": table.labels[case.id],
            "split": splits.of(case.id),
            "sha256": facts_of[case.id].sha256,
            "voxels_sha256": facts_of[case.id].voxels_sha256,
        }
        for case in sorted(table.cases, key=lambda case: case.id)
    ]
    return pd.DataFrame(rows)


def write_table(rows: pd.DataFrame, path: Path) -> None:
    """Write a table that `read_table` reads."""
    with replacing(path) as temporary:
        rows.to_csv(temporary, sep="\t", index=False)


def _rows(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The names of the columns, and the rows that are not blank with their line numbers."""
    try:
        lines = lines_of(path, "," if path.suffix.lower() == ".csv" else "\t")
    except DataError as error:
        raise DataError(f"table {error}. {_FORM}") from error
    if len(lines) < 2:
        raise DataError(f"table {path}: holds no rows; {_FORM}")
    return [name.strip().lower() for name in lines[0][1]], lines[1:]


def _class_problems(table: LabelledTable) -> list[str]:
    """Too few labels, and labels or splits that cannot be trained and tested with."""
    labels = set(table.labels.values()) - {""}
    if len(labels) < 2:
        return [f"one label only ({', '.join(labels) or 'none'}); telling apart takes two"]
    problems = written_otherwise("labels", labels) + written_otherwise("patients", {case.patient for case in table.cases})
    if not table.split_of:
        return problems
    of = {split: {table.labels[case] for case, given in table.split_of.items() if given == split} for split in SPLITS}
    trained = (of["train"] | of["val"]) - {""}
    problems += [] if of["train"] else ["split train has no case"]
    if len(of["test"]) == 1:
        problems.append(
            f"split test has one label only ({', '.join(of['test'])}), so that saying it of all is right: give the labels "
            "that belong to these cases, or leave the column split out"
        )
    if trained and (missing := sorted(labels - trained)):
        problems.append(f"labels without a case in train or val: {', '.join(missing)}; a head cannot learn what it never sees")
    return problems


def _duplicates_with_two_labels(table: LabelledTable, facts: Iterable[CaseFacts]) -> list[str]:
    by_voxels: dict[str, list[str]] = defaultdict(list)
    for fact in facts:
        by_voxels[fact.voxels_sha256].append(fact.case)
    return [
        f"exact duplicates under different labels: {', '.join(f'{case} ({table.labels[case]})' for case in sorted(cases))}"
        for cases in by_voxels.values()
        if len({table.labels[case] for case in cases}) > 1
    ]
