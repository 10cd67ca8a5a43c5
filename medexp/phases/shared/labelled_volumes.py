"""Labelled volumes for a registered encoder: the tables, and what the encoder's contract asks of the volumes."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from medexp.config.data import DataConfig, PhantomConfig
from medexp.data.prepared import Prepared
from medexp.data.splits import Splits
from medexp.data.volumes.cases import CHANNELS, Case
from medexp.data.volumes.facts import CaseFacts, describe_cases
from medexp.data.volumes.oddities import demand_background
from medexp.data.volumes.phantoms import PATIENT_PATTERN, ensure_phantoms
from medexp.data.volumes.phantoms.head import Domain
from medexp.data.volumes.prepared import PreparedVolumes
from medexp.data.volumes.tables import COLUMNS, LabelledTable, read_table, table_manifest, write_table
from medexp.data.volumes.transforms import INPUT
from medexp.errors import RegistryError, all_problems
from medexp.registry.packages import other_input, read_json
from medexp.registry.store import Pulled

_UNNAMED = (
    "{}: the column patient says what id says, in every row. Each case counts as a patient of its own, and splits, folds and "
    "intervals by patient rest on that. If fewer patients are meant, write them into that column."
)


@dataclass(frozen=True)
class LabelledVolumes:
    """A labelled table whose every volume was read and found good, split.

    Attributes:
        table: The table.
        data: The volumes; the manifest is `medexp.data.volumes.tables.table_manifest`, the order of all features.
        settings: How the encoder wants its volumes.
    """

    table: LabelledTable
    data: PreparedVolumes
    settings: DataConfig

    def cases(self, rows: pd.DataFrame) -> list[Case]:
        """The cases of some rows of the manifest, in their order."""
        return [self.data.cases[case] for case in rows["case"]]


def read_volumes(
    table: str | None,
    phantoms: PhantomConfig,
    encoder: Pulled,
    jobs: int,
    folder: Path,
    cache: Path,
    split: Callable[[LabelledTable, Sequence[CaseFacts]], Splits],
    judged: str = "test",
) -> LabelledVolumes:
    """Read a table and every volume in it as an encoder wants them.

    Args:
        table: TSV as `read_table` takes it; without it phantoms of both domains, to be told apart.
        phantoms: The phantoms.
        encoder: The encoder's package.
        jobs: Cases read in parallel.
        folder: Gets the table of the phantoms.
        cache: Root of the cache.
        split: From the table and what is known of its volumes to their splits.
        judged: The split that is judged on, test or val.

    Raises:
        DataError: The table or volumes cannot be used; all problems of each step at once.
        RegistryError: The encoder wants volumes of a kind that cannot be made.
    """
    channels, settings = input_settings(encoder, jobs)
    path = Path(table).expanduser() if table else _phantom_table(phantoms, folder, cache)
    read = read_table(path, channels, judged)
    facts = describe_cases(read.cases, settings, cache)
    demand_background(str(path), facts)
    splits = split(read, facts)
    data = Prepared(
        cases={case.id: case for case in read.cases},
        facts={fact.case: fact for fact in facts},
        splits=splits,
        manifest=table_manifest(read, facts, splits),
        source=table or "glioma and meningioma phantoms",
        notes=(_UNNAMED.format(path),) if all(case.patient == case.id for case in read.cases) else (),
    )
    return LabelledVolumes(read, data, settings)


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
    return channels, reading(jobs, tuple(contract["spacing_mm"]), tuple(contract["example_shape"][-3:]))


def reading(
    jobs: int, spacing: tuple[float, float, float] = (1, 1, 1), input_size: tuple[int, int, int] = (32, 32, 32)
) -> DataConfig:
    """How volumes without segmentations are read, by so many processes; spacing and size are for those who preprocess them."""
    return DataConfig(
        labels="map",
        label_map={},
        patient_pattern=PATIENT_PATTERN,
        exclude=(),
        meant=(),
        spacing=spacing,
        input_size=input_size,
        val_fraction=0.0,
        test_fraction=0.0,
        jobs=jobs,
    )


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
