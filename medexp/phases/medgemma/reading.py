"""The scenarios and the base: files of the user's, or the embedded ones."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from medexp.data.scenarios.phantoms import ensure_scenarios
from medexp.data.scenarios.prepared import PreparedScenarios, across_splits, odd_images, prepare_scenarios
from medexp.data.scenarios.prompts import load_processor
from medexp.data.scenarios.read import local_scenarios
from medexp.data.storage import local_folder
from medexp.files import read_csv
from medexp.models.vision_language.bases import Base, find_base
from medexp.models.vision_language.network import context_of
from medexp.phases.medgemma import checks
from medexp.phases.medgemma.asking import Asking
from medexp.phases.medgemma.config import MedgemmaConfig
from medexp.phases.medgemma.pretrained import demo_base
from medexp.phases.shared.context import Context

EMBEDDED = "generated scenarios, and 24 of the described project's form"


def read_data(ctx: Context[MedgemmaConfig], *, pooled: bool = False) -> PreparedScenarios:
    """All scenarios, each read, checked and described, in their splits; adds MEDGEMMA-DATA.

    Logs what looks odd (oddities.csv) and what lies in two splits (across_splits.csv).

    Args:
        ctx: Where it is logged.
        pooled: Whether files are one set, whatever they are called: nothing is trained on any of it.

    Raises:
        DataError: Scenarios or images cannot be used; all problems at once.
        StorageError: A bucket does not answer.
    """
    config = ctx.config
    with ctx.accelerator.main_process_first():
        files, image_dir = local_scenarios(config.files, config.image_dir, ctx.cache)
        if not files:
            phantoms = config.phantoms
            folder = ensure_scenarios(phantoms.training, phantoms.testing, phantoms.seed, ctx.cache)
            files, image_dir = sorted(folder.glob("*.jsonl")), folder / "images"
        data = prepare_scenarios(
            files,
            image_dir,
            modalities=config.modalities,
            seed=config.seed,
            jobs=config.data.jobs,
            cache=ctx.cache,
            source=", ".join(config.files) or EMBEDDED,
            pooled=pooled,
        )
    data = replace(data, phantoms=not config.files)
    odd, across = odd_images(data), across_splits(data)
    if len(odd):
        ctx.run.reporter.table(odd, "oddities.csv")
    if len(across):
        ctx.run.reporter.table(across, "across_splits.csv")
    ctx.check(checks.data(len(data.cases), odd["case"].nunique(), across))
    return data


def read_base(ctx: Context[MedgemmaConfig]) -> tuple[Base, Asking]:
    """The base that the configuration names, or the embedded one, and what makes prompts for it.

    Raises:
        ConfigError: There is no such base, or it comes without a processor.
        CheckpointError: Its files are incomplete.
    """
    config = ctx.config
    with ctx.accelerator.main_process_first():
        given = config.model or str(demo_base(ctx.cache))
        if given.startswith("s3://"):
            given = str(local_folder(given, ctx.cache))
        base = find_base(given, config.revision, ctx.cache)
    return base, asking_of(base.folder, base.architecture["config"], config, ctx.cache)


def asking_of(processor: Path, architecture: Mapping[str, Any], config: MedgemmaConfig, cache: Path) -> Asking:
    """What makes prompts by a folder's processor for a network of a `config.json`."""
    return Asking(load_processor(processor), context_of(architecture), config, cache)


def seen_by(config: MedgemmaConfig, base: Base) -> pd.DataFrame | None:
    """What a base was trained on, as the file cases.csv in its folder says; None where nobody knows. The embedded one was
    trained on drawings of its own, which are in no scenario."""
    file = base.folder / "cases.csv"
    if file.is_file():
        return read_csv(file, only_text=True)
    return None if config.model else pd.DataFrame({"patient_sha256": []})


def strata(data: PreparedScenarios) -> dict[str, str]:
    """By scenario, what is spread evenly over folds: modality and answer."""
    rows = data.manifest
    return dict(zip(rows["case"], rows["modality"] + rows["label"].astype(str), strict=True))
