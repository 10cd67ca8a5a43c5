"""The files of a case, by how their names end: `*-t1c.nii.gz`, after - or _, as .nii.gz or .nii, any case.

Nothing is imported but Python's own: a bundle carries this file as it is.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

SUFFIXES = {"t2f": ("t2f", "flair"), "t1c": ("t1c", "t1ce"), "t1n": ("t1n", "t1"), "t2w": ("t2w", "t2"), "seg": ("seg",)}
"""Those of BraTS 2023, and the older ones."""

NAME = re.compile(r"(?P<case>.+)[-_](?P<suffix>[a-z0-9]+)\.nii(\.gz)?", re.IGNORECASE)


def files_of(folder: Path, suffixes: Mapping[str, Sequence[str]]) -> tuple[dict[str, Path], list[str]]:
    """The files of the one case in a folder, and what is missing or ambiguous. Reads names only.

    Args:
        folder: Of the case.
        suffixes: By modality, in lower case.

    Returns:
        By modality, in that order; and a line for each problem.
    """
    groups = grouped(folder, suffixes).values()
    found = {modality: [path for group in groups for path in group.get(modality, ())] for modality in suffixes}
    one, problems = one_of_each(folder.name, found, suffixes)
    return one, problems if one else [f"{problem}; {instead(folder, suffixes)}" for problem in problems]


def instead(folder: Path, suffixes: Mapping[str, Sequence[str]]) -> str:
    """What lies in a folder that holds no file of a case.

    Args:
        folder: Of no case.
        suffixes: By modality, in lower case.
    """
    there = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if any(path.is_dir() and grouped(path, suffixes) for path in there):
        return f"the folders in it are cases: give {folder}"
    return f"it holds {', '.join(path.name for path in there[:3]) or 'nothing'}" + (", …" if len(there) > 3 else "")


def grouped(folder: Path, suffixes: Mapping[str, Sequence[str]]) -> dict[str, dict[str, list[Path]]]:
    """The files in a folder by what stands before their endings, the case, and then by modality. Reads names only.

    Args:
        folder: Where they lie.
        suffixes: By modality, in lower case.
    """
    groups: dict[str, dict[str, list[Path]]] = {}
    for path in sorted(folder.iterdir()):
        match = NAME.fullmatch(path.name)
        if match and (path.is_file() or path.is_symlink()) and not path.name.startswith("."):
            for modality, endings in suffixes.items():
                if match["suffix"].lower() in endings:
                    groups.setdefault(match["case"], {}).setdefault(modality, []).append(path)
    return groups


def one_of_each(
    called: str, found: Mapping[str, Sequence[Path]], suffixes: Mapping[str, Sequence[str]]
) -> tuple[dict[str, Path], list[str]]:
    """The file of each modality, and a line for each that is missing or ambiguous.

    Args:
        called: The case, for messages.
        found: Files by modality.
        suffixes: Of the modalities that are wanted.
    """
    if not any(found.get(modality) for modality in suffixes):
        looked_for = _looked_for([suffix for known in suffixes.values() for suffix in known])
        return {}, [f"{called}: no NIfTI file of a case; looked for {looked_for}"]
    problems = []
    for modality, endings in suffixes.items():
        paths = found.get(modality, ())
        if not paths:
            problems.append(f"{called}: no {modality}; looked for {_looked_for(endings)}")
        elif len(paths) > 1:
            problems.append(f"{called}: {len(paths)} files for {modality} ({', '.join(p.name for p in paths)}); keep one")
        elif not paths[0].exists():
            problems.append(f"{called}: {paths[0].name} is a link to {paths[0].readlink()}, which is not there")
    return {modality: found[modality][0] for modality in suffixes if found.get(modality)}, problems


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
    folders = sorted(path for path in Path(root).iterdir() if path.is_dir() and not path.name.startswith("."))
    found = [files_of(folder, suffixes) for folder in folders]
    if problems := [problem for _, told in found for problem in told] or ([] if found else ["no folder of a case in it"]):
        raise FileNotFoundError(f"{root}: {'; '.join(problems)}")
    return [list(files.values()) for files, _ in found]
