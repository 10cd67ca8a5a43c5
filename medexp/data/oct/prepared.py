"""Volumes that are ready to be embedded: found by participant, read, checked, described, split as their table says."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from medexp.config.data import class_names
from medexp.data.oct.cases import OctVolume
from medexp.data.oct.facts import ODD, OctFacts, describe_volumes
from medexp.data.oct.labels import Participants, class_counts, lacking, read_participants
from medexp.data.oct.locator import REGIONS, Located, locate
from medexp.data.oct.manifest import find_manifests
from medexp.data.prepared import Prepared
from medexp.data.splits import SPLITS, Splits
from medexp.data.storage import Entry, Place
from medexp.errors import DataError, all_problems
from medexp.words import some

LABELS = "participants.tsv"
"""The table, where none is given: the one of that name that lies highest among the data."""

PreparedVolumes = Prepared[OctVolume, OctFacts]
"""Of OCT volumes; `dropped` has case, patient and reason of each key that is in no split."""


@dataclass(frozen=True)
class OctData:
    """All that was found.

    Attributes:
        prepared: The volumes that can be used, in the splits of the table.
        errors: What could not be read or belongs to several, sorted: participant_id, key, exception.
        counts: Participants that are left, by class and split.
        without: Participants of the table who are in no split: participant, reason.
        lost: Those of them who should be in one.
    """

    prepared: PreparedVolumes
    errors: pd.DataFrame
    counts: pd.DataFrame
    without: pd.DataFrame
    lost: tuple[str, ...]


def prepare_oct(
    place: Place,
    mapping: Mapping[str, int],
    cache: Path,
    *,
    labels: Path | None = None,
    manifests: Sequence[Path] = (),
    regions: Sequence[str] = REGIONS,
    most_failed: float = 0.1,
    jobs: int = 1,
    refresh: bool = False,
) -> OctData:
    """Finds, reads, checks and describes the volumes of a table's participants.

    Splits are the table's. A participant none of whose volumes can be used drops out, which `without` says.

    Args:
        place: Where the volumes lie.
        mapping: From values of study_group to the number of the class.
        cache: Root of the cache of what is known of each volume.
        labels: participants.tsv; None: the one in the data.
        manifests: Of AI-READI; none: those in the data.
        regions: Of the retina, as for `locate`.
        most_failed: Share of the volumes, and of the participants without a key, 0 to 1, above which it stops.
        jobs: Processes that read.
        refresh: Whether a bucket is asked for its keys anew.

    Raises:
        DataError: The table or the place cannot be used, more fail than may, or a class has nobody left in a split.
        StorageError: The cache cannot be written, or the bucket does not answer.
    """
    entries = place.entries(refresh=refresh)
    table = labels or _labels(place, entries)
    participants = read_participants(table, mapping)
    wanted = [*participants.rows["participant"]]
    others = [*participants.left_out["participant"]]
    located = locate(place, entries, wanted, find_manifests(place, entries, manifests), others, regions)
    _demand(place, "participants have no volume", located.missing, len(wanted), most_failed, _of_missing(located))
    facts, problems = describe_volumes(located.volumes, cache, jobs)
    errors = _errors(located, problems)
    tried = len(located.volumes) + len(located.contested)
    _demand(place, "volumes cannot be used", [*errors["key"]], tried, most_failed, [*errors["exception"]])
    volumes = {volume.id: volume for volume in located.volumes if volume.id in facts}
    left = participants.rows[participants.rows["participant"].isin({volume.patient for volume in volumes.values()})]
    if problem := lacking(left, class_names(mapping)):
        raise DataError(
            all_problems(place.uri, problem, f"Of those in {table} whose volumes can be used; see what is left out.")
        )
    parts = defaultdict[str, list[str]](list)
    split_of = dict(zip(left["participant"], left["split"], strict=True))
    for name, volume in sorted(volumes.items()):
        parts[split_of[volume.patient]].append(name)
    splits = Splits(*(tuple(parts[split]) for split in SPLITS))
    without = _without(participants, located, left)
    return OctData(
        prepared=Prepared(
            cases=volumes,
            facts=facts,
            splits=splits,
            manifest=manifest(volumes, facts, splits, left),
            source=place.uri,
            dropped=_dropped(located, errors),
            notes=_notes(place, located, errors, without, facts),
        ),
        errors=errors,
        counts=class_counts(left),
        without=without,
        lost=tuple(who for who in participants.rows["participant"] if who not in {*left["participant"]}),
    )


def manifest(
    volumes: Mapping[str, OctVolume], facts: Mapping[str, OctFacts], splits: Splits, rows: pd.DataFrame
) -> pd.DataFrame:
    """One row a volume, sorted by case.

    Columns: case, patient, label (name of the class), target (its number), split, sha256, voxels_sha256, key, laterality,
    device, region, site (as the table has it, else the first digit of the participant's id), frames, rows, columns; what
    nobody says is empty.
    """
    of = {str(row["participant"]): row for row in rows.to_dict("records")}
    split_of = {case: split for split, cases in asdict(splits).items() for case in cases}
    made = []
    for case, volume in sorted(volumes.items()):
        fact, who = facts[case], of[volume.patient]
        made.append(
            {
                "case": case,
                "patient": volume.patient,
                "label": who["label"],
                "target": int(who["target"]),
                "split": split_of[case],
                "sha256": fact.sha256,
                "voxels_sha256": fact.voxels_sha256,
                "key": volume.entry.key,
                "laterality": fact.laterality or "",
                "device": fact.device or "",
                "region": volume.known.get("region") or "",
                "site": who["site"] or volume.patient[:1],
                **dict(zip(("frames", "rows", "columns"), fact.shape, strict=True)),
            }
        )
    return pd.DataFrame(made)


def _labels(place: Place, entries: Sequence[Entry]) -> Path:
    tables = [entry for entry in entries if entry.key.rpartition("/")[2].lower() == LABELS]
    if not tables:
        raise DataError(f"{place.uri}: holds no {LABELS}; give labels=FILE")
    return place.fetch(min(tables, key=lambda entry: (entry.key.count("/"), entry.key)))


def _of_missing(located: Located) -> list[str]:
    """Why participants have no volume, as far as that is known."""
    missing = {*located.missing}
    reasons = located.left_out[located.left_out["participant"].isin(missing)]["reason"].value_counts()
    return [f"left out, {count} of their keys: {reason}" for reason, count in reasons.items()]


def _demand(place: Place, what: str, failed: Sequence[str], of: int, most: float, why: Sequence[str]) -> None:
    if len(failed) > most * of:
        told = [f"{len(failed)} of {of} {what}, more than data.max_failures={most:g}: {some(failed)}", *dict.fromkeys(why)]
        raise DataError(all_problems(place.uri, told[:12], "Mend them, or allow more with data.max_failures."))


def _errors(located: Located, problems: Mapping[str, DataError]) -> pd.DataFrame:
    by_id = {volume.id: volume for volume in located.volumes}
    failed = [(by_id[case].patient, by_id[case].entry.key, str(error)) for case, error in problems.items()]
    shared = [*located.contested.itertuples(index=False, name=None)]
    return pd.DataFrame(sorted([*failed, *shared]), columns=["participant_id", "key", "exception"])


def _dropped(located: Located, errors: pd.DataFrame) -> pd.DataFrame:
    failed = errors.set_axis(["participant", "key", "reason"], axis=1)
    rows = pd.concat([failed, located.left_out], ignore_index=True).sort_values(["key", "participant"], ignore_index=True)
    return rows.rename(columns={"key": "case", "participant": "patient"})[["case", "patient", "reason"]]


def _without(participants: Participants, located: Located, left: pd.DataFrame) -> pd.DataFrame:
    missing = {*located.missing}
    gone = [who for who in participants.rows["participant"] if who not in {*left["participant"]}]
    told = [(who, "has no key" if who in missing else "none of the volumes can be used") for who in gone]
    return pd.concat([participants.left_out, pd.DataFrame(told, columns=["participant", "reason"])], ignore_index=True)


def _notes(
    place: Place, located: Located, errors: pd.DataFrame, without: pd.DataFrame, facts: Mapping[str, OctFacts]
) -> tuple[str, ...]:
    notes = []
    for name, (look, advice) in ODD.items():
        if odd := [f"{case} ({fact.odd[name]})" for case, fact in facts.items() if name in fact.odd]:
            notes.append(f"{place.uri}: {len(odd)} of {len(facts)} volumes {look}: {some(odd, 3)}. {advice}.")
    if len(located.missing):
        notes.append(f"{place.uri}: {len(located.missing)} participants have no volume: {some(located.missing)}.")
    if gone := [*without.loc[without["reason"].str.startswith("none"), "participant"]]:
        notes.append(f"{place.uri}: none of the volumes of {some(gone)} can be used; they are in no split.")
    if len(errors):
        told = some([*errors["exception"]], 3)
        notes.append(f"{place.uri}: {len(errors)} volumes cannot be used; data_errors.csv says why: {told}.")
    for reason, count in located.left_out["reason"].str.replace(r"^.*line \d+: ", "", regex=True).value_counts().items():
        notes.append(f"{place.uri}: {count} keys are left out: {reason}.")
    return tuple(notes)
