"""Check a data folder, split it by patient, cache semantic features and write the manifest; with `slices_dir`, cut the volumes
into slices for the 2D phases; with `scenarios_dir`, scenarios instead (`medexp.phases.prepare.scenarios`)."""

from pathlib import Path

from medexp.data.images.slices import cut_slices
from medexp.data.splits import SPLITS, save_splits
from medexp.data.volumes.oddities import account
from medexp.data.volumes.prepared import prepare_volumes
from medexp.phases.prepare.config import PrepareConfig
from medexp.phases.prepare.scenarios import flags, prepared_for_medgemma
from medexp.phases.shared.tables import as_markdown, show
from medexp.tracking.datasets import log_datasets
from medexp.tracking.runs import tracked_run
from medexp.tracking.ui import next_line


def run(config: PrepareConfig) -> None:
    """The whole phase; `PrepareConfig` says what can be set.

    Raises:
        DataError: The folder, a case, the split file, `slices_dir`, a scenario or `scenarios_dir` cannot be used; nothing is
            written then.
    """
    with tracked_run("prepare", config) as tracked:
        if config.scenarios_dir is not None:
            prepared_for_medgemma(config, tracked, Path(config.scenarios_dir).expanduser())
            return
        data = prepare_volumes(config)
        slices = 0
        if config.slices_dir is not None:
            digests = {case: facts.sha256 for case, facts in data.facts.items()}
            folder, cases = Path(config.slices_dir), tuple(data.cases.values())
            slices = cut_slices(cases, digests, config.data.classes, config.slices, folder, config.data.jobs)
        log_datasets(tracked, data.manifest, data.digests, data.source, "prepare")
        save_splits(data.splits, tracked.folder / "data_splits.json")
        tracked.reporter.file(tracked.folder / "data_splits.json")
        if len(twins := data.twins):
            tracked.reporter.table(twins, "twins.csv")
        duplicates = int((data.manifest["duplicate_of"] != "").sum())
        table = []
        for split in SPLITS:
            rows = data.rows(split)
            tracked.reporter.metrics(
                {f"params/{split}_cases": len(rows), f"params/{split}_patients": rows["patient"].nunique()}
            )
            table.append([split, str(rows["patient"].nunique()), str(len(rows)), data.digests.get(split, "")[:12]])
        tracked.reporter.metrics({"params/duplicates": duplicates})
        show(["split", "patients", "cases", "digest"], table, data.source)
        found = list(account(tuple(data.cases.values()), tuple(data.facts.values()), config.data))
        show(["", "found"], found, "what the files hold")
        tracked.reporter.text(as_markdown(["", "found"], found) + "\n", "account.md")
        for note in data.notes:
            print(note)
        print(f"Exact duplicates, each in one split with its original: {duplicates}")
        near, apart = int((~twins["exact"]).sum()), int((twins["split"] != twins["other_split"]).sum())
        print(
            f"Pairs of cases that are copies but not equal: {near}"
            + ("; twins.csv of the run lists them" if len(twins) else "")
        )
        if apart:
            print(f"WARNING: pairs of copies in two splits of {config.splits}: {apart}; twins.csv of the run lists them")
        print(f"Splits: {tracked.folder / 'data_splits.json'}")
        settings = {"profile": config.profile, "data_dir": config.data_dir, "splits": tracked.folder / "data_splits.json"}
        print(f"Next, browse it:  {next_line(tracked)}")
        print(f"Next: mlflow run . -e phase1 {flags(settings)}, with the same data.* settings if you gave any")
        if config.slices_dir is not None:
            tracked.reporter.metrics({"params/slices": slices})
            print(f"Slices: {slices} in {config.slices_dir}")
            print(f"Next: mlflow run . -e phase2_1 {flags({'profile': config.profile, 'slices_dir': config.slices_dir})}")
