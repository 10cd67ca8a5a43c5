"""Module 0 of specification 000: a checked, described and split data set, ready for training."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from medexp.config.data import DataConfig, PhantomConfig
from medexp.data.cases import Case
from medexp.data.manifest import data_digest, manifest, split_digest
from medexp.data.splits import SPLITS, Splits, load_splits, make_splits
from medexp.data.volumes.brats import find_cases
from medexp.data.volumes.facts import CaseFacts, describe_cases
from medexp.data.volumes.phantoms import ensure_phantoms


@dataclass(frozen=True)
class Prepared:
    """A data set whose every case was read and found good.

    Args:
        data_dir: The folder of case folders.
        cases: By case id.
        facts: By case id.
        splits: Case ids by split.
        manifest: One row a case.
        digest: Of all cases, 32 hexadecimal digits.
        source: What it is in words: the folder, or which phantoms.
    """

    data_dir: Path
    cases: dict[str, Case]
    facts: dict[str, CaseFacts]
    splits: Splits
    manifest: pd.DataFrame
    digest: str
    source: str

    def ids(self, split: str) -> tuple[str, ...]:
        """The case ids of train, val or test, sorted."""
        ids: tuple[str, ...] = getattr(self.splits, split)
        return ids

    @property
    def digests(self) -> dict[str, str]:
        """The digest of each split that has cases."""
        return {split: split_digest(self.manifest, split) for split in SPLITS if self.ids(split)}


def prepare(
    data_dir: str | None, splits: str | None, data: DataConfig, phantoms: PhantomConfig, seed: int, cache: Path
) -> Prepared:
    """Finds, checks, describes and splits the cases of a folder.

    Args:
        data_dir: Folder of BraTS case folders; without it the embedded meningioma phantoms.
        splits: A data_splits.json to use as it stands; without it patients are split by `seed`.
        data: How cases are read and split.
        phantoms: The embedded data.
        seed: Seed of the split.
        cache: Root of the cache of phantoms and of what is known of each case.

    Raises:
        DataError: When the folder, a case or the splits cannot be used; all problems of each step at once.
        StorageError: When the cache cannot be written.
    """
    if data_dir is None:
        folder = ensure_phantoms("meningioma", phantoms.meningioma_patients, phantoms.seed, cache)
        source = "meningioma phantoms"
    else:
        folder = Path(data_dir).expanduser().absolute()  # as for the cache: see `cache_root`
        source = data_dir
    cases = find_cases(folder, data)
    facts = describe_cases(cases, data, cache)
    split = make_splits(cases, facts, data, seed) if splits is None else load_splits(Path(splits).expanduser(), cases, facts)
    table = manifest(cases, facts, split)
    return Prepared(
        data_dir=folder,
        cases={case.id: case for case in cases},
        facts={fact.case: fact for fact in facts},
        splits=split,
        manifest=table,
        digest=data_digest(table),
        source=source,
    )
