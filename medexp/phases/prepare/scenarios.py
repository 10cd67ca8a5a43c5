"""Scenarios for medgemma: checked, split by family, and written as train.jsonl and val.jsonl."""

import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path, PureWindowsPath

from medexp.config.flags import flags
from medexp.config.shared import cache_root
from medexp.data.scenarios.cases import MODALITIES
from medexp.data.scenarios.phantoms import ensure_scenarios
from medexp.data.scenarios.prepared import (
    PreparedScenarios,
    account,
    across_splits,
    odd_images,
    prepare_scenarios,
    statistics,
)
from medexp.data.scenarios.read import local_scenarios, raw_lines, record_of
from medexp.data.splits import SPLITS
from medexp.errors import DataError, all_problems
from medexp.files import replacing
from medexp.markdown import as_markdown
from medexp.phases.prepare.config import PrepareConfig
from medexp.phases.prepare.told import lead_on
from medexp.terminal import show_table
from medexp.tracking.datasets import log_datasets
from medexp.tracking.results import log_figures
from medexp.tracking.runs import TrackedRun
from medexp.tracking.ui import next_line

STATISTICS = "dataset_stats.json"
_FEWEST = 2  # generated scenarios beside the 24


def prepared_for_medgemma(config: PrepareConfig, tracked: TrackedRun, folder: Path) -> None:
    """Reads, checks and splits scenarios, writes them to a folder, and says what was found.

    Args:
        config: `scenarios` (none: the 24 embedded ones), `image_dir`, `modalities`, `seed`.
        tracked: The run.
        folder: Gets a file a split and `dataset_stats.json`.

    Raises:
        DataError: A file, a line or an image cannot be used, or `folder` holds other files of those names; nothing is written
            then.
    """
    data, image_dir = _prepared(config)
    root, texts = _lines(data)
    texts[STATISTICS] = json.dumps(statistics(data), indent=2, ensure_ascii=False) + "\n"
    _write(folder, texts)
    log_datasets(tracked, data.manifest, data.digests, data.source, "prepare")
    tracked.reporter.text(texts[STATISTICS], STATISTICS)
    for name, rows in (("oddities.csv", odd_images(data)), ("across_splits.csv", across_splits(data))):
        if len(rows):
            tracked.reporter.table(rows, name)
    table = []
    for split in filter(data.ids, SPLITS):
        rows = data.rows(split)
        families = rows["patient"].nunique()
        log_figures(tracked, {f"params/{split}_cases": len(rows), f"params/{split}_families": families})
        held = ", ".join(f"{name} {count}" for name, count in sorted(rows["modality"].value_counts().items()))
        table.append([split, str(families), str(len(rows)), str(int(rows["label"].sum())), held, data.digests[split][:12]])
    show_table(["split", "families", "scenarios", "of them CORRECT", "modalities", "digest"], table, data.source)
    found = list(account(data))
    show_table(["", "found"], found, "what the files hold")
    tracked.reporter.text(as_markdown(["", "found"], found) + "\n", "account.md")
    for note in data.notes:
        print(note)
    written = [folder / f"{split}.jsonl" for split in SPLITS if data.ids(split)]
    print(f"Scenarios: {', '.join(map(str, written))}; {folder / STATISTICS}")
    settings = {
        "profile": config.profile,
        "model": "google/medgemma-4b-it" if config.profile == "full" else None,
        "scenarios": ",".join(map(str, written)),
        "image_dir": image_dir or root,
        "modalities": None if config.modalities == MODALITIES else f"[{','.join(config.modalities)}]",
    }
    print(f"Next, browse it:  {next_line(tracked)}")
    lead_on(tracked, data, f"mlflow run . -e medgemma {flags(settings)}", of="families")


def _prepared(config: PrepareConfig) -> tuple[PreparedScenarios, str | None]:
    """The scenarios, and the folder of their images where one is given."""
    cache = cache_root(config.cache_dir)
    prepare = partial(prepare_scenarios, modalities=config.modalities, seed=config.seed, jobs=config.data.jobs, cache=cache)
    if config.files:
        files, image_dir = local_scenarios(config.files, config.image_dir, cache)
        return prepare(files, image_dir, source=", ".join(config.files)), config.image_dir
    embedded = ensure_scenarios(_FEWEST, _FEWEST, 0, cache)
    return prepare([embedded / "test.jsonl"], source="the 24 embedded scenarios", pooled=True), None


def _lines(data: PreparedScenarios) -> tuple[Path, dict[str, str]]:
    """The folder that image_file is relative to, and what each file holds: the lines as they were; of images in several
    folders image_file is made relative to what these have in common."""
    raw = {file: raw_lines(file) for file in {one.file for one in data.cases.values()}}
    lines = {name: raw[one.file][one.line] for name, one in data.cases.items()}
    parts = {name: PureWindowsPath(record_of(line)["image_file"]).parts for name, line in lines.items()}
    roots = {name: one.image.parents[len(parts[name]) - 1] for name, one in data.cases.items()}
    root = Path(os.path.commonpath([*roots.values()]))
    for name, own in roots.items():
        if own != root:
            record = record_of(lines[name]) | {"image_file": data.cases[name].image.relative_to(root).as_posix()}
            lines[name] = json.dumps(record, ensure_ascii=False)
    splits = filter(data.ids, SPLITS)
    return root, {f"{split}.jsonl": "".join(f"{lines[name].strip()}\n" for name in data.ids(split)) for split in splits}


def _write(folder: Path, texts: Mapping[str, str]) -> None:
    """Files into a folder in which there are no others of these names."""
    there = {name: folder / name for name in (*(f"{split}.jsonl" for split in SPLITS), STATISTICS)}
    other = [
        f"{path} is there and holds something else"
        for name, path in there.items()
        if path.exists() and not (path.is_file() and path.read_bytes() == texts.get(name, "").encode())
    ]
    if other:
        raise DataError(all_problems("scenarios_dir", other, "Give another folder, or remove what is there."))
    for name, text in texts.items():
        with replacing(folder / name) as temporary:
            temporary.write_bytes(text.encode())
