"""Scenarios that somebody wants answered: a JSONL file, or a folder that holds some."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from medexp.data.inputs import Inputs
from medexp.data.scenarios.cases import ANSWERS, MODALITIES
from medexp.data.scenarios.read import find_scenarios
from medexp.errors import DataError

ENDINGS = (".jsonl",)
"""Of the files that hold scenarios, in any case."""


def find_inputs(
    path: Path,
    image_dir: Path | None = None,
    patient: Callable[[str], str] = str,
    modalities: Sequence[str] = MODALITIES,
) -> Inputs:
    """The scenarios that a path names; those without an output too. Images are not opened.

    What is wrong with a line is told by file and line, beside the scenarios that can be used.

    Args:
        path: A .jsonl file, or a folder with any number of them, in no folder below it.
        image_dir: What image_file is relative to, as for `medexp.data.scenarios.read.read_scenarios`.
        patient: From a scenario's id to what is one with it.
        modalities: That a scenario may be of.

    Raises:
        DataError: There is nothing at `path`, or no file of scenarios in the folder.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    if path.is_dir():
        there = sorted(one for one in path.iterdir() if one.is_file() and not one.name.startswith("."))
        files = [one for one in there if one.suffix.lower() in ENDINGS]
        if not files:
            raise DataError(f"{path}: no file of scenarios in it; read are {', '.join(ENDINGS)}")
    elif path.suffix.lower() in ENDINGS:
        files = [path]
    else:
        raise DataError(f"{path}: no file of scenarios ({', '.join(ENDINGS)})")
    found = find_scenarios(files, image_dir, modalities, answered=False)
    cases = [replace(one, family=patient(one.id)) for one in found.scenarios]
    problems = {where: "; ".join(wrong) for where, wrong in found.problems.items()}
    labels = {one.id: ANSWERS[one.label] for one in cases if one.label is not None}
    return Inputs(cases, problems, labels)
