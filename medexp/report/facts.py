"""All that the store keeps of a run, in one place: what a report, a methods section or a card may say of it.

What the store does not hold is absent here: None, or empty. Nothing is worked out anew that the run had worked out.
"""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from medexp.checks import DIAGNOSTICS, VERDICT, Check, from_records, told
from medexp.config.flags import flags
from medexp.errors import DataError, RegistryError
from medexp.files import parse_yaml, read_csv
from medexp.registry.lineage import SHOWN, Lineage, lineage
from medexp.registry.tags import Upstream, upstream
from medexp.registry.versions import versions_of_run
from medexp.report.summary import SUMMARY, Summary, from_record
from medexp.tracking.past import Given, PastRun, artifacts, children, fetched, history, past_run
from medexp.tracking.results import HEADLINE

VIEWER = "viewer"
"""The folder of a run in which volumes lie for the eye alone: `viewer/<case>/{image,truth,prediction}.nii.gz`."""
SETTINGS = "settings.json"
"""What was set otherwise than in the profile: from dotted key to the profile's value and the run's."""
_LOG = "training_log.csv"
HERE = ("output_dir", "cache_dir", "device", "threads", "resume", "recover")  # keys of this machine and this attempt
_FLAGS = 12  # more of them are a file
_INTERVALS = ("metric", "estimate", "low", "high", "confidence", "patients")
_READ = (".csv", ".json", ".md", ".yaml")
_MOST = 20_000_000  # bytes of a table that a page still shows
_COURSES = ("train/", "val/")  # metrics with a course, where a run kept no table of it
T = TypeVar("T")


@dataclass(frozen=True)
class Split:
    """The cases of a split.

    Attributes:
        name: train, val or test, or as the manifest has it.
        cases: How many.
        patients: Of how many patients; None: the manifest does not say.
        digest: Digest of their data; None where it was no dataset input.
    """

    name: str
    cases: int
    patients: int | None
    digest: str | None


@dataclass(frozen=True)
class Child:
    """A run within a run: a step of a pipeline, a rung of a recovery.

    Attributes:
        run: The run.
        verdict: Of its checks, with the diagnostics that failed; None: nobody judged it.
    """

    run: PastRun
    verdict: str | None


@dataclass(frozen=True)
class Facts:
    """What the store keeps of a run.

    Attributes:
        run: Id, name, status, times, tags, params, last metrics and dataset inputs.
        phase: Its phase; None for a run of another program.
        profile: The profile that its configuration began with; None: not said.
        seed: Its seed; None: not said.
        verdict: PASSED or FAILED; None: nobody judged it.
        judged: The verdict for a reader, never without the diagnostics that failed; None as above.
        error: The message that it ended with; None where it ended well.
        summary: What it came to; None for runs of older versions, and for those that ended before they could say it.
        texts: What it says in Markdown, by file: `summary.md`, which older runs have as well, `account.md` of the
            data, `diagnostics.md` of a recovery; without the report on its checks.
        checks: All checks.
        intervals: Columns metric, estimate, low, high, confidence, patients; empty where there are none.
        tables: All other tables, by the name of their file, such as `per_case.csv`.
        histories: Training histories, a row an epoch, by arm; the arm that is registered, or the only one, is called ''.
        config: The resolved configuration, in its blocks.
        settings: What was set otherwise than in the profile: the profile's value and the run's, by dotted key; None: not kept.
        splits: The cases by split, of `manifest.csv`.
        data_digest: Of all cases together; None where there is none.
        upstream: The versions that it was built on.
        versions: The versions that it registered and that are still there: where each comes from, and what was built on it.
        environment: The machine and what ran on it.
        commit: The commit of the code; None where it ran from no checkout.
        uncommitted: Whether the code differed from it; None as above.
        children: Runs in it.
        files: Paths of all files at the top, and of those in `figures/` and `viewer/`.
    """

    run: PastRun
    phase: str | None
    profile: str | None
    seed: str | None
    verdict: str | None
    judged: str | None
    error: str | None
    summary: Summary | None
    texts: Mapping[str, str]
    checks: tuple[Check, ...]
    intervals: pd.DataFrame
    tables: Mapping[str, pd.DataFrame]
    histories: Mapping[str, pd.DataFrame]
    config: Mapping[str, Any]
    settings: Mapping[str, tuple[str, str]] | None
    splits: tuple[Split, ...]
    data_digest: str | None
    upstream: tuple[Upstream, ...]
    versions: tuple[Lineage, ...]
    environment: Mapping[str, Any]
    commit: str | None
    uncommitted: bool | None
    children: tuple[Child, ...]
    files: tuple[str, ...] = field(default=())

    @property
    def data(self) -> tuple[Given, ...]:
        """Its dataset inputs."""
        return self.run.data

    @property
    def sources(self) -> tuple[str, ...]:
        """Where its data came from."""
        return tuple(dict.fromkeys(given.source for given in self.data if given.source))

    @property
    def per_case(self) -> pd.DataFrame | None:
        """Its table with a row a case (and arm); None where it judged no cases."""
        return self.tables.get("per_case.csv")

    @property
    def arm(self) -> str | None:
        """The arm of `per_case.csv` that the run is about: figures of the others bear their names; None: it has no arms, or
        nothing says which."""
        if self.per_case is None or "arm" not in self.per_case or self.per_case.empty:
            return None
        named = {word for name in self.intervals["metric"] for word in str(name).split("/")[:-1]}
        arms = [str(arm) for arm in self.per_case["arm"].unique()]
        return next((arm for arm in reversed(arms) if arm not in named), None)

    @property
    def trials(self) -> pd.DataFrame | None:
        """The trials of a sweep, a row each: trial, state, outcome, values, parameters, seconds, run; None for other runs."""
        return self.tables.get("trials.csv")

    @property
    def headline(self) -> str:
        """The figure that runs of its phase are compared by, with its bounds; empty where it came to none."""
        return self.run.tags.get(HEADLINE, "")

    @property
    def rungs(self) -> pd.DataFrame | None:
        """The runs of a recovery, the failed one first: rung, changed, outcome, the goal, gain, run; None for other runs."""
        return self.tables.get("rungs.csv")

    @property
    def seconds(self) -> float | None:
        """How long it took; None while it goes on."""
        return (self.run.ended - self.run.started).total_seconds() if self.run.ended else None

    @property
    def started(self) -> datetime:
        return self.run.started

    @property
    def command(self) -> str | None:
        """The command that makes such a run again, with its config.yaml where too much was set; None for another program's."""
        if self.phase is None or self.profile is None:
            return None
        told = f"mlflow run . -e {self.phase} -P profile={self.profile}"
        if self.settings is None or len(self.settings) > _FLAGS:
            return f"{told} -P config=config.yaml"
        given = {key: mine for key, (_, mine) in self.settings.items() if key.rpartition(".")[2] not in HERE}
        return f"{told} {flags(given)}".rstrip()

    @property
    def cases(self) -> tuple[str, ...]:
        """Cases of which it kept volumes to look at."""
        return tuple(dict.fromkeys(path.split("/")[1] for path in self.files if path.startswith(f"{VIEWER}/")))


def facts(run_id: str) -> Facts:
    """All that the store keeps of a run.

    Raises:
        ConfigError: There is no such run.
        DataError: A file that it logged cannot be read.
        StorageError: The store does not answer.
    """
    run = past_run(run_id)
    files = artifacts(run_id, ("figures", "environment", VIEWER))
    wanted = [path for path in files if _is_read(path)]
    with tempfile.TemporaryDirectory() as folder:
        found = fetched(run_id, wanted, Path(folder))
        tables = {
            path: _parsed(run_id, path, file, read_csv)
            for path, file in found.items()
            if path.endswith(".csv") and file.stat().st_size <= _MOST
        }
        texts = {path: file.read_text(encoding="utf-8") for path, file in found.items() if not path.endswith(".csv")}

    def content(path: str, parse: Callable[[str], T], empty: T) -> T:
        return _parsed(run_id, path, texts[path], parse) if path in texts else empty

    tags = run.tags
    manifest = tables.pop("manifest.csv", None)
    intervals = tables.pop("intervals.csv", pd.DataFrame()).reindex(columns=[*_INTERVALS])  # of a fold's run estimates alone
    histories = {path.removesuffix(_LOG).rstrip("_"): tables.pop(path) for path in list(tables) if path.endswith(_LOG)}
    kept: Summary | None = content(SUMMARY, lambda text: from_record(json.loads(text)), None)
    settings: dict[str, tuple[str, str]] | None = content(SETTINGS, _pairs, None)
    dirty = tags.get("medexp.git_dirty")
    return Facts(
        run=run,
        phase=tags.get("medexp.phase"),
        profile=tags.get("medexp.profile"),
        seed=tags.get("medexp.seed"),
        verdict=tags.get(VERDICT),
        judged=told(tags.get(VERDICT), tags.get(DIAGNOSTICS)),
        error=tags.get("medexp.error"),
        summary=kept,
        texts={path: text for path, text in texts.items() if path.endswith(".md") and path != "verification_report.md"},
        checks=tuple(content("checks.json", lambda text: from_records(json.loads(text)), [])),
        intervals=intervals,
        tables=tables,
        histories=_named(histories, run.tags.get("medexp.phase")) or _courses(run),
        config=content("config.yaml", parse_yaml, {}),
        settings=settings,
        splits=_splits(manifest, run.data),
        data_digest=tags.get("medexp.data_digest"),
        upstream=tuple(upstream(tags)),
        versions=tuple(_lineages(run_id)),
        environment=content("environment/environment.json", json.loads, {}),
        commit=tags.get("medexp.git_commit"),
        uncommitted=None if dirty is None else dirty == "true",
        children=tuple(Child(one, told(one.tags.get(VERDICT), one.tags.get(DIAGNOSTICS))) for one in children(run_id)),
        files=tuple(path for path in files if not path.startswith("environment/")),
    )


def _is_read(path: str) -> bool:
    at_top = "/" not in path and path.endswith(_READ)
    return at_top or path == "environment/environment.json"


def _parsed(run_id: str, path: str, given: Any, parse: Callable[[Any], T]) -> T:
    try:
        return parse(given)
    except (ValueError, LookupError, TypeError) as error:  # of JSON, YAML and CSV that somebody altered
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"run {run_id}: its {path} cannot be read ({first}). Look at it in the UI; was it altered?") from error


def _pairs(text: str) -> dict[str, tuple[str, str]]:
    return {str(key): (str(before), str(after)) for key, (before, after) in json.loads(text).items()}


def _named(histories: Mapping[str, pd.DataFrame], phase: str | None) -> dict[str, pd.DataFrame]:
    """By arm; phase 1 calls the log of the arm that it registers by its own name."""
    named = {"" if name == phase else name: table for name, table in histories.items() if len(table)}
    return dict(sorted(named.items(), key=lambda item: item[0] != ""))


def _courses(run: PastRun) -> dict[str, pd.DataFrame]:
    """The course of the metrics over steps, where no table of it was kept."""
    found = {}
    for name in run.metrics:
        if name.startswith(_COURSES) and len(course := history(run.id, name)) > 1:
            found[name] = course.drop_duplicates("step", keep="last").set_index("step")["value"]
    return {"": pd.DataFrame(found).rename_axis("step").reset_index()} if found else {}


def _splits(manifest: pd.DataFrame | None, given: Sequence[Given]) -> tuple[Split, ...]:
    if manifest is None or "split" not in manifest:
        return ()
    digests = {one.split: one.digest for one in given}
    order = {name: place for place, name in enumerate(("train", "val", "test"))}
    groups = {str(name): rows for name, rows in manifest.groupby("split")}
    return tuple(
        Split(name, len(rows), int(rows["patient"].nunique()) if "patient" in rows else None, digests.get(name))
        for name, rows in sorted(groups.items(), key=lambda item: (order.get(item[0], 9), item[0]))
    )


def _lineages(run_id: str) -> list[Lineage]:
    found = []
    for version in versions_of_run(run_id):
        try:
            found.append(lineage(f"models:/{version}", SHOWN))
        except RegistryError:  # deleted since it was listed
            continue
    return found
