"""A run as one page that needs no network: it opens in the UI's artifact pane, in a mail, on paper."""

import base64
import functools
import json
import math
import re
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markdown_it import MarkdownIt
from markupsafe import Markup, escape
from PIL import Image

import medexp
from medexp.checks import Check
from medexp.errors import DataError
from medexp.evaluation.comparison import direction
from medexp.files import dump_yaml
from medexp.registry.lineage import Impact
from medexp.report.facts import HERE, Facts
from medexp.report.panels import in_words, panels
from medexp.report.plots import curves, digits
from medexp.report.summary import Summary
from medexp.report.volumes import KINDS, WORST, Volumes, case_folder, niivue, volumes_of
from medexp.secrets import masked
from medexp.tracking.past import fetched
from medexp.words import counted

REPORT = "report.html"
_HERE = Path(__file__).parent
_ROWS = 3000  # of a table on the page
_ON_PAPER = 40
_VOLUMES, _NIIVUE = "<volumes>", "<niivue>"  # no text of a run holds a tag
_PICTURES = 3_000_000  # bytes of all pictures together
_DRAWN = ("figures/curves", "figures/dice_by_arm")  # drawn anew here, or shown by the tables
_WIDE = 1.5  # a picture of at least so many times its height takes two places
_OWN_PLACE = ("per_case.csv", "trials.csv", "rungs.csv")
# Scripts and styles are the page's own; NiiVue reads its fonts and textures from data: addresses.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:; "
    "connect-src data: blob:; worker-src blob:; base-uri 'none'; form-action 'none'"
)


@dataclass(frozen=True)
class Table:
    """A table that a reader sorts and filters.

    Attributes:
        file: The run's file that it is.
        head: Names of the columns.
        rows: Numbers, words, and None for what is missing.
        numeric: Whether each column is one of numbers.
        decimals: Of each column of numbers.
        left_out: Rows that are not shown.
        title: What it shows.
        marked: Places of the rows that are marked.
    """

    file: str
    head: Sequence[str]
    rows: Sequence[Sequence[Any]]
    numeric: Sequence[bool]
    decimals: Sequence[int]
    left_out: int = 0
    title: str = ""
    marked: frozenset[int] = field(default=frozenset())


@dataclass(frozen=True)
class Version:
    """A registered version, of which the page of its run is to be.

    Attributes:
        name: Name of the model.
        version: Its version.
        aliases: Its aliases.
        judged: Its verdict with the diagnostics that failed; None: nobody judged it.
        card: Its model card, in Markdown.
        per_case: What it scored on each case; empty where it was not judged.
    """

    name: str
    version: str
    aliases: Sequence[str]
    judged: str | None
    card: str
    per_case: pd.DataFrame


def as_page(facts: Facts, cases: Sequence[str] = (), of: Version | None = None) -> str:
    """The page of a run.

    Args:
        facts: What the store keeps of it.
        cases: Cases that are shown in 3D, of those that the run kept; without them the worst.
        of: A version that it registered: the page is of that one, with its card and its own scores.

    Raises:
        DataError: The run kept nothing of a case that is named, or a volume or picture that it kept cannot be read.
        StorageError: The store does not answer.
    """
    per_case = facts.per_case if of is None else of.per_case
    scores = _scores(per_case, facts.arm)
    with tempfile.TemporaryDirectory() as folder:
        shown = _shown(facts, scores, cases, Path(folder))
        pictures = _pictures(facts, Path(folder))
    called = f"{of.name} version {of.version}" if of else facts.run.name
    judged = of.judged if of else facts.judged
    summary = facts.summary
    failed = sorted((check for check in facts.checks if not check.passed), key=lambda check: not check.blocks)
    told = (*summary.first, *summary.words) if summary else (facts.texts.get("summary.md", ""),)
    units = summary.units if summary else Summary.units
    name = facts.arm or "this run"
    estimates = panels(facts)
    drawn = curves(facts.histories, name)
    trials = _trials(facts)
    case_table = as_table("per_case.csv", _worst_first(per_case, scores)) if per_case is not None and len(per_case) else None
    own = {str(one.origin.model) for one in facts.versions}
    built, more = _built(facts, own)
    covers = set(facts.intervals["confidence"].dropna())
    texts = {path: text for path, text in facts.texts.items() if path != "summary.md" or summary is None}
    # A text with a heading of its own, such as a leaderboard, begins with what this page has told already.
    notes = [(path if summary and text.startswith("# ") else "", _markdown(text)) for path, text in texts.items()]
    children = _children(facts)
    figures = bool((summary and (summary.rows or summary.words)) or estimates or notes or children)
    sections = [
        ("figures", "Figures", figures),
        ("trials", trials.title if trials else "", trials),
        ("checks", "Checks", facts.checks),
        ("curves", "Training", drawn),
        ("cases", "Each case", case_table),
        ("volumes", "3D", shown),
        ("card", "Card", of),
        ("pictures", "Pictures", pictures),
        ("data", "Data", facts.splits or facts.data),
        ("lineage", "Lineage", facts.upstream or facts.versions),
        ("again", "Make it again", True),
    ]
    text = drawn_page(
        "page.html.jinja",
        f=facts,
        title=f"{called}: {judged or facts.run.status}",
        crumb=" / ".join(filter(None, ["medexp", facts.phase, facts.profile and f"profile {facts.profile}"])),
        heading=called,
        card=_markdown(of.card) if of else "",
        meta=[*([f"of run {facts.run.name}", *of.aliases] if of else []), *_meta(facts)],
        sections=[(anchor, title) for anchor, title, there in sections if there],
        colour=_colour(facts, judged),
        outcome=judged or {"FINISHED": "Finished; it has no checks"}.get(facts.run.status, facts.run.status),
        headline="" if of else facts.headline,
        about=summary.headline if summary else "",
        first=summary.first if summary else (),
        advised=_advised(failed, [*told, facts.error or ""]),
        following=[_command(line) for line in summary.following] if summary else [],
        notes=notes,
        figures=figures,
        panels=estimates,
        covered=f"Each {covers.pop():.0%} interval holds for its figure alone, by {units[0]}." if len(covers) == 1 else "",
        units=units[1],
        children=children,
        trials=trials,
        checks=[*failed, *(check for check in facts.checks if check.passed)],
        passed=sum(check.passed for check in facts.checks),
        curves=drawn,
        arms=[(min(place, 5), arm or name) for place, arm in enumerate(facts.histories)],
        case_table=case_table,
        volumes=[{"case": one.case, "told": one.told, "still": Markup(png(one.still))} for one in shown],  # noqa: S704  base64
        volumes_note=_volumes_note(facts, shown),
        outlined=_outlined(shown),
        kinds={kind: any(kind in one.packed for one in shown) for kind in KINDS},
        volume_data=Markup(_VOLUMES),  # noqa: S704  our own word
        niivue=Markup(_NIIVUE),  # noqa: S704  our own word
        licence=Markup((_HERE / "NIIVUE.md").read_text(encoding="utf-8")),  # noqa: S704  our own file
        pictures=pictures,
        split_rows=[(one.name, f"{one.cases}", _or_empty(one.patients), one.digest or "") for one in facts.splits],
        upstream=[one for one in facts.upstream if f"{one.name} version {one.version}" not in own],
        built=built,
        more=more,
        setting_rows=[
            (key, before, after)
            for key, (before, after) in (facts.settings or {}).items()
            if key.rpartition(".")[2] not in HERE
        ],
        environment=[
            (key, ", ".join(map(str, value)) if isinstance(value, list) else str(value))
            for key, value in facts.environment.items()
            if value not in (None, [])
        ],
        config=dump_yaml(dict(facts.config)) if facts.config else "",
        others=[
            as_table(path, table)
            for path, table in {"intervals.csv": facts.intervals, **facts.tables}.items()
            if path not in _OWN_PLACE and len(table)
        ],
        footer=f"Written by medexp {medexp.__version__} from what the store keeps of run {facts.run.id}. It sends nothing.",
    )
    return text.replace(_VOLUMES, _data_of(shown)).replace(_NIIVUE, niivue()) if shown else text


# -------------------------------------------------------------------------------------------------------------- what it says


def _meta(facts: Facts) -> list[str]:
    run, seconds = facts.run, facts.seconds
    told = [f"{run.started:%Y-%m-%d %H:%M} UTC"]
    told += [f"took {lasting(seconds)}"] if seconds is not None else []
    told += [f"seed {facts.seed}"] if facts.seed is not None else []
    told += [f"commit {facts.commit[:10]}{' with changes' if facts.uncommitted else ''}"] if facts.commit else []
    return [*told, run.status.lower(), f"run {run.id}"]


def lasting(seconds: float) -> str:
    """A time in words."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def _colour(facts: Facts, judged: str | None) -> str:
    if (judged or "").startswith("FAILED") or facts.run.status in ("FAILED", "KILLED"):
        return "fail"
    return "" if judged is None else "warn" if judged != "PASSED" else "pass"


def _advised(failed: Sequence[Check], told: Sequence[str]) -> dict[str, list[str]]:
    """What to do, and the checks that ask for it, without what the page tells anyhow."""
    found: dict[str, list[str]] = {}
    for check in failed:
        advice = check.advice
        for line in told:
            advice = advice.replace(line, "")
        if (advice := " ".join(advice.split())) and not any(advice in line for line in told):
            found.setdefault(advice, []).append(check.id)
    return found


def _command(line: str) -> tuple[str, str, str]:
    """What a last line of the terminal says: what it is for, the command, and what that does."""
    what, _, rest = line.partition(":")
    command, _, why = rest.strip().partition("   # ")
    return what.removeprefix("Next, ").strip() or "Next", command.strip(), why.strip()


def _markdown(text: str) -> Markup:
    """Markdown as HTML in which what looks like a tag is text, and pictures and links are not followed."""
    made = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["image", "autolink"])
    for rule in ("link_open", "link_close"):  # links of MLflow's UI lead nowhere from here
        made.add_render_rule(rule, lambda *_: "")
    return Markup(made.render(text))  # noqa: S704  markdown-it escapes all that is not markdown


def _children(facts: Facts) -> list[tuple[str, str, str, str, str]]:
    return [
        (
            one.run.name,
            one.run.status.lower(),
            one.verdict or "",
            lasting((one.run.ended - one.run.started).total_seconds()) if one.run.ended else "",
            one.run.id,
        )
        for one in facts.children
        if facts.trials is None and facts.rungs is None and facts.summary is None
    ]


def _built(facts: Facts, own: Collection[str]) -> tuple[list[tuple[str, str]], bool]:
    """What was built on the versions that a run registered: versions and runs other than its own."""
    found: dict[tuple[str, str], None] = {}
    more = False

    def walk(impact: Impact) -> None:
        nonlocal more
        more = more or impact.more
        for run in impact.runs:
            if run.id != facts.run.id:
                found[f"run {run.name or run.id[:12]}", str(impact.model)] = None
        for inner in impact.models:
            if str(inner.model) not in own:
                found[str(inner.model), str(impact.model)] = None
            walk(inner)

    for one in facts.versions:
        walk(one.impact)
    return list(found)[:24], more or len(found) > 24


# ------------------------------------------------------------------------------------------------------------------- tables


def _trials(facts: Facts) -> Table | None:
    """The trials of a sweep, the best marked and first; the runs of a recovery."""
    if facts.rungs is not None:
        return as_table("rungs.csv", facts.rungs, "Runs of the recovery")
    table = facts.trials
    if table is None or table.empty:
        return None
    best = {name.removeprefix("best/"): value for name, value in facts.run.metrics.items() if name.startswith("best/")}
    goals = [name for name in best if name in table]
    chosen = table.index[(table[goals] == pd.Series(best)[goals]).all(axis=1)] if goals else table.index[:0]
    rest = table.drop(chosen)
    ordered = pd.concat([table.loc[chosen], rest])
    return as_table("trials.csv", ordered, "Trials", frozenset(range(len(chosen))))


def as_table(
    file: str, table: pd.DataFrame, title: str = "", marked: frozenset[int] = frozenset(), decimals: int | None = None
) -> Table:
    """A data frame as the page shows it, without columns that hold nothing; `decimals` of every column, else by its size."""
    named = [name for name in ("case", "arm", "patient", "split") if name in table]
    shown = table[[*named, *(name for name in table if name not in named)]]
    shown = shown.loc[:, shown.notna().any()].head(_ROWS)
    numeric = [pd.api.types.is_numeric_dtype(shown[name]) and not pd.api.types.is_bool_dtype(shown[name]) for name in shown]
    rows = [
        [_plain(value, number) for value, number in zip(row, numeric, strict=True)]
        for row in shown.itertuples(index=False, name=None)
    ]
    digits_of = [(decimals or _decimals(shown[name])) if number else 0 for name, number in zip(shown, numeric, strict=True)]
    return Table(file, list(map(str, shown.columns)), rows, numeric, digits_of, len(table) - len(shown), title, marked)


def _decimals(column: "pd.Series[float]") -> int:
    values = column.dropna()
    if (values == values.round()).all():
        return 0
    largest = float(values.abs().max())
    return 5 if largest < 0.01 else 3 if largest < 10 else 1


def _in_column(value: float, decimals: int) -> str:
    """With the column's decimals; a figure of the size of 1 keeps three, also where a count or millimetres stand above it."""
    if decimals and 0 < abs(value) < 1:
        decimals = max(decimals, 3)
    return f"{value:.3g}" if value and (abs(value) >= 1e7 or abs(value) < 1e-7) else f"{value:.{decimals}f}"


def _plain(value: Any, number: bool) -> float | int | str | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if number:
        return int(value) if float(value).is_integer() else float(value)
    return str(value)


# -------------------------------------------------------------------------------------------------------------------- cases


def _scores(per_case: pd.DataFrame | None, arm: str | None) -> "pd.Series[float]":
    """A score of each case of what is registered, more being better: by what is told worst from best."""
    if per_case is None or "case" not in per_case or per_case.empty:
        return pd.Series(dtype=float)
    rows = per_case[per_case["arm"] == arm] if arm in set(per_case.get("arm", ())) else per_case
    numeric = [str(name) for name in rows.select_dtypes("number").columns]
    dice = [name for name in numeric if re.fullmatch(r"dice(_\w+)?", name)]
    used = dice or [name for name in numeric if direction(name)][:1]
    if not used:
        return pd.Series(dtype=float)
    return (rows.set_index(rows["case"].astype(str))[used].mean(axis=1) * direction(used[0])).groupby(level=0).mean()


def _worst_first(per_case: pd.DataFrame, scores: "pd.Series[float]") -> pd.DataFrame:
    """Cases by their score, the arms of a case together."""
    if scores.empty:
        return per_case
    order = per_case["case"].astype(str).map(scores).fillna(math.inf)
    return per_case.assign(_order=order).sort_values(["_order", "case"], kind="stable").drop(columns="_order")


def _shown(facts: Facts, scores: "pd.Series[float]", cases: Sequence[str], folder: Path) -> list[Volumes]:
    kept = facts.cases
    if missing := [case for case in cases if case_folder(case) not in kept]:
        there = ", ".join(kept) or "none"
        raise DataError(
            f"run {facts.run.id}: kept no volumes of {', '.join(missing)}; it has {there}. Give --case one of these"
        )
    names = {case_folder(case): case for case in map(str, scores.sort_values().index)}
    wanted = list(cases) or [
        *(case for place, case in names.items() if place in kept),
        *(one for one in kept if one not in names),
    ]
    told = {str(case): digits(abs(value)) for case, value in scores.items() if math.isfinite(value)}
    return volumes_of(facts.run.id, facts.files, wanted if cases else wanted[:WORST], told, folder)


def _volumes_note(facts: Facts, shown: Sequence[Volumes]) -> str:
    of = len(facts.per_case["case"].unique()) if facts.per_case is not None and "case" in facts.per_case else 0
    counted = f"{len(shown)} of {of} cases, the worst first. " if of >= len(shown) else ""
    return f"{counted}Small copies for the eye: no figure comes from them."


def _outlined(shown: Sequence[Volumes]) -> str:
    kinds = {kind for one in shown for kind in one.packed}
    words = {"truth": "the truth outlined in green", "prediction": "the prediction in orange"}
    return ", ".join(told for kind, told in words.items() if kind in kinds) or "without outlines"


def _data_of(shown: Sequence[Volumes]) -> str:
    """The volumes as JSON, which the page reads when somebody asks for them, so that it opens at once."""
    content = [
        {"case": one.case, "levels": one.levels} | {kind: base64.b64encode(data).decode() for kind, data in one.packed.items()}
        for one in shown
    ]
    return json.dumps(content).replace("<", "\\u003c")


# ----------------------------------------------------------------------------------------------------------------- pictures


def _pictures(facts: Facts, folder: Path) -> list[tuple[str, Markup, bool]]:
    """The pictures with their paths, and whether each is much wider than high."""
    paths = [
        path for path in facts.files if path.startswith("figures/") and path.endswith(".png") and not path.startswith(_DRAWN)
    ]
    found, size = [], 0
    for path, file in fetched(facts.run.id, paths, folder).items():
        content = file.read_bytes()
        size += len(content)
        if size <= _PICTURES:
            with Image.open(file) as picture:
                wide = picture.width > _WIDE * picture.height
            found.append((path, Markup(png(content)), wide))  # noqa: S704  base64
    return found


def png(content: bytes) -> str:
    """A picture within the page."""
    return "data:image/png;base64," + base64.b64encode(content).decode()


def _or_empty(value: object) -> str:
    return "" if value is None else str(value)


def drawn_page(template: str, **values: Any) -> str:
    """A page of a template, without secrets; what is put in afterwards, such as base64, may look like one and is none."""
    text = (
        _environment_of_pages()
        .get_template(template)
        .render(
            policy=POLICY,
            style=Markup((_HERE / "page.css").read_text(encoding="utf-8")),  # noqa: S704  our own file
            script=Markup((_HERE / "page.js").read_text(encoding="utf-8")),  # noqa: S704  our own file
            **values,
        )
    )
    return masked(text).text


@functools.cache
def _environment_of_pages() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"soft": _soft, "parts": _parts, "words": in_words, "called": _called, "counted": counted}
    environment.globals |= {"digits": digits, "in_column": _in_column, "on_paper": _ON_PAPER}
    return environment


def _called(path: str) -> str:
    """What a picture shows, by its path."""
    return in_words(Path(path).with_suffix("").relative_to("figures").as_posix())


def _parts(found: str) -> list[str]:
    """What a check measured, figure by figure."""
    return re.split(r", (?=\w+ = )", found)


def _soft(text: object) -> Markup:
    """A text whose long names may break at _ and /."""
    return Markup(re.sub(r"(?<=\w)([_/])(?=\w)", r"\1<wbr>", str(escape(text))))  # noqa: S704  escaped
