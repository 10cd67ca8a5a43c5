"""How a phase starts: its processes, device and precision, and the one tracked run that they share."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list, is_torch_xla_available

from medexp.errors import CheckFailed, ConfigError, OutOfMemory
from medexp.files import replacing
from medexp.phases.phase1.config import Phase1Config
from medexp.phases.shared.config import ImagePhaseConfig
from medexp.tracking.runs import TrackedRun, tracked_run

_PATIENCE = timedelta(hours=6)  # of the other processes while the first one reads a large data set
_BEGUN = "begun.json"
_PRECISION = {"fp32": "no", "bf16-mixed": "bf16"}
# What RuntimeErrors say of memory: torch's allocators of GPUs and of main memory, and cuBLAS. Others have other causes.
_NO_MEMORY = ("out of memory", "DefaultCPUAllocator", "ALLOC_FAILED")


def start_accelerator(device: str, threads: int | None, precision: str = "fp32") -> Accelerator:
    """Processes, device and precision.

    Args:
        device: auto, cpu, cuda or mps.
        threads: Threads of torch a process; None: torch decides.
        precision: fp32 or bf16-mixed.

    Raises:
        ConfigError: The device is not there.
    """
    torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32: the merge is held to 1e-5; bf16-mixed is not slowed by it
    if threads is not None:
        torch.set_num_threads(threads)
    there = {"cpu": True, "auto": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there[device]:
        found = ", ".join(name for name, present in there.items() if present)
        raise ConfigError(f"device={device}: not on this machine, which has {found}. device=auto takes what there is")
    return Accelerator(
        # Said outright, or accelerate takes several processes without a GPU for as many separate runs.
        cpu=device == "cpu" or not (torch.accelerator.is_available() or is_torch_xla_available()),
        mixed_precision=_PRECISION[precision],
        step_scheduler_with_optimizer=False,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)],
    )


def forget_precision() -> None:
    """accelerate keeps device and precision for the process; what is trained next in it may have others."""
    AcceleratorState._reset_state(reset_partial_state=True)


@contextmanager
def launched_run(phase: str, config: Phase1Config | ImagePhaseConfig, accelerator: Accelerator) -> Iterator[TrackedRun]:
    """The tracked run of a phase; the first process writes it, and all share its id and folder."""
    try:
        if accelerator.is_main_process:
            with tracked_run(phase, config, resumed_from=config.resume) as run:
                broadcast_object_list([run.id])
                with out_of_memory(config):
                    yield run
        else:
            received: list[str] = [""]
            broadcast_object_list(received)
            with tracked_run(phase, config, is_main=False, run_id=received[0]) as run, out_of_memory(config):
                yield run
    except CheckFailed:
        accelerator.wait_for_everyone()  # the first process that leaves with an error ends the others: the run is closed first
        raise


def take_over_state(resume: str | None, tracked: TrackedRun) -> None:
    """Start from what an interrupted run had trained.

    Args:
        resume: That run's id, None where there is none.
        tracked: The run that goes on.
    """
    interrupted = tracked.folder.parent / str(resume) / "state"
    if resume is not None and interrupted.is_dir() and not (tracked.folder / "state").exists():
        shutil.copytree(interrupted, tracked.folder / ".state", dirs_exist_ok=True)
        (tracked.folder / ".state").replace(tracked.folder / "state")


def same_as_begun(resume: str | None, tracked: TrackedRun, digests: Mapping[str, str]) -> None:
    """A run that is resumed goes on with the very networks and cases that it was begun with.

    An alias may have moved, and what was trained on one network means nothing on another. A patient may have been added: the
    splits are then drawn anew, and what was trained on would be validated on.

    Args:
        resume: The interrupted run's id, None where there is none.
        tracked: The run that goes on; `begun.json` in its folder keeps the digests.
        digests: Of the weights of each network, and of the cases, by the key that names them.

    Raises:
        ConfigError: One of them is another one than it was.
    """
    interrupted, ours = tracked.folder.parent / str(resume) / _BEGUN, tracked.folder / _BEGUN
    before = json.loads(interrupted.read_text()) if resume is not None and interrupted.is_file() else {}
    if changed := [key for key, digest in digests.items() if before.get(key, digest) != digest]:
        raise ConfigError(
            f"resume={resume}: not what the run was begun with: {' and '.join(changed)}; move the alias or put the "
            "files back, or start a new run without resume"
        )
    kept = json.loads(ours.read_text()) if ours.is_file() else {}
    with replacing(ours) as temporary:
        temporary.write_text(json.dumps(kept | dict(digests)))


def scored(test: bool) -> dict[str, str]:
    """The splits that a trial of a study is scored on, and the prefix of its metrics there; the test split by name alone."""
    return {"val": "val/best/"} | ({"test": "test/"} if test else {})


@contextmanager
def out_of_memory(config: Phase1Config | ImagePhaseConfig) -> Iterator[None]:
    """One line, with what can be done, of memory that is not there: on a GPU, and in main memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(words in str(error) for words in _NO_MEMORY):
            raise
        training, size = config.training, " x ".join(map(str, config.data.input_size))
        raise OutOfMemory(
            f"out of memory with batches of {training.batch_size} inputs of {size}: lower training.batch_size and raise "
            "training.accumulate by as much, or lower data.input_size"
        ) from error
