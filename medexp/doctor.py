"""What is installed, which store and device are in use, and what is wrong: `medexp doctor`."""

import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil
import torch

import medexp
from medexp import phases
from medexp.config.shared import cache_root
from medexp.errors import MedexpError, StorageError
from medexp.registry.definitions import known_models, load_definition
from medexp.tracking.killed import end_run, left_running
from medexp.tracking.provenance import git_state
from medexp.tracking.stores import NoStoreYet, find_store, find_stores

_LIBRARIES = ("torch", "monai", "mlflow", "peft", "accelerate", "safetensors", "numpy", "optuna")
_GIB = 2**30
_LITTLE = 2 * _GIB  # a run of the demo and its caches take a tenth of it; a full one more


@dataclass
class Examination:
    """What was found.

    Attributes:
        facts: What is so, by topic.
        problems: What is wrong, each with what to do.
    """

    facts: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def examine(*, fix: bool = False) -> Examination:
    """Look at everything that a phase needs.

    Args:
        fix: End the runs that count as running and whose process is gone; else nothing is changed.
    """
    found = Examination()
    runs = partial(_runs, fix=fix)
    for look in (_versions, _device, _stores, runs, _cache, _disk, _environment, _code, _definitions):
        try:
            found.facts |= look(found.problems.append)
        except MedexpError as error:
            found.problems.append(str(error))
    return found


_Tell = Callable[[str], None]


def _versions(wrong: _Tell) -> Mapping[str, str]:
    versions = {"medexp": medexp.__version__, "python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            wrong(f"{library}: is not installed. Install what requirements.lock pins: make test, or pip install -e .")
    return versions


def _device(wrong: _Tell) -> Mapping[str, str]:
    devices = [
        f"{torch.cuda.get_device_name(index)} ({torch.cuda.get_device_properties(index).total_memory / _GIB:.0f} GiB)"
        for index in range(torch.cuda.device_count())
    ]
    devices += ["Apple MPS"] if torch.backends.mps.is_available() else []
    if torch.version.cuda and not torch.cuda.is_available() and shutil.which("nvidia-smi"):
        wrong("device: torch is built for CUDA and finds no GPU, though nvidia-smi is there. Is the driver recent enough?")
    memory = psutil.virtual_memory()
    return {
        "device": ", ".join(devices) or f"cpu ({platform.processor() or platform.machine()})",
        "cores": str(os.cpu_count()),
        "memory": f"{memory.available / _GIB:.1f} of {memory.total / _GIB:.1f} GiB free",
        "threads of torch": f"{torch.get_num_threads()} (a phase's threads=N sets them)",
    }


def _stores(wrong: _Tell) -> Mapping[str, str]:
    try:
        stores = find_stores()
    except NoStoreYet as none:
        return {"tracking store": f"nothing here yet; the first run makes {none.file}: mlflow run . -e main"}
    if not stores.one:
        wrong(
            "stores: runs and models are in two; the journal of promotions, in the tracking store, must be where the models "
            "are. Unset MLFLOW_REGISTRY_URI, or set it to MLFLOW_TRACKING_URI"
        )
    if stores.artifacts.startswith(("/", "file:", ".")):
        folder = Path(stores.artifacts.removeprefix("file://"))
        if folder.exists() and not os.access(folder, os.W_OK):
            wrong(f"artifacts {folder}: cannot be written. Its owner has to allow it")
    return {"tracking store": stores.tracking, "model registry": stores.registry, "artifacts": stores.artifacts}


def _runs(wrong: _Tell, fix: bool) -> Mapping[str, str]:
    try:
        find_store()
    except StorageError:
        return {}  # said of the stores
    left = left_running()
    for run in left:
        if fix:
            end_run(run.id)
        else:
            wrong(f"run {run.id} ({run.name}): counts as running, but {run.why}. medexp doctor --fix ends it as KILLED")
    return {"runs ended": ", ".join(f"{run.id} ({run.name}): {run.why}" for run in left)} if fix and left else {}


def _cache(wrong: _Tell) -> Mapping[str, str]:
    folder = cache_root(None)
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        wrong(f"cache {folder}: cannot be written ({error.strerror}). Set XDG_CACHE_HOME, or give cache_dir=FOLDER")
    if quarantined := list(folder.glob("quarantine/*")):
        wrong(
            f"quarantine {quarantined[0].parent}: holds {len(quarantined)} packages that were not as they were registered, "
            "each with reason.txt. medexp audit --every-byte says whether those in the store are whole; then delete these"
        )
    return {"cache": f"{folder} ({sum(_sizes(folder)) / _GIB:.2f} GiB)"}


def _disk(wrong: _Tell) -> Mapping[str, str]:
    free = shutil.disk_usage(Path.cwd()).free
    if free < _LITTLE:
        wrong(f"disk: {free / _GIB:.1f} GiB are free in {Path.cwd()}; have at least {_LITTLE / _GIB:.0f}")
    return {"free disk": f"{free / _GIB:.1f} GiB in {Path.cwd()}"}


def _environment(wrong: _Tell) -> Mapping[str, str]:
    conda = shutil.which("conda")
    how = "conda, from conda.yaml" if conda else "this one (there is no conda)"
    return {"environment": sys.prefix, "mlflow run uses": how}


def _code(wrong: _Tell) -> Mapping[str, str]:
    state = git_state()
    if state is None:
        return {"code": f"{Path(medexp.__file__).parent}, no git checkout: runs will not name a commit"}
    commit, uncommitted = state
    return {"code": f"commit {commit[:12]}{', with changes that are not committed' if uncommitted else ''}"}


def _definitions(wrong: _Tell) -> Mapping[str, str]:
    for name in known_models():
        try:
            load_definition(name, phases.checks())
        except MedexpError as error:
            wrong(str(error))
    return {"models defined": ", ".join(known_models())}


def _sizes(folder: Path) -> Iterator[int]:
    for path in folder.rglob("*"):
        try:
            yield path.lstat().st_size if path.is_file() else 0
        except FileNotFoundError:  # another process tidies up
            continue
