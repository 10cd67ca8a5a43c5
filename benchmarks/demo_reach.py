"""What do the stages of the demo's base carry, and what do adapters in them bring? `python -m benchmarks.demo_reach`

REACH: the validation Dice when the outputs of the deepest stages are replaced by their mean over the cases. Then the arms:
LoRA alone at each rank and the decoder alone, the base's own Dice taken off, by patient. `docs/demo.md` has what came out.

    python -m benchmarks.demo_reach --ranks 1 8 32 --seeds 0 1 2
    python -m benchmarks.demo_reach lora.target_stages=[3,4] phantoms.seed=5 --checkpoint FILE
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import Dataset

from medexp.cli import configuration
from medexp.config.shared import cache_root, resampling
from medexp.data.volumes.datasets import evaluation_dataset, training_dataset
from medexp.data.volumes.prepared import PreparedVolumes, prepare_volumes
from medexp.data.volumes.regions import REGIONS, to_regions
from medexp.evaluation.embeddings import Embedder, embed_all, volumes_as_parts
from medexp.evaluation.intervals import Interval, mean_by_patient
from medexp.evaluation.regression import mean_r2, r2_gains, ridge
from medexp.evaluation.segmentation import evaluate_segmentation, sliding_window
from medexp.models.heads import SegmenterWithHeads
from medexp.models.lora import add_lora, decoder_parameters, freeze_encoder, lora_parameters
from medexp.models.swin.network import SwinSegmenter
from medexp.phases.phase1.config import Phase1Config
from medexp.phases.phase1.pretrained import Base, as_a_whole, load_base, network
from medexp.phases.shared.launch import start_accelerator
from medexp.reporting import NullReporter
from medexp.training.loop import Batch, Group, Objective, fit
from medexp.training.losses import segmentation_loss

DICE = [f"dice_{region}" for region in REGIONS]


@contextmanager
def stages_at_their_mean(net: SwinSegmenter, means: dict[int, Tensor]) -> Iterator[None]:
    """The network, some stages of which give what they give on average."""

    def replaced(_: nn.Module, __: Any, hidden: list[Tensor]) -> list[Tensor]:
        return [means[stage].expand_as(value) if stage in means else value for stage, value in enumerate(hidden)]

    handle = net.swinViT.register_forward_hook(replaced)
    try:
        yield
    finally:
        handle.remove()


@torch.inference_mode()
def mean_outputs(net: SwinSegmenter, cases: Dataset[Any], size: Sequence[int]) -> dict[int, Tensor]:
    """Mean over cases of each stage's output (1, C, X, Y, Z), of a window of the input's size at each volume's centre."""
    total: list[Tensor] = []
    for index in range(len(cases)):  # type: ignore[arg-type]
        image = cases[index]["image"]
        starts = [(have - want) // 2 for have, want in zip(image.shape[1:], size, strict=True)]
        window = image[:, *(slice(start, start + want) for start, want in zip(starts, size, strict=True))]
        hidden = net.swinViT(window[None], net.normalize)
        total = [a + b for a, b in zip(total, hidden, strict=True)] if total else list(hidden)
    return {stage: value / len(cases) for stage, value in enumerate(total)}  # type: ignore[arg-type]


def score(config: Phase1Config, net: SwinSegmenter, cases: Dataset[Any], accelerator: Accelerator) -> pd.DataFrame:
    """Dice of each region and cross-entropy, a row a case."""
    predict = sliding_window(net.eval(), config.data.input_size, config.validation.overlap, accelerator)
    scores = evaluate_segmentation(predict, cases, spacing=config.data.spacing, accelerator=accelerator, hd95=False)
    return scores.set_index("case")[[*DICE, "ce"]]


def gain(config: Phase1Config, data: PreparedVolumes, arm: pd.DataFrame, reference: pd.DataFrame) -> list[Interval]:
    """Of each region and of their mean."""
    differences = (arm - reference)[DICE].assign(mean=lambda rows: rows.mean(axis=1))
    values = []
    for column in differences:
        known = differences[column].dropna()
        patients = [data.cases[case].patient for case in known.index]
        values.append(mean_by_patient(known.to_numpy(), patients, resampling(config)))
    return values


def features(net: SwinSegmenter, data: PreparedVolumes, config: Phase1Config, accelerator: Accelerator, cache: Path) -> Any:
    """GAP(encoder10) of the training and of the validation cases."""

    def of(split: str) -> Any:
        cases = evaluation_dataset(data, split, config.data, cache)
        digests = [data.facts[case].sha256 for case in data.ids(split)]
        parts = volumes_as_parts(
            lambda index: cases[index]["image"], data.ids(split), digests, as_a_whole(config), accelerator
        )
        return embed_all({"net": Embedder(net, "gap10")}, parts, cache, accelerator).features["net"]

    return of("train"), of("val")


def train(
    config: Phase1Config,
    base: Base,
    data: PreparedVolumes,
    lora: bool,
    decoder: bool,
    accelerator: Accelerator,
    cache: Path,
    look: Callable[[SwinSegmenter, int], None] | None = None,
) -> SwinSegmenter:
    """An arm of phase 1 without semantic heads; `look` sees it after each epoch, from 0, in eval mode."""
    net = network(config, base)
    torch.manual_seed(config.seed)
    if lora:
        add_lora(net, config.lora)
    else:
        freeze_encoder(net)
    groups = []
    if lora:
        groups.append(Group("lora", config.training.lr_lora, list(lora_parameters(net).values())))
    if decoder:
        groups.append(Group("decoder", config.training.lr_decoder, list(decoder_parameters(net).values())))
    else:
        for parameter in decoder_parameters(net).values():
            parameter.requires_grad_(False)

    def loss(module: nn.Module, batch: Batch, epoch: int) -> dict[str, Tensor]:
        losses = segmentation_loss(module(batch["image"])[0], to_regions(batch["label"]), "dice_bce")
        return {"loss": losses.pop("segmentation")} | losses

    def validate(_: nn.Module, epoch: int) -> dict[str, float]:
        if look is not None:
            look(net, epoch)
        return {"none": 0.0}  # the last epoch's weights are kept

    with tempfile.TemporaryDirectory() as folder:
        fit(
            SegmenterWithHeads(net),
            groups,
            training_dataset(data, "train", config.data, cache, config.seed),
            Objective(loss, validate, "none"),
            replace(config.training, validate_every=1 if look else config.training.epochs),
            seed=config.seed,
            accelerator=accelerator,
            reporter=NullReporter(),
            folder=Path(folder),
            title=f"lora {lora}, decoder {decoder}",
        )
    return net


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="*", default=[])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--decoder", action="store_true", help="also the decoder alone, and both")
    parser.add_argument("--no-reach", action="store_true", help="the arms alone")
    parser.add_argument("--checkpoint")
    parser.add_argument("settings", nargs="*", help="keys of phase 1, as KEY=VALUE")
    given = parser.parse_args()
    flags = [f"--{setting}" for setting in given.settings]
    if given.checkpoint:
        flags.append(f"--checkpoint={given.checkpoint}")
    config: Phase1Config = configuration("phase1", flags)
    accelerator, cache = start_accelerator("cpu", 1), cache_root(config.cache_dir)
    base = load_base(config, accelerator, cache)
    data = prepare_volumes(config)
    held_out = evaluation_dataset(data, "val", config.data, cache)
    frozen = score(config, network(config, base), held_out, accelerator)
    print(f"base {base.digest[:12]}, {len(frozen)} cases, frozen: {told(frozen[DICE].mean())}", flush=True)

    net = network(config, base).eval()
    means = {} if given.no_reach else mean_outputs(net, held_out, config.data.input_size)
    for first in () if given.no_reach else (4, 3, 2, 1, 0):
        with stages_at_their_mean(net, {stage: means[stage] for stage in range(first, 5)}):
            without = score(config, net, held_out, accelerator)
        lost = told_gains(gain(config, data, without, frozen))
        print(f"without stages {first}-4: {told(without[DICE].mean())}; {lost}", flush=True)

    truth = {split: np.array([data.facts[case].semantic for case in data.ids(split)]) for split in ("train", "val")}

    def predicted(net: SwinSegmenter) -> Any:
        train, val = features(net, data, config, accelerator, cache)
        return ridge(train, truth["train"], [data.cases[case].patient for case in data.ids("train")], val)

    read_frozen = predicted(net)
    print(f"R2 of GAP10, frozen {mean_r2(truth['val'], read_frozen):.3f}", flush=True)
    patients = [data.cases[case].patient for case in data.ids("val")]
    arms = [(True, False, rank) for rank in given.ranks]
    if given.decoder:
        arms += [(False, True, config.lora.rank), (True, True, config.lora.rank)]
    for lora, decoder, rank in arms:
        for seed in given.seeds:
            of_arm = replace(config, seed=seed, lora=replace(config.lora, rank=rank, alpha=2 * rank))
            start = time.process_time()
            net = train(of_arm, base, data, lora, decoder, accelerator, cache)
            spent = time.process_time() - start
            scores = score(config, net, held_out, accelerator)
            read = predicted(net)
            told_r2 = mean_by_patient(r2_gains(truth["val"], read, read_frozen), patients, resampling(config)).as_gain
            called = " + ".join(name for name, there in ((f"LoRA {rank}", lora), ("decoder", decoder)) if there)
            gained = told_gains(gain(config, data, scores, frozen))
            print(f"{called} seed {seed}: {told(scores[DICE].mean())}; {gained}; R2 {told_r2}; {spent:.0f} CPU-s", flush=True)


def told(means: pd.Series) -> str:
    return "/".join(f"{value:.3f}" for value in means)


def told_gains(gains: list[Interval]) -> str:
    return ", ".join(value.as_gain for value in gains)


if __name__ == "__main__":
    main()
