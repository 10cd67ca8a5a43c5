"""Doing something once for each case, shared among the processes of a launch."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from accelerate import Accelerator
from accelerate.utils import gather_object
from rich import get_console
from rich.progress import track
from torch.utils.data import Dataset

T = TypeVar("T")


def map_cases(work: Callable[[Mapping[str, Any]], T], cases: Dataset[Any], accelerator: Accelerator, title: str) -> list[T]:
    """The result of `work` for each case, in the order of the data set, in every process.

    Args:
        work: From a case of `evaluation_dataset` to a result that can be pickled; each case is worked on by one process.
        cases: Data set of whole volumes.
        accelerator: The processes.
        title: Name in the progress bar.
    """
    size = len(cases)  # type: ignore[arg-type]
    mine = range(accelerator.process_index, size, accelerator.num_processes)
    results = gather_object([(index, work(cases[index])) for index in shown(mine, title, accelerator)])
    return [result for _, result in sorted(results, key=lambda item: item[0])]


def shown(items: Iterable[T], title: str, accelerator: Accelerator) -> Iterable[T]:
    """The items, with a progress bar in the first process where there is a terminal."""
    hidden = not (accelerator.is_main_process and get_console().is_terminal)  # in a log file it would leave empty lines
    return track(items, title, disable=hidden, transient=True)
