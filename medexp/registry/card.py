"""The model card: what a person reads before using a model.

Its table has the items of CLAIM that a registered model can answer, numbered as in the 2024 update: Tejani et al., Checklist
for Artificial Intelligence in Medical Imaging (CLAIM): 2024 Update, Radiology: Artificial Intelligence 6(4), 2024, e240300,
https://doi.org/10.1148/ryai.240300. The wording is ours.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import pandas as pd

from medexp.checks import as_markdown
from medexp.config.shared import Resampling
from medexp.markdown import as_it_stands
from medexp.markdown import as_markdown as table
from medexp.registry.definitions import Definition
from medexp.registry.package import Package
from medexp.registry.tags import MADE_ON_PHANTOMS

_UNKNOWN = "unknown"
_SENTENCE = 80  # characters; longer values of a figure are sentences
INCLUDED, EXCLUDED_UNKNOWN = "included ", f"; excluded: {_UNKNOWN}"
"""What the answer to item 35 begins and ends with."""
_SAMPLES = 2000  # resamples of an interval
_LONGEST = 5000  # description of a version in MLflow's databases, in characters
_CLAIM = "CLAIM"
_REPORT = "Verification report"
# What a description has, a user's questions first; CLAIM's table and the whole report are in the file alone.
_SHOWN = ("Measured", "Limitations", "Intended use", _REPORT, "Input and output", "Made with", "Latents", "Architecture")
_MADE_FROM = "Made from"
_PATH = re.compile(r"(?<![\w:/.~])(?:file://)?~?/(?:[^/\s|`]+/)*([^/\s|`]+)")
_TRUNCATED = "The whole card, with CLAIM's checklist, is README.md in the package."

ITEMS: Mapping[int, str] = {
    1: "Kind of AI",
    3: "Background, intended use and role",
    7: "Sources of the data",
    8: "Inclusion and exclusion",
    9: "Preprocessing",
    10: "Selection of parts of the data",
    11: "De-identification",
    12: "Missing data",
    13: "Image acquisition",
    14: "Reference standard",
    15: "Why this reference standard",
    16: "Who annotated",
    17: "How the test cases were annotated",
    18: "Variability between and within annotators",
    19: "Assignment to partitions",
    20: "Level at which partitions are apart",
    21: "Intended number of test cases",
    22: "Model",
    23: "Software",
    24: "Initial weights",
    25: "Training",
    26: "Selection of the final model",
    27: "Ensembling",
    28: "Metrics",
    29: "Significance and uncertainty",
    30: "Robustness",
    31: "Explainability",
    32: "Evaluation on internal data",
    33: "Testing on external data",
    35: "Cases and patients included and excluded",
    36: "Demographic and clinical characteristics",
    37: "Performance",
    38: "Its precision",
    39: "Failures",
    40: "Limitations",
    41: "Implications for practice",
    42: "Full protocol",
    43: "Availability of software, model and data",
    44: "Funding",
}
"""The items that a registered model can answer, in a few words of ours."""
NOT_APPLICABLE: Mapping[int, str] = {
    2: "structured abstract",
    4: "aims and hypotheses",
    5: "prospective or retrospective study",
    6: "study goal",
    34: "registration as a clinical trial",
}
"""The items that ask about a study or a paper."""


PHANTOMS: Mapping[str, str | None] = {
    "De-identification": "not needed: phantoms are of nobody",
    "Who annotated": "nobody: the labels are the shapes that the phantoms were drawn from",
    "Demographic and clinical characteristics": "none: phantoms",
}
"""What is known of a model that was trained on embedded data."""


def model_card(definition: Definition, package: Package) -> str:
    """A model card in markdown. What is not known says so.

    Args:
        definition: What the model is for.
        package: What is registered. Its `facts` that are named as an item of CLAIM stand there, the others under "Made with".
    """
    learned = package.learned
    if learned and learned.phantoms:
        package = replace(package, facts={**PHANTOMS, **package.facts})
    claimed = {name for name in package.facts if name in ITEMS.values()}
    made_with = {
        "phase": definition.producing_phase,
        "data": learned and learned.source,
        "data digest": learned and learned.digest,
        **{name: value for name, value in package.facts.items() if name not in claimed},
        ("samples that it was judged by" if _drawn(definition) else "cases that it was judged on"): len(package.per_case)
        or None,
    }
    parents = "\n\n".join(f"**{role}**\n\n{_table(asdict(parent))}" for role, parent in package.parents.items())
    limits = _limitations(definition, package)
    sections = {
        "Intended use": definition.intended_use.strip(),
        "Limitations": "\n".join(f"- {limit}" for limit in limits) or _UNKNOWN,
        "Input and output": f"{_table(package.contract.get('input', {}))}\n\n{definition.output.strip()}",
        "Architecture": _table(package.architecture),
        **({"Latents": _table(_latents(package.contract))} if "latents" in package.contract else {}),
        _MADE_FROM: parents or _UNKNOWN,
        "Made with": _table(made_with),
        "Measured": _measured(definition, package),
        "Used by": ", ".join(definition.consumers) or "no phase yet",
        _CLAIM: _claim_table(_claim(definition, package)),
    }
    if package.checks:
        report = as_markdown(package.checks).replace("\n## ", "\n### ")
        sections[_REPORT] = report.partition("\n\n")[2].strip()
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
    return f"# {definition.name}: {definition.title}\n\n{definition.task.strip()}\n\n{body}\n"


def without_paths(card: str) -> str:
    """A card that leaves this machine: of a path to a file or folder the last part stays; a URL is none."""
    return _PATH.sub(r"\1", card)


def as_description(card: str, made: str = "") -> str:
    """What a user needs of a card first, no longer than the description of a version may be in MLflow's databases.

    What it is, the run and the versions that it was made from, what was measured, its limits, what it is for, its verdict, its
    input; of these as many as fit into 5000 characters.

    Args:
        card: As of `model_card`.
        made: By which run and from what it was made, with links; empty: the card's own words.
    """
    head, *rest = card.rstrip().split("\n## ")
    sections = {text.partition("\n")[0]: text for text in rest}
    if _REPORT in sections:
        sections[_REPORT] = "\n\n".join(sections[_REPORT].split("\n\n")[:2])  # its title and the verdict
    given = [f"## {sections[_MADE_FROM]}"] if _MADE_FROM in sections and not made else [made] if made else []
    parts = [head.rstrip(), *given, *(f"## {sections[title]}".rstrip() for title in _SHOWN if title in sections)]
    while len(whole := "\n\n".join([*parts, _TRUNCATED]) + "\n") > _LONGEST and len(parts) > 1:
        parts.pop()
    if len(whole) > _LONGEST:
        whole = f"{head[: _LONGEST - len(_TRUNCATED) - 3].rpartition(chr(10))[0]}\n\n{_TRUNCATED}\n"
    return whole


# -------------------------------------------------------------------------------------------------------------------- CLAIM


def _claim(definition: Definition, package: Package) -> dict[int, str | None]:
    """What is known here of each item; what follows from the package, else what its phase says."""
    policy, evaluation, learned = definition.promotion, package.evaluation, package.learned
    given = package.contract.get("input", {})
    columns = [name for name in policy.columns if name in package.per_case] if policy else []
    scored = package.per_case if len(package.per_case) else pd.DataFrame()  # of no rows nobody knows which are numbers
    metrics = [name for name in scored.select_dtypes("number").columns if name != "arm"]
    base = [
        str(parent.name) + (f" version {parent.version}" if parent.version else "")
        for role, parent in package.parents.items()
        if role != "adapter"
    ]  # which training made, from nothing
    size = sum(value.numel() for value in package.weights.values())
    spacing = f"resampled to {_shown(given['spacing_mm'])} mm" if "spacing_mm" in given else None
    preprocessing = (spacing, given.get("normalisation"))
    unit, judged, drawn = policy.unit if policy else "patients", len(package.per_case), _drawn(definition)
    counted = (
        f"{judged} samples, beside real pairs"
        if drawn
        else f"{judged} cases of {package.per_case['patient'].nunique()} {unit}"
    )
    one = {"patients": "patient", "families": "family", "samples": "sample"}[unit]
    known: dict[int, str | None] = {
        1: f"deep learning: {package.architecture.get('kind')}" if package.architecture else None,
        3: "see Intended use",
        7: str(learned) if learned else None,
        9: "; ".join(filter(None, preprocessing)),
        20: _apart(package.cases),
        22: f"see Architecture{f'; {size:,} weights' if size else ''}" if package.architecture else None,
        24: f"of {' and '.join(base)}" if base else None,
        27: "none: one network",
        28: ", ".join(metrics) or None,
        29: f"to become the champion: bootstrap of the paired difference by {one}, {policy.confidence:.0%} interval"
        if policy
        else None,
        32: f"{counted}, split {evaluation['split']}, digest {evaluation['data_digest']}" if evaluation else None,
        35: _counted(package.cases),
        37: ", ".join(f"mean {name} {_mean(package.per_case[name]):.3f}" for name in columns) or None,
        38: _precision(package.per_case, columns, policy.confidence, one) if policy and columns else None,
        39: _worst(package.per_case, columns, policy is None or policy.direction == "maximise"),
        40: "see Limitations" if _limitations(definition, package) else None,
        41: "see Intended use",
        42: _joined("config.yaml and verification_report.md of run", package.facts.get("run"), between=" "),
        43: f"model: this package; license: {package.facts.get('license') or _UNKNOWN}",
    }
    return {number: known.get(number) or package.facts.get(item) for number, item in ITEMS.items()}


def _claim_table(known: Mapping[int, str | None]) -> str:
    rows = [(str(number), ITEMS[number], _shown(value)) for number, value in known.items()]
    left_out = ", ".join(f"{number} ({item})" for number, item in NOT_APPLICABLE.items())
    source = "Tejani et al., Radiology: Artificial Intelligence 2024, doi 10.1148/ryai.240300"
    return (
        f"Items of the Checklist for Artificial Intelligence in Medical Imaging, 2024 update ({source}).\n\n"
        f"{table(('number', 'item', 'what is known here'), rows)}\n\n"
        f"Not applicable to a registered model: {left_out}."
    )


def claimed(card: str) -> dict[int, str]:
    """What a card knows of CLAIM's items, by number.

    Args:
        card: A card as `model_card` writes it.
    """
    section = card.partition(f"\n## {_CLAIM}\n")[2].partition("\n## ")[0]
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in section.splitlines() if re.match(r"\| \d+ \| ", line)]
    answers = {int(number): re.sub(r"\\([|\\])", r"\1", answer.strip()) for number, _, answer in cells}
    return {number: answer for number, answer in answers.items() if answer != _UNKNOWN}


def _measured(definition: Definition, package: Package) -> str:
    """Whether all of it is of phantoms; the figures; the sentences on them, which below take no width from the figures' names;
    the intervals of what it is promoted by."""
    claimed = _claim(definition, package)
    texts = {name: text for name, text in package.figures.items() if isinstance(text, str) and len(text) > _SENTENCE}
    figures = {name: value for name, value in package.figures.items() if name not in texts}
    shown = [_table(figures)] if figures or not texts else []
    said = [f"**{name[:1].upper()}{name[1:]}**: {as_it_stands(text)}" for name, text in texts.items()]
    told = [f"{text[:1].upper()}{text[1:]}." for text in (claimed[38], claimed[39]) if text]
    of = [MADE_ON_PHANTOMS] if package.learned and package.learned.phantoms else []
    return "\n\n".join([*of, *shown, *said, *told])


def _joined(*parts: str | None, between: str) -> str | None:
    """The parts, or None where one is not known."""
    return between.join(str(part) for part in parts) if all(parts) else None


def _counted(cases: pd.DataFrame | None) -> str | None:
    if cases is None or cases.empty:
        return None
    splits = cases.groupby("split")["patient_sha256"].agg(["size", "nunique"])
    named = [name for name in ("train", "val", "test") if name in splits.index]
    counts = [f"{name}: {splits['size'][name]} cases of {splits['nunique'][name]} patients" for name in named]
    return f"{INCLUDED}{'; '.join(counts)}{EXCLUDED_UNKNOWN}"


def _apart(cases: pd.DataFrame | None) -> str | None:
    if cases is None or cases.empty:
        return None
    patients, scans = (
        int(cases.drop_duplicates([key, "split"])[key].duplicated().sum()) for key in ("patient_sha256", "voxels_sha256")
    )
    if patients or scans:
        return f"not apart: {patients} patients and {scans} scans are in several partitions"
    return "patient: no patient and no scan is in two partitions"


def _mean(values: pd.Series) -> float:
    return float(values.mean())


def _precision(per_case: pd.DataFrame, columns: list[str], confidence: float, unit: str) -> str:
    from medexp.data.folds import folds_of  # loads scikit-learn
    from medexp.evaluation.intervals import MIN_PATIENTS, UNBOUNDED, UNIT, mean_by_patient  # loads scipy

    told = []
    for column in columns:
        rows = per_case.dropna(subset=[column])
        if rows.empty:
            continue
        patients = rows["patient"].astype(str).tolist()
        values = rows[column].to_numpy(float)
        within = UNIT if values.min() >= 0 and values.max() <= 1 else UNBOUNDED
        resampling = Resampling(_SAMPLES, confidence, 0, folds_of(per_case))
        found = mean_by_patient(values, patients, resampling, within)
        few = found.patients < MIN_PATIENTS
        none = f"no interval, {found.patients} patients are too few" if few else "no interval, all cases are alike"
        told.append(f"{column} {none if math.isnan(found.low) else f'{found.low:.3f} to {found.high:.3f}'}")
    return f"{confidence:.0%} intervals of the means, bootstrap by {unit}: {'; '.join(told)}" if told else ""


def _worst(per_case: pd.DataFrame, columns: list[str], higher_is_better: bool) -> str | None:
    means = per_case.set_index("case")[columns].mean(axis=1).dropna() if columns else pd.Series(dtype=float)
    if means.empty:
        return None
    worst = means.sort_values(ascending=higher_is_better).head(3)
    return f"worst mean of {', '.join(columns)}: " + ", ".join(f"{case} ({value:.3f})" for case, value in worst.items())


def _drawn(definition: Definition) -> bool:
    """Whether what it is judged by are samples that it drew."""
    return definition.promotion is not None and definition.promotion.unit == "samples"


def _latents(contract: Mapping[str, Any]) -> dict[str, Any]:
    """What a model that draws is told by beside its network: how masks stand in latents, by which VAE, and on what grid."""
    latents, vae = contract["latents"], contract["latents"]["vae"]
    told = {name: latents[name] for name in ("strategy", "pooling", "threshold")}
    told |= {"VAE": vae["architecture"], "digest of the VAE's weights": vae["weights_digest"]}
    return told | {"voxels of a volume": contract["grid"]["size"]}


def _limitations(definition: Definition, package: Package) -> list[str]:
    """What the model is, what the phase says, and what follows from the package."""
    limits = [told.strip() for told in (definition.limitations, package.facts.get(ITEMS[40])) if told]
    if package.learned and package.learned.phantoms:
        limits.append(MADE_ON_PHANTOMS)
    if failed := [f"{check.id} ({check.title})" for check in package.checks if not check.passed]:
        limits.append(f"Checks that it did not pass: {', '.join(failed)}.")
    if package.evaluation:
        limits.append(
            "Its samples were held against pairs of the data that it was made on, and against none from elsewhere."
            if _drawn(definition)
            else "It was judged on cases of the data that it was made on, and on none from elsewhere."
        )
    if package.evaluation.get("selected"):
        limits.append(
            f"Its epoch was chosen on the {package.evaluation['split']} split, on which it was judged: the figures are likely "
            "better than on new cases."
        )
    if package.cases is None:
        limits.append("What it was trained on is not known, so nobody can tell whether a test case is new to it.")
    limits += [
        f"It was made from {parent.name}, which is not registered: what that learned from is not known here."
        for parent in package.parents.values()
        if parent.version is None
    ]
    return limits


# ------------------------------------------------------------------------------------------------------------------- tables


def _table(values: Mapping[str, Any]) -> str:
    if not values:
        return _UNKNOWN
    return table(("", ""), [(str(key), _shown(value)) for key, value in values.items()])


def _shown(value: Any) -> str:
    match value:
        case None | "":
            return _UNKNOWN
        case float():
            return f"{value:.4g}"
        case list() | tuple():
            return ", ".join(map(_shown, value))
        case dict():
            return "; ".join(f"{key}: {_shown(item)}" for key, item in value.items())
        case _:
            return str(value)
