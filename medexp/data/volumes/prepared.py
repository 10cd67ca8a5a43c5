"""Volumes that are ready for training: found, read, checked, described and split."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

import pandas as pd

from medexp.config.data import DataConfig, PhantomConfig
from medexp.config.shared import cache_root
from medexp.data.prepared import Prepared
from medexp.data.splits import Splits, load_splits, make_splits, unnamed
from medexp.data.storage import local_file, local_folder
from medexp.data.volumes.brats import find_cases
from medexp.data.volumes.cases import Case
from medexp.data.volumes.facts import CaseFacts, Measured, describe_cases
from medexp.data.volumes.oddities import demand_meant
from medexp.data.volumes.phantoms import ensure_phantoms
from medexp.data.volumes.semantics import SEMANTIC_FEATURES

PreparedVolumes = Prepared[Case, CaseFacts]
"""Of BraTS cases with their segmentations; none is dropped."""


FactT = TypeVar("FactT", bound=Measured)


def semantic(fact: CaseFacts) -> Mapping[str, object]:
    """The columns of a manifest that volumes with segmentations alone have: the ten SEMANTIC_FEATURES."""
    return dict(zip(SEMANTIC_FEATURES, fact.semantic, strict=True))


class ReadsVolumes(Protocol):
    """The keys of a phase's configuration that say which volumes it reads and how.

    Attributes:
        data_dir: Folder or bucket of BraTS case folders; None for the embedded meningioma phantoms.
        splits: A data_splits.json to use as it stands; None for a split of the patients by `seed`.
        data: How cases are read and split.
        phantoms: The embedded data.
        seed: Seed of the split.
        cache_dir: As of `medexp.config.shared.cache_root`: phantoms, and what is known of each case.
    """

    @property
    def data_dir(self) -> str | None: ...
    @property
    def splits(self) -> str | None: ...
    @property
    def data(self) -> DataConfig: ...
    @property
    def phantoms(self) -> PhantomConfig: ...
    @property
    def seed(self) -> int: ...
    @property
    def cache_dir(self) -> str | None: ...


def prepare_volumes(config: ReadsVolumes) -> PreparedVolumes:
    """Finds, checks, describes and splits the cases that a configuration names.

    Raises:
        DataError: When the folder, a case or the splits cannot be used, or what is odd in them is not meant; all problems of
            each step at once.
        StorageError: When the cache cannot be written.
    """
    cache = cache_root(config.cache_dir)
    if config.data_dir is None:
        folder = ensure_phantoms("meningioma", config.phantoms.meningioma_patients, config.phantoms.seed, cache)
        source = "meningioma phantoms"
    else:
        source = config.data_dir
        folder = local_folder(config.data_dir, cache).absolute()  # as for the cache: see `cache_root`
    cases = find_cases(folder, config.data)
    facts = describe_cases(cases, config.data, cache)
    demand_meant(source, cases, facts, config.data)
    if config.splits is None:
        splits = make_splits(cases, facts, config.data, config.seed)
    else:
        splits = load_splits(local_file(config.splits, cache), cases, facts)
    return Prepared(
        cases={case.id: case for case in cases},
        facts={fact.case: fact for fact in facts},
        splits=splits,
        manifest=manifest(cases, facts, splits, semantic),
        source=source,
        notes=(unnamed(source, [case.id for case in cases], config.data.patient_pattern),)
        if config.data_dir is not None and all(case.patient == case.id for case in cases)
        else (),
        phantoms=config.data_dir is None,
    )


def manifest(
    cases: Sequence[Case], facts: Iterable[FactT], splits: Splits, more: Callable[[FactT], Mapping[str, object]]
) -> pd.DataFrame:
    """One row a case, sorted by case.

    Columns: case, patient, split, sha256 (voxels and affine), duplicate_of (the first case with the same voxels, else empty),
    x, y, z (voxels along the file's axes), spacing_x, spacing_y, spacing_z (mm), then those of `more`.
    """
    facts_of = {fact.case: fact for fact in facts}
    first: dict[str, str] = {}
    rows = []
    for case in sorted(cases, key=lambda case: case.id):
        fact = facts_of[case.id]
        original = first.setdefault(fact.voxels_sha256, case.id)
        rows.append(
            {
                "case": case.id,
                "patient": case.patient,
                "split": splits.of(case.id),
                "sha256": fact.sha256,
                "duplicate_of": "" if original == case.id else original,
                **dict(zip(("x", "y", "z"), fact.shape, strict=True)),
                **dict(zip(("spacing_x", "spacing_y", "spacing_z"), fact.spacing, strict=True)),
                **more(fact),
            }
        )
    return pd.DataFrame(rows)
