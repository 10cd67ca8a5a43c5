"""Processes of a launch, their device and their precision."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs, is_torch_xla_available

from medexp.errors import ConfigError

_PATIENCE = timedelta(hours=6)  # of the other processes while the first one reads a large data set
_PRECISION = {"fp32": "no", "bf16-mixed": "bf16"}


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
def deterministic(wanted: bool) -> Iterator[None]:
    """Refuse, where that is wanted, operations whose results differ from run to run, and allow afterwards what was allowed."""
    before, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS is refused whole
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)
