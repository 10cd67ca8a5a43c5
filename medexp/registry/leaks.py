"""The leak guard: whether a test set holds what a registered model, or a model that it was made from, has learned from."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from medexp.checks import Check, Severity
from medexp.data.manifest import patient_sha256
from medexp.errors import RegistryError
from medexp.registry.package import Parent
from medexp.registry.packages import CASES, read_json
from medexp.registry.store import Pulled, pull, resolve

LEARNED = ("train", "val")  # trained on, or selected on; what was held back is fine
_NAMED = 20  # patients that a message names


@dataclass(frozen=True)
class _Seen:
    """What a model and its ancestors learned from.

    Attributes:
        patients: The models that saw a patient, by the sha256 of its id.
        voxels: The models that saw a scan, by the sha256 of its voxels.
        models: All models whose cases are known.
        unknown: The others, and why.
    """

    patients: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    voxels: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    models: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)


def leak_check(pulled: Pulled, cases: pd.DataFrame, learned: Sequence[str] = LEARNED, beside: Sequence[Pulled] = ()) -> Check:
    """LEAK: no case of a test set is of a patient, or has the voxels, that the model or one of its ancestors was trained or
    selected on.

    Ancestors are fetched and verified. One that is not registered (any more), or does not say what it was trained on, does not
    fail the check: it is named.

    Args:
        pulled: The model that is to be tested, or that a tested one is built on.
        cases: The test set: `case`, `patient`, `voxels_sha256` (`CaseFacts.voxels_sha256`).
        learned: Splits of the models that count. For validation cases of a model that is built on them it is train alone: an
            earlier phase may have chosen its epoch on the same patients.
        beside: Other models that it is built on, which its own record need not name.

    Raises:
        RegistryError: An ancestor's package was altered.
        StorageError: The registry does not answer.
    """
    seen = _seen_by([pulled, *beside], learned)
    leaks: dict[str, list[str]] = defaultdict(list)
    leaked = set()
    for row in cases.astype(str).sort_values(["patient", "case"]).itertuples():
        by_id = seen.patients.get(patient_sha256(str(row.patient)), set())
        by_voxels = seen.voxels.get(str(row.voxels_sha256), set()) - by_id
        if by_id and row.patient not in leaked:
            leaks[", ".join(sorted(by_id))].append(str(row.patient))
        if by_voxels:
            leaks[", ".join(sorted(by_voxels))].append(f"{row.patient} (the voxels of case {row.case})")
        if by_id or by_voxels:
            leaked.add(row.patient)
    return _check(cases, seen, leaks, len(leaked), learned)


def unknown_check(called: str, cases: pd.DataFrame) -> Check:
    """LEAK of a network that is not registered, so that nobody knows what it was trained on: it says so, and does not fail."""
    return _check(cases, _Seen(unknown=[called]), {}, 0, LEARNED)


def split_check(models: Sequence[Pulled], called: str, manifest: pd.DataFrame, split: str = "val") -> Check:
    """LEAK of what a phase builds on, for a split of its cases. An earlier phase may have chosen its epoch on the validation
    cases; the test cases nobody may have seen.

    Args:
        models: What the phase builds on; none where that is not registered.
        called: What that is, in words.
        manifest: All cases: `case`, `patient`, `voxels_sha256`, `split`.
        split: val or test.
    """
    cases = manifest.loc[manifest["split"] == split, ["case", "patient", "voxels_sha256"]]
    if not models:
        return unknown_check(called, cases)
    return leak_check(models[0], cases, ("train",) if split == "val" else LEARNED, models[1:])


def _check(cases: pd.DataFrame, seen: _Seen, leaks: Mapping[str, Sequence[str]], leaked: int, learned: Sequence[str]) -> Check:
    unknown, splits = "; ".join(seen.unknown), {"train": "training", "val": "validation"}
    where = " or ".join(splits[split] for split in learned)
    return Check(
        "LEAK",
        "The patients judged on are new to the model and to what it was made from",
        Severity.BLOCKING,
        passed=not leaks,
        threshold=f"no patient and no scan judged on in {where} of {', '.join(seen.models) or 'any'}"
        + (f"; unknown: what {unknown} was trained on" if unknown else ""),
        measured={"patients": cases["patient"].nunique(), "leaked_patients": leaked}
        | ({"seen": _first(leaks)} if leaks else {})
        | ({"unknown": unknown} if unknown else {}),
        advice="Take these patients out of what is judged on, or use a model that was not trained on them.",
    )


def _seen_by(models: Sequence[Pulled], learned: Sequence[str]) -> _Seen:
    """What models and all their ancestors learned from, each read once."""
    given = {(model.name, model.version): model for model in models}
    seen, waiting, met = _Seen(), list(given.values()), set(given)
    while waiting:
        model = waiting.pop(0)
        called = f"{model.name} version {model.version}"
        if (model.folder / CASES).is_file():
            rows = pd.read_csv(model.folder / CASES, dtype=str)
            for row in rows[rows["split"].isin(learned)].itertuples():
                seen.patients[str(row.patient_sha256)].add(called)
                seen.voxels[str(row.voxels_sha256)].add(called)
            seen.models.append(called)
        else:
            seen.unknown.append(called)
        for record in read_json(model.folder, "parents.json").values():
            parent = Parent(**record)
            if (parent.name, str(parent.version)) in met:
                continue
            met.add((parent.name, str(parent.version)))
            found = fetch_parent(parent)
            if isinstance(found, Pulled):
                waiting.append(found)
            else:
                seen.unknown.append(found)
    return seen


def fetch_parent(parent: Parent) -> Pulled | str:
    """An ancestor's package, or what is to be said of one that there is not."""
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
    return found


def _first(leaks: Mapping[str, Sequence[str]]) -> str:
    """The first patients, grouped by the models that saw them."""
    left, parts = _NAMED, []
    for models, names in leaks.items():
        if left:
            parts.append(f"{', '.join(names[:left])} by {models}")
        left -= len(names[:left])
    more = sum(map(len, leaks.values())) - _NAMED
    return "; ".join(parts) + (f"; and {more} more" if more > 0 else "")
