"""Which epoch of a training should be kept? `python -m benchmarks.epoch_rules [FOLDER ...]`

Rules of choosing an epoch by validation cases, or of choosing none, on cases that no rule saw. Phase 2.2's head on frozen
features, which are computed once: folders of pictures (yes/ and no/), the demo's images and the demo's volumes. Every case is
of train (5/7), validation or test (1/7 each), stratified by label and grouped by patient; once one split with many seeds, so
that the split's luck stays, and once as many splits as seeds. With --segmentation also phase 2.1 on the demo's slices.

A line a rule: mean, SD and worst over seeds of what the test cases say, and the mean paired difference from the last epoch
with its interval of 95 % (Student's t over seeds; with one split it says nothing of other splits).
"""

import argparse
import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import t as student
from sklearn.model_selection import StratifiedGroupKFold
from torch import Tensor, nn

from benchmarks.sides import empty_home, mlflow_run
from medexp.cli import configuration
from medexp.data.splits import SPLITS, Splits
from medexp.evaluation.classification import accuracy, auroc, balanced_accuracy, cross_entropy
from medexp.phases.phase2_1 import recipe as segmenting
from medexp.phases.phase2_2 import recipe as telling
from medexp.phases.phase2_2.labelled import Labelled
from medexp.phases.shared.context import Context, context
from medexp.phases.shared.images import dice, segment
from medexp.reporting import NullReporter
from medexp.tracking.runs import TrackedRun
from medexp.training.losses import segmentation_loss

Scores = Mapping[str, np.ndarray]  # of every epoch (E,), by name
State = dict[str, Tensor]


@dataclass(frozen=True)
class Training:
    """A training, epoch by epoch.

    Attributes:
        val: Scores of the validation cases, by name (E,).
        test: Scores of the test cases, by name (E,).
        weights: Of every epoch.
        tested: From weights to the scores of the test cases.
    """

    val: Scores
    test: Scores
    weights: Sequence[State]
    tested: Callable[[State], Mapping[str, float]]


Rows = list[Mapping[str, Mapping[str, float]]]
"""A row a seed: scores on test cases, by rule and name."""

Rule = Callable[[Training], Mapping[str, float]]
"""From a training to the scores on test cases of what the rule keeps."""


def smooth(values: np.ndarray, width: int, middle: Callable[..., Any]) -> np.ndarray:
    """The middle of each epoch's value and its neighbours', as far as there are any."""
    half = width // 2
    return np.array([middle(values[max(i - half, 0) : i + half + 1]) for i in range(len(values))])


def at(choose: Callable[[Scores], int]) -> Rule:
    def scored(training: Training) -> Mapping[str, float]:
        epoch = choose(training.val)
        return {name: float(values[epoch]) for name, values in training.test.items()}

    return scored


def mean_of(states: Sequence[State], shares: np.ndarray) -> State:
    return {
        key: torch.einsum("e,e...->...", torch.from_numpy(shares), torch.stack([one[key].double() for one in states]))
        for key in states[0]
    }


def last_third(training: Training) -> Mapping[str, float]:
    last = training.weights[-max(len(training.weights) // 3, 1) :]
    return training.tested(mean_of(last, np.full(len(last), 1 / len(last))))


def moving_average(training: Training, kept: float = 0.8) -> Mapping[str, float]:
    shares = (1 - kept) * kept ** np.arange(len(training.weights))[::-1]
    return training.tested(mean_of(training.weights, shares / shares.sum()))


SEGMENTING: dict[str, Rule] = {
    "best Dice": at(lambda val: int(val["dice"].argmax())),
    "best mean of 3 Dice": at(lambda val: int(smooth(val["dice"], 3, np.mean).argmax())),
    "best loss": at(lambda val: int(val["loss"].argmin())),
    "best mean of 3 losses": at(lambda val: int(smooth(val["loss"], 3, np.mean).argmin())),
    "last epoch": at(lambda val: -1),
    "mean weights, last third": last_third,
    "moving average of weights": moving_average,
}
TELLING: dict[str, Rule] = {
    "first best accuracy": at(lambda val: int(val["accuracy"].argmax())),
    "accuracy, then cross-entropy": at(lambda val: int(np.lexsort([val["ce"], -val["accuracy"]])[0])),
    "best AUROC": at(lambda val: int(val["auroc"].argmax())),
    "best cross-entropy": at(lambda val: int(val["ce"].argmin())),
    "best median of 3 ce": at(lambda val: int(smooth(val["ce"], 3, np.median).argmin())),
    "best mean of 5 ce": at(lambda val: int(smooth(val["ce"], 5, np.mean).argmin())),
    "last epoch": at(lambda val: -1),
    "mean weights, last third": last_third,
    "moving average of weights": moving_average,
}
SMALL = {
    "threads": 1,
    "network.base_filters": 8,
    "data.test_fraction": 0.3,
}  # a quarter of the demo's time, more cases to test on
BETTER = {"auroc": 1, "balanced": 1, "dice": 1, "ce": -1, "loss": -1}  # which way


@dataclass(frozen=True)
class Watched(Context[Any]):
    """A context whose trainings are looked at after every epoch, before they are validated."""

    look: Callable[[nn.Module], None] = lambda module: None

    def fit(self, module: nn.Module, groups: Any, data: Any, objective: Any, **named: Any) -> Any:
        def validate(net: nn.Module, epoch: int) -> dict[str, float]:
            self.look(net)
            scores: dict[str, float] = objective.validate(net, epoch)
            return scores

        return super().fit(module, groups, data, replace(objective, validate=validate), **named)


@contextlib.contextmanager
def watched(phase: Any, config: Any, splits: Sequence[str] = ("val",)) -> Iterator[Watched]:
    """A phase's context in a run that nobody tracks, and that says nothing."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        context(phase, config, TrackedRun("", Path(folder), NullReporter()), splits) as ctx,
    ):
        yield Watched(**{name: getattr(ctx, name) for name in ctx.__dataclass_fields__})


def train(ctx: Watched, trained: Callable[[Watched], Any], scores: Callable[[Any, str], Mapping[str, float]]) -> Training:
    """A training with what both splits said after each of its epochs.

    Args:
        ctx: What it works with.
        trained: Trains.
        scores: From (the module, split) to scores.
    """
    said: dict[str, list[Mapping[str, float]]] = {"val": [], "test": []}
    weights: list[State] = []
    modules: list[nn.Module] = []

    def look(module: nn.Module) -> None:
        modules[:] = [module]
        weights.append({key: value.detach().clone() for key, value in module.state_dict().items()})
        for split, rows in said.items():
            rows.append(scores(module, split))

    def tested(state: State) -> Mapping[str, float]:
        modules[0].load_state_dict(state)
        return scores(modules[0].eval(), "test")

    shutil.rmtree(ctx.run.folder / "state", ignore_errors=True)
    trained(replace(ctx, look=look))
    val, test = ({name: np.array([row[name] for row in rows]) for name in rows[0]} for rows in said.values())
    return Training(val, test, weights, tested)


def redealt(cases: Labelled, seed: int) -> Labelled:
    """The same cases, split anew by seed: by patient, label by label."""
    manifest = cases.data.manifest
    folds = StratifiedGroupKFold(7, shuffle=True, random_state=seed).split(manifest, manifest["label"], manifest["patient"])
    split = np.full(len(manifest), "train", dtype=object)
    for name, (_, rows) in zip(("test", "val"), folds, strict=False):
        split[rows] = name
    splits = Splits(*(tuple(manifest.loc[split == name, "case"]) for name in SPLITS))
    return cases.under(replace(cases.data, splits=splits, manifest=manifest.assign(split=split)))


def heads(seeds: int, **given: object) -> Mapping[str, Rows]:
    """Phase 2.2's head: for one split and for many, what each rule's choice has on test cases, seed by seed."""
    config = configuration("phase2_2", ["--folds=0", *(f"--{key}={value}" for key, value in given.items())])
    found: dict[str, Rows] = {}
    with watched(telling.PHASE, config) as ctx:
        work = telling.read(ctx)
        for split in SPLITS:
            if work.data.ids(split):  # of volumes none is held back
                work.cases.features(split)
        for title in ("one split", "many splits"):
            rows: Rows = []
            for seed in range(seeds):
                dealt = redealt(work.cases, 0 if title == "one split" else seed)
                seeded = replace(ctx, config=replace(config, seed=seed))

                def scores(module: Any, split: str, dealt: Labelled = dealt) -> Mapping[str, float]:
                    said = telling.predict(module, dealt, split)
                    one = np.ones((1, len(said.truth)))
                    metrics = {"accuracy": accuracy, "balanced": balanced_accuracy, "auroc": auroc}
                    told = {name: float(metric(said, one)[0]) for name, metric in metrics.items()}
                    return told | {"ce": float(cross_entropy(said).mean())}

                training = train(seeded, partial(telling.train, work=replace(work, cases=dealt)), scores)
                rows.append({name: rule(training) for name, rule in TELLING.items()})
            sizes = dealt.data.manifest["split"].value_counts()
            found[f"{title}; {', '.join(f'{sizes[split]} {split}' for split in ('train', 'val', 'test'))} cases"] = rows
    return found


def outlines(seeds: int, **given: object) -> Mapping[str, Rows]:
    """Phase 2.1 on slices, its splits drawn by the seed."""
    rows: Rows = []
    for seed in range(seeds):
        named = {**given, "seed": seed, "data.split_seed": seed}
        config = configuration("phase2_1", [f"--{key}={value}" for key, value in named.items()])
        with watched(segmenting.PHASE, config, ("val", "test")) as ctx:
            images = segmenting.read(ctx)

            @torch.inference_mode()
            def scores(net: Any, split: str, images: Any = images) -> Mapping[str, float]:
                losses = []
                for batch in images.batches(split):
                    if batch["has_mask"].any():
                        found = segmentation_loss(segment(net, batch["image"]), batch["mask"], "batch_dice_bce")
                        losses.append(float(found["segmentation"]))
                scans = dice(images, partial(segment, net), split)
                return {"dice": float(scans["dice"].mean()), "loss": float(np.mean(losses))}

            training = train(ctx, partial(segmenting.train, images=images), scores)
            rows.append({name: rule(training) for name, rule in SEGMENTING.items()})
    return {"many splits": rows}


def show(title: str, rows: Sequence[Mapping[str, Mapping[str, float]]], reference: str = "last epoch") -> None:
    """Mean, SD and worst of each rule, and its paired difference from the reference."""
    print(f"\n{title}, {len(rows)} seeds")
    measures = [name for name in rows[0][reference] if name in BETTER]
    lines = []
    for rule in rows[0]:
        line = {"rule": rule}
        for name in measures:
            values = np.array([row[rule][name] for row in rows])
            gain = values - np.array([row[reference][name] for row in rows])
            half = student.ppf(0.975, len(rows) - 1) * gain.std(ddof=1) / len(rows) ** 0.5
            worst = (values * BETTER[name]).min() * BETTER[name]
            line[name] = f"{values.mean():.3f} (SD {values.std(ddof=1):.3f}, worst {worst:.3f})"
            paired = "" if rule == reference else f"{gain.mean():+.3f} [{gain.mean() - half:+.3f}, {gain.mean() + half:+.3f}]"
            line[f"{name} - last"] = paired
        lines.append(line)
    print(pd.DataFrame(lines).to_string(index=False), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Rules of choosing an epoch, compared on cases that no rule saw.")
    parser.add_argument("folders", nargs="*", help="folders of pictures, each with yes/ and no/")
    parser.add_argument("--seeds", type=int, default=60, help="trainings of each head, and of each kind of split")
    parser.add_argument(
        "--segmentation", type=int, default=0, metavar="SEEDS", help="trainings of phase 2.1, a quarter of a minute each"
    )
    parser.add_argument("--encoder", help="models:/NAME/VERSION of a registered U-Net; without it the demo's is trained")
    parser.add_argument("--volume-encoder", help="models:/NAME/VERSION of phase 1; without it the demo's is trained")
    parser.add_argument("--epochs", default="10,30", help="budgets of the head, as 10,30")
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate of the head")
    parser.add_argument("--only-folders", action="store_true", help="leave the demo's images and volumes out")
    asked = parser.parse_args()
    folders = [str(Path(folder).absolute()) for folder in asked.folders]
    named = asked.encoder or asked.volume_encoder
    with contextlib.nullcontext() if named else empty_home():
        if not named:
            mlflow_run("phase2_1", {})
        sets: dict[str, dict[str, object]] = {folder: {"kaggle_dir": folder} for folder in folders}
        if not asked.only_folders:
            sets["the demo's images"] = {}
            if not named:
                mlflow_run("phase1", {})
            encoder = asked.volume_encoder or "models:/phase1_encoder_merged@champion"
            sets["the demo's volumes"] = {"encoder": encoder}
        for epochs in map(int, asked.epochs.split(",")):
            for title, given in sets.items():
                settings = {"threads": 1, "training.epochs": epochs, "training.lr_head": asked.rate}
                settings |= {"encoder": asked.encoder} if asked.encoder else {}
                for split, rows in heads(asked.seeds, **settings | given).items():
                    show(f"{title}, {epochs} epochs at {asked.rate:g}; {split}", rows)
        if asked.segmentation:
            for title, rows in outlines(asked.segmentation, **SMALL).items():
                show(f"phase 2.1 on the demo's slices, {SMALL}; {title}", rows)


if __name__ == "__main__":
    main()
