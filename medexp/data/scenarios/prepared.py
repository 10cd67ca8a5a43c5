"""Scenarios that are ready for training: read, checked, described, in families, split."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from medexp.data.prepared import Prepared
from medexp.data.scenarios.cases import ANSWERS, MODALITIES, Scenario
from medexp.data.scenarios.facts import ScenarioFacts, facts_of
from medexp.data.scenarios.families import in_families, members_of, questions, template_of
from medexp.data.scenarios.oddities import MEANING
from medexp.data.scenarios.read import find_scenarios, refuse
from medexp.data.scenarios.splits import draw_splits, lacking, named, named_splits
from medexp.data.splits import SPLITS, Splits
from medexp.data.twins import find_twins
from medexp.errors import DataError, all_problems
from medexp.words import some

PreparedScenarios = Prepared[Scenario, ScenarioFacts]
"""Of scenarios; all that are read are in a split."""


def prepare_scenarios(
    files: Sequence[Path],
    image_dir: Path | None = None,
    *,
    modalities: Sequence[str] = MODALITIES,
    seed: int = 0,
    jobs: int = 1,
    cache: Path,
    source: str = "",
    pooled: bool = False,
) -> PreparedScenarios:
    """Reads, checks, describes and splits scenarios.

    Files called train.jsonl, val.jsonl and test.jsonl are these splits; others are pooled and split (`draw_splits`). The
    manifest has one row a scenario, sorted: case, patient (its family), split, sha256, voxels_sha256, label (its place in
    ANSWERS), modality, source (the modality, by which figures are told apart), image (the file's name), scenario_id.

    Args:
        files: JSONL.
        image_dir: What image_file is relative to, as for `read_scenarios`.
        modalities: That a scenario may be of.
        seed: Seed of the draw.
        jobs: Processes that read images.
        cache: Root of the cache of what is known of each image.
        source: What they are in words; empty: their files.
        pooled: Whether files are pooled whatever they are called.

    Raises:
        DataError: All problems of lines and images at once; then files of which some say a split and others do not, the same
            pixels in two named splits, or a split that lacks an answer.
    """
    by_name = not pooled and named(files)
    found = find_scenarios(files, image_dir, modalities, answered=True)
    facts, broken = facts_of(found.scenarios, cache, jobs)
    problems = {name: list(wrong) for name, wrong in found.problems.items()}
    for where, wrong in broken.items():
        problems.setdefault(where, []).extend(wrong)
    refuse(problems)
    known = [facts[one.id] for one in found.scenarios]
    cases = {one.id: one for one in sorted(in_families(found.scenarios, known), key=lambda one: one.id)}
    splits = named_splits(found.scenarios) if by_name else draw_splits([*cases.values()], seed)
    source = source or ", ".join(map(str, files))
    if by_name and (shared := _same_pixels(cases, facts, splits)):
        advice = "Take one of each out, or call the files otherwise: they are pooled then and split by family."
        raise DataError(all_problems(source, shared, advice))
    if lacks := lacking(cases, splits):
        raise DataError(all_problems(source, lacks, "Figures of both answers need both in each split: add scenarios."))
    made = Prepared(cases, facts, splits, manifest(cases, facts, splits), source)
    return replace(made, notes=tuple(_notes(made, by_name, pooled)))


def manifest(cases: Mapping[str, Scenario], facts: Mapping[str, ScenarioFacts], splits: Splits) -> pd.DataFrame:
    """One row a scenario, sorted (`prepare_scenarios` says the columns)."""
    split_of = {case: split for split, ids in asdict(splits).items() for case in ids}
    rows = [
        {
            "case": name,
            "patient": one.patient,
            "split": split_of[name],
            "sha256": facts[name].sha256,
            "voxels_sha256": facts[name].voxels_sha256,
            "label": one.label,
            "modality": one.modality,
            "source": one.modality,
            "image": one.image.name,
            "scenario_id": one.metadata.get("scenario_id", ""),
        }
        for name, one in sorted(cases.items())
    ]
    return pd.DataFrame(rows)


def across_splits(prepared: PreparedScenarios) -> pd.DataFrame:
    """What two splits have in common, which can be where files say the splits: none of it where they were drawn.

    Of what stands in two splits each scenario of the later one is paired with the first, by id, of the earlier one.

    Returns:
        One row a pair, sorted: case, split, other, other_split, how (image: equal pixels; twin: copies that are not equal;
        text: a template, `medexp.data.scenarios.families`), similarity (of twins; else 1), label, other_label.
    """
    cases, facts = prepared.cases, prepared.facts
    split_of = {name: split for split in SPLITS for name in prepared.ids(split)}
    general = questions([*cases.values()])
    templates = {name: text for name, one in cases.items() if (text := template_of(one)) not in general}
    pairs = {(*pair, "image"): 1.0 for pair in _pairs({name: facts[name].voxels_sha256 for name in cases}, split_of)}
    pairs |= {(*pair, "text"): 1.0 for pair in _pairs(templates, split_of)}
    alone = [replace(one, family="") for one in cases.values()]
    for row in find_twins(alone, facts.values()).to_dict("records"):
        one, other = sorted((str(row["case"]), str(row["other"])), key=lambda name: (SPLITS.index(split_of[name]), name))
        if not row["exact"] and split_of[one] != split_of[other]:
            pairs[one, other, "twin"] = float(row["similarity"])
    rows = [
        {
            "case": one,
            "split": split_of[one],
            "other": other,
            "other_split": split_of[other],
            "how": how,
            "similarity": similarity,
            "label": cases[one].label,
            "other_label": cases[other].label,
        }
        for (one, other, how), similarity in sorted(pairs.items())
    ]
    columns = ["case", "split", "other", "other_split", "how", "similarity", "label", "other_label"]
    return pd.DataFrame(rows, columns=columns)


def odd_images(prepared: PreparedScenarios) -> pd.DataFrame:
    """What is odd about images, one row each: case, split, modality, image, oddity, meaning."""
    rows = [
        (name, prepared.splits.of(name), one.modality, one.image.name, oddity, MEANING[oddity])
        for name, one in prepared.cases.items()
        for oddity in prepared.facts[name].oddities
    ]
    return pd.DataFrame(rows, columns=["case", "split", "modality", "image", "oddity", "meaning"])


def statistics(prepared: PreparedScenarios) -> dict[str, Any]:
    """What the scenarios are, in numbers, as dataset_stats.json has it: of each split and in all, scenarios, families, images,
    and counts by modality, answer, modality and answer, error type, severity and oddity."""

    def of(ids: Sequence[str]) -> dict[str, Any]:
        some_of = [prepared.cases[name] for name in ids]
        by = {
            "modality": Counter(one.modality for one in some_of),
            "answer": Counter(ANSWERS[one.label or 0] for one in some_of),
            "modality_and_answer": Counter(f"{one.modality} {ANSWERS[one.label or 0]}" for one in some_of),
            "error_type": Counter(one.metadata.get("error_type", "") for one in some_of),
            "severity": Counter(one.metadata.get("severity", "") for one in some_of),
            "oddity": Counter(oddity for name in ids for oddity in prepared.facts[name].oddities),
        }
        counts = {
            "scenarios": len(ids),
            "families": len(members_of(some_of)),
            "images": len({prepared.facts[name].voxels_sha256 for name in ids}),
        }
        return counts | {name: dict(sorted(counted.items())) for name, counted in by.items()}

    splits = {split: of(prepared.ids(split)) for split in SPLITS if prepared.ids(split)}
    return {"all": of([*prepared.cases]), "splits": splits, "digest": prepared.digest}


def account(prepared: PreparedScenarios) -> Iterator[tuple[str, str]]:
    """What was found in the files: a row of what is told of, and what was found, in a few words."""
    found = statistics(prepared)["all"]
    sizes = Counter(len(members) for members in members_of([*prepared.cases.values()]).values())
    told = ", ".join(f"{count} of {size}" for size, count in sorted(sizes.items()))
    yield "scenarios", f"{found['scenarios']} in {found['families']} families ({told}), {found['images']} different images"
    for name in ("modality", "answer", "error_type", "severity"):
        yield name.replace("_", " "), ", ".join(f"{value or 'not said'} ({count})" for value, count in found[name].items())
    odd = odd_images(prepared)
    for oddity, rows in odd.groupby("oddity"):
        yield str(oddity), f"{len(rows)}: {some([*rows['case']])}; {MEANING[str(oddity)]}"
    if odd.empty:
        yield "odd images", "none"


def _pairs(values: Mapping[str, str], split_of: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Of a value in two splits: the first of the earlier split with each of the later one."""
    held: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in sorted(values):
        held[values[name]][split_of[name]].append(name)
    for by_split in held.values():
        there = [split for split in SPLITS if split in by_split]
        for place, later in enumerate(there):
            for earlier in there[:place]:
                yield from ((by_split[earlier][0], name) for name in by_split[later])


def _same_pixels(cases: Mapping[str, Scenario], facts: Mapping[str, ScenarioFacts], splits: Splits) -> list[str]:
    split_of = {name: split for split, ids in asdict(splits).items() for name in ids}
    return [
        f"the same image in {split_of[one]} and {split_of[other]}: {cases[one].where} ({cases[one].image.name}) and "
        f"{cases[other].where} ({cases[other].image.name})"
        for one, other in _pairs({name: facts[name].voxels_sha256 for name in cases}, split_of)
    ]


def _notes(made: PreparedScenarios, by_name: bool, pooled: bool) -> Iterator[str]:
    """What a reader must know of the scenarios; of those that are pooled, whose splits nobody asked for, nothing of these."""
    cases = [*made.cases.values()]
    families = members_of(cases)
    shared = {name: members for name, members in families.items() if len(members) > 1}
    sizes = ", ".join(
        f"{split} {len(made.ids(split))} (families: {made.rows(split)['patient'].nunique()})"
        for split in SPLITS
        if made.ids(split)
    )
    how = "as the files are called" if by_name else "drawn by family, a third to judge, by modality and answer"
    held = f"; {len(shared)} of them hold several" if shared else ""
    yield (
        f"{len(cases)} scenarios are {len(families)} families, those that share an image or a template{held}: intervals and "
        f"tests draw families.{'' if pooled else f' Splits, {how}: {sizes}.'}"
    )
    for text in sorted(questions(cases)):
        of = [one for one in cases if template_of(one) == text]
        asked = ", ".join(sorted({one.modality for one in of}))
        yield f"{len(of)} scenarios ({asked}) have one text, {text[:60]!r}: a question that is asked of all makes no family."
    across = across_splits(made)
    if len(across):
        counts = across["how"].value_counts()
        words = {"image": "equal images", "twin": "copies that are not equal", "text": "templates"}
        told = ", ".join(f"{words[str(how)]} ({count} pairs)" for how, count in counts.items())
        yield f"Two splits have in common: {told}. What is judged there was partly learned from."
    if len(made.twins):
        yield (
            f"{len(made.twins)} pairs of images are as alike as copies, too many to be made families: if they are copies, "
            "intervals and tests take them for scenarios of their own, and are too narrow."
        )
    for row in account(made):
        if row[0] in MEANING:
            yield f"Images that are not what they say, {row[0]}: {row[1]}."
