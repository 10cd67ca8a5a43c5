"""The page of a run among its artifacts, and as a file."""

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import jinja2

from medexp.errors import MedexpError
from medexp.files import replacing
from medexp.report.facts import facts
from medexp.report.page import REPORT, as_page
from medexp.tracking.past import add_artifact

# What drawing can fail of, of a good run: a store that went away, a full disk, no memory left, and a table, a figure or
# a text that is none of those which the page was made for.
_FAULTS = (MedexpError, OSError, MemoryError, ValueError, LookupError, TypeError, ArithmeticError, jinja2.TemplateError)


def log_report(run_id: str) -> float | None:
    """Write the page of a run that has ended among its artifacts, as `report.html`.

    A page that cannot be drawn is told of, and changes nothing of what the run came to.

    Returns:
        Seconds that it took; None where there is no page.
    """
    started = time.monotonic()
    try:
        with tempfile.TemporaryDirectory() as folder:
            (file := Path(folder) / REPORT).write_text(as_page(facts(run_id)), encoding="utf-8")
            add_artifact(run_id, file)
    except _FAULTS as error:
        told = str(error) if isinstance(error, MedexpError) else f"{type(error).__name__}: {error}"
        print(f"{REPORT} was not written: {told}. Try again: medexp report {run_id}", file=sys.stderr, flush=True)
        return None
    return time.monotonic() - started


def write_page(page: str, output: Path) -> None:
    """Write a page to a file.

    Raises:
        StorageError: It cannot be written.
    """
    with replacing(output) as temporary:
        temporary.write_text(page, encoding="utf-8")


def page_of(run_id: str, cases: Sequence[str] = ()) -> str:
    """The page of a run; arguments and errors as of `as_page` and `facts`."""
    return as_page(facts(run_id), cases)
