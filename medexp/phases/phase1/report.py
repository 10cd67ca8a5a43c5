"""What phase 1 leaves behind: registered models and what its figures say."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors.torch import save_file

from medexp.checks import Check, verdict
from medexp.data.manifest import seen_cases
from medexp.data.volumes.cases import CHANNELS
from medexp.data.volumes.prepared import PreparedVolumes
from medexp.data.volumes.regions import REGIONS
from medexp.models.swin.network import SwinSegmenter, decoder_state, encoder_state
from medexp.phases import phase
from medexp.phases.phase1.config import Phase1Config
from medexp.phases.phase1.pretrained import BASE_MODEL, Base, architecture
from medexp.phases.shared.publishing import CAVEAT, PHANTOMS, Summary, made_with, publish
from medexp.registry import store
from medexp.registry.definitions import load_definition
from medexp.registry.package import Package, Parent
from medexp.registry.promotion import Nominated
from medexp.registry.tags import upstream_tag
from medexp.tracking.runs import TrackedRun
from medexp.training.loop import FitResult

ARMS = {"baseline": "frozen baseline", "control": "decoder only (control)", "lora": "LoRA + decoder"}


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


def publish_all(
    config: Phase1Config, data: PreparedVolumes, base: Base, run: TrackedRun, results: Results, net: SwinSegmenter
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
    facts = made_with(run, config.profile, config.seed)
    segmenter, logits = architecture(config), f"logits (B, {len(REGIONS)}, X, Y, Z) of {', '.join(REGIONS)}"
    encoder = {key: value for key, value in segmenter.items() if key != "out_channels"} | {"kind": "swin_encoder"}
    features = f"features (B, {16 * config.network.feature_size}): GAP(encoder10)"
    published: list[Nominated] = []

    def register(package: Package, outcome: str | None) -> Parent:
        published.append(made := publish(package, outcome, run))
        return Parent(made.name, made.version, made.digest, made.weights_digest)

    def judged(name: str, shape: dict[str, Any], output: str, **content: Any) -> Package:
        return Package(
            name=name,
            architecture=shape,
            contract=_contract(config, name, output),
            checks=results.checks,
            evaluation={
                "phase": "phase1",
                "revision": phase("phase1").revision,
                "split": "val",
                "data_digest": data.digests["val"],
                "made_on": data.digest,
                "window": list(config.data.input_size),
                "overlap": config.validation.overlap,
            },
            per_case=results.per_case[results.per_case["arm"] == "lora"].drop(columns="arm"),
            cases=seen_cases(data.manifest, data.facts.values()),
            facts=facts | {"data": data.source, "data digest": data.digest} | _how(config, data),
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
            facts={**facts, "data": f"{config.phantoms.glioma_patients} patients of glioma phantoms", **PHANTOMS},
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
    return {"input": load_definition(name).input_as_records | example, "output": output}


def _how(config: Phase1Config, data: PreparedVolumes) -> dict[str, str | None]:
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
    return how if config.data_dir else {**how, **PHANTOMS}


def _figures(results: Results) -> dict[str, float | str]:
    """What the card shows."""
    return {"what LoRA added": results.in_words} | {
        f"validation Dice {region}, {label}": results.means[arm][f"dice_{region}"]
        for arm, label in ARMS.items()
        for region in REGIONS
    }


def summary(config: Phase1Config, results: Results) -> Summary:
    """Dice of the arms, and what LoRA added."""
    best = {arm: fit.best_epoch + 1 for arm, fit in results.fits.items()}
    rows = [
        [label, *(f"{results.means[arm][f'dice_{region}']:.3f}" for region in REGIONS), str(best.get(arm, "-"))]
        for arm, label in ARMS.items()
    ]
    cases, patients = len(results.per_case["case"].unique()), results.per_case["patient"].nunique()
    return Summary(
        headline=f"phase 1, profile {config.profile}, rank {config.lora.rank}",
        title=f"validation Dice (cases: {cases}, patients: {patients})",
        head=["arm", *REGIONS, "best epoch"],
        rows=rows,
        words=[results.in_words, CAVEAT],
    )
