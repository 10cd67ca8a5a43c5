"""The leak guard: whether a test set holds what a registered model, or a model that it was made from, has learned from."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from medexp.checks import Check, Severity
from medexp.data.manifest import patient_sha256
from medexp.data.prepared import Prepared
from medexp.data.twins import LEAST, OF_A_SCAN, like
from medexp.errors import RegistryError
from medexp.files import read_csv
from medexp.registry.package import Parent
from medexp.registry.packages import read_json
from medexp.registry.store import Pulled, pull, resolve

LEARNED = ("train", "val")  # trained on, or selected on; what was held back is fine
SLICES = 8
"""A patient with so many images is taken for one whose scan was cut into slices."""

_NAMED = 20  # patients that a message names


@dataclass(frozen=True)
class _Seen:
    """What a model and its ancestors learned from.

    Attributes:
        patients: The models that saw a patient, by the sha256 of its id.
        voxels: The models that saw a scan, by the sha256 of its voxels.
        hashes: Perceptual hashes of scans: the hash, the sha256 of the patient's id, and the model that saw it.
        models: All models whose cases are known.
        unhashed: Those of them whose packages hold no perceptual hashes, or others, as older ones.
        unknown: The others, and why.
    """

    patients: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    voxels: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    hashes: list[tuple[tuple[str, ...], str, str]] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    unhashed: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def leak_check(
    pulled: Pulled | None,
    cases: pd.DataFrame,
    learned: Sequence[str] = LEARNED,
    beside: Sequence[Pulled] = (),
    listed: Mapping[str, pd.DataFrame | None] | None = None,
    unit: str = "patients",
) -> Check:
    """LEAK: no case of a test set is of a patient, has the voxels, or is a copy of a case, that the model or one of its
    ancestors was trained or selected on.

    A scan of several slices is a copy where `OF_A_SCAN` of them are twins of one patient's; a single picture is not held
    against the slices of a patient who has `SLICES` or more, some of which are like those of any head. A package without
    perceptual hashes does not fail the check: it is named.

    Ancestors are fetched and verified. One that is not registered (any more), or does not say what it was trained on, does not
    fail the check: it is named.

    Args:
        pulled: The model that is to be tested, or that a tested one is built on; None where that is not registered.
        cases: The test set (`medexp.data.prepared.Prepared.judged`).
        learned: Splits of the models that count. For validation cases of a model that is built on them it is train alone: an
            earlier phase may have chosen its epoch on the same patients.
        beside: Other models that it is built on, which its own record need not name.
        listed: By name of a model that is not registered: whom it learned from, with the column `patient_sha256` and, if they
            are known, those of `medexp.data.manifest.seen_cases`; None where that is not known.
        unit: What stands for patients in the test set.

    Raises:
        RegistryError: An ancestor's package was altered.
        StorageError: The registry does not answer.
    """
    seen = _seen_by([*([pulled] if pulled else []), *beside], learned)
    for called, rows in (listed or {}).items():
        if rows is None:
            seen.unknown.append(called)
        else:
            _add(seen, called, rows)
    leaks: dict[str, list[str]] = defaultdict(list)
    leaked = set()
    copied = _copied(cases, seen)
    for row in cases.sort_values(["patient", "case"]).itertuples():
        by_id = seen.patients.get(patient_sha256(str(row.patient)), set())
        by_voxels = seen.voxels.get(str(row.voxels_sha256), set()) - by_id
        by_hash = copied.get(str(row.case), set()) - by_id - by_voxels
        if by_id and row.patient not in leaked:
            leaks[", ".join(sorted(by_id))].append(str(row.patient))
        if by_voxels:
            leaks[", ".join(sorted(by_voxels))].append(f"{row.patient} (the voxels of case {row.case})")
        if by_hash:
            leaks[", ".join(sorted(by_hash))].append(f"{row.patient} (a copy of case {row.case}, saved anew or mirrored)")
        if by_id or by_voxels or by_hash:
            leaked.add(row.patient)
    return _check(cases, seen, leaks, len(leaked), learned, unit)


def unknown_check(called: str, cases: pd.DataFrame) -> Check:
    """LEAK of a network that is not registered, so that nobody knows what it was trained on: it says so, and does not fail."""
    return _check(cases, _Seen(unknown=[called]), {}, 0, LEARNED)


def learned_cases(models: Sequence[Pulled], cases: pd.DataFrame, learned: Sequence[str] = ("train",)) -> frozenset[str]:
    """The cases whose patient, or whose voxels, a model or one of its ancestors learned from, copies included.

    Args:
        models: Registered models.
        cases: As of `leak_check`.
        learned: Likewise.
    """
    seen = _seen_by(models, learned)
    found = set(_copied(cases, seen))
    for row in cases.itertuples():
        if patient_sha256(str(row.patient)) in seen.patients or str(row.voxels_sha256) in seen.voxels:
            found.add(str(row.case))
    return frozenset(found)


def split_check(models: Sequence[Pulled], called: str, data: Prepared[Any, Any], split: str = "val") -> Check:
    """LEAK of what a phase builds on, for a split of its cases. An earlier phase may have chosen its epoch on the validation
    cases; the test cases nobody may have seen.

    Args:
        models: What the phase builds on; none where that is not registered.
        called: What that is, in words.
        data: All cases.
        split: val or test.
    """
    cases = data.judged(split)
    if not models:
        return unknown_check(called, cases)
    return leak_check(models[0], cases, ("train",) if split == "val" else LEARNED, models[1:])


def _check(
    cases: pd.DataFrame,
    seen: _Seen,
    leaks: Mapping[str, Sequence[str]],
    leaked: int,
    learned: Sequence[str],
    unit: str = "patients",
) -> Check:
    unknown, splits = "; ".join(seen.unknown), {"train": "training", "val": "validation"}
    where = " or ".join(splits[split] for split in learned)
    return Check(
        "LEAK",
        f"The {unit} judged on are new to the model and to what it was made from",
        Severity.BLOCKING,
        passed=not leaks,
        threshold=f"no patient's id, no equal voxels and no copy (by perceptual hash) judged on in {where} of "
        f"{', '.join(seen.models) or 'any'}"
        + (f"; copies were not looked for in {', '.join(seen.unhashed)}, which list no hashes" if seen.unhashed else "")
        + (f"; unknown: what {unknown} was trained on" if unknown else ""),
        measured={"patients": cases["patient"].nunique(), "leaked_patients": leaked}
        | ({"seen": _first(leaks)} if leaks else {})
        | ({"no_copies_looked_for_in": ", ".join(seen.unhashed)} if seen.unhashed else {})
        | ({"unknown": unknown} if unknown else {}),
        advice=f"Take these {unit} out of what is judged on, or use a model that was not trained on them.",
    )


def _copied(cases: pd.DataFrame, seen: _Seen) -> dict[str, set[str]]:
    """The models that saw copies of cases, by case."""
    found = like(list(cases["perceptual_hash"]), [views for views, _, _ in seen.hashes])
    pairs = pd.DataFrame(
        {
            "case": cases["case"].to_numpy()[found["one"]],
            "scan": cases["scan"].to_numpy()[found["one"]],
            "patient": [seen.hashes[place][1] for place in found["other"]],
            "model": [seen.hashes[place][2] for place in found["other"]],
        }
    )
    pairs["slices"] = pairs["scan"].map(cases["scan"].value_counts())
    pairs["alike"] = pairs.groupby(["scan", "patient", "model"])["case"].transform("nunique")
    theirs = Counter((patient, model) for _, patient, model in seen.hashes)
    pairs["theirs"] = [theirs[key] for key in zip(pairs["patient"], pairs["model"], strict=True)]
    held = (pairs["slices"] > 1) | (pairs["theirs"] < SLICES)
    copied = defaultdict[str, set[str]](set)
    for pair in pairs[held & (pairs["alike"] >= OF_A_SCAN * pairs["slices"])].itertuples():
        copied[str(pair.case)].add(str(pair.model))
    return copied


def _seen_by(models: Sequence[Pulled], learned: Sequence[str]) -> _Seen:
    """What models and all their ancestors learned from, each read once."""
    given = {(model.name, model.version, model.cases): model for model in models}
    seen, waiting, met = _Seen(), list(given.values()), set(given)
    while waiting:
        model = waiting.pop(0)
        called = f"{model.name} version {model.version}"
        if (model.folder / model.cases).is_file():
            rows = read_csv(model.folder / model.cases, only_text=True)
            _add(seen, called, rows[rows["split"].isin(learned)])
        else:
            seen.unknown.append(called)
        for record in read_json(model.folder, "parents.json").values():
            parent = Parent(**record)
            if (which := (parent.name, str(parent.version), parent.cases)) in met:
                continue
            met.add(which)
            found = fetch_parent(parent)
            if isinstance(found, Pulled):
                waiting.append(found)
            else:
                seen.unknown.append(found)
    return seen


def _add(seen: _Seen, called: str, rows: pd.DataFrame) -> None:
    """Add what a model learned from, one row a case."""
    hashes = rows.get("perceptual_hash")
    known = hashes is not None and {len(view) for views in hashes for view in views.split()} <= set(LEAST)
    hashed = known or rows.empty  # who learned from no case copied none
    if not hashed and called not in seen.unhashed:
        seen.unhashed.append(called)
    for row in rows.to_dict("records"):
        if hashed and row["perceptual_hash"]:
            seen.hashes.append((tuple(row["perceptual_hash"].split()), row["patient_sha256"], called))
        seen.patients[row["patient_sha256"]].add(called)
        if voxels := row.get("voxels_sha256"):
            seen.voxels[voxels].add(called)
    if called not in seen.models:  # as of a model that was taken whole, and of another that took a part of it
        seen.models.append(called)


def fetch_parent(parent: Parent) -> Pulled | str:
    """An ancestor's package, with the cases of what was taken over from it, or what is to be said of one that there is not."""
    if parent.version is None:
        return f"{parent.name}, which is not registered,"
    uri = f"models:/{parent.name}/{parent.version}"
    try:
        resolve(uri)
    except RegistryError:
        return f"{parent.name} version {parent.version}, which is not registered any more,"
    found = pull(uri)
    if found.digest != parent.digest:
        return (
            f"{parent.name} version {parent.version} of digest {str(parent.digest)[:12]}, whose number another model has now,"
        )
    return replace(found, cases=parent.cases)


def _first(leaks: Mapping[str, Sequence[str]]) -> str:
    """The first patients, grouped by the models that saw them."""
    left, parts = _NAMED, []
    for models, names in leaks.items():
        if left:
            parts.append(f"{', '.join(names[:left])} by {models}")
        left -= len(names[:left])
    more = sum(map(len, leaks.values())) - _NAMED
    return "; ".join(parts) + (f"; and {more} more" if more > 0 else "")
