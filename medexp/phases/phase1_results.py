"""What phase 1 leaves behind: registered models, the run's summary and the lines at the end."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table
from torch import Tensor

from medexp.checks import Check, verdict
from medexp.config import Phase1Config
from medexp.data.cases import CHANNELS
from medexp.data.prepared import Prepared
from medexp.data.regions import REGIONS
from medexp.phases.base import BASE_MODEL, Base, architecture
from medexp.registry import store
from medexp.registry.card import model_card
from medexp.registry.definitions import load_definition
from medexp.registry.packages import Package, write_package
from medexp.registry.store import Registered
from medexp.tracking.results import log_summary, log_upstream
from medexp.tracking.runs import TrackedRun
from medexp.training.loop import FitResult

ARMS = {"baseline": "frozen baseline", "control": "decoder only (control)", "lora": "LoRA + decoder"}
CAVEAT = "The best epoch was chosen on these same validation cases; the test split was not read."


@dataclass(frozen=True)
class Results:
    """What the phase measured.

    Attributes:
        per_case: One row a case and arm.
        means: Mean scores by arm.
        semantic: R2 of the semantic heads, by encoder.
        checks: All checks.
        in_words: What LoRA added, plainly.
        fits: Training of the arms that train.
    """

    per_case: pd.DataFrame
    means: Mapping[str, Mapping[str, float]]
    semantic: Mapping[str, Mapping[str, float]]
    checks: Sequence[Check]
    in_words: str
    fits: Mapping[str, FitResult]


def publish(
    config: Phase1Config, data: Prepared, base: Base, run: TrackedRun, results: Results, encoder: dict[str, Tensor]
) -> list[Registered]:
    """Register the adapter and the merged encoder, and the embedded base where this store does not have it yet.

    A version is registered whatever the verdict, with all that it was judged by; aliases are for those that passed.

    Returns:
        What was registered; the merged encoder last.
    """
    published: list[Registered] = []
    outcome = verdict(results.checks)
    facts = {
        "run": run.id,
        "profile": config.profile,
        "data": data.source,
        "data digest": data.digest,
        "training cases": str(len(data.ids("train"))),
        "validation cases": str(len(data.ids("val"))),
        "license": None,
    }
    figures: dict[str, float | int | str | None] = {"what LoRA added": results.in_words}
    for arm, label in ARMS.items():
        figures |= {f"validation Dice {region}, {label}": results.means[arm][f"dice_{region}"] for region in REGIONS}

    def register(
        name: str, shape: dict[str, Any], output: str, weights: dict[str, Tensor], parents: dict[str, Any]
    ) -> Registered:
        judged = name != BASE_MODEL
        definition, contract = load_definition(name), _contract(config, output)
        checks = results.checks if judged else ()
        made_with = facts if judged else facts | {"data": f"{config.phantoms.glioma_patients} patients of glioma phantoms"}
        package = Package(
            name=name,
            architecture=shape,
            contract=contract,
            weights=weights,
            parents=parents,
            checks=checks,
            per_case=results.per_case if judged else pd.DataFrame({"case": []}),
            card=model_card(definition, shape, contract, parents, checks, figures if judged else {}, made_with),
            extra={} if weights else {"adapter": run.folder / "adapter"},
        )
        tags = {
            f"medexp.upstream.{role}": f"{parent['name']} {parent['version']} {parent['digest']}"
            for role, parent in parents.items()
        }
        tags |= {"medexp.data_digest": data.digest} if judged else {}
        with tempfile.TemporaryDirectory(dir=run.folder, prefix=".package.") as temporary:
            folder = Path(temporary) / name
            write_package(package, folder)
            made = store.register(run.id, folder, definition, outcome, tags)
        published.append(made)
        return made

    segmenter, logits = architecture(config), f"logits (B, {len(REGIONS)}, X, Y, Z) of {', '.join(REGIONS)}"
    name: str = Path(base.source).name
    version: str | None = None
    if base.registered:
        name, version = base.registered
    if config.checkpoint is None:
        name, version = BASE_MODEL, store.find_by_digest(BASE_MODEL, base.digest)
        version = version or register(BASE_MODEL, segmenter, logits, base.state, {}).version
    parent = {"name": name, "version": version, "digest": base.digest}
    log_upstream(run, name if version else BASE_MODEL, version, base.digest)  # a file's name may be no tag's
    adapter = register("phase1_lora_adapter", {"kind": "lora_adapter", "base": segmenter}, logits, {}, {"base": parent})
    shape = {key: value for key, value in segmenter.items() if key != "out_channels"} | {"kind": "swin_encoder"}
    features = f"features (B, {16 * config.network.feature_size}): GAP(encoder10)"
    adapted_by = {"name": adapter.name, "version": adapter.version, "digest": adapter.digest}
    register("phase1_encoder_merged", shape, features, encoder, {"base": parent, "adapter": adapted_by})
    return published


def _contract(config: Phase1Config, output: str) -> dict[str, Any]:
    return {
        "input": {
            "shape": ["B", len(CHANNELS), "X", "Y", "Z"],
            "sizes": "X, Y and Z are multiples of 32",
            "dtype": "float32",
            "channels": list(CHANNELS),
            "spacing_mm": list(config.data.spacing),
            "orientation": "RAS",
            "normalisation": "z-score of the non-zero voxels of each channel; background stays 0",
        },
        "output": output,
    }


def show(config: Phase1Config, run: TrackedRun, results: Results, published: Sequence[Registered]) -> None:
    """The run's description and the end of the terminal's output: arms, checks, versions, and what to do next."""
    best = {arm: fit.best_epoch + 1 for arm, fit in results.fits.items()}
    rows = [
        [label, *(f"{results.means[arm][f'dice_{region}']:.3f}" for region in REGIONS), str(best.get(arm, "-"))]
        for arm, label in ARMS.items()
    ]
    cases, patients = len(results.per_case["case"].unique()), results.per_case["patient"].nunique()
    title = f"validation Dice (cases: {cases}, patients: {patients})"
    versions = [
        f"{one.name} version {one.version}" + (f" ({', '.join(one.aliases)})" if one.aliases else "") for one in published
    ]
    head = ["arm", *REGIONS, "best epoch"]
    lines = ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]
    verdicts = "\n".join(f"- {check.id} {check.title}: **{check.outcome}**" for check in results.checks)
    log_summary(
        run,
        f"**{verdict(results.checks)}**: phase 1, profile {config.profile}, rank {config.lora.rank}\n\n{title}:\n\n"
        + "\n".join(lines)
        + f"\n\n{CAVEAT}\n\n{results.in_words}\n\n{verdicts}\n\nRegistered: {'; '.join(versions)}\n",
    )

    console = Console(soft_wrap=True)
    table = Table(*head, title=title)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for check in results.checks:
        colour = "green" if check.passed else "red" if check.blocks else "yellow"
        measured = ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in check.measured.items())
        console.print(
            f"[{colour}]{check.outcome}[/] {check.id} {check.title} ({check.severity.lower()}): {measured}", highlight=False
        )
    console.print(results.in_words, highlight=False)
    print(CAVEAT)
    for line in versions:
        console.print(f"Registered: {line}", highlight=False)
    print(f"Run: {run.id}, files in {run.folder}")
    print("Next, browse it:  make ui   (or: mlflow ui)")
    encoder = published[-1]
    uri = f"models:/{encoder.name}" + ("@champion" if "champion" in encoder.aliases else f"/{encoder.version}")
    print(f"Next, load it:    python -c 'from medexp import registry; print(registry.load(\"{uri}\"))'")
