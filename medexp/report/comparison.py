"""Two models on the same cases, as one page: what the second gains, case by case, with both predictions side by side."""

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

import medexp
from medexp.data.volumes.cases import REGION_CLASSES
from medexp.evaluation.comparison import Comparison, direction
from medexp.report.page import as_table, drawn_page, png
from medexp.report.plots import dots
from medexp.report.volumes import VIEWER, WORST, case_folder, volumes_of
from medexp.tracking.past import artifacts, past_run


def as_comparison(found: Comparison, names: tuple[str, str], runs: tuple[str | None, str | None], command: str) -> str:
    """The page of a comparison.

    Args:
        found: What `medexp.compare.compare` found.
        names: What both are called.
        runs: The runs that kept volumes of the cases; None where there is no such run.
        command: What makes the page again.

    Raises:
        DataError: A volume that a run kept cannot be read.
        StorageError: The store does not answer.
    """
    order = {row.metric: place for place, row in enumerate(found.rows)}
    ranked = found.cases.assign(_metric=found.cases["metric"].map(order))
    ordered = ranked.sort_values(["_metric", "gain", "case"], kind="stable", ignore_index=True).drop(columns="_metric")
    told = [row for row in found.rows if row.gain.above or row.gain.below]
    better, worse = any(row.gain.above for row in told), any(row.gain.below for row in told)
    rows = [
        [row.metric, "more" if direction(row.metric) > 0 else "less", f"{row.cases}", f"{row.one:.4f}", f"{row.other:.4f}"]
        + [row.gain.as_gain]
        for row in found.rows
    ]
    measures: dict[str, list[tuple[str, float, float, float, bool]]] = {}
    for row in found.rows:  # Dice and mm have no axis in common
        of = measures.setdefault(_measure(row.metric), [])
        of.append((row.metric, row.gain.estimate, row.gain.low, row.gain.high, False))
    pairs = _pairs(ordered["case"].drop_duplicates().tolist(), runs) if all(runs) else []
    sections = [("figures", "Figures", True), ("cases", "Each case", True), ("pictures", "Pictures", pairs)]
    return drawn_page(
        "comparison.html.jinja",
        one=_short(names[0]),
        other=_short(names[1]),
        named=[
            f"{letter}: {_short(given)} is {name}" for letter, given in zip("AB", names, strict=True) if (name := _name(given))
        ],
        cases=found.cases["case"].nunique(),
        unit=found.units[0],
        sections=[(anchor, title) for anchor, title, there in sections if there],
        colour="warn" if better and worse else "pass" if better else "fail" if worse else "",
        answers=[_short(row.told) for row in found.rows],
        notes=found.notes,
        left_out=found.left_out,
        rows=rows,
        panels=[dots(f"gain of B in {measure}", of, signed=True) for measure, of in measures.items()],
        case_table=as_table("cases.csv", ordered.rename(columns={"one": "A", "other": "B", "gain": "gain of B"}), decimals=3),
        pairs=pairs,
        command=command,
        version=medexp.__version__,
    )


def _measure(metric: str) -> str:
    """A metric without its region, in words."""
    stem, _, region = metric.rpartition("_")
    return (stem if region in REGION_CLASSES else metric).replace("_", " ")


def _short(text: str) -> str:
    """A text with the first eight digits of runs' ids; the command below has them whole."""
    return re.sub(r"\b([0-9a-f]{8})[0-9a-f]{24}\b", r"\1", text)


def _name(given: str) -> str:
    """What a run that is given by its id is called; empty where something else is given."""
    of_run = re.fullmatch(r"([0-9a-f]{32})(:.*)?", given)
    return past_run(of_run[1]).name if of_run else ""


def _pairs(cases: Sequence[str], runs: tuple[str | None, str | None]) -> list[dict[str, object]]:
    one, other = (run for run in runs if run is not None)
    files = [artifacts(run, (VIEWER,)) for run in (one, other)]
    kept = [{path.split("/")[1] for path in paths if path.startswith(f"{VIEWER}/")} for paths in files]
    both = [case for case in cases if all(case_folder(case) in there for there in kept)][:WORST]
    with tempfile.TemporaryDirectory() as folder:
        drawn = [
            {shown.case: shown.still for shown in volumes_of(run, paths, both, {}, Path(folder) / str(place))}
            for place, (run, paths) in enumerate(zip((one, other), files, strict=True))
        ]
    return [
        {"case": case, "told": "", "one": Markup(png(drawn[0][case])), "other": Markup(png(drawn[1][case]))}  # noqa: S704  base64
        for case in both
        if all(case in stills for stills in drawn)
    ]
