"""What is odd in the cases of a folder and changes results: named, and refused until the user says that it is meant.

And the account that a person reads before anything is trained: what was found in the files, against what was expected.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import get_args

from medexp.config.data import DataConfig, Oddity
from medexp.config.editions import EDITIONS
from medexp.data.volumes.cases import CHANNELS, REGION_CLASSES, Case
from medexp.data.volumes.facts import CaseFacts, Measured
from medexp.errors import DataError, all_problems

_OUTSIDE = 0.05  # of a tumour: a rim of it may lie where the skull stripping cut
_UNITS = {1: "metre", 2: "mm", 3: "micrometre"}  # of the header's lowest three bits
_REGIONS = {"TC": "tumour core", "WT": "whole tumour", "ET": "enhancing tumour"}
_NAMED = 8  # cases that a line names
_PAEDIATRIC = re.compile(r"BraTS-PED-")


def demand_meant(source: str, cases: Sequence[Case], facts: Sequence[CaseFacts], data: DataConfig) -> None:
    """What is odd in the cases is meant.

    Args:
        source: Where they come from.
        cases: The cases.
        facts: Of each, in their order.
        data: `meant` and `spacing`.

    Raises:
        DataError: Something is odd and `data.meant` does not have it; all of it at once.
    """
    found = odd(cases, facts, data)
    if told := [f"{name}: {words}" for name, words in found.items() if name not in data.meant]:
        meant = ",".join(name for name in get_args(Oddity) if name in {*found, *data.meant})
        mend = "Mend the files, give a finer grid (-P 'data.spacing=[1,1,1]') or leave cases out (-P 'data.exclude=[CASE]')"
        raise DataError(all_problems(source, told, f"{mend}; or say that it is meant: -P 'data.meant=[{meant}]'"))


def demand_background(source: str, facts: Sequence[CaseFacts]) -> None:
    """The brain of every volume of a table can be told from what surrounds it.

    Raises:
        DataError: It cannot: an encoder that learned on brains would be given something else.
    """
    if flat := _without_background(facts):
        raise DataError(
            f"{source}: {_of(flat, facts)} a channel in which nothing can be told from the brain: {_list(flat)}. An encoder "
            "takes brains on a background of one value: strip the skulls or leave a margin, or take the cases out of the table"
        )


def _without_background(facts: Sequence[CaseFacts]) -> list[str]:
    return [fact.case for fact in facts if None in fact.level]


def odd(cases: Sequence[Case], facts: Sequence[CaseFacts], data: DataConfig) -> dict[Oddity, str]:
    """What is odd and changes results, in words; nothing of what is as it should be."""
    grid = " x ".join(f"{edge:g}" for edge in data.spacing)
    gone = [fact.case for fact in facts if "WT" in fact.lost]
    parts = [f"{fact.case} ({', '.join(fact.lost)})" for fact in facts if fact.lost and "WT" not in fact.lost]
    flat = _without_background(facts)
    beside = {fact.case: fact.outside for fact in facts if fact.outside > _OUTSIDE}
    children = [case.id for case in cases if case.label and _PAEDIATRIC.match(case.id)]
    words: dict[Oddity, str] = {}
    if gone:
        words["lost_tumour"] = f"{_of(gone, facts)} no voxel of the tumour left at {grid} mm: {_list(gone)}"
    if parts:
        words["lost_region"] = f"{_of(parts, facts)} no voxel of a region left at {grid} mm: {_list(parts)}"
    if flat:
        words["no_background"] = (
            f"{_of(flat, facts)} a channel in which nothing can be told from the brain, so that all of the volume would count "
            f"as brain: {_list(flat)}"
        )
    if beside:
        named = [f"{case} ({share:.0%})" for case, share in beside.items()]
        words["outside_brain"] = f"{_of(named, facts)} a tumour that lies where all channels are background: {_list(named)}"
    if children and data.labels not in ("brats-ped", "map"):
        words["edition"] = (
            f"{_of(children, facts)} the name of BraTS-PED, of which the edition of 2023 alone has the labels of "
            f"{data.labels}; later ones are -P data.labels=brats-ped: {_list(children)}"
        )
    if doubled := [f"{fact.case} ({fact.affines})" for fact in facts if fact.affines]:
        words["two_affines"] = (
            f"{_of(doubled, facts)} a header that says two geometries, of which the sform is read: {_list(doubled)}"
        )
    if copied := [f"{fact.case} ({', '.join(fact.same)})" for fact in facts if fact.same]:
        words["same_channels"] = f"{_of(copied, facts)} a channel that is a copy of another one: {_list(copied)}"
    if inverted := [f"{fact.case} ({', '.join(fact.inverted)})" for fact in facts if fact.inverted]:
        words["inverted"] = (
            f"{_of(inverted, facts)} a channel whose brain is darker than its background, as of inverted grey, or of padding "
            f"hardly brighter than tissue: {_list(inverted)}"
        )
    return words


def account(cases: Sequence[Case], facts: Sequence[CaseFacts], data: DataConfig) -> Iterator[tuple[str, str]]:
    """What was found in the files: a row of what is told of, and what was found, in a few words."""
    yield "cases", recognised(cases, data.patient_pattern, "data.patient_pattern")
    outlined = [fact for fact in facts if fact.regions]
    if outlined:
        held = Counter(value for fact in outlined for value in fact.values)
        tissues = EDITIONS[data.labels].tissues if data.labels != "map" else {v: f"class {c}" for v, c in data.classes.items()}
        yield f"labels, {data.labels}", _held({f"{value} {tissues[value]}": held[value] for value in sorted(tissues)})
        grid = " x ".join(f"{edge:g}" for edge in data.spacing)
        held_in = Counter(region for fact in outlined for region in fact.regions)
        yield "regions", _held({f"{_REGIONS[region]} ({region})": held_in[region] for region in REGION_CLASSES})
        lost = {region: [fact.case for fact in outlined if region in fact.lost] for region in REGION_CLASSES}
        told = [f"{region} in {cases_of(len(there))} ({_list(there)})" for region, there in lost.items() if there]
        yield f"regions lost on the grid of {grid} mm", "; ".join(told) or "none"
    yield from geometry(facts)
    yield "background", _counted(Counter(background_of(fact.level, fact.lowest, fact.highest) for fact in facts))
    hot = [
        f"{fact.case} {channel}: {count} (up to {value:.6g})"
        for fact in facts
        for channel, count, value in zip(CHANNELS, fact.hot, fact.hottest, strict=False)
        if count
    ]
    yield "voxels of no tissue", f"{_list(hot)}; taken for background" if hot else "none"
    for name, words in odd(cases, facts, data).items():
        yield f"meant: {name}", words


def recognised(cases: Sequence[Case], pattern: str, by: str) -> str:
    """How many cases of how many patients there are, and what says whose they are, in words.

    Args:
        cases: The cases.
        pattern: `patient_pattern`; a case that it does not match, and whose patient nothing else names, is one of its own.
        by: What names a case's patient, in words.
    """
    patients = Counter(case.patient for case in cases)
    alone = [case.id for case in cases if case.patient == case.id and not re.search(pattern, case.id)]
    named = f" ({_list(alone)})" if len(alone) < len(cases) else ""
    told = [f"{by} names the patient of {cases_of(len(cases) - len(alone))}"] if len(alone) < len(cases) else []
    counts = "counts as a patient" if len(alone) == 1 else "count as a patient each"
    told += [f"{cases_of(len(alone))} {counts}{named}"] if alone else []
    several = [name for name, count in sorted(patients.items()) if count > 1]
    often = f"{len(several)} with several, such as {several[0]}" if several else "none with several"
    people = f"{len(patients)} patient{'' if len(patients) == 1 else 's'}"
    return f"{cases_of(len(cases))} of {people}, {often}; {', '.join(told)}"


def geometry(facts: Sequence[Measured]) -> Iterator[tuple[str, str]]:
    """Rows of an account that any kind of volumes has: spacing, orientation and the unit that headers name."""
    yield "spacing in mm", _counted(Counter(" x ".join(f"{edge:.3g}" for edge in fact.spacing) for fact in facts))
    yield "orientation", _counted(Counter(str(fact.header.get("orientation", "?")) for fact in facts))
    units = Counter(_UNITS.get(int(float(fact.header.get("xyzt_units") or 0)) % 8, "none named") for fact in facts)
    doubled = [f"{fact.case} ({fact.affines})" for fact in facts if fact.affines]
    yield "headers of two geometries", f"{_list(doubled)}; the sform is read" if doubled else "none"
    yield "unit in headers", _counted(Counter({_unit(unit): count for unit, count in units.items()}))


def _held(counts: Mapping[str, int]) -> str:
    """In how many cases each is found."""
    (first, count), *others = counts.items()
    return ", ".join([f"{first} in {cases_of(count)}", *(f"{what} in {count}" for what, count in others)])


def _unit(unit: str) -> str:
    return unit if unit == "mm" else f"{unit}; by their size the voxels are in mm"


def background_of(levels: Sequence[float | None], lowest: Sequence[float], highest: Sequence[float]) -> str:
    """What lies in the background of a case, in words, and what becomes of it; by channel, as `Ground` has it."""
    told = [(low, high) for level, low, high in zip(levels, lowest, highest, strict=True) if level is not None]
    words = sorted({f"{low + 0.0:.6g}" for low, high in told if low == high})
    if noise := [(low, high) for low, high in told if low != high]:
        words.append(f"values from {min(noise)[0]:.2g} to {max(high for _, high in noise):.2g}")
    set_to_0 = " set to 0" if any(ends != (0, 0) for ends in told) else ""
    unknown = ["not told from the brain"] if None in levels else []
    return " and ".join([*([" and ".join(words) + set_to_0] if words else []), *unknown])


def _counted(counts: Counter[str]) -> str:
    first = [f"{what} ({cases_of(count)})" for what, count in counts.most_common(_NAMED)]
    return ", ".join(first) + (f" and {len(counts) - _NAMED} others" if len(counts) > _NAMED else "")


def cases_of(count: int) -> str:
    """A number of cases in words."""
    return f"{count} case{'' if count == 1 else 's'}"


def _of(cases: Sequence[str], facts: Sequence[CaseFacts]) -> str:
    return f"{len(cases)} of {len(facts)} cases {'has' if len(cases) == 1 else 'have'}"


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
