"""Phase 1 (specification 000): adapt a SwinUNETR encoder with LoRA, judge what that brought, merge it and register it.

Three arms see the same cases in the same order: the frozen baseline, the decoder trained alone, and LoRA with the decoder. The
second is there because the decoder, which is thrown away afterwards, can bring all of a gain in Dice by itself.
"""

import json
import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from peft import PeftModel
from torch import Tensor, nn

from medexp.arrays import Array
from medexp.checks import Check
from medexp.config.shared import Resampling, cache_root
from medexp.data.splits import save_splits
from medexp.data.volumes.datasets import evaluation_dataset, training_dataset
from medexp.data.volumes.prepared import PreparedVolumes, prepare_volumes
from medexp.data.volumes.regions import REGIONS, to_regions
from medexp.data.volumes.semantics import SEMANTIC_FEATURES
from medexp.errors import DataError
from medexp.evaluation.embeddings import embed_all, volumes_as_parts
from medexp.evaluation.intervals import mean_by_patient
from medexp.evaluation.regression import mean_r2, r2_gains, ridge
from medexp.evaluation.segmentation import OnPrediction, evaluate_segmentation, mean_scores
from medexp.models.checkpoints import save_checkpoint
from medexp.models.heads import SegmenterWithHeads, SemanticHeads
from medexp.models.lora import add_lora, decoder_parameters, freeze_encoder, lora_parameters, merge_lora
from medexp.models.swin.network import SwinSegmenter, encoder_state
from medexp.phases.phase1 import checks as phase1_checks
from medexp.phases.phase1.config import Phase1Config
from medexp.phases.phase1.pretrained import Base, initial, load_base, network, pretrained
from medexp.phases.phase1.report import Results, publish_all, summary
from medexp.phases.shared.launch import (
    forget_precision,
    launched_run,
    out_of_memory,
    same_as_begun,
    scored,
    start_accelerator,
    take_over_state,
)
from medexp.phases.shared.publishing import present
from medexp.registry.tags import upstream_tag
from medexp.tracking.datasets import log_datasets
from medexp.tracking.figures import curves, dice_bars, overlay
from medexp.tracking.results import log_checks, stop_if_blocked
from medexp.tracking.runs import TrackedRun
from medexp.training.loop import Batch, FitResult, Group, Objective, fit
from medexp.training.losses import aux_weight, segmentation_loss


@dataclass(frozen=True)
class Study:
    """What the arms share."""

    config: Phase1Config
    data: PreparedVolumes
    accelerator: Accelerator
    run: TrackedRun
    cache: Path
    base: Base

    def fresh(self) -> SwinSegmenter:
        """The base network, unadapted, on the device."""
        return network(self.config, self.base).to(self.accelerator.device).eval()


def run(config: Phase1Config) -> None:
    """The whole phase; `Phase1Config` says what can be set.

    Raises:
        CheckFailed: A BLOCKING check failed: the run holds all that was logged, and nothing is promoted.
    """
    accelerator = start_accelerator(config.device, config.threads, config.training.precision)
    with launched_run("phase1", config, accelerator) as tracked:
        study = begin(config, accelerator, tracked)
        checks = check_adapters(study)
        log_checks(tracked, checks)
        stop_if_blocked(tracked, checks)
        baseline = judge(study, study.fresh(), "baseline")
        features = {"unadapted": embed(study, study.fresh()), "random": embed(study, random_network(study))}

        control_fit, control_net = train_decoder(study)
        control = judge(study, control_net, "control")
        lora_fit, adapter, heads = train_lora(study)
        lora = judge(study, _adapted(adapter), "lora")

        net, merge_check = merge(study, adapter)
        features["adapted"] = embed(study, net)
        per_case = pd.concat([baseline, control, lora], ignore_index=True)
        means = {str(arm): mean_scores(rows) for arm, rows in per_case.groupby("arm", sort=False)}
        semantic = {name: semantic_r2(study, heads, features[name]) for name in ("adapted", "unadapted")}
        attribution, in_words = attribute(study, per_case, features)
        checks += [
            merge_check,
            phase1_checks.segmentation(means["lora"], means["baseline"], config.validation),
            phase1_checks.semantic_heads(semantic["adapted"]),
            attribution,
        ]
        results = Results(per_case, means, semantic, checks, in_words, {"lora": lora_fit, "control": control_fit})
        if accelerator.is_main_process:
            save_checkpoint(encoder_state(net), tracked.folder / "phase1_encoder_merged.pt")
            report(study, results)
            published = publish_all(config, study.data, study.base, tracked, results, net)
            present(summary(config, results), checks, published, tracked)
        stop_if_blocked(tracked, checks)


def objective(config: Phase1Config, tracked: TrackedRun, *, test: bool = False) -> None:
    """What a trial of a study runs: the adapted arm alone, its scores as the metrics `val/best/…`. Nothing is registered.

    Args:
        config: The trial's configuration.
        tracked: The trial's run.
        test: Whether the test split is scored too, as `test/…`; a search never asks for it.
    """
    forget_precision()
    with out_of_memory(config):
        study = begin(config, start_accelerator(config.device, config.threads, config.training.precision), tracked)
        _, adapter, _ = train_lora(study)
        for split, prefix in scored(test).items():
            per_case = judge(study, _adapted(adapter), "lora", split)
            tracked.reporter.table(per_case, f"per_case_{split}.csv")
            scores = mean_scores(per_case)
            scores |= {"dice": float(np.mean([scores[f"dice_{region}"] for region in REGIONS]))}
            tracked.reporter.metrics({f"{prefix}{name}": value for name, value in scores.items()})


def warm_up(config: Phase1Config, folder: Path, *, test: bool = False) -> Phase1Config:
    """Do once what the trials of a study share: read and describe the cases, make the phantoms, pretrain the base.

    Args:
        config: The configuration.
        folder: Gets `data_splits.json`.
        test: Whether the test split will be scored.

    Returns:
        The configuration with its split and its base as files: another seed then means another training, and nothing else.

    Raises:
        DataError: The test split is to be scored and is empty.
    """
    forget_precision()
    accelerator = start_accelerator(config.device, config.threads, config.training.precision)
    cache = cache_root(config.cache_dir)
    data = prepare_volumes(config)
    if test and not data.ids("test"):
        raise DataError(
            f"test=true: no case is in the test split: {len(data.cases)} cases, "
            f"data.test_fraction {config.data.test_fraction:g}. "
            "Raise data.test_fraction, add patients, or leave test out"
        )
    save_splits(data.splits, folder / "data_splits.json")
    load_base(config, accelerator, cache)
    checkpoint = config.checkpoint or str(pretrained(config, accelerator, cache))
    return replace(config, splits=str((folder / "data_splits.json").absolute()), checkpoint=checkpoint)


def begin(config: Phase1Config, accelerator: Accelerator, tracked: TrackedRun) -> Study:
    """The data and the base, logged, and what an interrupted run had trained.

    Raises:
        ConfigError: The run that is resumed was begun with another base, other cases or other splits.
    """
    cache = cache_root(config.cache_dir)
    with accelerator.main_process_first():
        data = prepare_volumes(config)
    base = load_base(config, accelerator, cache)
    begun = {"base": base.digest} | {f"{split} cases": digest for split, digest in data.digests.items()}
    with accelerator.main_process_first():
        same_as_begun(config.resume, tracked, begun)
        take_over_state(config.resume, tracked)
    log_datasets(tracked, data.manifest, data.digests, data.source, "phase1")
    tracked.tag(upstream_tag(base.pulled.name, base.pulled.version, base.pulled.digest) if base.pulled else {})
    return Study(config, data, accelerator, tracked, cache, base)


def check_adapters(study: Study) -> list[Check]:
    """TEST_2.1 to TEST_2.3, before anything is trained, on the first batch."""
    config, device = study.config, study.accelerator.device
    cases = training_dataset(study.data, "train", config.data, study.cache, config.seed)
    items = [cases[0, index] for index in range(min(config.training.batch_size, len(study.data.ids("train"))))]
    image = torch.stack([item["image"] for item in items]).to(device)
    regions = to_regions(torch.stack([item["label"] for item in items])).to(device)
    torch.manual_seed(config.seed)
    return [
        phase1_checks.injection(study.fresh(), config.lora, config.network.feature_size, image, regions),
        phase1_checks.initialisation(study.fresh(), config.lora, image),
        phase1_checks.training_step(study.fresh(), config.lora, config.training.lr_lora, image, regions),
    ]


def train_decoder(study: Study) -> tuple[FitResult, SwinSegmenter]:
    """The control: the decoder trains as in the adapted arm, the encoder does not change."""
    net = study.fresh()
    freeze_encoder(net)
    groups = [Group("decoder", study.config.training.lr_decoder, list(decoder_parameters(net).values()))]
    return _train(study, SegmenterWithHeads(net), groups, "control"), net


def train_lora(study: Study) -> tuple[FitResult, PeftModel, SemanticHeads | None]:
    """The adapted arm: LoRA in the encoder, the decoder, and the semantic heads on top of the bottleneck."""
    config = study.config
    net = study.fresh()
    torch.manual_seed(config.seed)  # of the A matrices and the heads
    adapter = add_lora(net, config.lora)
    heads = None
    rates = config.training
    groups = [
        Group("lora", rates.lr_lora, list(lora_parameters(net).values())),
        Group("decoder", rates.lr_decoder, list(decoder_parameters(net).values())),
    ]
    if config.aux_heads.enabled:
        heads = SemanticHeads(torch.from_numpy(_features_of_crops(study)), torch.from_numpy(semantics(study, "train")))
        heads.to(study.accelerator.device)
        groups.append(Group("aux", rates.lr_aux, list(heads.parameters())))
    sizes = {f"params/{group.name}_trainable": sum(p.numel() for p in group.parameters) for group in groups}
    study.run.reporter.metrics(sizes)
    return _train(study, SegmenterWithHeads(net, heads), groups, "lora"), adapter, heads


def _features_of_crops(study: Study) -> Array:
    """Features that the base gives for augmented training crops, whose spread is what the heads meet in training."""
    crops = training_dataset(study.data, "train", study.config.data, study.cache, study.config.seed)
    no_digests = [None] * len(study.data.ids("train"))
    parts = volumes_as_parts(lambda index: crops[0, index]["image"], no_digests, study.config.data, study.accelerator)
    return embed_all({"base": study.fresh()}, parts, study.cache, study.accelerator, "  embedding crops").features["base"]


def _train(study: Study, module: SegmenterWithHeads, groups: list[Group], arm: str) -> FitResult:
    config = study.config

    def loss(wrapped: nn.Module, batch: Batch, epoch: int) -> dict[str, Tensor]:
        logits, semantic = wrapped(batch["image"])
        parts = segmentation_loss(logits, to_regions(batch["label"]), config.training.loss)
        total = parts["segmentation"]
        if module.heads is not None:
            parts["semantic"] = module.heads.loss(semantic, batch["semantic"])
            total = total + aux_weight(epoch, config.aux_heads) * parts["semantic"]
        return {"loss": total} | parts

    def validate(_: nn.Module, epoch: int) -> dict[str, float]:
        draw = partial(_draw, study, arm, epoch + 1)
        scores = mean_scores(_evaluate(study, module.net, "val", hd95=False, on_prediction=draw))
        return scores | {"dice": float(np.mean([scores[f"dice_{region}"] for region in REGIONS]))}

    return fit(
        module,
        groups,
        training_dataset(study.data, "train", config.data, study.cache, config.seed),
        Objective(loss, validate, "dice"),  # the mean over regions: one alone may be best in an untrained epoch
        config.training,
        seed=config.seed,
        accelerator=study.accelerator,
        reporter=study.run.reporter,
        folder=study.run.folder / "state" / arm,
        title={"control": "training the decoder alone", "lora": "training LoRA and the decoder"}[arm],
        prefix={"control": "control/", "lora": ""}[arm],
    )


def judge(study: Study, net: SwinSegmenter, arm: str, split: str = "val") -> pd.DataFrame:
    """Dice, HD95 and cross-entropy per case of a split, with the arm, patient and split in each row."""
    scores = _evaluate(study, net, split, hd95=True, on_prediction=partial(_draw, study, arm, None))
    patients = [study.data.cases[case].patient for case in scores["case"]]
    return scores.assign(arm=arm, patient=patients, split=split)


def _evaluate(study: Study, net: SwinSegmenter, split: str, *, hd95: bool, on_prediction: OnPrediction) -> pd.DataFrame:
    config = study.config
    return evaluate_segmentation(
        net.eval(),
        evaluation_dataset(study.data, split, config.data, study.cache),
        window=config.data.input_size,
        overlap=config.validation.overlap,
        spacing=config.data.spacing,
        accelerator=study.accelerator,
        hd95=hd95,
        on_prediction=on_prediction,
    )


def _draw(study: Study, arm: str, epoch: int | None, case: str, image: Tensor, label: Tensor, predicted: Tensor) -> None:
    """A case as a picture of an epoch, or, without one, of the network that is kept."""
    first_process_has = study.data.splits.val[:: study.accelerator.num_processes]  # the others have no reporter
    if case in first_process_has[: study.config.validation.overlays]:
        figure = overlay(
            np.asarray(image),
            np.asarray(label),
            np.asarray(predicted),
            f"{case}, {arm}, {'best' if epoch is None else f'epoch {epoch}'}",
            study.config.data.spacing,
        )
        if epoch is None:
            study.run.reporter.figure(figure, f"overlays/{arm}/{case}/best.png")
        else:
            # Counted from 0, where the slider starts; and under val, or the pictures stand above the curves of train.
            study.run.reporter.image(figure, f"val/overlays/{arm}/{case}", epoch - 1)


def merge(study: Study, adapter: PeftModel) -> tuple[SwinSegmenter, Check]:
    """Save the adapter, absorb it into the weights, and TEST_2.4: the same outputs on a validation case, in fp32."""
    if study.accelerator.is_main_process:
        adapter.save_pretrained(str(study.run.folder / "adapter"))
    item = training_dataset(study.data, "val", study.config.data, study.cache, study.config.seed)[0, 0]
    image = item["image"].unsqueeze(0).to(study.accelerator.device)
    with torch.no_grad():
        before = _adapted(adapter).eval()(image)
        net, certificate = merge_lora(adapter)
        return net, phase1_checks.merge(certificate, before, net.eval()(image))


@dataclass(frozen=True)
class Features:
    """Features (cases, D) from one source, of the training and of the validation cases."""

    train: Array
    held_out: Array


def embed(study: Study, net: SwinSegmenter) -> Features:
    """GAP(encoder10) of all training and validation cases."""

    def of(split: str) -> Array:
        cases = evaluation_dataset(study.data, split, study.config.data, study.cache)
        digests = [study.data.facts[case].sha256 for case in study.data.ids(split)]
        parts = volumes_as_parts(lambda index: cases[index]["image"], digests, study.config.data, study.accelerator)
        return embed_all({"net": net}, parts, study.cache, study.accelerator).features["net"]

    return Features(of("train"), of("val"))


def random_network(study: Study) -> SwinSegmenter:
    """A network with initial weights: what an encoder's architecture gives without any training."""
    torch.manual_seed(study.config.seed)
    return initial(study.config).to(study.accelerator.device).eval()


def semantics(study: Study, split: str) -> Array:
    """Semantic features (cases, 10) of a split, float32."""
    return _of_facts(study, split, "semantic")


def _of_facts(study: Study, split: str, kind: Literal["semantic", "intensity"]) -> Array:
    return np.array([getattr(study.data.facts[case], kind) for case in study.data.ids(split)], dtype=np.float32)


@torch.inference_mode()
def semantic_r2(study: Study, heads: SemanticHeads | None, features: Features) -> dict[str, float]:
    """R2 on validation cases of the trained heads over the features of an encoder: `r2_vol`, `r2_loc`, `r2_shape`.

    NaN where no heads were trained.
    """
    if heads is None:
        return dict.fromkeys(("r2_vol", "r2_loc", "r2_shape"), math.nan)
    predicted = heads.predict(torch.from_numpy(features.held_out).to(study.accelerator.device)).cpu().numpy()
    truth = semantics(study, "val")
    return {
        f"r2_{name}": mean_r2(truth[:, columns], predicted[:, columns])
        for name, columns in (("vol", slice(0, 4)), ("loc", slice(4, 7)), ("shape", slice(7, 10)))
    }


def attribute(study: Study, per_case: pd.DataFrame, features: dict[str, Features]) -> tuple[Check, str]:
    """ATTRIBUTION: gains of LoRA over the control in Dice, and of the adapted encoder over the base in linear probes."""
    config = study.config
    arms = per_case.set_index(["arm", "case"])[[f"dice_{region}" for region in REGIONS]].mean(axis=1)
    gains = (arms["lora"] - arms["control"]).loc[list(study.data.ids("val"))]
    patients = [study.data.cases[case].patient for case in study.data.ids("val")]
    settings = config.validation
    interval = partial(
        mean_by_patient,
        patients=patients,
        resampling=Resampling(settings.bootstrap_samples, settings.confidence, config.seed),
    )
    dice = interval(gains.to_numpy())

    intensity = [
        np.array([study.data.facts[case].intensity for case in study.data.ids(split)], dtype=np.float32)
        for split in ("train", "val")
    ]
    sources = features | {"intensity": Features(*intensity)}
    targets = {split: semantics(study, split) for split in ("train", "val")}
    predicted = {name: ridge(source.train, targets["train"], source.held_out) for name, source in sources.items()}
    rows = r2_gains(targets["val"], predicted["adapted"], predicted["unadapted"])
    probes = interval(rows)
    means = {name: mean_r2(targets["val"], values) for name, values in predicted.items()}
    table = pd.DataFrame(
        {name: [mean_r2(targets["val"][:, [i]], values[:, [i]]) for i in range(10)] for name, values in predicted.items()},
        index=pd.Index(SEMANTIC_FEATURES, name="target"),
    )
    study.run.reporter.table(table.reset_index(), "probe_r2.csv")
    return phase1_checks.attribution(dice, probes, means), phase1_checks.in_words(dice, probes)


def report(study: Study, results: Results) -> None:
    """Metrics, tables, pictures and the output files of specification 000."""
    reporter, folder = study.run.reporter, study.run.folder
    for arm, prefix in (("baseline", "baseline/"), ("control", "control/best/"), ("lora", "val/best/")):
        reporter.metrics({f"{prefix}{name}": value for name, value in results.means[arm].items()})
    reporter.metrics({f"val/aux_{name}": value for name, value in results.semantic["adapted"].items()})
    reporter.metrics({f"baseline/aux_{name}": value for name, value in results.semantic["unadapted"].items()})
    reporter.table(results.per_case, "per_case.csv")
    reporter.figure(dice_bars(results.per_case), "figures/dice_by_arm.png")
    for arm, trained in results.fits.items():
        reporter.figure(curves(trained.history), f"figures/curves_{arm}.png")
        reporter.table(trained.history, "phase1_training_log.csv" if arm == "lora" else f"{arm}_training_log.csv")
    best = {region: results.means["lora"][f"dice_{region}"] for region in REGIONS}
    reporter.text(json.dumps(best, indent=2), "phase1_best_dice.json")
    log_checks(study.run, results.checks)
    reporter.file(folder / "adapter")
    reporter.file(folder / "phase1_encoder_merged.pt")


def _adapted(adapter: PeftModel) -> SwinSegmenter:
    net = adapter.get_base_model()
    assert isinstance(net, SwinSegmenter)
    return net
