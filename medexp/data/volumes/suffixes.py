"""The files of a case, by how their names end: `*-t1c.nii.gz`, after - or _, as .nii.gz or .nii, any case.

Nothing is imported but Python's own: a bundle carries this file as it is.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

SUFFIXES = {"t2f": ("t2f", "flair"), "t1c": ("t1c", "t1ce"), "t1n": ("t1n", "t1"), "t2w": ("t2w", "t2"), "seg": ("seg",)}
"""Those of BraTS 2023, and the older ones."""

NAME = re.compile(r".+[-_](?P<suffix>[a-z0-9]+)\.nii(\.gz)?", re.IGNORECASE)


def files_of(folder: Path, suffixes: Mapping[str, Sequence[str]]) -> tuple[dict[str, Path], list[str]]:
    """The files of a case, and what is missing or ambiguous. Reads names only.

    Args:
        folder: Of the case.
        suffixes: By modality, in lower case.

    Returns:
        By modality, in that order; and a line for each problem.
    """
    found: dict[str, list[Path]] = {modality: [] for modality in suffixes}
    for path in sorted(folder.iterdir()):
        match = NAME.fullmatch(path.name)
        if match and path.is_file() and not path.name.startswith("."):
            for modality, paths in found.items():
                if match["suffix"].lower() in suffixes[modality]:
                    paths.append(path)
    if not any(found.values()):
        looked_for = _looked_for([suffix for known in suffixes.values() for suffix in known])
        return {}, [f"{folder.name}: no NIfTI file of a case; looked for {looked_for}"]
    problems = []
    for modality, paths in found.items():
        if not paths:
            problems.append(f"{folder.name}: no {modality}; looked for {_looked_for(suffixes[modality])}")
        elif len(paths) > 1:
            problems.append(f"{folder.name}: {len(paths)} files for {modality} ({', '.join(p.name for p in paths)}); keep one")
    return {modality: paths[0] for modality, paths in found.items() if paths}, problems


def _looked_for(suffixes: Sequence[str]) -> str:
    return " or ".join(f"*-{suffix}.nii.gz" for suffix in suffixes) + " (also _ and .nii)"
