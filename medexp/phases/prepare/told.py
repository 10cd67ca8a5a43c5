"""What a prepared data set leaves in its run and says in the terminal, of whatever kind it is."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from medexp.data.prepared import CaseT, FactsT, Prepared
from medexp.data.splits import SPLITS, save_splits
from medexp.markdown import as_markdown
from medexp.report.summary import Summary, log_record
from medexp.terminal import show_table
from medexp.tracking.datasets import log_datasets
from medexp.tracking.results import log_figures
from medexp.tracking.runs import TrackedRun
from medexp.tracking.ui import next_line


def tell(
    tracked: TrackedRun, data: Prepared[CaseT, FactsT], account: Iterable[tuple[str, str]], splits: str | None = None
) -> Path:
    """Logs and prints manifest, splits, what was found and what is alike.

    Args:
        tracked: The run.
        data: The data set; its manifest says `duplicate_of`.
        account: What was found in the files, a row each.
        splits: The file that the splits are of, where one was given.

    Returns:
        The data_splits.json of the run.
    """
    file = tracked.folder / "data_splits.json"
    log_datasets(tracked, data.manifest, data.digests, data.source, "prepare")
    save_splits(data.splits, file)
    tracked.reporter.file(file)
    if len(twins := data.twins):
        tracked.reporter.table(twins, "twins.csv")
    duplicates = int((data.manifest["duplicate_of"] != "").sum())
    table = []
    for split in SPLITS:
        rows = data.rows(split)
        patients = rows["patient"].nunique()
        log_figures(tracked, {f"params/{split}_cases": len(rows), f"params/{split}_patients": patients})
        table.append([split, str(patients), str(len(rows)), data.digests.get(split, "")[:12]])
    log_figures(tracked, {"params/duplicates": duplicates})
    show_table(["split", "patients", "cases", "digest"], table, data.source)
    found = list(account)
    show_table(["", "found"], found, "what the files hold")
    tracked.reporter.text(as_markdown(["", "found"], found) + "\n", "account.md")
    for note in data.notes:
        print(note)
    print(f"Exact duplicates, each in one split with its original: {duplicates}")
    near, apart = int((~twins["exact"]).sum()), int((twins["split"] != twins["other_split"]).sum())
    listed = "; twins.csv of the run lists them"
    print(f"Pairs of cases that are copies but not equal: {near}" + (listed if near else ""))
    if apart:
        print(f"WARNING: pairs of copies in two splits{f' of {splits}' if splits else ''}: {apart}{listed}")
    print(f"Splits: {file}")
    print(f"Next, browse it:  {next_line(tracked)}")
    return file


def lead_on(tracked: TrackedRun, data: Prepared[Any, Any], *commands: str, of: str = "patients") -> None:
    """Say, in the terminal and in the run's report, what to do with what was prepared: a command each.

    Args:
        tracked: The run.
        data: The data set.
        commands: The commands.
        of: What its cases belong to, and are split by.
    """
    rows = [(split, str(len(data.rows(split))), str(data.rows(split)["patient"].nunique())) for split in SPLITS]
    counted = f"{len(data.manifest)} cases of {data.manifest['patient'].nunique()} {of}"
    following = [f"Next: {command}" for command in commands]
    about = f"{counted}, checked and split"
    log_record(tracked.reporter, Summary(about, data.source, ("split", "cases", of), rows, data.notes), following)
    for line in following:
        print(line)
