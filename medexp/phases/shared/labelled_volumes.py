"""Labelled volumes for a registered encoder: the tables, and what the encoder's contract asks of the volumes."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pandas as pd

from medexp.config.data import DataConfig, PhantomConfig, known_by
from medexp.data.prepared import Prepared
from medexp.data.preprocessing import Preprocessing
from medexp.data.splits import Splits
from medexp.data.storage import local
from medexp.data.volumes.cases import CHANNELS, Case
from medexp.data.volumes.facts import CaseFacts, describe_cases
from medexp.data.volumes.oddities import demand_background
from medexp.data.volumes.phantoms import PATIENT_PATTERN, ensure_phantoms
from medexp.data.volumes.phantoms.head import Domain
from medexp.data.volumes.prepared import PreparedVolumes
from medexp.data.volumes.steps import ReadChannels
from medexp.data.volumes.tables import COLUMNS, LabelledTable, read_table, split_words, table_manifest, write_table
from medexp.errors import DataError, RegistryError, all_problems
from medexp.registry.contracts import preprocessing_of
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
        preprocessing: What is done to a volume's files before the encoder sees it.
    """

    table: LabelledTable
    data: PreparedVolumes
    preprocessing: Preprocessing

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
    judged: str | None = "test",
    suffixes: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
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
        judged: The split that is judged on, test or val; None where none was drawn for that.
        suffixes: How the names of the table's files end, by channel, where not as known.

    Raises:
        DataError: The table or volumes cannot be used; all problems of each step at once.
        RegistryError: The encoder wants volumes of a kind that cannot be made.
    """
    preprocessing = volumes_of(encoder)
    path = local(table, cache) if table else _phantom_table(phantoms, folder, cache)
    read = read_table(path, preprocessing.get(ReadChannels).channels, known_by(suffixes if table else {}))
    facts = describe_cases(read.cases, reading(jobs), cache)
    demand_background(str(path), facts)
    splits = split(read, facts)
    data = Prepared(
        cases={case.id: case for case in read.cases},
        facts={fact.case: fact for fact in facts},
        splits=splits,
        manifest=table_manifest(read, facts, splits),
        source=table or "glioma and meningioma phantoms",
        phantoms=table is None,
        notes=(*split_words(read, splits, judged), *_notes(path, read.cases, facts)),
    )
    return LabelledVolumes(read, data, preprocessing)


def demand_every_label(volumes: LabelledVolumes, data: PreparedVolumes) -> None:
    """Training and validation have every label.

    Raises:
        DataError: One of them has not.
    """
    table = volumes.table
    missing = [
        f"split {split}: no case of {label}"
        for split in ("train", "val")
        for label in sorted(set(table.classes) - {table.labels[case] for case in data.ids(split)})
    ]
    if missing:
        every = "both labels" if len(table.classes) == 2 else "every label"
        advice = f"Telling apart takes {every} in both; give some, or leave the column split out."
        raise DataError(all_problems(f"table {table.path}", missing, advice))


def _notes(path: Path, cases: Sequence[Case], facts: Sequence[CaseFacts]) -> Iterator[str]:
    if all(case.patient == case.id for case in cases):
        yield _UNNAMED.format(path)
    for fact in facts:
        if said := "; ".join([*filter(None, [fact.affines]), *(f"{pair}, a copy" for pair in fact.same)]):
            yield f"{path}: id {fact.case}: {said}"


def volumes_of(encoder: Pulled) -> Preprocessing:
    """What is done to volumes before a registered encoder sees them.

    Raises:
        RegistryError: It takes something else than volumes, or other channels than can be read.
    """
    called = f"{encoder.name} version {encoder.version}"
    found = preprocessing_of(encoder.folder, called)
    if found.data != "volumes":
        raise RegistryError(f"{called}: takes {found.data}, not volumes. Give an encoder of volumes")
    if sorted(channels := found.get(ReadChannels).channels) != sorted(CHANNELS):
        told = f"channels {', '.join(channels)}; {', '.join(CHANNELS)} can be read"
        raise RegistryError(f"contract.json of {called}: {told}. Give an encoder of such volumes")
    return found


def reading(jobs: int) -> DataConfig:
    """How volumes without segmentations are read, by so many processes: what is done to them is nobody's concern here."""
    return DataConfig(
        labels="map",
        label_map={},
        suffixes={},
        patient_pattern=PATIENT_PATTERN,
        exclude=(),
        meant=(),
        spacing=(1, 1, 1),
        input_size=(32, 32, 32),
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
