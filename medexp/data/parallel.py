"""Work on every case of a data set, in several processes with a progress bar, or in threads ahead of who uses it."""

import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from joblib import Parallel, delayed

from medexp.errors import DataError
from medexp.files import filling
from medexp.terminal import followed

T = TypeVar("T")

# loky replaces a worker that has grown, as each does when it imports torch; nothing is lost, and nobody can act on it.
warnings.filterwarnings("ignore", "A worker stopped while some jobs were given to the executor", UserWarning)


def in_parallel(
    function: Callable[..., T], calls: Sequence[tuple[Any, ...]], jobs: int, title: str, together: int = 1
) -> Iterator[T]:
    """What a function returns for each tuple of arguments, in their order.

    `joblib.parallel_config(backend=...)` around it takes the calls to another backend than processes, such as dask or ray.

    Args:
        function: Can be pickled, as its arguments can.
        calls: The arguments.
        jobs: Processes.
        title: Of the progress bar.
        together: Calls that a process is sent at a time; some where one takes no longer than its way there.
    """
    if calls:
        processes = min(jobs, math.ceil(len(calls) / together))
        # Joblib counts in calls, not in batches, what it sends ahead.
        parallel = Parallel(processes, return_as="generator", batch_size=together, pre_dispatch=2 * processes * together)
        results = parallel(delayed(function)(*call) for call in calls)
        yield from followed(results, len(calls), title, transient=False, stderr=True)


def described(
    describe: Callable[..., T], calls: Mapping[str, tuple[Any, ...]], jobs: int, title: str, together: int = 1
) -> tuple[dict[str, T], dict[str, DataError]]:
    """What is found out of each case, by id, and what is wrong with the others, by id.

    Args:
        describe: Reads and checks a case; raises a DataError when it cannot be used.
        calls: Its arguments, by id of the case.
        jobs: Processes.
        title: Of the progress bar.
        together: Cases that a process is sent at a time.
    """
    found: dict[str, T] = {}
    problems: dict[str, DataError] = {}
    answers = in_parallel(_describe, [(describe, arguments) for arguments in calls.values()], jobs, title, together)
    for case, answer in zip(calls, answers, strict=True):
        if isinstance(answer, DataError):
            problems[case] = answer
        else:
            found[case] = answer
    return found, problems


def _describe(describe: Callable[..., T], arguments: tuple[Any, ...]) -> T | DataError:
    try:
        return describe(*arguments)
    except DataError as error:
        return error


def ahead(calls: Sequence[Callable[[], T]], jobs: int) -> Iterator[Future[T]]:
    """What is coming of each call, in their order: as many run in threads as there are jobs, and no more results are held.

    Args:
        calls: What is called.
        jobs: Threads.
    """
    with ThreadPoolExecutor(jobs) as pool:
        waiting = iter(calls)
        coming = [pool.submit(call) for call in islice(waiting, jobs)]
        while coming:
            yield coming.pop(0)
            coming += [pool.submit(call) for call in islice(waiting, 1)]


def written_once(folder: Path, write: Callable[..., object], calls: Sequence[tuple[Any, ...]], title: str) -> Path:
    """A folder that several processes fill, and that appears when it is full; one that is there already is left as it is.

    Args:
        folder: What is wanted.
        write: Called with the arguments and with the folder to write to.
        calls: The arguments.
        title: Of the progress bar.

    Raises:
        StorageError: When it cannot be written.
    """
    if not os.path.isdir(folder):  # noqa: PTH112  where nobody may look there is none either, and writing says why
        with filling(folder, "cache_dir") as partial:
            for _ in in_parallel(write, [(*call, partial) for call in calls], min(os.cpu_count() or 1, 4), title):
                pass
    return folder
