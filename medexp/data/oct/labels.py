"""Who is in which class and split: participants.tsv, in AI-READI's form."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from medexp.config.data import class_names
from medexp.data.inputs import lines_of
from medexp.data.splits import SPLITS, split_called, written_otherwise
from medexp.errors import DataError, all_problems
from medexp.words import some

STUDY_GROUPS = (
    "healthy",
    "pre_diabetes_lifestyle_controlled",
    "oral_medication_and_or_non_insulin_injectable_medication_controlled",
    "insulin_dependent",
)
"""AI-READI's, in the order of its protocol. One that no class is made of is left out; any other value is refused."""

PERSON = ("participant_id", "person_id")
"""The column of ids, as versions 1 and 2 and as version 3 call it."""

_TRUE, _FALSE = ("true", "t", "yes", "y", "1", "1.0"), ("false", "f", "no", "n", "0", "0.0")
_NEEDED = ("study_group", "recommended_split", "retinal_oct")
_TOLD = 20  # problems that a message lists


@dataclass(frozen=True)
class Participants:
    """The people of a table.

    Attributes:
        rows: One a participant who counts, sorted: participant, study_group, label (name of the class), target (its number),
            split (train, val or test), site (as the table has it, else empty).
        left_out: The others, sorted: participant, reason.
    """

    rows: pd.DataFrame
    left_out: pd.DataFrame

    @property
    def counts(self) -> pd.DataFrame:
        """Participants by class, in the order of their numbers, and split."""
        return class_counts(self.rows)


def class_counts(rows: pd.DataFrame) -> pd.DataFrame:
    """How many rows there are of each class, in the order of their numbers, in each split.

    Args:
        rows: At least label, target and split.

    Returns:
        Classes by name as index; train, val and test as columns.
    """
    order = rows[["target", "label"]].drop_duplicates().sort_values("target")["label"]
    counted = pd.crosstab(rows["label"], rows["split"])
    return counted.reindex(index=[*order], columns=[*SPLITS], fill_value=0).rename_axis(index="label", columns=None)


def read_participants(path: Path, mapping: Mapping[str, int]) -> Participants:
    """A table with tabs: participant_id or person_id, study_group, recommended_split, retinal_oct, where it is there
    clinical_site; any other column besides. Line ends, capitals of true and false, and blanks around values do not matter.

    Args:
        path: The table.
        mapping: From values of study_group to the number of the class. Others of STUDY_GROUPS are left out.

    Raises:
        DataError: It cannot be read or used; all problems at once, with their lines: a column that is missing, a participant
            without an id or twice, retinal_oct that is neither true nor false, a study group or split that is unknown, a class
            that a split lacks.
    """
    (_, header), *lines = lines_of(path, "\t") or [(1, [])]
    names = [name.strip().lower() for name in header]
    person = [name for name in PERSON if name in names]
    problems = [] if person else [f"no column {' or '.join(PERSON)}"]
    problems += [f"no column {name}" for name in _NEEDED if name not in names]
    problems += [f"the column {name} stands twice" for name, times in Counter(names).items() if times > 1 and name]
    if problems:
        found = ", ".join(filter(None, names)) or "nothing"
        raise DataError(all_problems(f"labels {path}", problems, f"Its first line holds {found}; values are parted by tabs."))
    called = dict(zip(sorted(set(mapping.values())), class_names(mapping), strict=True))
    rows, out, first = [], [], dict[str, int]()
    for line, values in lines:
        if len(values) > len(names):
            problems.append(f"line {line}: {len(values)} values, the header has {len(names)}")
            continue
        row = dict(zip(names, (value.strip() for value in values), strict=False))
        who, has = row.get(person[0], ""), row.get("retinal_oct", "").lower()
        group, split = row.get("study_group", ""), row.get("recommended_split", "")
        if not who:
            problems.append(f"line {line}: {person[0]} is empty")
        elif who in first:
            problems.append(f"line {line}: participant {who} stands in line {first[who]} already")
        first.setdefault(who, line)
        if has in _FALSE:
            out.append((who, "retinal_oct is false"))
        elif has not in _TRUE:
            problems.append(f"line {line}: retinal_oct is {row.get('retinal_oct', '')!r}, neither true nor false")
        elif group not in mapping and group in STUDY_GROUPS:
            out.append((who, f"study_group {group} is of no class"))
        else:
            problems += _unknown(line, group, split, mapping)
            if group in mapping and (part := split_called(split)):
                target = mapping[group]
                rows.append((who, group, called[target], target, part, row.get("clinical_site", "")))
    columns = ["participant", "study_group", "label", "target", "split", "site"]
    table = pd.DataFrame(rows, columns=columns).sort_values("participant", ignore_index=True)
    problems += written_otherwise("participants", first)
    if not problems:
        problems += lacking(table, [*called.values()])
    if problems:
        more = [f"and {len(problems) - _TOLD} more"] if len(problems) > _TOLD else []
        advice = f"Classes are made of {', '.join(mapping)} (classes.mapping); splits are {', '.join(SPLITS)}."
        raise DataError(all_problems(f"labels {path}", [*problems[:_TOLD], *more], advice))
    left_out = pd.DataFrame(out, columns=["participant", "reason"]).sort_values("participant", ignore_index=True)
    return Participants(table, left_out)


def _unknown(line: int, group: str, split: str, mapping: Mapping[str, int]) -> Iterator[str]:
    if group not in mapping:
        yield f"line {line}: study_group {group!r} is unknown"
    if not split_called(split):
        yield f"line {line}: recommended_split {split!r} is unknown"


def lacking(rows: pd.DataFrame, labels: Sequence[str]) -> list[str]:
    """What splits lack: classes that one of them has nobody of, and all of training or validation. Test may be empty.

    Args:
        rows: At least participant, label and split.
        labels: All classes.
    """
    problems = []
    for split in SPLITS:
        there = set(rows.loc[rows["split"] == split, "label"])
        absent = [label for label in labels if label not in there]
        if absent and (there or split != "test"):
            problems.append(f"{split} has nobody of {some(absent)}" if there else f"{split} is empty")
    return problems
