"""The page of a run among its artifacts, and as a file."""

import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import jinja2

from medexp.addresses import model_uri
from medexp.checks import DIAGNOSTICS, VERDICT, told
from medexp.errors import MedexpError
from medexp.files import replacing
from medexp.registry.promotion import scores_of
from medexp.registry.store import pull, resolve
from medexp.report.facts import facts
from medexp.report.page import REPORT, Version, as_page
from medexp.tracking.past import add_artifact, find_run

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
        why = str(error) if isinstance(error, MedexpError) else f"{type(error).__name__}: {error}"
        print(f"{REPORT} was not written: {why}. Try again: medexp report {run_id}", file=sys.stderr, flush=True)
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


def page_of_version(uri: str, cases: Sequence[str] = ()) -> str:
    """The page of a registered version: its card, its own scores, and the figures of the run that made it.

    Args:
        uri: `models:/NAME@alias` or `models:/NAME/VERSION`.
        cases: As of `as_page`.

    Raises:
        RegistryError: There is no such version, or it is not what was registered.
        ConfigError: The run that made it is in this store no more.
        DataError: As of `as_page`.
        StorageError: The store does not answer.
    """
    pulled = pull(uri)
    registered = resolve(f"models:/{pulled.name}/{pulled.version}")
    tags = registered.tags
    version = Version(
        pulled.name,
        pulled.version,
        tuple(sorted(registered.aliases)),
        told(tags.get(VERDICT), tags.get(DIAGNOSTICS)),
        (pulled.folder / "README.md").read_text(encoding="utf-8"),
        scores_of(pulled).per_case,
    )
    return as_page(facts(run_of_version(f"models:/{pulled.name}/{pulled.version}")), cases, version)


def run_of_version(uri: str) -> str:
    """The run that made a version."""
    version = resolve(uri)
    return str(version.tags.get("medexp.run") or version.run_id)


def run_with_volumes(given: str) -> str | None:
    """The run that kept volumes of what `medexp compare` was given; None of a table, and of an arm that is not registered, of
    which no prediction is kept."""
    if Path(given).suffix.lower() in (".csv", ".tsv"):
        return None
    if is_version(given):
        return run_of_version(model_uri(given))
    name, _, arm = given.partition(":")
    run = find_run(name).id
    return run if facts(run).arm in (None, arm) else None


def is_version(given: str) -> bool:
    """Whether a registered version is named, and no run."""
    return re.fullmatch(r"(models:/)?[\w.-]+(@[\w.-]+|/\d+)", given) is not None
