"""Keys that the configurations of several phases have, each with its text, its range and what it is for, and what a phase is
handed of them."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol, runtime_checkable

from annotated_types import Ge, MinLen, Predicate, doc

from medexp.addresses import local_path
from medexp.config.bounds import Count, Natural, Share, Told
from medexp.config.keys import Called, Role
from medexp.errors import StorageError

Profile = Annotated[
    str, Role.CASES, doc("demo (embedded phantoms, minutes on two cores) or full (the numbers of docs/requirements/).")
]
DataDir = Annotated[
    str | None,
    Role.CASES,
    doc("Folder or s3://bucket/prefix of BraTS-MEN cases; without it the embedded phantoms are used (demo only)."),
]
SplitsFile = Annotated[
    str | None, Role.CASES, doc("A data_splits.json to use as it stands; without it patients are split by `seed`.")
]
Scenarios = Annotated[
    tuple[str, ...],
    Role.CASES,
    doc(
        "Files of scenarios, JSONL, with commas between them, each a path or s3://bucket/key. train.jsonl, val.jsonl and "
        "test.jsonl are these splits; others are split by family, stratified."
    ),
]
ImageDir = Annotated[
    str | None,
    Role.CASES,
    doc(
        "Folder, or s3://bucket/prefix, that image_file is looked up in; without it images/ beside the scenarios, or their "
        "own folder."
    ),
]
Modalities = Annotated[tuple[str, ...], MinLen(1), Told("one or more modalities", list), Role.CASES]
Resume = Annotated[str | None, Role.WHERE, doc("Run id of an interrupted run to go on from.")]
Written = Annotated[
    str,
    Predicate(lambda where: "://" not in where and bool(where.strip())),
    Told("what is written goes to a folder of this machine; a bucket is read"),
]
OutputDir = Annotated[Written, Role.WHERE, doc("Folder that gets one folder a run, named by its run id.")]
CacheDir = Annotated[
    Written | None, Role.WHERE, doc("Folder for what is computed once; without it $XDG_CACHE_HOME/medexp or ~/.cache/medexp.")
]
Seed = Annotated[Natural, Called("s", last=True)]
Device = Annotated[Literal["auto", "cpu", "cuda", "mps"], Role.WHERE, doc("auto, cpu, cuda or mps.")]
Threads = Annotated[Count | None, Role.WHERE, doc("Threads of torch a process; without it torch decides.")]
Folds = Annotated[
    int,
    Role.CASES,
    Predicate(lambda folds: folds == 0 or folds >= 2),
    Told("0, or at least 2"),
    doc(
        "Folds of a cross-validation by patient over training and validation together: their cases are judged out of fold, "
        "and what is registered is trained on all of them; 0 judges the one validation split."
    ),
]
Jobs = Annotated[Count, Role.WHERE, doc("Cases read in parallel.")]
Samples = Annotated[int, Ge(100), Role.JUDGING, doc("Resamples of an interval.")]
Confidence = Annotated[Share, Role.JUDGING, doc("Coverage of an interval, 0 to 1.")]


class Configuration(Protocol):
    """What every phase's configuration has: a frozen dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def profile(self) -> str: ...
    @property
    def output_dir(self) -> str: ...
    @property
    def cache_dir(self) -> str | None: ...
    @property
    def seed(self) -> int: ...


class WithIntervals(Configuration, Protocol):
    """A configuration of a phase whose figures have intervals."""

    @property
    def bootstrap_samples(self) -> int: ...
    @property
    def confidence(self) -> float: ...


@runtime_checkable
class Resumable(Configuration, Protocol):
    """A configuration of a phase that goes on from an interrupted run."""

    @property
    def resume(self) -> str | None: ...


@runtime_checkable
class Recoverable(Resumable, Protocol):
    """A configuration of a phase that recovers from a failed check."""

    @property
    def recover(self) -> bool: ...


@dataclass(frozen=True)
class Resampling:
    """How the intervals of a run are drawn, by bootstrap of patients.

    Attributes:
        samples: Resamples.
        confidence: Coverage, above 0 and below 1.
        seed: Seed of the resamples: the same patients and seed give the same resamples to every statistic.
        folds: How many trainings judge the cases, each those of its fold; 0 where one training judges all.
    """

    samples: int
    confidence: float
    seed: int
    folds: int = 0

    @property
    def excess(self) -> float:
        """`excess_of` its folds."""
        return excess_of(self.folds)


def resampling(config: WithIntervals, folds: int = 0) -> Resampling:
    """How a configuration wants the intervals of its run drawn; `folds` as in `Resampling`."""
    return Resampling(config.bootstrap_samples, config.confidence, config.seed, folds)


def excess_of(folds: int) -> float:
    """How many times the variance that independent cases would give is that of a figure over all that so many folds judged.

    A bootstrap of cases takes trainings as they are, but those of K folds share their training cases: 1 + K / (K - 1)
    times (Nadeau and Bengio, "Inference for the generalization error", 2003); 1 where one training judges all.
    """
    return 1 + folds / (folds - 1) if folds > 1 else 1.0


def cache_root(cache_dir: str | None) -> Path:
    """The folder for what is computed once: `cache_dir`, else $XDG_CACHE_HOME/medexp, else ~/.cache/medexp.

    Raises:
        StorageError: It is there and this user may not look into it.
    """
    usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medexp"
    root = (usual if cache_dir is None else local_path(cache_dir)).absolute()  # processes may have another directory
    if os.path.isdir(root) and not os.access(root, os.R_OK | os.X_OK, effective_ids=True):  # noqa: PTH112  says no where it may not look
        key = "XDG_CACHE_HOME" if cache_dir is None else "cache_dir"
        raise StorageError(f"cache {root}: cannot be read, it is another user's; choose another folder with {key}")
    return root


def takes_memory(batch: int, size: Sequence[object], blocks: tuple[str, str] = ("training", "training")) -> str:
    """What takes a training's memory, and which keys make it less.

    Args:
        batch: Inputs in a batch.
        size: Of an input.
        blocks: Of the keys batch_size and accumulate.
    """
    inputs = f"batches of {batch} inputs of {' x '.join(map(str, size))}"
    smaller = " or lower data.input_size" if blocks[0] == "training" else " or set train.precision=bf16"
    return f"{inputs}: lower {blocks[0]}.batch_size and raise {blocks[1]}.accumulate by as much,{smaller}"


def listed(given: Sequence[str]) -> list[str]:
    """The names that a key holds, of which each value may hold several with commas between them."""
    return [one.strip() for value in given for one in value.split(",") if one.strip()]


def needs_data(profile: str, data_dir: str | None) -> Iterator[str]:
    """What is missing where real data are asked for and none are given."""
    if profile == "full" and data_dir is None:
        yield "data_dir: profile=full needs real data; give data_dir=FOLDER of BraTS-MEN cases"
