"""What phase 1 leaves behind: registered models, the run's summary and the lines at the end."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file

import medexp
from medexp.checks import PHASES, Check, as_lines, verdict
from medexp.config import Phase1Config
from medexp.data.cases import CHANNELS
from medexp.data.manifest import seen_cases
from medexp.data.prepared import Prepared
from medexp.data.regions import REGIONS
from medexp.models.swin import SwinSegmenter, decoder_state, encoder_state
from medexp.phases.base import BASE_MODEL, Base, architecture
from medexp.registry import store
from medexp.registry.definitions import load_definition
from medexp.registry.lineage import upstream_tag
from medexp.registry.packages import Package, Parent, write_package
from medexp.registry.promotion import CANDIDATE, Nominated, nominate
from medexp.tracking.results import log_summary
from medexp.tracking.runs import TrackedRun
from medexp.training.loop import FitResult

ARMS = {"baseline": "frozen baseline", "control": "decoder only (control)", "lora": "LoRA + decoder"}
CAVEAT = "The best epoch was chosen on these same validation cases; the test split was not read."
_LIBRARIES = ("torch", "monai", "peft")
_SOFTWARE = {"Software": ", ".join([f"medexp {medexp.__version__}", *(f"{name} {installed(name)}" for name in _LIBRARIES)])}
_PHANTOMS: Mapping[str, str | None] = {
    "De-identification": "not needed: phantoms are of nobody",
    "Who annotated": "nobody: the labels are the shapes that the phantoms were drawn from",
    "Demographic and clinical characteristics": "none: phantoms",
    "Limitations": "Made on phantoms: it says nothing about patients.",
}


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
    config: Phase1Config, data: Prepared, base: Base, run: TrackedRun, results: Results, net: SwinSegmenter
) -> list[Nominated]:
    """Register the adapter and the merged encoder, and the embedded base where this store does not have it yet.

    A version is registered whatever the verdict, with all that it was judged by; aliases are for those that passed.

    Args:
        config: The configuration.
        data: What was trained and validated on.
        base: What was adapted.
        run: The run.
        results: What was measured.
        net: The merged network.

    Returns:
        The versions with their aliases; the merged encoder last.
    """
    made_with = {"run": run.id, "profile": config.profile, "seed": str(config.seed), "license": None} | _SOFTWARE
    segmenter, logits = architecture(config), f"logits (B, {len(REGIONS)}, X, Y, Z) of {', '.join(REGIONS)}"
    encoder = {key: value for key, value in segmenter.items() if key != "out_channels"} | {"kind": "swin_encoder"}
    features = f"features (B, {16 * config.network.feature_size}): GAP(encoder10)"
    published: list[Nominated] = []

    def register(package: Package, outcome: str | None) -> Parent:
        """Register a version, and give it the aliases that it has earned."""
        definition = load_definition(package.name)
        with tempfile.TemporaryDirectory(dir=run.folder, prefix=".package.") as temporary:
            write_package(package, Path(temporary) / package.name)
            made = store.register(run.id, Path(temporary) / package.name, definition, outcome)
        published.append(nominate(made, definition, outcome, run.id))
        return Parent(**asdict(made))

    def judged(name: str, shape: dict[str, Any], output: str, **content: Any) -> Package:
        return Package(
            name=name,
            architecture=shape,
            contract=_contract(config, name, output),
            checks=results.checks,
            evaluation={
                "phase": "phase1",
                "revision": PHASES["phase1"].revision,
                "split": "val",
                "data_digest": data.digests["val"],
                "made_on": data.digest,
                "window": list(config.data.input_size),
                "overlap": config.validation.overlap,
            },
            per_case=results.per_case[results.per_case["arm"] == "lora"].drop(columns="arm"),
            cases=seen_cases(data.manifest, data.facts.values()),
            facts=made_with | {"data": data.source, "data digest": data.digest} | _how(config, data),
            figures=_figures(results),
            **content,
        )

    def embedded() -> Package:
        return Package(
            name=BASE_MODEL,
            architecture=segmenter,
            contract=_contract(config, BASE_MODEL, logits),
            weights=base.state,
            cases=base.cases,
            facts={**made_with, "data": f"{config.phantoms.glioma_patients} patients of glioma phantoms", **_PHANTOMS},
        )

    parent = _parent(config, base) or register(embedded(), None)  # nobody judged it
    name = parent.name if parent.version else BASE_MODEL  # a file's name may be no tag's
    run.tag(upstream_tag(name, parent.version, parent.digest or parent.weights_digest))
    adapter_files = {"adapter": run.folder / "adapter"}
    shape = {"kind": "lora_adapter", "base": segmenter}
    adapter = register(
        judged("phase1_lora_adapter", shape, logits, weights={}, parents={"base": parent}, extra=adapter_files),
        verdict(results.checks),
    )
    decoder = run.folder / "decoder.safetensors"
    save_file(decoder_state(net), decoder)
    register(
        judged(
            "phase1_encoder_merged",
            encoder,
            features,
            weights=encoder_state(net),
            parents={"base": parent, "adapter": adapter},
            extra={"judge/decoder.safetensors": decoder},
        ),
        verdict(results.checks),
    )
    return published


def _parent(config: Phase1Config, base: Base) -> Parent | None:
    """The base as its children name it; None for an embedded one that is not registered yet."""
    if base.pulled:
        return Parent(base.pulled.name, base.pulled.version, base.pulled.digest, base.digest)
    if config.checkpoint:
        return Parent(Path(base.source).name, None, None, base.digest)
    found = store.find_by_weights(BASE_MODEL, base.digest)
    return Parent(**asdict(found)) if found else None


def _contract(config: Phase1Config, name: str, output: str) -> dict[str, Any]:
    x, y, z = config.data.input_size
    example = {"spacing_mm": list(config.data.spacing), "example_shape": [1, len(CHANNELS), x, y, z]}
    return {"input": asdict(load_definition(name).input) | example, "output": output}


def _how(config: Phase1Config, data: Prepared) -> dict[str, str | None]:
    """What the card says of data and training, by item of CLAIM."""
    settings, grid = config.training, config.data
    drawn = f"drawn by seed {config.seed}: validation {grid.val_fraction:.0%}, test {grid.test_fraction:.0%} of the patients"
    how: dict[str, str | None] = {
        "Inclusion and exclusion": f"all cases of the folder but {len(grid.exclude)} that were excluded by name",
        "Missing data": "none: a case that lacks a channel or a segmentation is refused",
        "Reference standard": f"the segmentations of {data.source}; from their labels {', '.join(REGIONS)}",
        "Assignment to partitions": f"given by {config.splits}" if config.splits else f"by patient, {drawn}",
        "Training": f"at most {settings.epochs} epochs of crops of {' x '.join(map(str, grid.input_size))} voxels, "
        f"{settings.optimizer}, rate {settings.lr_lora:g} of adapters and {settings.lr_decoder:g} of the decoder, batches of "
        f"{settings.batch_size * settings.accumulate}, loss {settings.loss}; LoRA rank {config.lora.rank}, alpha "
        f"{config.lora.alpha}; all settings: config.yaml of the run",
        "Selection of the final model": "the epoch with the best mean validation Dice",
        "Testing on external data": "none",
    }
    return how if config.data_dir else {**how, **_PHANTOMS}


def _figures(results: Results) -> dict[str, float | str]:
    """What the card shows."""
    return {"what LoRA added": results.in_words} | {
        f"validation Dice {region}, {label}": results.means[arm][f"dice_{region}"]
        for arm, label in ARMS.items()
        for region in REGIONS
    }


def show(config: Phase1Config, run: TrackedRun, results: Results, published: Sequence[Nominated]) -> None:
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
    for line in as_lines(results.checks):
        console.print(line, highlight=False)
    console.print(results.in_words, highlight=False)
    print(CAVEAT)
    for line in versions:
        console.print(f"Registered: {line}", highlight=False)
    print(f"Run: {run.id}, files in {run.folder}")
    print("Next, browse it:  make ui   (or: mlflow ui)")
    encoder = published[-1]
    if encoder.aliases == (CANDIDATE,):
        print(f"Next, judge it:   mlflow run . -e promote -P version={encoder.version}   against the champion, case by case")
    uri = f"models:/{encoder.name}" + ("@champion" if "champion" in encoder.aliases else f"/{encoder.version}")
    print(f"Next, load it:    python -c 'from medexp import registry; print(registry.load(\"{uri}\"))'")
