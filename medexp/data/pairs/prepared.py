"""Pairs that are ready for training: found, read, checked, described and split; synthetic ones are trained on alone."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, Protocol

import pandas as pd

from medexp.config.data import PairDataConfig, PairPhantomConfig
from medexp.config.flags import flag
from medexp.config.shared import cache_root
from medexp.data.pairs.facts import PairFacts, describe_pairs
from medexp.data.pairs.find import Found, find_pairs
from medexp.data.pairs.phantoms import ensure_pairs
from medexp.data.pairs.read import Pair, load_pair, preprocessing
from medexp.data.prepared import Prepared
from medexp.data.splits import Splits, load_splits, make_splits, patient_groups, unnamed
from medexp.data.storage import local, local_file
from medexp.data.volumes.cases import Case
from medexp.data.volumes.oddities import background_of, cases_of, geometry, recognised
from medexp.data.volumes.prepared import manifest
from medexp.errors import DataError, all_problems
from medexp.words import some

__all__ = ["Pair", "PreparedPairs", "ReadsPairs", "account", "load_pair", "pairs_in", "prepare_pairs", "preprocessing"]

PreparedPairs = Prepared[Case, PairFacts]
"""Of pairs, or of volumes without masks; none is dropped."""

_BESIDE, _CUT, _CHANGED = 0.05, 0.01, 0.1  # shares from which on an account names a case


class ReadsPairs(Protocol):
    """The keys of a configuration that say which pairs it reads and how.

    Attributes:
        folders: Folders, buckets and tables of pairs; none for the embedded phantoms.
        splits: A data_splits.json to use as it stands; None for a split of the patients by `seed`.
        data: How pairs are read and split.
        phantoms: The embedded data.
        seed: Seed of the split.
        cache_dir: As of `medexp.config.shared.cache_root`: phantoms, and what is known of each pair.
    """

    @property
    def folders(self) -> Sequence[str]: ...
    @property
    def splits(self) -> str | None: ...
    @property
    def data(self) -> PairDataConfig: ...
    @property
    def phantoms(self) -> PairPhantomConfig: ...
    @property
    def seed(self) -> int: ...
    @property
    def cache_dir(self) -> str | None: ...


def prepare_pairs(config: ReadsPairs, masks: bool = True) -> PreparedPairs:
    """Finds, checks, describes and splits the pairs that a configuration names, or the embedded ones: see `pairs_in`.

    Args:
        config: What is read.
        masks: Whether pairs are wanted, or healthy volumes.
    """
    cache = cache_root(config.cache_dir)
    if config.folders:
        return pairs_in(config.folders, config.data, config.splits, config.seed, cache, masks)
    kind: Literal["fcd", "healthy"] = "fcd" if masks else "healthy"
    folder = str(ensure_pairs(kind, config.phantoms.patients, config.phantoms.seed, cache))
    found = pairs_in([folder], config.data, config.splits, config.seed, cache, masks)
    return replace(found, source=f"{'FCD' if masks else 'healthy'} phantoms", phantoms=True)


def pairs_in(
    folders: Sequence[str],
    data: PairDataConfig,
    splits: str | None,
    seed: int,
    cache: Path,
    masks: bool = True,
    block: str = "data",
) -> PreparedPairs:
    """Finds, checks, describes and splits pairs.

    The manifest is that of volumes (`medexp.data.volumes.prepared.manifest`) and has besides voxels_sha256 (of the image),
    lesion_ml, grid_ml (what the network's grid has of it) and synthetic (0 or 1).

    Args:
        folders: Folders, buckets and tables.
        data: How pairs are read and split.
        splits: A data_splits.json to use as it stands, which may leave synthetic cases out; None for a split by `seed`.
        seed: Seed of the split of the real patients; synthetic pairs decide nothing of it.
        cache: Root of the cache.
        masks: Whether pairs are wanted, or healthy volumes: real ones of patients of whom no mask is there.
        block: Where `data` stands in the configuration, for messages.

    Raises:
        DataError: The folders, a pair or the splits cannot be used; all problems of each step at once.
        StorageError: The cache cannot be written.
    """
    source = ", ".join(folders)
    found = find_pairs([local(where, cache) for where in folders], data, masks, block)
    facts = describe_pairs(found.cases, data, cache, block)
    facts = {case: replace(fact, synthetic=fact.synthetic or case in found.synthetic) for case, fact in facts.items()}
    if splits is None:
        parts = _drawn(source, found.cases, facts, data, seed, block)
    else:
        synthetic = {case for case, fact in facts.items() if fact.synthetic}
        parts = load_splits(local_file(splits, cache), found.cases, facts.values(), synthetic)
    judged = {facts[case].voxels_sha256: case for case in (*parts.val, *parts.test)}
    drawn = [fact for fact in facts.values() if fact.synthetic]
    same = [(fact.case, judged[fact.voxels_sha256]) for fact in drawn if fact.voxels_sha256 in judged]
    if copies := [f"{case} has the voxels of {other}" for case, other in same]:
        left = flag(f"{block}.exclude", [case for case, _ in same])
        advice = f"Leave them out with {left}: a training that has seen a case cannot be judged on it."
        raise DataError(all_problems(f"{source}: synthetic pairs that are copies of validation or test cases", copies, advice))
    return Prepared(
        cases={case.id: case for case in found.cases},
        facts=facts,
        splits=parts,
        manifest=manifest(found.cases, facts.values(), parts, lesions),
        source=source,
        notes=tuple(_notes(source, found, facts, data, masks, block)),
    )


def _drawn(
    source: str, cases: Sequence[Case], facts: Mapping[str, PairFacts], data: PairDataConfig, seed: int, block: str
) -> Splits:
    """Real patients in three splits; synthetic cases beside those that are trained on."""
    real = [case for case in cases if not facts[case.id].synthetic]
    known = [facts[case.id] for case in real]
    if len(patient_groups(real, known)) < 2:
        of = some(sorted({case.patient for case in real})) or "nobody"
        raise DataError(
            f"{source}: real pairs of {of}, {len(cases) - len(real)} synthetic; training and validating "
            "take a real patient each, who share no exact duplicate. Add real pairs, folders with commas between, or correct "
            f"{block}.patient_pattern ({data.patient_pattern!r}) if these are several"
        )
    splits = make_splits(real, known, data, seed)
    synthetic = {fact.case for fact in facts.values() if fact.synthetic}
    return replace(splits, train=tuple(sorted({*splits.train, *synthetic})))


def lesions(fact: PairFacts) -> Mapping[str, object]:
    """The columns of a manifest that pairs alone have (`pairs_in` says them)."""
    return {
        "voxels_sha256": fact.voxels_sha256,
        "lesion_ml": fact.lesion_ml,
        "grid_ml": fact.grid_ml,
        "synthetic": int(fact.synthetic),
    }


def account(prepared: PreparedPairs, data: PairDataConfig) -> Iterator[tuple[str, str]]:
    """What was found in the files: a row of what is told of, and what was found, in a few words."""
    facts = [*prepared.facts.values()]
    real = [prepared.cases[fact.case] for fact in facts if not fact.synthetic]
    named = "a table, pair_data.patient_pattern or BIDS"
    yield "pairs", f"{recognised(real, data.patient_pattern, named)}; {len(facts) - len(real)} synthetic"
    yield "values of masks", _counted(",".join(map(str, fact.values)) or "none" for fact in facts)
    lesions = pd.Series([fact.lesion_ml for fact in facts])
    yield "lesions in ml", f"{lesions.min():.3g} to {lesions.max():.3g}, median {lesions.median():.3g}"
    grid = " x ".join(f"{edge:g}" for edge in data.spacing)
    changed = {fact.case: fact.grid_ml / fact.lesion_ml - 1 for fact in facts if fact.lesion_ml}
    told = [f"{case} {share:+.0%}" for case, share in changed.items() if abs(share) > _CHANGED]
    yield f"lesions on the grid of {grid} mm", some(told) or f"as large as in the files, to {_CHANGED:.0%}"
    told = [f"{fact.case} {fact.cut:.0%}" for fact in facts if fact.cut > _CUT]
    yield f"heads beyond {' x '.join(map(str, data.input_size))} voxels", some(told) or f"none, to {_CUT:.0%}"
    told = [f"{fact.case} {fact.beside:.0%}" for fact in facts if fact.beside > _BESIDE]
    yield "lesions on background", some(told) or "none"
    yield "background", _counted(background_of([fact.level], [fact.lowest], [fact.highest]) for fact in facts)
    told = [f"{fact.case} {fact.hot} (up to {fact.hottest:.6g})" for fact in facts if fact.hot]
    yield "voxels of no tissue", f"{some(told)}; taken for background" if told else "none"
    yield from geometry(facts)


def _notes(
    source: str, found: Found, facts: Mapping[str, PairFacts], data: PairDataConfig, masks: bool, block: str
) -> Iterator[str]:
    if found.left:
        why = (
            "without a mask, left out; mode=base takes those of healthy people"
            if masks
            else "with a mask, or of somebody of whom there is one, left out"
        )
        yield f"{source}: {len(found.left)} volumes {why}: {some(found.left)}"
    real = [case for case in found.cases if not facts[case.id].synthetic]
    if all(case.patient == case.id and not case.id.startswith("sub-") for case in real):
        yield unnamed(source, [case.id for case in real], data.patient_pattern, block)


def _counted(values: Iterator[str]) -> str:
    return some([f"{what} ({cases_of(count)})" for what, count in Counter(values).most_common()])
