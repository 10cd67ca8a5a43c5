"""Scenarios out of JSONL files, one object a line, each line checked."""

import difflib
import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

from medexp.addresses import local_path
from medexp.data.inputs import decoded
from medexp.data.scenarios.cases import ANSWERS, MODALITIES, Scenario
from medexp.data.storage import local_file, local_folder
from medexp.errors import DataError, all_problems

TEXTS = ("id", "instruction", "input", "output", "image_file")
"""Fields that every line has, of text. It also has metadata with a modality; what else it holds is kept or passed over."""

METADATA = ("scenario_id", "image_type", "error_type", "severity", "cost_impact")
"""Of a line's metadata, what is kept beside the modality: text, a number, or null."""

IMAGES = "images"
"""The folder beside a file of scenarios in which images are looked up first."""

ADVICE = (
    "Each line is one object with id, instruction, input, output, image_file and metadata (with modality); mend the lines."
)
_TOLD = 20  # problems that a message names
_SHOWN = 40  # characters of a value
_LONGEST = 255  # bytes of a file's name
_HALF = "holds half of a character (a lone surrogate); write it anew"
_NEARLY = re.compile(r"\W*(error|correct)\b", re.IGNORECASE)


class Found(NamedTuple):
    """What files hold.

    Attributes:
        scenarios: In the order of the files and of their lines.
        problems: By file and line, or by file, what is wrong with others, each in a line.
    """

    scenarios: tuple[Scenario, ...]
    problems: Mapping[str, Sequence[str]]


def read_scenarios(
    files: Sequence[Path], image_dir: Path | None = None, modalities: Sequence[str] = MODALITIES, *, answered: bool = True
) -> tuple[Scenario, ...]:
    """The scenarios of JSONL files, in the order of the files and of their lines.

    UTF-8, with or without the mark that Windows writes, with Unix or Windows line ends; blank lines are passed over. Images
    are not opened. image_path, by which the described project names a file of one laptop, is ignored.

    Args:
        files: JSONL.
        image_dir: What image_file is relative to; None: the folder `images` beside the file, else the file's own.
        modalities: That a scenario may be of.
        answered: Whether each has an output; else it may be missing, null or empty.

    Raises:
        DataError: All problems at once, each with its file and line: no JSON, a missing field, a wrong type, an output that
            begins with neither answer, an unknown modality, an image that is not there or outside image_dir, an id twice.
    """
    scenarios, problems = find_scenarios(files, image_dir, modalities, answered=answered)
    refuse(problems)
    return scenarios


def find_scenarios(files: Sequence[Path], image_dir: Path | None, modalities: Sequence[str], *, answered: bool) -> Found:
    """As `read_scenarios`, with what is wrong beside what is right."""
    scenarios: list[Scenario] = []
    problems: dict[str, list[str]] = defaultdict(list)
    if image_dir is not None and not image_dir.is_dir():
        problems["image_dir"].append(f"{image_dir}: no such folder; give image_dir=FOLDER, which image_file is relative to")
        return Found((), problems)
    if not files:
        problems["scenarios"].append("no file is given; give scenarios=FILE.jsonl")
    for place, file in enumerate(files):
        if file in files[:place]:
            problems[str(file)].append("is given twice; give it once")
            continue
        try:
            lines = _lines(file)
        except DataError as error:
            problems[str(file)].append(str(error))
            continue
        for number, line in lines:
            scenario, wrong = _scenario(line, file, number, image_dir, modalities, answered)
            if wrong or scenario is None:
                problems[f"{file}:{number}"] += wrong
            else:
                scenarios.append(scenario)
    first: dict[str, Scenario] = {}
    for scenario in scenarios:
        if (other := first.setdefault(scenario.id, scenario)) is not scenario:
            told = f"id {scenario.id} stands in {other.where} too; an id names one scenario: take one out, or rename it"
            problems[scenario.where].append(told)
    return Found(tuple(first.values()), problems)


def refuse(problems: Mapping[str, Sequence[str]]) -> None:
    """All problems at once, where there are any.

    Raises:
        DataError: There are.
    """
    if told := [f"{where}: {what}" for where, wrong in problems.items() for what in wrong]:
        more = [f"and {len(told) - _TOLD} more"] if len(told) > _TOLD else []
        raise DataError(all_problems("scenarios", [*told[:_TOLD], *more], ADVICE))


def local_scenarios(files: Sequence[str], image_dir: str | None, cache: Path) -> tuple[list[Path], Path | None]:
    """Files of scenarios, and the folder of their images, on this machine.

    Args:
        files: Paths, or s3://bucket/key: without `image_dir` all that lies beside such a file is brought along.
        image_dir: A path, s3://bucket/prefix, or None.
        cache: Root of the cache.

    Raises:
        DataError: A bucket holds no such key.
        StorageError: A file cannot be fetched, the cache cannot be written.
    """
    if image_dir is not None:
        return [local_file(file, cache) for file in files], local_folder(image_dir, cache)
    beside = [local_folder(file.rpartition("/")[0], cache) if "://" in file else local_path(file).parent for file in files]
    return [folder / file.rpartition("/")[2] for folder, file in zip(beside, files, strict=True)], None


def record_of(line: str) -> dict[str, Any]:
    """The object of a line that was read and found good."""
    record: dict[str, Any] = json.loads(line)
    return record


def raw_lines(file: Path) -> dict[int, str]:
    """The lines of a file that are not blank, by number from 1, without their ends.

    Raises:
        DataError: It cannot be read or is no UTF-8.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror or error}); give scenarios=FILE.jsonl") from error
    text = decoded(content)
    # no splitlines: text may hold other ends of lines, such as U+2028, as they are
    return {number: line.rstrip("\r") for number, line in enumerate(text.split("\n"), 1) if line.strip()}


def _lines(file: Path) -> list[tuple[int, str]]:
    lines = raw_lines(file)
    if not lines:
        raise DataError("holds no line; a file has one scenario a line")
    first = next(iter(lines.values())).strip()
    if (first == "{" and len(lines) > 1) or (first[0] == "[" and _is_list("\n".join(lines.values()))):
        found, query = ("one list", ".[]") if first[0] == "[" else ("objects over several lines", ".")
        raise DataError(
            f"is no JSONL: found {found}; write one object a line, as by: jq -c '{query}' {file.name} > lines.jsonl"
        )
    return list(lines.items())


def _is_list(text: str) -> bool:
    try:
        return isinstance(json.loads(text), list)
    except (ValueError, RecursionError):
        return False


def _scenario(
    line: str, file: Path, number: int, image_dir: Path | None, modalities: Sequence[str], answered: bool
) -> tuple[Scenario | None, list[str]]:
    """What a line holds, or what is wrong with it."""
    twice: list[str] = []

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        twice.extend(sorted({name for name in names if names.count(name) > 1}))
        return dict(pairs)

    try:
        record = json.loads(line, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        where = f", at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else ""
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        return None, [f"no JSON ({reason}{where}): found {_shown(line.strip())}; one object a line is allowed"]
    if not isinstance(record, dict):
        return None, [f"found {_kind(record)}; a line is an object with {', '.join(TEXTS)} and metadata"]
    problems = [f"{name} stands twice; keep one" for name in twice]
    if not answered and record.get("output", "") in (None, ""):
        record.pop("output", None)
    wanted = [name for name in TEXTS if answered or name in record or name != "output"]
    if missing := [name for name in (*wanted, "metadata") if name not in record]:
        problems.append(f"{_fields(missing)} missing; found {', '.join(record) or 'nothing'}")
    values = {name: record[name] for name in wanted if name in record}
    problems += [
        f"{name}: found {_kind(value)}; text is allowed" for name, value in values.items() if not isinstance(value, str)
    ]
    texts = {name: value for name, value in values.items() if isinstance(value, str)}
    problems += [f"{name}: {_HALF}" for name, text in texts.items() if _broken(text)]
    if "id" in texts and not (texts["id"] and texts["id"].isprintable() and texts["id"] == texts["id"].strip()):
        problems.append(f"id: found {_shown(texts['id'])}; a name without blanks around it, in one line, is allowed")
    if "instruction" in texts and not (texts["instruction"] + texts.get("input", "")).strip():
        problems.append("instruction: found nothing, nor in input; text is needed")
    if "output" in texts:
        problems += _output_problems(texts["output"])
    kept, wrong = _metadata(record["metadata"], modalities) if "metadata" in record else ({}, [])
    problems += wrong
    image = None
    if "image_file" in texts and not _broken(texts["image_file"]):
        image, wrong = _image(texts["image_file"], file, image_dir)
        problems += wrong
    if problems or image is None:
        return None, problems
    modality = kept.pop("modality")
    words = (texts["id"], texts["instruction"], texts["input"], texts.get("output"))
    return Scenario(*words, image, modality, kept, file, number), []


def _output_problems(output: str) -> list[str]:
    if output.startswith(tuple(f"{answer} - " for answer in ANSWERS)):
        return []
    allowed = " or ".join(f'"{answer} - "' for answer in ANSWERS)
    near = _NEARLY.match(output)
    hint = f'; nearly right: write "{near[1].upper()} - " in capitals, with a hyphen between two blanks' if near else ""
    return [f"output: found {_shown(output)}; it begins with {allowed}{hint}"]


def _metadata(metadata: Any, modalities: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """What is kept of a line's metadata, and what is wrong with it."""
    if not isinstance(metadata, dict):
        return {}, [f"metadata: found {_kind(metadata)}; an object with modality is allowed"]
    problems = []
    modality = metadata.get("modality")
    if modality not in modalities:
        found = "is missing" if "modality" not in metadata else f"found {_shown(modality)}"
        squeezed = {re.sub(r"\W|_", "", name.lower()): name for name in modalities}
        near = difflib.get_close_matches(re.sub(r"\W|_", "", str(modality).lower()), squeezed, 1)
        hint = f"; did you mean {squeezed[near[0]]}?" if near else "; the key modalities says which"
        problems.append(f"metadata.modality: {found}; allowed are {', '.join(modalities)}{hint}")
    kept = {name: metadata[name] for name in METADATA if metadata.get(name) is not None}
    for name, value in kept.items():
        if isinstance(value, float) and not math.isfinite(value):
            problems.append(f"metadata.{name}: found {value}; a finite number is allowed, or null where there is none")
        elif not isinstance(value, str | int | float):
            problems.append(f"metadata.{name}: found {_kind(value)}; text, a number or null is allowed")
        elif isinstance(value, str) and _broken(value):
            problems.append(f"metadata.{name}: {_HALF}")
    return {**{name: str(value) for name, value in kept.items()}, "modality": str(modality)}, problems


def _image(name: str, file: Path, image_dir: Path | None) -> tuple[Path | None, list[str]]:
    """The file that image_file names, or what is wrong with it."""
    windows = PureWindowsPath(name)  # takes both / and \
    if not name.strip() or "\0" in name or max(len(part.encode()) for part in windows.parts or [""]) > _LONGEST:
        return None, [f"image_file: found {_shown(name)}; a file's name, relative to image_dir, is allowed"]
    if windows.is_absolute() or windows.drive or windows.root or ".." in windows.parts:
        told = f"which leaves image_dir; a name relative to it is allowed, such as {windows.name}"
        return None, [f"image_file: found {_shown(name)}, {told}"]
    roots = [image_dir] if image_dir is not None else [file.parent / IMAGES, file.parent]
    tried = [(root / windows.as_posix()) for root in roots]
    if there := [path for path in tried if path.is_file()]:
        return there[0].absolute(), []
    if folders := [path for path in tried if path.is_dir()]:
        return None, [f"image_file: {folders[0]} is a folder; name a file"]
    near = [root / windows.name for root in roots if (root / windows.name).is_file()]
    hint = f"; did you mean {near[0].name}?" if near else "; put it there, or give image_dir=FOLDER"
    return None, [f"image_file: no file {' or '.join(map(str, tried))}{hint}"]


def _broken(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _fields(names: Sequence[str]) -> str:
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}"


def _kind(value: Any) -> str:
    words = {bool: "true or false", dict: "an object", list: "a list", str: "text", type(None): "null"}
    return words.get(type(value), f"the number {value}")


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    text = text.encode(errors="replace").decode()
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
