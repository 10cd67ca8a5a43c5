"""Labelled volumes for a registered encoder: the tables, and what the encoder's contract asks of the volumes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from medexp.config.data import DataConfig, PhantomConfig
from medexp.data.volumes.cases import CHANNELS
from medexp.data.volumes.facts import CaseFacts, describe_cases
from medexp.data.volumes.phantoms import PATIENT_PATTERN, ensure_phantoms
from medexp.data.volumes.phantoms.head import Domain
from medexp.data.volumes.tables import COLUMNS, LabelledTable, read_table, write_table
from medexp.data.volumes.transforms import INPUT
from medexp.errors import RegistryError, all_problems
from medexp.registry.packages import other_input, read_json
from medexp.registry.store import Pulled


@dataclass(frozen=True)
class LabelledVolumes:
    """A labelled table whose every volume was read and found good; not split yet.

    Attributes:
        table: The table.
        facts: By case.
        source: What it is in words: the file, or which phantoms.
        settings: How the encoder wants its volumes.
    """

    table: LabelledTable
    facts: Mapping[str, CaseFacts]
    source: str
    settings: DataConfig


def read_volumes(
    table: str | None, phantoms: PhantomConfig, encoder: Pulled, jobs: int, folder: Path, cache: Path, judged: str = "test"
) -> LabelledVolumes:
    """Read a table and every volume in it as an encoder wants them.

    Args:
        table: TSV as `read_table` takes it; without it phantoms of both domains, to be told apart.
        phantoms: The phantoms.
        encoder: The encoder's package.
        jobs: Cases read in parallel.
        folder: Gets the table of the phantoms.
        cache: Root of the cache.
        judged: The split that is judged on, test or val.

    Raises:
        DataError: The table or volumes cannot be used; all problems of each step at once.
        RegistryError: The encoder wants volumes of a kind that cannot be made.
    """
    channels, settings = input_settings(encoder, jobs)
    path = Path(table).expanduser() if table else _phantom_table(phantoms, folder, cache)
    read = read_table(path, channels, judged)
    facts = describe_cases(read.cases, settings, cache)
    return LabelledVolumes(read, {fact.case: fact for fact in facts}, table or "glioma and meningioma phantoms", settings)


def input_settings(encoder: Pulled, jobs: int) -> tuple[tuple[str, ...], DataConfig]:
    """The channels in the order that the package's contract wants them, and how it wants volumes to be."""
    contract = read_json(encoder.folder, "contract.json").get("input", {})
    problems = other_input(contract, INPUT)
    problems += [f"input.{key} is missing" for key in ("spacing_mm", "example_shape") if key not in contract]
    channels = tuple(contract.get("channels", ()))
    if sorted(channels) != sorted(CHANNELS):
        problems.append(f"input.channels are {', '.join(channels) or 'missing'}; {', '.join(CHANNELS)} can be read")
    if problems:
        called = f"contract.json of {encoder.name} version {encoder.version}"
        raise RegistryError(all_problems(called, problems, "Give an encoder of such volumes."))
    settings = DataConfig(
        label_map={},  # segmentations are not read
        patient_pattern=PATIENT_PATTERN,
        exclude=(),
        spacing=tuple(contract["spacing_mm"]),
        input_size=tuple(contract["example_shape"][-3:]),
        val_fraction=0.0,
        test_fraction=0.0,
        jobs=jobs,
    )
    return channels, settings


def _phantom_table(phantoms: PhantomConfig, folder: Path, cache: Path) -> Path:
    """A table of phantoms of both domains; it has no splits."""
    rows = []
    patients: dict[Domain, int] = {"glioma": phantoms.glioma_patients, "meningioma": phantoms.meningioma_patients}
    for domain, count in patients.items():
        for case in sorted(ensure_phantoms(domain, count, phantoms.seed, cache).iterdir()):
            patient = re.sub(PATIENT_PATTERN, r"\1", case.name)
            rows.append(dict(zip(COLUMNS, (case.name, str(case), domain, patient), strict=True)))
    write_table(pd.DataFrame(rows), folder / "table.tsv")
    return folder / "table.tsv"
