"""What is known of a scenario once its image was read and checked: digests, header, words, what is odd. Images are read once
and cached, however many scenarios share one."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medexp.data.headers import Header
from medexp.data.kept import kept_records
from medexp.data.pictures import in_colours, open_picture
from medexp.data.scenarios.cases import Scenario
from medexp.data.scenarios.oddities import BLANK, odd_image
from medexp.data.scenarios.read import refuse
from medexp.data.seen import Field
from medexp.data.twins import perceptual_hash

VERSION = 3
"""Part of the cache: raise it when what is computed here, in `oddities` or in `medexp.data.pictures` changes."""

MOST = 200
"""Tokens of a kind that a control is given, those that split the scenarios most evenly: more make a forest slow."""

_WORD = re.compile(r"[^\W_]+")
_PART = re.compile(r"[^\W\d_]+|\d+")


@dataclass(frozen=True)
class ScenarioFacts:
    """What a manifest, a split and a control need to know of a scenario.

    Attributes:
        case: Its id.
        sha256: Of the image's pixels, of the texts and of the answer.
        voxels_sha256: Of the pixels as 8-bit RGB, turned as EXIF says: equal for exact duplicates, whatever file they are in.
        perceptual_hash: Alike for copies that are not equal (`medexp.data.twins`); empty for a blank image.
        header: What the image's file says besides pixels.
        words: Of instruction and input, lower case.
        names: Parts of the names of the image's file and of its folder, lower case, split where letters and digits meet.
        number: The last number in the file's name; None without one.
        oddities: Of `medexp.data.scenarios.oddities.MEANING`.
    """

    case: str
    sha256: str
    voxels_sha256: str
    perceptual_hash: tuple[str, ...]
    header: Header
    words: frozenset[str]
    names: frozenset[str]
    number: float | None
    oddities: tuple[str, ...]

    @property
    def fields(self) -> Mapping[str, Field]:
        """What stands for how an image looked before anything was done to it (`medexp.data.seen`)."""
        return self.header


def describe_scenarios(scenarios: Sequence[Scenario], cache: Path, jobs: int) -> tuple[ScenarioFacts, ...]:
    """Reads, checks and describes the image of every scenario, in the order given.

    Images that were described before and have not changed since (path, size and times) come from the cache.

    Args:
        scenarios: As `read_scenarios` returns them.
        cache: Root of the cache; one JSON file for each folder of images goes under `scenarios/`.
        jobs: Processes.

    Raises:
        DataError: All problems of all images at once.
    """
    facts, problems = facts_of(scenarios, cache, jobs)
    refuse(problems)
    return tuple(facts[scenario.id] for scenario in scenarios)


def facts_of(scenarios: Sequence[Scenario], cache: Path, jobs: int) -> tuple[dict[str, ScenarioFacts], dict[str, list[str]]]:
    """As `describe_scenarios`: the facts by id, and by file and line what is wrong with the images of others."""
    images = {str(scenario.image): (scenario.image, (scenario.image,), ()) for scenario in scenarios}
    records, wrong = kept_records(_record, images, cache / "scenarios", VERSION, jobs)
    advice = "save it anew as PNG or JPEG, or take the line out"
    return (
        {one.id: _facts(one, records[str(one.image)]) for one in scenarios if str(one.image) in records},
        {one.where: [f"image_file: {wrong[str(one.image)]}; {advice}"] for one in scenarios if str(one.image) in wrong},
    )


def identity(scenario: Scenario) -> tuple[str, tuple[str, ...]]:
    """`voxels_sha256` and `perceptual_hash` of a scenario's image, by which it is known again.

    Raises:
        DataError: It cannot be read.
    """
    record = _record(scenario.image)
    return record["pixels_sha256"], tuple(record["perceptual_hash"])


def token_headers(facts: Sequence[ScenarioFacts], what: Literal["words", "names"]) -> list[Header]:
    """What a control could tell the answers by, like headers: 1 or 0 by word of the texts, or by part of a file's name, of
    those that stand in at least two scenarios and not in all; with names also `number`.

    Args:
        facts: Of the scenarios, the order of what is returned.
        what: The texts' words, or the names of the images' files.
    """
    tokens = [one.words if what == "words" else one.names for one in facts]
    counts = Counter(token for held in tokens for token in held)
    telling = [token for token, count in counts.items() if 2 <= count < len(facts)]
    kept = sorted(telling, key=lambda token: (-min(counts[token], len(facts) - counts[token]), token))[:MOST]
    numbers: list[dict[str, float | None]] = [{"number": one.number} if what == "names" else {} for one in facts]
    return [
        number | {f'"{token}"': float(token in held) for token in kept} for number, held in zip(numbers, tokens, strict=True)
    ]


def _record(path: Path) -> dict[str, Any]:
    picture, header = open_picture(path)
    seen = in_colours(picture)
    pixels = np.asarray(seen)
    whole = hashlib.sha256(repr(pixels.shape).encode())
    whole.update(np.ascontiguousarray(pixels).data)
    oddities = odd_image(picture, seen, str(header["format"]), path)
    grey = np.asarray(seen.convert("L"), np.float32)
    return {
        "pixels_sha256": whole.hexdigest(),
        "perceptual_hash": [] if BLANK in oddities else perceptual_hash(grey, cropped=True),
        "header": header,
        "oddities": oddities,
    }


def _facts(scenario: Scenario, record: Mapping[str, Any]) -> ScenarioFacts:
    texts = [record["pixels_sha256"], scenario.instruction, scenario.input, scenario.output]
    stem, folder = scenario.image.stem.casefold(), scenario.image.parent.name.casefold()
    numbers = [part for part in _PART.findall(stem) if part.isdecimal()]
    return ScenarioFacts(
        case=scenario.id,
        sha256=hashlib.sha256(json.dumps(texts).encode()).hexdigest(),
        voxels_sha256=record["pixels_sha256"],
        perceptual_hash=tuple(record["perceptual_hash"]),
        header=record["header"],
        words=frozenset(_WORD.findall(f"{scenario.instruction}\n{scenario.input}".casefold())),
        names=frozenset([*_PART.findall(stem), *_PART.findall(folder)]),
        number=float(numbers[-1]) if numbers else None,
        oddities=tuple(record["oddities"]),
    )
