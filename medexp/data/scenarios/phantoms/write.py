"""Writes generated scenarios as users keep theirs: JSONL files beside a folder of images."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from medexp.data.parallel import written_once
from medexp.data.scenarios.phantoms.draw import FINDINGS, draw
from medexp.data.scenarios.phantoms.draw import VERSION as DRAWN
from medexp.data.scenarios.phantoms.words import JUDGED, PICTURES, PROPOSED, SHOWN, TREATMENTS, patient
from medexp.data.scenarios.phantoms.words import VERSION as WORDS

VERSION = 2
"""Part of the folder's name: raise it when what is written changes."""

BLOCK = 96
"""So many scenarios hold each finding and each treatment right and wrong equally often."""

IMAGES = "images"
_STREAM = 0  # of the drawings: beside that of those that the demo's base is pretrained on
_TOGETHER = 48  # images that a process draws at a time
_ELSEWHERE = "/Users/researcher/clinical_validation/images"  # where the images were, as real lines say
_SPLITS = ("train", "val", "test")
_PREFIXES = {"histopathology": "histopath"}
_IMAGE_TYPES = {name: picture.lower().replace(" ", "_").replace("-", "") for name, picture in PICTURES.items()}
_SEVERITY = {"appropriate": "none", "unnecessary": "moderate", "wrong": "high", "missed": "high"}
_COST = {"appropriate": "none", "unnecessary": "avoidable", "wrong": "avoidable", "missed": "delayed"}


@dataclass(frozen=True)
class _Case:
    """A scenario to write.

    Attributes:
        modality: Of its image.
        finding: What its image shows.
        indication: The finding that the proposed treatment is for.
        treatment: Its number among those for it.
    """

    modality: str
    finding: str
    indication: str
    treatment: int

    @property
    def right(self) -> bool:
        return self.finding == self.indication

    @property
    def error(self) -> str:
        """`appropriate`, or what is wrong: treating nothing, leaving something untreated, or treating it as something else."""
        if self.right:
            return "appropriate"
        return "unnecessary" if self.finding == "normal" else "missed" if self.indication == "normal" else "wrong"


def ensure_scenarios(training: int, testing: int, seed: int, cache: Path) -> Path:
    """The folder of generated scenarios, written when it is not there yet.

    `train.jsonl`, `val.jsonl` and `test.jsonl`, the last the same 24 whatever the seed, six of each modality, half of them
    errors; images in `images/`. A scenario's treatment has one indication; half of those that propose it come with an image
    that shows it, half with another one of the same modality, and so is each finding right half of the time: neither the words
    nor the image alone tell the answer. Image files are numbered in any order; their size is drawn without regard to what they
    show. Every scenario has an image of its own, and none shares its words, numbers masked, with another one.

    Args:
        training: Scenarios to learn from, an even number; in multiples of `BLOCK` also each finding is balanced exactly.
        testing: Scenarios to judge by, likewise.
        seed: The same seed and numbers give the same files.
        cache: Root of the cache; the folder goes under `phantoms/`.

    Raises:
        StorageError: When the cache cannot be written.
    """
    cases = {"train": _balanced(training, (seed, 0)), "val": _balanced(testing, (seed, 1)), "test": list(_fixed())}
    names = iter(np.random.default_rng((seed, 2)).permutation(sum(map(len, cases.values()))))
    files = {split: [f"{next(names):05d}.png" for _ in of_split] for split, of_split in cases.items()}
    entropies = {split: (_STREAM, _SPLITS.index(split), 0 if split == "test" else seed) for split in cases}
    jobs: list[Callable[[Path], None]] = [partial(_write_lines, cases, files, entropies)]
    for split, of_split in cases.items():
        entropy = entropies[split]
        numbered = list(enumerate(zip(of_split, files[split], strict=True)))
        jobs += [partial(_draw, numbered[at : at + _TOGETHER], entropy) for at in range(0, len(numbered), _TOGETHER)]
    folder = cache / "phantoms" / f"scenarios-{training}-{testing}-seed{seed}-v{VERSION}.{DRAWN}.{WORDS}"
    return written_once(folder, _do, [(job,) for job in jobs], "Writing scenarios")


def _do(job: Callable[[Path], None], folder: Path) -> None:
    (folder / IMAGES).mkdir(exist_ok=True)
    job(folder)


def _balanced(count: int, entropy: tuple[int, ...]) -> list[_Case]:
    """Cases in a random order; of each treatment as many right as wrong ones, as long as the count is even."""
    rng = np.random.default_rng((_STREAM, *entropy))
    found: list[_Case] = []
    while len(found) < count:
        pairs = [
            (_Case(modality, indication, indication, treatment), _Case(modality, other, indication, treatment))
            for modality, findings in FINDINGS.items()
            for indication in findings
            for treatment in range(len(TREATMENTS[modality, indication]))
            for other in findings
            if other != indication
        ]
        found += [case for place in rng.permutation(len(pairs)) for case in pairs[place]]
    return [found[place] for place in rng.permutation(count)]


def _fixed() -> Iterator[_Case]:
    """The 24: of each modality three errors, then three that are right; every finding and treatment is in one of each."""
    for modality, findings in FINDINGS.items():
        for turn in (1, 0):
            for place, finding in enumerate(findings):
                yield _Case(modality, finding, findings[(place + turn) % len(findings)], 0)


def _write_lines(
    cases: Mapping[str, Sequence[_Case]],
    files: Mapping[str, Sequence[str]],
    entropies: Mapping[str, tuple[int, ...]],
    folder: Path,
) -> None:
    """All splits, the 24 first: they are the same beside whatever else; no two texts are alike, whatever their numbers."""
    said: set[str] = set()
    for split in sorted(cases):
        lines = _lines(split, cases[split], files[split], entropies[split], said)
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")


def _lines(
    split: str, cases: Sequence[_Case], files: Sequence[str], entropy: tuple[int, ...], said: set[str]
) -> Iterator[str]:
    for number, (case, file) in enumerate(zip(cases, files, strict=True)):
        name = f"{split}_{number + 1:04d}"
        if split == "test":
            prefix = _PREFIXES.get(case.modality, case.modality)
            treated = TREATMENTS[case.modality, case.indication][case.treatment][0].split(" ")
            shown = SHOWN[case.modality, case.finding].removeprefix("an ").removeprefix("a ").split(" ")
            words = [*shown, case.error, "treatment" if case.error == "missed" else "_".join(treated)]
            name = "_".join([prefix, f"{number % 6 + 1:03d}", *words])
        rng = np.random.default_rng((*entropy, number, 1))
        line = _line(case, name, file, rng)
        while (text := re.sub(r"\d+", "#", f"{line['instruction']}\n{line['input']}")) in said:
            line = _line(case, name, file, rng)
        said.add(text)
        yield json.dumps(line) + "\n"


def _line(case: _Case, name: str, file: str, rng: np.random.Generator) -> Mapping[str, object]:
    wordings = TREATMENTS[case.modality, case.indication][case.treatment]
    shows = SHOWN[case.modality, case.finding]
    reason = f"it shows {shows}" if case.right else f"it shows {shows}, not {SHOWN[case.modality, case.indication]}"
    return {
        "id": name,
        "instruction": str(rng.choice(JUDGED)).format(picture=PICTURES[case.modality], what="treatment"),
        "input": f"{patient(case.modality, rng)} {PROPOSED.format(what='treatment', said=rng.choice(wordings))}",
        "output": f"{'CORRECT' if case.right else 'ERROR'} - {reason}.",
        "image_file": file,
        "image_path": f"{_ELSEWHERE}/{file}",
        "metadata": {
            "scenario_id": name,
            "modality": case.modality,
            "image_type": _IMAGE_TYPES[case.modality],
            "error_type": f"{case.error}_treatment",
            "severity": _SEVERITY[case.error],
            "cost_impact": _COST[case.error],
        },
    }


def _draw(numbered: Sequence[tuple[int, tuple[_Case, str]]], entropy: tuple[int, ...], folder: Path) -> None:
    for number, (case, file) in numbered:
        drawing = draw(case.modality, case.finding, np.random.default_rng((*entropy, number, 0)))
        Image.fromarray(drawing.pixels).save(folder / IMAGES / file)
