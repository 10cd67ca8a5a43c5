"""A run or a registered version as a paper needs it: a methods paragraph, tables of results, CLAIM's checklist.

All of it is what the store holds, in the words of the version's card and of the run; what it does not hold is not said.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from medexp.files import replacing
from medexp.markdown import as_markdown
from medexp.registry.card import EXCLUDED_UNKNOWN, INCLUDED, ITEMS, NOT_APPLICABLE, claimed
from medexp.registry.store import pull, resolve
from medexp.report.facts import Facts, facts
from medexp.report.summary import Summary
from medexp.report.written import run_of_version

# What CLAIM's items are called in running text, in the order of a methods section. What refers to another part is left out.
_SAID: Mapping[int, str] = {
    7: "The data were {}.",
    8: "Inclusion and exclusion: {}.",
    12: "Missing data: {}.",
    14: "Reference standard: {}.",
    9: "Preprocessing: {}.",
    19: "Cases were assigned to partitions {}.",
    35: "Partitions: {}.",
    20: "Level at which partitions are apart: {}.",
    1: "Model: {}.",
    24: "Initial weights: {}.",
    25: "Training: {}.",
    26: "Final model: {}.",
    27: "Ensembling: {}.",
    28: "Metrics: {}.",
    29: "Uncertainty: {}.",
}
_ELSEWHERE = "see "
_COUNTS = "params/"  # counts and settings among the figures


@dataclass(frozen=True)
class Methods:
    """What a paper needs.

    Attributes:
        run: The run that all figures come from.
        paragraph: The methods, in sentences.
        told: What the run says of its figures, a sentence or two each; of an older run its page, in Markdown.
        tables: Title, columns and rows of each table of results.
        checklists: What is known of CLAIM's items, by NAME/VERSION; of a run those of all versions that it registered.
    """

    run: str
    paragraph: str
    told: Sequence[str]
    tables: Sequence[tuple[str, Sequence[str], Sequence[Sequence[str]]]]
    checklists: Mapping[str, Mapping[int, str]]

    @property
    def files(self) -> dict[str, str]:
        """The texts, by the names of their files."""
        lists = {f"claim_{model.replace('/', '_')}.md": self.checklist(model) for model in self.checklists}
        tables = {"results.tex": self.latex} if self.tables else {}
        return {"methods.md": self.section, "results.md": self.results} | tables | lists

    @property
    def section(self) -> str:
        return f"## Methods\n\n{self.paragraph}\n"

    @property
    def results(self) -> str:
        """The tables in Markdown, and what the run says of them."""
        shown = [f"{title} (run {self.run}):\n\n{as_markdown(head, rows)}" for title, head, rows in self.tables]
        return "\n\n".join(["## Results", *self.told, *shown]) + "\n"

    @property
    def latex(self) -> str:
        """The tables in LaTeX."""
        shown = [
            pd.DataFrame(rows, columns=list(head))
            .rename(columns=_in_latex)
            .map(_in_latex)
            .to_latex(index=False, escape=False, caption=_in_latex(f"{title} (run {self.run})."))
            for title, head, rows in self.tables
        ]
        return "\n".join(["% \\usepackage{booktabs}", *shown])

    def checklist(self, model: str) -> str:
        """CLAIM's items of a version, each with where its answer stands."""
        known = self.checklists[model]
        where = f"card of {model}"
        rows = [
            (str(number), item, known.get(number, "unknown"), where if number in known else "")
            for number, item in ITEMS.items()
        ]
        rows += [(str(number), item, "not applicable to a registered model", "") for number, item in NOT_APPLICABLE.items()]
        table = as_markdown(("number", "item", "what is known", "stands in"), sorted(rows, key=lambda row: int(row[0])))
        source = "Checklist for Artificial Intelligence in Medical Imaging, 2024 update, doi 10.1148/ryai.240300"
        return f"## CLAIM: {model}\n\n{source}; figures of run {self.run}.\n\n{table}\n"

    @property
    def whole(self) -> str:
        """All of it as one text in Markdown."""
        lists = [self.checklist(model) for model in self.checklists]
        tables = [f"```latex\n{self.latex}```\n"] if self.tables else []
        return "\n".join([self.section, self.results, *tables, *lists])


def methods_of_run(run_id: str) -> Methods:
    """Of a run, with the versions that it registered and that are still there.

    Raises:
        ConfigError: There is no such run.
        DataError: What it kept cannot be read.
        StorageError: The store does not answer.
    """
    found = facts(run_id)
    return _methods(found, [f"{one.origin.model.name}/{one.origin.model.version}" for one in found.versions])


def methods_of_model(uri: str) -> Methods:
    """Of a registered version, with the run that made it; `uri` is models:/NAME@alias or models:/NAME/VERSION.

    Raises:
        RegistryError: There is no such version, or another program made it.
        DataError: What its run kept cannot be read.
        StorageError: The store does not answer.
    """
    version = resolve(uri)
    return _methods(facts(run_of_version(uri)), [f"{version.name}/{version.version}"])


def write(methods: Methods, folder: Path) -> list[str]:
    """Write `methods.md`, `results.md`, `results.tex` where there are tables, and `claim_NAME_VERSION.md`; the names of what
    was written.

    Raises:
        StorageError: The folder cannot be written.
    """
    for name, text in methods.files.items():
        with replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return [*methods.files]


def _methods(found: Facts, models: Sequence[str]) -> Methods:
    lists = {model: claimed((pull(f"models:/{model}").folder / "README.md").read_text(encoding="utf-8")) for model in models}
    return Methods(
        run=found.run.id,
        paragraph=" ".join(_sentences(found, [*lists.values()])),
        told=[*_unjudged(lists), *_told(found)],
        tables=_tables(found),
        checklists=lists,
    )


def _told(found: Facts) -> list[str]:
    """What the run says of its figures; of the links of a page in the UI, which lead nowhere from here, their runs by id."""
    if found.summary:
        return [*found.summary.first, *found.summary.words]
    named = [
        re.sub(r"\[([^]]+)\]\(#/experiments/\w+/runs/(\w+)[^)]*\)", r"\1 (run \2)", text) for text in found.texts.values()
    ]
    return [re.sub(r"\[([^]]+)\]\(#/[^)]*\)", r"\1", text) for text in named]


def _unjudged(lists: Mapping[str, Mapping[int, str]]) -> list[str]:
    """Whose the figures are where the one version that is asked for was judged by none of them."""
    asked = [model for model, known in lists.items() if 32 not in known]
    if len(lists) != 1 or not asked:
        return []
    return [f"{asked[0]} was registered without scores of its own: the figures below are of the run that registered it."]


def _sentences(found: Facts, lists: Sequence[Mapping[int, str]]) -> list[str]:
    """What is the same of all versions of the run, and what the run itself knows."""
    units = _units(found)
    said = [f"{found.run.name} is a run of {found.phase}, profile {found.profile}." if found.phase else ""]
    for number, sentence in _SAID.items():
        answers = {known[number] for known in lists if number in known and not known[number].startswith(_ELSEWHERE)}
        if len(answers) == 1:
            said.append(sentence.format(answers.pop().removeprefix(INCLUDED).removesuffix(EXCLUDED_UNKNOWN).rstrip(".")))
        elif number == 35 and found.splits:
            counts = [
                f"{one.name}: {one.cases} cases" + (f" of {one.patients} {units[1]}" if one.patients else "")
                for one in found.splits
            ]
            said.append(f"Partitions: {'; '.join(counts)}.")
    covers = set(found.intervals["confidence"].dropna()) if len(found.intervals) else set()
    said += [f"Intervals cover {share:.0%} each, for a figure alone, by {units[0]}." for share in sorted(covers)]
    if found.upstream and len(lists) != 1:  # of one version its card says what it was made from
        used = [one.name + (f" version {one.version}" if one.version else "") for one in found.upstream]
        said.append(f"Registered models that it used: {', '.join(used)}.")
    if not lists and found.sources:
        said.insert(1, f"Data: {'; '.join(found.sources)}.")
    return [*filter(None, said), *_software(found)]


def _units(found: Facts) -> tuple[str, str]:
    return found.summary.units if found.summary else Summary.units


def _software(found: Facts) -> list[str]:
    versions = [f"{name} {found.environment[name]}" for name in ("medexp", "torch", "python") if found.environment.get(name)]
    devices = found.environment.get("accelerators") or [found.environment.get("device")]
    said = f"Software: {', '.join(versions)}" if versions else ""
    if said and any(devices):
        said += f", on {', '.join(map(str, filter(None, devices)))}"
    if said and found.commit:
        said += f", commit {found.commit}{' with uncommitted changes' if found.uncommitted else ''}"
    seed = f"Seed {found.seed}." if found.seed is not None else ""
    again = f"To make it again: `{found.command}` (run {found.run.id})." if found.command else f"Run {found.run.id}."
    return [*filter(None, [f"{said}." if said else "", seed, again])]


def _tables(found: Facts) -> list[tuple[str, Sequence[str], Sequence[Sequence[str]]]]:
    tables: list[tuple[str, Sequence[str], Sequence[Sequence[str]]]] = []
    if summary := found.summary:
        tables.append((summary.title, summary.head, summary.rows))
        tables += [summary.beside] if summary.beside else []
    if len(found.intervals):
        rows = [[str(row["metric"]), *_figure(row)] for _, row in found.intervals.iterrows()]
        tables.append(("All figures with their intervals", ["metric", "estimate", "interval", _units(found)[1]], rows))
    return tables


def _figure(row: "pd.Series[Any]") -> tuple[str, str, str]:
    """Estimate, interval and patients of a row of `intervals.csv`; 0 patients there are a number that nobody counted."""
    estimate, low, high, patients = (float(row[key]) for key in ("estimate", "low", "high", "patients"))
    interval = "none" if math.isnan(low) else f"{low:.3f} to {high:.3f}"
    shown = f"{estimate:.12g}" if str(row["metric"]).startswith(_COUNTS) else f"{estimate:.3f}"
    return shown, interval, f"{patients:.0f}" if patients > 0 else "-"


_LATEX: Mapping[str, str] = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
}


def _in_latex(text: str) -> str:
    """A text that LaTeX prints as it stands; pandas leaves `<`, `>` and `|` out."""
    return re.sub(r"[\\~^<>|&%$#_{}]", lambda found: _LATEX[found[0]], str(text))
