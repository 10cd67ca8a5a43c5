"""Module 0 (specification 000): check a data folder, split it by patient, cache semantic features and write the manifest."""

import shlex

from rich.console import Console
from rich.table import Table

from medexp.config import PrepareConfig, cache_root
from medexp.data.prepared import prepare
from medexp.data.splits import SPLITS, save_splits
from medexp.tracking.datasets import log_datasets
from medexp.tracking.runs import tracked_run


def run(config: PrepareConfig) -> None:
    """The whole phase; `PrepareConfig` says what can be set.

    Raises:
        DataError: The folder, a case or the split file cannot be used; nothing is written then.
    """
    with tracked_run("prepare", config) as tracked:
        data = prepare(config.data_dir, config.splits, config.data, config.phantoms, config.seed, cache_root(config.cache_dir))
        log_datasets(tracked, data.manifest, data.digests, data.source, "prepare")
        save_splits(data.splits, tracked.folder / "data_splits.json")
        tracked.reporter.file(tracked.folder / "data_splits.json")
        duplicates = int((data.manifest["duplicate_of"] != "").sum())
        table = Table("split", "patients", "cases", "digest", title=data.source)
        for split in SPLITS:
            rows = data.manifest[data.manifest["split"] == split]
            tracked.reporter.metrics(
                {f"params/{split}_cases": len(rows), f"params/{split}_patients": rows["patient"].nunique()}
            )
            table.add_row(split, str(rows["patient"].nunique()), str(len(rows)), data.digests.get(split, "")[:12])
        tracked.reporter.metrics({"params/duplicates": duplicates})
        Console().print(table)
        print(f"Exact duplicates, each in one split with its original: {duplicates}")
        print(f"Splits: {tracked.folder / 'data_splits.json'}")
        settings = {"profile": config.profile, "data_dir": config.data_dir, "splits": tracked.folder / "data_splits.json"}
        given = " ".join(f"-P {key}={shlex.quote(str(value))}" for key, value in settings.items() if value is not None)
        print(f"Next: mlflow run . -e phase1 {given}, with the same data.* settings if you gave any")
