"""A data set that is ready for training, of whatever kind: cases, what is known of them, splits, manifest."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Generic, TypeVar

import pandas as pd

from medexp.data.manifest import data_digest
from medexp.data.splits import SPLITS, Splits, patient_groups
from medexp.data.twins import Digested, Owned, find_twins

CaseT = TypeVar("CaseT", bound=Owned)
FactsT = TypeVar("FactsT", bound=Digested)


@dataclass(frozen=True)
class Prepared(Generic[CaseT, FactsT]):
    """Cases of one kind, each of which was read and found good, split.

    Args:
        cases: By id; those that were dropped are not among them.
        facts: What is known of each, by id.
        splits: Ids by split.
        manifest: One row a case, sorted by case; at least case, patient, split and sha256; `fold` where cases are judged by
            folds (`in_folds`).
        source: What they are in words: the folders, or which phantoms.
        dropped: One row for each that is in no split, with its reason; empty where all are used.
        held: The validation cases that folds took in; empty where there are none.
        notes: What a reader must know of them, a sentence or two each.
        phantoms: Whether they are the embedded data, which are of nobody.
    """

    cases: Mapping[str, CaseT]
    facts: Mapping[str, FactsT]
    splits: Splits
    manifest: pd.DataFrame
    source: str
    dropped: pd.DataFrame = field(default_factory=pd.DataFrame)
    held: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    phantoms: bool = False

    def ids(self, split: str) -> tuple[str, ...]:
        """The ids of train, val or test, sorted."""
        ids: tuple[str, ...] = getattr(self.splits, split)
        return ids

    def rows(self, split: str) -> pd.DataFrame:
        """The rows of train, val or test of `by_owner`, numbered from 0."""
        return self.by_owner[self.by_owner["case"].isin(self.ids(split))].reset_index(drop=True)

    @cached_property
    def by_owner(self) -> pd.DataFrame:
        """The manifest with the patients that `owners` gives, for who makes intervals of it."""
        return self.manifest.assign(patient=self.owners(self.manifest["case"]))

    def owners(self, cases: Iterable[str]) -> list[str]:
        """The patient of each case, as intervals count them: copies under two names tell no more than one of them, both are
        the first's."""
        return [self._owner[case] for case in cases]

    @cached_property
    def _owner(self) -> Mapping[str, str]:
        groups = patient_groups([*self.cases.values()], self.facts.values())
        return {case: min(self.cases[one].patient for one in group) for group in groups for case in group}

    @property
    def folds(self) -> int:
        """How many folds the judged cases are in; 0 where one split is judged."""
        return int(self.manifest["fold"].max()) if "fold" in self.manifest else 0

    def in_folds(self, fold_of: Mapping[str, int]) -> "Prepared[CaseT, FactsT]":
        """Training and validation together: `train` are all of them, which is what the manifest says too, and `val` are those
        that are in a fold, each to be judged by a training without its fold.

        Args:
            fold_of: From cases of training and validation to their fold, from 1; the others are trained on in every fold.
        """
        learned = tuple(sorted({*self.splits.train, *self.splits.val}))
        manifest = self.manifest.assign(
            split=self.manifest["split"].replace("val", "train"),
            fold=self.manifest["case"].map(fold_of).fillna(0).astype(int),
        )
        splits = Splits(learned, tuple(sorted(fold_of)), self.splits.test)
        return replace(self, splits=splits, manifest=manifest, held=self.splits.val)

    def fold(self, number: int) -> "Prepared[CaseT, FactsT]":
        """One fold: `val` are its cases, and `train` all others of training and validation."""
        return self._judging(set(self.manifest.loc[self.manifest["fold"] == number, "case"]))

    def out_of_folds(self) -> "Prepared[CaseT, FactsT]":
        """Training and validation apart, as they were before folds took them together."""
        return self._judging(set(self.held))

    def _judging(self, judged: set[str]) -> "Prepared[CaseT, FactsT]":
        trained = tuple(case for case in self.splits.train if case not in judged)
        split = self.manifest["split"].mask(self.manifest["case"].isin(judged), "val")
        manifest = self.manifest.drop(columns="fold").assign(split=split)
        return replace(self, splits=Splits(trained, tuple(sorted(judged)), self.splits.test), manifest=manifest)

    @property
    def twins(self) -> pd.DataFrame:
        """The copies that are under another patient's name (`find_twins`), with the split of both and, where cases have one,
        their label: case, other, similarity, exact, split, other_split, label, other_label."""
        found = find_twins([*self.cases.values()], self.facts.values())
        said = self.manifest.set_index("case")
        columns = [column for column in ("split", "label") if column in said]
        added = {
            f"{before}{column}": found[which].map(said[column])
            for column in columns
            for which, before in (("case", ""), ("other", "other_"))
        }
        return found.assign(**added)

    def judged(self, split: str) -> pd.DataFrame:
        """The cases of a split as the leak guard takes them: case, patient, scan, voxels_sha256, perceptual_hash."""
        rows = [(self.cases[case], self.facts[case]) for case in self.ids(split)]
        named = [(one.id, one.patient, one.scan, fact.voxels_sha256, fact.perceptual_hash) for one, fact in rows]
        return pd.DataFrame(named, columns=["case", "patient", "scan", "voxels_sha256", "perceptual_hash"])

    @property
    def digest(self) -> str:
        """Of all cases, 32 hexadecimal digits."""
        return data_digest(self.manifest)

    @property
    def digests(self) -> dict[str, str]:
        """The digest of each split that has cases."""
        named = {split: self.manifest["case"].isin(self.ids(split)) for split in SPLITS if self.ids(split)}
        return {split: data_digest(self.manifest[rows]) for split, rows in named.items()}
