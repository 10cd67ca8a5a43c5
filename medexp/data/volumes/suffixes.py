"""The files of a case, by how their names end: `*-t1c.nii.gz`, after - or _, as .nii.gz or .nii, any case.

What stands before the ending names the case. Nothing is imported but Python's own: a bundle carries this file as it is.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

_NIFTI = re.compile(r"(?P<stem>.+)\.nii(\.gz)?", re.IGNORECASE)
OTHERS = (".nrrd", ".nhdr", ".mha", ".mhd", ".mgz", ".mgh", ".mnc", ".hdr", ".dcm")
"""Endings of volumes that are no NIfTI, and are not read: what they say of axes is read differently by different programs."""
_BIDS = re.compile(r"(sub-[a-z0-9]+)(?:_(ses-[a-z0-9]+))?", re.IGNORECASE)

Groups = Mapping[str, Mapping[str, Sequence[Path]]]
"""Files by what stands before their endings, the case, and then by modality."""


def files_of(folder: Path, suffixes: Mapping[str, Sequence[str]]) -> tuple[dict[str, Path], list[str]]:
    """The files of the one case in a folder, and what is missing, ambiguous or of another case. Reads names only.

    Args:
        folder: Of the case.
        suffixes: By modality.

    Returns:
        By modality, in that order; and a line for each problem.
    """
    if not folder.exists():
        return {}, [dead(folder)]
    groups = grouped(folder, suffixes)
    one, problems = one_of_each(folder.name, groups, suffixes)
    if not one:
        return one, [f"{problem}; {instead(folder, suffixes)}" for problem in problems]
    return one, [*(f"{problem}{_beside(folder, groups)}" for problem in problems), *called_otherwise(folder.name, groups)]


def instead(folder: Path, suffixes: Mapping[str, Sequence[str]]) -> str:
    """What lies in a folder that holds no file of a case.

    Args:
        folder: Of no case.
        suffixes: By modality.
    """
    if cases_below(folder, suffixes):
        return f"the folders in it are cases: give {folder}"
    there = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    convert = "; NIfTI alone is read, convert to .nii.gz" if no_nifti(there) else ""
    return f"it holds {_listed(there) or 'nothing'}{convert}"


def cases_below(folder: Path, suffixes: Mapping[str, Sequence[str]]) -> int:
    """How many folders in a folder hold files of a case; one that is called as a file is none of a case."""
    folders = [path for path in folder.iterdir() if path.is_dir() and not _NIFTI.fullmatch(path.name)]
    return sum(bool(grouped(path, suffixes)) for path in folders)


def case_folders(root: Path) -> list[Path]:
    """What stands for a case in a folder: its folders, and links to nothing, so that no case is left out without a word."""
    there = [path for path in sorted(root.iterdir()) if not path.name.startswith(".")]
    return [path for path in there if path.is_dir() or not path.exists()]


def modality_of(name: str, suffixes: Mapping[str, Sequence[str]]) -> tuple[str, str] | None:
    """The case and the modality that a file's name says, by the longest ending that fits; None where none does."""
    if not (match := _NIFTI.fullmatch(name)):
        return None
    stem = match["stem"]
    fitting = [
        (len(ending), modality)
        for modality, endings in suffixes.items()
        for ending in endings
        if re.fullmatch(rf".+[-_]{re.escape(ending)}", stem, re.IGNORECASE)
    ]
    if not fitting:
        return None
    length, modality = max(fitting)
    return stem[: -length - 1], modality


def grouped(folder: Path, suffixes: Mapping[str, Sequence[str]]) -> Groups:
    """The files in a folder by case and modality. Reads names only.

    Args:
        folder: Where they lie.
        suffixes: By modality.
    """
    groups: dict[str, dict[str, list[Path]]] = {}
    for path in sorted(folder.iterdir()):
        told = modality_of(path.name, suffixes)
        if told and (path.is_file() or path.is_symlink()) and not path.name.startswith("."):
            groups.setdefault(told[0], {}).setdefault(told[1], []).append(path)
    return groups


def one_of_each(called: str, groups: Groups, suffixes: Mapping[str, Sequence[str]]) -> tuple[dict[str, Path], list[str]]:
    """The file of each modality, and a line for each that is missing or ambiguous, and where files are of several cases.

    Args:
        called: The case, for messages.
        groups: Its files.
        suffixes: Of the modalities that are wanted.
    """
    found = {modality: [path for of in groups.values() for path in of.get(modality, ())] for modality in suffixes}
    if not any(found.values()):
        first = _looked_for([endings[0] for endings in suffixes.values()])
        return {}, [f"{called}: no NIfTI file of a case; looked for names such as {first}"]
    problems = list(_mixed(called, groups))
    for modality, endings in suffixes.items():
        paths = found[modality]
        if not paths:
            problems.append(f"{called}: no {modality}; looked for {_looked_for(endings)}")
        elif len(paths) > 1:
            problems.append(f"{called}: {len(paths)} files for {modality} ({', '.join(p.name for p in paths)}); keep one")
        elif not paths[0].exists():
            problems.append(f"{called}: {dead(paths[0])}")
    return {modality: paths[0] for modality, paths in found.items() if paths}, problems


def two_cases(one: str, other: str) -> bool:
    """Whether two names, of files without their endings, are of two cases.

    They are of one where one goes on from the other (`P1`, `P1_brain`), or where after what they have in common at most one
    has a number (`P1_brain`, `P1_skull`): of an id that is part of it. In BIDS subject and session count, and nothing else.
    """
    if (bids := _BIDS.match(one)) and (other_bids := _BIDS.match(other)):
        sessions = {match[2].lower() for match in (bids, other_bids) if match[2]}
        return bids[1].lower() != other_bids[1].lower() or len(sessions) > 1
    parts, others = _parts(one), _parts(other)
    while parts and others and parts[0] == others[0]:
        del parts[0], others[0]
    return all(any(map(str.isdigit, "".join(rest))) for rest in (parts, others))


def called_otherwise(folder: str, groups: Groups) -> list[str]:
    """A line where a folder is called as a case of the same scheme as its files are, and another one. A folder whose name says
    nothing of that is fine."""
    if not groups or not all(_of_one_scheme(name, folder) and two_cases(name, folder) for name in groups):
        return []
    names = ", ".join(groups)
    return [f"{folder}: its files are called {names}, and patients go by the folder's name; rename the folder, or the files"]


def _mixed(called: str, groups: Groups) -> Iterator[str]:
    """A line where the files of a case are of several by their names."""
    if any(two_cases(one, other) for one in groups for other in groups):
        named = [f"{name} ({_listed([path for paths in of.values() for path in paths])})" for name, of in groups.items()]
        told = f"{called}: files of several cases, {' and '.join(named)}"
        yield f"{told}; take away those of another, and rename those that are of this one"


def _beside(folder: Path, groups: Groups) -> str:
    """The NIfTI files of a folder that were not taken, in words."""
    taken = {path for of in groups.values() for paths in of.values() for path in paths}
    there = [path for path in sorted(folder.iterdir()) if path not in taken and not path.name.startswith(".")]
    told = _listed([path for path in there if _NIFTI.fullmatch(path.name)])
    return (f"; not taken: {told}" if told else "") + no_nifti(there)


def no_nifti(paths: Sequence[Path]) -> str:
    """What files of other formats there are, and what to do, for the end of a line; nothing where there are none."""
    others = [path for path in paths if path.name.lower().endswith(OTHERS)]
    return f"; {_listed(others)}: NIfTI alone is read, convert to .nii.gz" if others else ""


def _listed(paths: Sequence[Path], most: int = 4) -> str:
    called_so = " (a folder; put the file that it holds in its place)"
    named = [path.name + (called_so if path.is_dir() and _NIFTI.fullmatch(path.name) else "") for path in paths[:most]]
    return ", ".join(named) + (f" and {len(paths) - most} more" if len(paths) > most else "")


def dead(link: Path) -> str:
    """What is wrong with a link to nothing."""
    return f"{link.name} is a link to {link.readlink()}, which is not there"


def _parts(name: str) -> list[str]:
    return [part for part in re.split(r"[-_. ]+", name.lower()) if part]


def _of_one_scheme(one: str, other: str) -> bool:
    """Whether two names are built alike as far as both go: the letters that they begin with, and of what kind each character
    is."""
    if _BIDS.match(one) and _BIDS.match(other):
        return True
    begin = {re.split("[^a-z]", name.lower(), maxsplit=1)[0] for name in (one, other)}
    shapes = [[re.sub("[a-z]", "a", re.sub("[0-9]", "0", part)) for part in _parts(name)] for name in (one, other)]
    return len(begin) == 1 and all(mine == yours for mine, yours in zip(*shapes, strict=False))


def _looked_for(suffixes: Sequence[str]) -> str:
    return " or ".join(f"*-{suffix}.nii.gz" for suffix in suffixes) + " (also _ and .nii)"


def cases_in(root: Path | str, suffixes: Mapping[str, Sequence[str]]) -> list[list[Path]]:
    """The files of each case of a folder with one folder a case.

    Args:
        root: The folder.
        suffixes: As of `files_of`.

    Returns:
        By case, sorted by its name: one file a modality, in that order.

    Raises:
        FileNotFoundError: There is no such folder, no case in it, or files of a case are missing or ambiguous; all problems.
    """
    if not Path(root).is_dir():
        raise FileNotFoundError(f"{root}: no such folder; one folder a case is wanted in it")
    found = [files_of(folder, suffixes) for folder in case_folders(Path(root))]
    if problems := [problem for _, told in found for problem in told] or ([] if found else ["no folder of a case in it"]):
        raise FileNotFoundError(f"{root}: {'; '.join(problems)}")
    return [list(files.values()) for files, _ in found]
