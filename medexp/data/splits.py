"""Splits by patient: a patient's cases, and copies of them under another name, never straddle two splits."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from medexp.config.data import DataConfig, ImageDataConfig, PairDataConfig
from medexp.data.twins import Digested, Owned, find_twins
from medexp.errors import ConfigError, DataError, all_problems
from medexp.files import replacing
from medexp.words import some

SPLITS = ("train", "val", "test")

_NUMBER = re.compile(r"\d+(\.0+)?")
_SAME = {"training": "train", "validation": "val", "valid": "val", "dev": "val", "testing": "test"}


@dataclass(frozen=True)
class Splits:
    """Case ids, sorted. `train` has at least one; `val` or `test` may be empty where nothing is validated or tested."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]

    def of(self, case_id: str) -> str:
        """The split of a case.

        Raises:
            KeyError: When it is in none.
        """
        for name in SPLITS:
            if case_id in getattr(self, name):
                return name
        raise KeyError(case_id)


def patient_of(pattern: str) -> Callable[[str], str]:
    """From the name of a scan to its patient: the first group of `pattern`, or the scan's name where that does not match.

    Raises:
        ConfigError: `pattern` is no regular expression with a group.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"data.patient_pattern: {pattern!r} is no regular expression ({error})") from error
    if compiled.groups < 1:
        raise ConfigError(f"data.patient_pattern: {pattern!r} has no group; put the patient's part in parentheses")

    def patient(scan: str) -> str:
        match = compiled.search(scan)
        return match[1] if match and match[1] else scan

    return patient


def split_called(word: str) -> str | None:
    """The split that a table means by a word, in any case: training is train, validation, valid and dev are val, testing is
    test; None for any other."""
    plain = word.strip().casefold()
    return plain if plain in SPLITS else _SAME.get(plain)


def written_otherwise(what: str, names: Iterable[str]) -> list[str]:
    """A problem for all names that differ in capitals or blanks alone, or are one number, as 1 and 1.0 of a spreadsheet are:
    one patient, or one label, that was written in two ways counts as two, and may lie in two splits.

    Args:
        what: What they name, in the plural.
        names: The names.
    """
    same: dict[str, set[str]] = defaultdict(set)
    for name in names:
        plain = "".join(name.casefold().split())
        same[re.sub(r"^0+(?=\d)|\.0+$", "", plain) if _NUMBER.fullmatch(plain) else plain].add(name)
    return [
        f"{what} {' and '.join(map(repr, sorted(ways)))} differ in capitals or blanks alone, or are one number; write one way"
        for ways in same.values()
        if len(ways) > 1
    ]


def unnamed(source: str, scans: Sequence[str], pattern: str, block: str = "data") -> str:
    """What a reader must know where no name says whose a scan is, and what to give where several are of one patient.

    Args:
        source: Where they come from.
        scans: Their names.
        pattern: `patient_pattern`, which matches none of them.
        block: Where that stands in the configuration.
    """
    tries = ((other, len({*map(patient_of(other), scans)})) for other in ("^(.+)_", "^(.+)-"))
    fitting = [f"-P '{block}.patient_pattern={other}' makes {count}" for other, count in tries if 2 < count < len(scans)]
    give = " or ".join(fitting) or f"-P '{block}.patient_pattern=REGEX', whose first group is the patient"
    return (
        f"{source}: {block}.patient_pattern ({pattern}) finds a patient in none of {len(scans)} names, such as {min(scans)}. "
        "Each counts as a patient of its own, and splits, folds and intervals by patient rest on that. If fewer patients are "
        f"meant: {give}."
    )


def make_splits(
    cases: Sequence[Owned], facts: Iterable[Digested], data: DataConfig | ImageDataConfig | PairDataConfig, seed: int
) -> Splits:
    """Draws validation, test and training patients, in this order. The same cases in another order give the same splits.

    Patients who share a case, or copies of one (`find_twins`), are drawn together. Each fraction of the number of such groups
    is rounded; validation gets at least one group and training the rest, at least one; test goes empty before either does.

    Raises:
        DataError: When all cases are of one patient.
    """
    groups = patient_groups(cases, facts)
    if len(groups) < 2:
        patients = sorted({case.patient for case in cases})
        found = (
            f"a single patient ({patients[0]})"
            if len(patients) == 1
            else f"{len(patients)} patients who share exact duplicates"
        )
        raise DataError(
            f"data: {found} in {len(cases)} cases; training and validation need a patient each. Add patients, or correct "
            f"data.patient_pattern ({data.patient_pattern!r}) if these are several"
        )
    validated = min(max(1, round(len(groups) * data.val_fraction)), len(groups) - 1)
    held_back = min(round(len(groups) * data.test_fraction), len(groups) - validated - 1)
    drawn = [groups[index] for index in np.random.default_rng(seed).permutation(len(groups))]
    val, test, train = drawn[:validated], drawn[validated : validated + held_back], drawn[validated + held_back :]
    return Splits(*(tuple(sorted(case for group in part for case in group)) for part in (train, val, test)))


def by_label(groups: Iterable[Sequence[str]], labels: Mapping[str, str]) -> dict[str, list[Sequence[str]]]:
    """Groups of cases that stay together, by their label; of several labels in a group the most frequent one counts, of those
    that are as frequent the one that fewer groups have so far."""
    found: dict[str, list[Sequence[str]]] = defaultdict(list)
    for group in groups:
        counts = Counter(labels[case] for case in group)
        found[min(counts, key=lambda label: (-counts[label], len(found[label]), label))].append(group)
    return found


def draw_by_label(groups: Mapping[str, Sequence[Sequence[str]]], sizes: Callable[[int], tuple[int, int]], seed: int) -> Splits:
    """Draws groups of cases that stay together, label by label.

    Args:
        groups: The groups of each label.
        sizes: From a label's number of groups to how many of them are for test and for validation; the rest is trained on.
        seed: Seed of the draw.
    """
    rng, parts = np.random.default_rng(seed), defaultdict[str, list[str]](list)
    for _, of_label in sorted(groups.items()):
        tested, validated = sizes(len(of_label))
        for place, index in enumerate(rng.permutation(len(of_label))):
            split = "test" if place < tested else "val" if place < tested + validated else "train"
            parts[split] += of_label[index]
    return Splits(*(tuple(sorted(parts[split])) for split in SPLITS))


def load_splits(path: Path, cases: Sequence[Owned], facts: Iterable[Digested], train_only: Set[str] = frozenset()) -> Splits:
    """Reads and checks a data_splits.json: {"train": [ID, ...], "val": [...], "test": [...]}; `test` may be absent.

    Args:
        path: The file.
        cases: All cases.
        facts: Of each of them.
        train_only: Cases that may be trained on and nothing else; those that the file does not have are.

    Raises:
        DataError: All problems at once: unreadable JSON, unknown keys, unknown cases, a case twice or in no split, a patient
            or an exact duplicate in two splits, an empty train or val, a case of `train_only` in another split.
    """
    listed = _read(path)
    listed["train"] = [*listed["train"], *sorted(train_only - {case for name in SPLITS for case in listed[name]})]
    problems = [
        f"{name}: {some(judged)}: synthetic, and for training alone"
        for name in ("val", "test")
        if (judged := sorted(train_only & set(listed[name])))
    ]
    splits_of: dict[str, list[str]] = defaultdict(list)
    for name in SPLITS:
        for case_id in listed[name]:
            splits_of[case_id].append(name)
    known = {case.id for case in cases}
    if unknown := sorted(set(splits_of) - known):
        problems.append(f"unknown cases {some(unknown)}; the data folder has no such case, or data.exclude leaves it out")
    if absent := sorted(known - set(splits_of)):
        problems.append(f"in no split: {some(absent)}; add them to one, or leave them out with data.exclude")
    for case_id, names in sorted(splits_of.items()):
        if len(names) > 1:
            problems.append(f"case {case_id} is listed {len(names)} times ({', '.join(names)}); keep one")
    problems += straddling(splits_of, cases, facts)
    problems += [f"{name} is empty; at least one case is needed" for name in ("train", "val") if not listed[name]]
    if problems:
        raise DataError(all_problems(f"splits {path}", problems, "Correct the file, or leave splits out to split by seed."))
    return Splits(**{name: tuple(sorted(listed[name])) for name in SPLITS})


def save_splits(splits: Splits, path: Path) -> None:
    """Writes a data_splits.json that `load_splits` reads."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(asdict(splits), indent=2) + "\n")


def patient_groups(cases: Sequence[Owned], facts: Iterable[Digested]) -> list[list[str]]:
    """Case ids by group: patients joined through exact duplicates and through other copies (`find_twins`). Both levels sorted.

    Where copies that are not equal would join more than a quarter of the patients, and more than two, the cases are just
    alike, and they join none: the check TWINS tells of those that lie in two splits then.
    """
    patients = sorted({case.patient for case in cases})
    position = {patient: index for index, patient in enumerate(patients)}
    owner = {case.id: position[case.patient] for case in cases}
    twins = find_twins(cases, facts)
    for joining in (twins, twins[twins["exact"]]):
        rows, columns = (joining[name].map(owner).to_numpy(np.intp) for name in ("case", "other"))
        graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(patients), len(patients)))
        component = connected_components(graph, directed=False)[1]
        if np.bincount(component, minlength=1).max() <= max(2, len(patients) / 4):
            break
    groups: dict[int, list[str]] = defaultdict(list)
    for case in cases:
        groups[component[owner[case.id]]].append(case.id)
    return sorted(sorted(group) for group in groups.values())


def _read(path: Path) -> dict[str, list[str]]:
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise DataError(f"splits {path}: cannot be read ({error.strerror}). Give splits=FILE") from error
    except ValueError as error:
        raise DataError(f"splits {path}: no JSON ({error})") from error
    form = 'expected {"train": [ID, ...], "val": [ID, ...], "test": [ID, ...]}'
    if not isinstance(content, dict):
        raise DataError(f"splits {path}: found a {type(content).__name__}; {form}")
    problems = [f"unknown key {key!r}; {form}" for key in content if key not in SPLITS]
    problems += [f"no key {key!r}; {form}" for key in ("train", "val") if key not in content]
    for key, ids in content.items():
        if not isinstance(ids, list) or not all(isinstance(case_id, str) for case_id in ids):
            problems.append(f"{key!r} is no list of case names; {form}")
    if problems:
        raise DataError(all_problems(f"splits {path}", problems))
    return {name: content.get(name, []) for name in SPLITS}


def straddling(splits_of: dict[str, list[str]], cases: Sequence[Owned], facts: Iterable[Digested]) -> list[str]:
    """Patients and exact duplicates that lie in more than one split."""
    by_patient: dict[str, list[str]] = defaultdict(list)
    by_voxels: dict[str, list[str]] = defaultdict(list)
    for case in cases:
        by_patient[case.patient].append(case.id)
    for fact in facts:
        by_voxels[fact.voxels_sha256].append(fact.case)
    problems = []
    for what, members in (
        *((f"patient {patient}", ids) for patient, ids in sorted(by_patient.items())),
        *(("exact duplicates", ids) for ids in sorted(by_voxels.values())),
    ):
        if len({name for case_id in members for name in splits_of.get(case_id, [])}) > 1:
            where = ", ".join(
                f"{case_id} in {'/'.join(splits_of[case_id])}" for case_id in sorted(members) if case_id in splits_of
            )
            problems.append(f"{what} in two splits: {where}")
    return problems
