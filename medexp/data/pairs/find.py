"""Finds pairs of a FLAIR volume and its lesion mask: in BIDS data sets, in a folder a case, in flat folders, in tables.

A file is told by how its name ends, after - or _: an image *_FLAIR or *-t2f, a mask *_roi, *_mask, *_lesion, *_seg. Nothing
else is taken: a T1 beside a FLAIR never is. `data.suffixes` names other endings.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medexp.addresses import local_path
from medexp.config.data import PairDataConfig
from medexp.data.inputs import TABLES, lines_of, name_of
from medexp.data.pairs.marks import COLUMN, generated, participants, said
from medexp.data.splits import patient_of
from medexp.data.volumes.cases import Case
from medexp.data.volumes.suffixes import OTHERS, called_otherwise, dead, modality_of, no_nifti, two_cases
from medexp.errors import DataError, all_problems
from medexp.words import some

FORMS = (
    "Taken are a BIDS data set (sub-ID/anat/sub-ID_FLAIR.nii.gz, its mask *_roi.nii.gz or *_mask.nii.gz beside it or under "
    "derivatives/), a folder a case (*-t2f.nii.gz and *-seg.nii.gz), files side by side (ID_FLAIR.nii.gz, ID_roi.nii.gz), and "
    "a TSV or CSV with the columns image and mask"
)

_IMAGES = {"flair", "t2f", "t2flair"}
_MASK = re.compile(r"roi|mask|label|seg|segmentation|tumou?r|\w*lesions?\w*")
_TISSUE = {"brain", "head", "gm", "wm", "csf", "tissue"}
"""Words of the names of masks that are no lesion's, whatever grid they are on, where no word says lesion."""
_OTHER = _TISSUE | {"t1w", "t1", "t1c", "t1ce", "t1n", "t2w", "t2"}
"""Words of the names of masks that are no lesion's, or not on the FLAIR's grid."""
_SUBJECT = re.compile(r"sub-[A-Za-z0-9]+")
_SESSION = re.compile(r"ses-[A-Za-z0-9]+")
_NAMED = re.compile(r"(sub|ses)-[A-Za-z0-9]+")
Suffixes = Mapping[str, Sequence[str]]
_COLUMNS = ("image", "mask")
_OPTIONAL = ("case", "patient", COLUMN)


@dataclass(frozen=True)
class Found:
    """What folders and tables hold.

    Attributes:
        cases: Sorted by id: pairs, or with `masks=False` volumes that nobody outlined anything in.
        synthetic: Ids of those that a table or a data set says are synthetic; a file's header may say so of others.
        left: Ids of volumes that were not asked for: those without a mask, or with `masks=False` those with one.
    """

    cases: tuple[Case, ...]
    synthetic: frozenset[str] = frozenset()
    left: tuple[str, ...] = ()


@dataclass
class _Seen:
    """What one folder or table holds, by id of the case: images, masks where there are any, patients that are named."""

    images: dict[str, Path] = field(default_factory=dict)
    masks: dict[str, Path] = field(default_factory=dict)
    patients: dict[str, str] = field(default_factory=dict)
    synthetic: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _File:
    """A NIfTI file by its name.

    Attributes:
        path: Where it is.
        stem: Its name without .nii; of an image without what says that it is one.
        kind: image, mask, elsewhere (a lesion's mask on the grid of another image) or other.
    """

    path: Path
    stem: str
    kind: str


def find_pairs(data_dirs: Sequence[Path], data: PairDataConfig, masks: bool = True, block: str = "data") -> Found:
    """The cases of folders and tables. Reads names and tables only.

    Args:
        data_dirs: Folders, and tables (TSV, CSV) whose columns image and mask are relative to the table's folder or absolute;
            case, patient and synthetic may stand beside them.
        data: `suffixes` says how names end where not as known, `patient_pattern` gives a case its patient where no
            table does, `exclude` leaves cases out.
        masks: Whether pairs are wanted, or real volumes of patients of whom no mask is there.
        block: Where `data` stands in the configuration, for messages.

    Raises:
        DataError: All problems at once: a folder or table that is not there or holds no case, a mask without a FLAIR, several
            masks of one FLAIR, a FLAIR that a mask cannot be told to be of, a file that is a link to nothing, an id twice, an
            excluded case that is not there.
        ConfigError: `patient_pattern` is no regular expression with a group.
    """
    named = patient_of(data.patient_pattern)
    seen = {place: _seen(place, data.suffixes) for place in dict.fromkeys(path.absolute() for path in data_dirs)}
    out = tuple(f"{case}: " for case in data.exclude)  # of a case that is left out nothing is wrong
    problems = [f"{place}: {told}" for place, one in seen.items() for told in one.problems if not told.startswith(out)]
    counts = Counter(case for one in seen.values() for case in one.images)
    for case in sorted(case for case, count in counts.items() if count > 1):
        where = ", ".join(str(place) for place, one in seen.items() if case in one.images)
        problems.append(f"case {case} stands in {where}; an id names one case: rename it, or give a table with a column case")
    problems += [f"{block}.exclude: no case {name} in it" for name in sorted(set(data.exclude) - set(counts))]
    cases: list[Case] = []
    for one in seen.values():
        for case, image in one.images.items():
            if case not in data.exclude:
                cases.append(Case(case, one.patients.get(case) or _patient(case, named(case)), (image,), one.masks.get(case)))
    synthetic = frozenset(case for one in seen.values() for case in one.synthetic)
    outlined = {case.patient for case in cases if case.label}
    wanted = [case for case in cases if (case.label is not None) == masks]
    if not masks:
        wanted = [case for case in wanted if case.patient not in outlined and case.id not in synthetic]
    if not wanted and not problems:
        there = f"{len(cases)} volumes, " + ("none with a mask" if masks else "all of patients with a mask, or synthetic")
        problems = [f"no {'pair' if masks else 'volume without a mask'} in {', '.join(map(str, seen))}: {there}"]
    if problems:
        key = "pairs" if block == "pair_data" else "data_dir"
        other = f"say how other names end with -P '{block}.suffixes={{t2f: [ENDING], seg: [ENDING]}}'"
        advice = f"{FORMS}. Or {other}, or leave cases out with -P '{block}.exclude=[ID, ...]'."
        raise DataError(all_problems(key, problems, advice))
    taken = {case.id for case in wanted}
    left = tuple(sorted(case.id for case in cases if case.id not in taken))
    return Found(tuple(sorted(wanted, key=lambda case: case.id)), synthetic & taken, left)


def _patient(case: str, by_pattern: str) -> str:
    """By the pattern; where that says nothing a BIDS name does."""
    subject = _SUBJECT.match(case)
    return subject[0] if by_pattern == case and subject else by_pattern


def _seen(place: Path, suffixes: Suffixes) -> _Seen:
    try:
        if place.suffix.lower() in TABLES and not place.is_dir():
            return _of_table(place, suffixes)
        return _of_folder(place, suffixes)
    except DataError as error:
        return _Seen(problems=[str(error).removeprefix(f"{place}: ")])


def _of_folder(root: Path, suffixes: Suffixes) -> _Seen:
    if not root.is_dir():
        raise DataError("no such folder or table")
    files = list(_files(root, suffixes))
    units: dict[tuple[str, ...], list[_File]] = defaultdict(list)
    for file in files:
        units[_unit(file.path.relative_to(root))].append(file)
    others = [path for path in sorted(root.rglob("*")) if path.name.lower().endswith(OTHERS) and path.is_file()]
    if not any(file.kind == "image" for file in files):
        there = Counter(re.split(r"[-_]", name_of(file.path))[-1] for file in files)
        listed = some([f"*{name} ({count})" for name, count in there.most_common()])
        raise DataError(f"no FLAIR in it; it holds {listed or 'no NIfTI file'}{no_nifti(others)}")
    seen = _gathered({unit: _pair(unit, members) for unit, members in sorted(units.items())})
    marked = [file.parent for file in root.rglob("dataset_description.json") if generated(file)]
    for table in root.rglob("participants.tsv"):
        marked += [table.parent / participant for participant, drawn in participants(table).items() if drawn]
    meant = [path for path in others if _told(path.with_suffix(".nii"), suffixes).kind in ("image", "mask")]
    seen.problems += [f"{path.name}: NIfTI alone is read; convert it to .nii.gz" for path in meant]
    seen.synthetic |= {case for case, image in seen.images.items() if any(one in image.parents for one in marked)}
    return seen


def _gathered(units: Mapping[tuple[str, ...], _Seen]) -> _Seen:
    """All units; cases of several that are called alike, as where each patient has a folder `anat`, by their whole folders."""
    counts = Counter(case for one in units.values() for case in one.images)
    whole = _Seen()
    for unit, one in units.items():
        whole.problems += one.problems
        for case, image in one.images.items():
            own = case if counts[case] == 1 else "_".join(dict.fromkeys([*filter(None, unit), case]))
            if own in whole.images:
                whole.problems.append(f"{own}: {whole.images[own]} and {image} are both called so; name them in a table")
            whole.images[own] = image
            if case in one.masks:
                whole.masks[own] = one.masks[case]
    return whole


def _files(root: Path, suffixes: Suffixes) -> Iterator[_File]:
    """The NIfTI files under a folder, through links too and each folder once, but for hidden ones, sorted."""
    been = set()
    for folder, inner, names in os.walk(root, followlinks=True):
        if (real := os.path.realpath(folder)) in been:
            inner.clear()
            continue
        been.add(real)
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and name.lower().endswith((".nii", ".nii.gz")):
                yield _told(Path(folder, name), suffixes)


def _told(path: Path, suffixes: Suffixes) -> _File:
    whole = name_of(path)
    if named := modality_of(f"x-{path.name}", suffixes):  # the name may be the ending alone
        case, modality = named
        return _File(path, case[2:], "image") if modality == "t2f" else _File(path, whole, "mask")
    stem, _, last = whole.replace("-", "_").lower().rpartition("_")
    words = set(_NAMED.sub("", whole).replace("-", "_").lower().split("_")[:-1])
    if last in _IMAGES and "t2f" not in suffixes:
        return _File(path, whole[: len(stem)], "image")
    if not _MASK.fullmatch(last) or "seg" in suffixes:
        return _File(path, whole, "other")
    outlined = last == "roi" or "lesion" in f"{words} {last}"
    if not words & _OTHER or (words & _IMAGES and (outlined or not words & _TISSUE)):
        return _File(path, whole, "mask")
    return _File(path, whole, "elsewhere" if outlined and "brain" not in words else "other")


def _unit(path: Path) -> tuple[str, ...]:
    """What the files of one scan have in common: of BIDS subject and session, else the folder."""
    text = path.as_posix()
    if subject := _SUBJECT.match(path.name) or _SUBJECT.match(text):
        session = _SESSION.search(text)
        return (subject[0], *([session[0]] if session else []))
    return ("", *path.parent.parts)


def _pair(unit: tuple[str, ...], members: Sequence[_File]) -> _Seen:
    """The images of a unit, each with its mask."""
    seen = _Seen()
    alone = "_".join(part for part in unit if part) if unit[0] else unit[-1]
    seen.problems += _misplaced(alone, unit, members)
    images = [file for file in members if file.kind == "image"]
    images = [file for file in images if "derivatives" not in file.path.parts] or images  # what was made of another image
    masks = [file for file in members if file.kind == "mask"]
    seen.problems += [
        f"{alone or file.stem}: {dead(file.path)}; fetch it, as by datalad get"
        for file in (*images, *masks)
        if not file.path.exists()
    ]
    ids = {file.path: alone if len(images) == 1 and alone else file.stem or alone for file in images}
    for case in sorted(case for case, count in Counter(ids.values()).items() if count > 1):
        names = ", ".join(path.name for path, own in ids.items() if own == case)
        seen.problems.append(f"{case}: several FLAIR files of one name ({names}); keep one, or name them in a table")
    of: dict[Path, list[_File]] = defaultdict(list)
    for mask in masks:
        of_it = [file for file in images if len(images) == 1 or f"{mask.stem}_".startswith((f"{file.stem}_", f"{file.stem}-"))]
        if not of_it:
            told = "no FLAIR beside it"
            if images:
                told = f"its name does not say which of {', '.join(file.path.name for file in images)} it is of"
            seen.problems.append(f"{mask.path.name}: {told}; rename it, or name it in a table")
        else:
            of[max(of_it, key=lambda file: len(file.stem)).path].append(mask)
    for file in images:
        case, found = ids[file.path], of[file.path]
        seen.images[case] = file.path
        if len(found) > 1:
            names = ", ".join(mask.path.name for mask in found)
            seen.problems.append(f"{case}: {len(found)} masks ({names}); keep one, or name one in a table")
        elif found and two_cases(file.stem, found[0].stem):
            names = f"{file.path.name} and {found[0].path.name}"
            seen.problems.append(f"{case}: {names} are called as two cases; rename one, or name both in a table")
        elif found:
            seen.masks[case] = found[0].path
        elif others := [one.path.name for one in members if one.kind == "elsewhere"]:
            seen.problems.append(f"{case}: {some(others)} is no mask of its FLAIR; give one on the FLAIR's grid, *_FLAIR_roi")
    return seen


def _misplaced(case: str, unit: Sequence[str], members: Sequence[_File]) -> Iterator[str]:
    """What lies under another subject or session than its name says, or in a folder that is called as another case."""
    for file in members:
        for entity in (_SUBJECT, _SESSION) if unit[0] and file.kind in ("image", "mask") else ():
            above = {found[0] for part in file.path.parent.parts if (found := entity.fullmatch(part))}
            if above and (named := entity.search(file.path.name)) and named[0] not in above:
                told = f"{case}: {file.path.name} lies under {', '.join(above)}"
                yield f"{told}; a file is of one: rename it, or put it where it belongs"
    names = {file.stem: [file.path] for file in members if file.kind == "image"} if unit[0] == "" else {}
    yield from called_otherwise(unit[-1], {name: {"t2f": files} for name, files in names.items()})


def _of_table(table: Path, suffixes: Suffixes) -> _Seen:
    (_, header), *rows = lines_of(table, "\t" if table.suffix.lower() == ".tsv" else ",") or [(1, [])]
    names = [name.strip() for name in header]
    seen = _Seen()
    lacking = [f"no column {name}; found {', '.join(names) or 'nothing'}" for name in _COLUMNS if name not in names]
    twice = [f"column {name} stands {count} times; keep one" for name, count in Counter(names).items() if count > 1]
    if lacking or twice:
        raise DataError("; ".join(lacking + twice))
    if not rows:
        raise DataError("holds no rows")
    for number, row in rows:
        try:
            _row(table, names, row, seen, suffixes)
        except DataError as error:
            seen.problems.append(f"line {number}: {error}")
    return seen


def _row(table: Path, names: Sequence[str], row: Sequence[str], seen: _Seen, suffixes: Suffixes) -> None:
    if len(row) != len(names):
        raise DataError(f"{len(row)} values, the header has {len(names)} columns")
    cells = {name: value.strip() for name, value in zip(names, row, strict=True) if name in (*_COLUMNS, *_OPTIONAL)}
    if not cells["image"]:
        raise DataError("image is empty")
    paths = {name: table.parent / local_path(cells[name]) for name in _COLUMNS if cells[name]}
    if absent := [f"{name} {path}: no such file" for name, path in paths.items() if not path.is_file()]:
        raise DataError("; ".join(absent))
    file = _told(paths["image"], suffixes)
    case = cells.get("case") or (file.stem if file.kind == "image" and file.stem else name_of(file.path))
    if case in seen.images:
        raise DataError(f"case {case} stands twice; an id names one row. Give a column case")
    if paths["image"] in seen.images.values():
        raise DataError(f"image {paths['image']} stands twice; a case is an image and one mask")
    seen.images[case] = paths["image"]
    seen.patients[case] = cells.get("patient", "")
    if "mask" in paths:
        seen.masks[case] = paths["mask"]
    if said(cells.get(COLUMN, "")):
        seen.synthetic.add(case)
