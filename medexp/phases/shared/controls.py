"""A trained classifier beside its controls, on the same cases: figures, checks, and what a reader must know first.

A recipe says what the controls know of its cases (`of_images`, `of_volumes`), has them stand beside its model (`beside`), adds
the checks, and hands table and sentences to its summary and its card.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from skimage.feature import hog
from torch.nn import functional

from medexp.arrays import Array
from medexp.checks import Check, Severity
from medexp.config.networks import FeatureKind
from medexp.config.shared import Resampling
from medexp.data.headers import Header
from medexp.data.volumes.regions import REGIONS
from medexp.evaluation.batches import Batches
from medexp.evaluation.classification import Metric, Predictions, auroc, balanced_accuracy, scores
from medexp.evaluation.controls import UNTRAINED_SEEDS, Control, Source, Task, control, gain_over, majority, of_headers
from medexp.evaluation.embeddings import Embedder, cases_as_parts, embed_all, images_as_part
from medexp.evaluation.intervals import Interval
from medexp.models.kinds import build
from medexp.models.swin.features import KINDS
from medexp.models.swin.network import segmenter_of
from medexp.phases.shared.context import Context, JudgedSettings, Settings
from medexp.phases.shared.images import Images
from medexp.phases.shared.labelled_volumes import LabelledVolumes
from medexp.tracking.figures import bars
from medexp.words import listed

METRICS = {"balanced_accuracy": balanced_accuracy, "auroc": auroc}
"""What is compared. AUROC decides: of two classifiers of which one is better it sees the difference more often, from as few
cases, than balanced accuracy does (49 against 34 times in 100 with 36 cases, 88 against 65 with 100)."""

NOTHING = 0.1
"""An AUROC that lies below 0.5 + this, as its interval says, tells next to nothing."""

_SIDE, _CELL, _AT_ONCE = 64, 8, 8  # pixels of HOG's images and of its cells; images in a batch, as of cached features


@dataclass(frozen=True)
class Known:
    """What controls know of cases.

    Attributes:
        rows: One row a case, sorted: case, patient, label (0 to K - 1), and split, or fold where cases are judged by folds.
        headers: Of their files, in the order of the rows.
        sources: The untrained network and the classical baseline, likewise.
    """

    rows: pd.DataFrame
    headers: Sequence[Header]
    sources: Sequence[Source]

    def task(self, judged: str = "val") -> Task:
        """Each fold is predicted from all others, or the split that is judged from the others."""
        fold = self.rows["fold"] if "fold" in self.rows else (self.rows["split"] == judged).astype(int)
        pairs = [(np.flatnonzero(fold != number), np.flatnonzero(fold == number)) for number in sorted({*fold} - {0})]
        labels = self.rows["label"].to_numpy()
        return Task(labels, list(self.rows["patient"]), int(labels.max()) + 1, pairs)


@dataclass(frozen=True)
class Beside:
    """A classifier beside its controls, on the same cases.

    Attributes:
        called: The classifier, in words.
        controls: By name: majority, headers, untrained, classical, of volumes shape, of OCT intensity and layers.
        scores: By "model" and by control, then by metric.
        gains: The classifier's figures minus each control's, paired.
        unit: What is resampled.
    """

    called: str
    controls: Mapping[str, Control]
    scores: Mapping[str, Mapping[str, Interval]]
    gains: Mapping[str, Mapping[str, Interval]]
    unit: str = "patients"

    @property
    def checks(self) -> tuple[Check, Check]:
        """SHORTCUT and CONTROLS, both DIAGNOSTIC."""
        named = self._shortcuts()
        failed = [name for name in named if self._shortcut(name) not in _HARMLESS]
        shortcut = Check(
            "SHORTCUT",
            f"Better than what {' or '.join(_SHORTCUTS[name][0] for name in named)} give",
            Severity.DIAGNOSTIC,
            passed=not failed,
            threshold=f"interval above 0 for AUROC minus that of {' and of '.join(named)}, or theirs below {0.5 + NOTHING:g}",
            measured={"model": self.scores["model"]["auroc"].estimate}
            | {key: value for name in named for key, value in self._measured(name).items()},
            advice=" ".join([*map(self._told_of_shortcut, failed), *(_SHORTCUTS[name][1] for name in failed)]),
        )
        beaten = {name: self.gains[name]["auroc"] for name in self._rivals()}
        controls = Check(
            "CONTROLS",
            f"Better than {listed([self.controls[name].called for name in beaten])}",
            Severity.DIAGNOSTIC,
            passed=all(gain.above for gain in beaten.values()),
            threshold="interval above 0 for AUROC minus that of each",
            measured={
                **{f"over_{name}": gain.estimate for name, gain in beaten.items()},
                **{f"over_{name}_low": gain.low for name, gain in beaten.items()},
                "not_beaten": ", ".join(name for name, gain in beaten.items() if not gain.above) or "none",
            },
            advice=" ".join(self._told(name) for name, gain in beaten.items() if not gain.above)
            + " What it learned from may be had for less; more cases tell more.",
        )
        return shortcut, controls

    @property
    def first(self) -> list[str]:
        """What a reader must know before any figure: each control that the classifier is not better than; else nothing."""
        _, controls = self.checks
        rivals = [self._told(name) for name in self._rivals() if not self.gains[name]["auroc"].above]
        return self.shortcuts + ([] if controls.passed else rivals)

    @property
    def shortcuts(self) -> list[str]:
        """What tells the classes as well without what is meant to tell them; nothing where nothing does."""
        return [self._told_of_shortcut(name) for name in self._shortcuts() if self._shortcut(name) not in _HARMLESS]

    @property
    def words(self) -> list[str]:
        """What the other comparisons came to, plainly."""
        every = [*map(self._told_of_shortcut, self._shortcuts()), *map(self._told, self._rivals())]
        return [one for one in every if one not in self.first]

    def table(self, title: str) -> tuple[str, list[str], list[list[str]]]:
        """A closing table: title, columns, rows: the classifier, then each control."""
        head = ["", *(_SHORT[metric] for metric in METRICS), "model - control (AUROC)"]
        names = {"model": "the model"} | {name: one.called for name, one in self.controls.items()}
        rows = []
        for name, called in names.items():
            gain = self.gains[name]["auroc"].as_gain if name in self.gains else "-"
            rows.append([called, *(self.scores[name][metric].in_a_cell(2) for metric in METRICS), gain])
        return title, head, rows

    @property
    def figures(self) -> dict[str, str]:
        """For a card: the controls' AUROC, by what they are."""
        return {f"AUROC of {one.called}": str(self.scores[name]["auroc"]) for name, one in self.controls.items()}

    def _rivals(self) -> list[str]:
        return [name for name in _RIVALS if name in self.controls]

    def _shortcuts(self) -> list[str]:
        return [name for name in _SHORTCUTS if name in self.controls]

    def _measured(self, name: str) -> dict[str, float | str]:
        """What SHORTCUT measured of a shortcut."""
        gain, fields = self.gains[name]["auroc"], ", ".join(self.controls[name].fields) or "none"
        found: dict[str, float | str] = {
            "gain": gain.estimate,
            "gain_low": gain.low,
            "fields": fields,
            "found": self._shortcut(name),
        }
        named = found if name == "headers" else {f"{name}_{key}": value for key, value in found.items()}
        return {name: self.scores[name]["auroc"].estimate, **named}

    def _shortcut(self, name: str) -> str:
        own, gain = self.scores[name]["auroc"], self.gains[name]["auroc"]
        if not self.controls[name].fields:
            return _ALIKE
        if gain.above:
            return _BETTER
        if own.low > 0.5:
            return _WORSE if gain.below else _AS_GOOD if gain.estimate <= 0 else _UNTOLD
        return _NOTHING if own.high < 0.5 + NOTHING else _FEW

    def _told_of_shortcut(self, name: str) -> str:
        """What the comparison with a shortcut came to."""
        control, found = self.controls[name], self._shortcut(name)
        fields, (called, _) = ", ".join(control.fields), _SHORTCUTS[name]
        if found == _ALIKE:
            return f"{_sentence(called.removesuffix(' alone'))} are alike in all cases: they tell nothing."
        model, own = self.scores["model"]["auroc"], self.scores[name]["auroc"]
        if found == _NOTHING:
            return f"{_sentence(called)} ({fields}) tell next to nothing: AUROC {own}."
        against = f"AUROC {own.estimate:.2f} against {model.estimate:.2f} of {self.called}"
        if found in (_AS_GOOD, _WORSE):
            return f"{_sentence(called)} ({fields}) are {'better' if found == _WORSE else 'as good'}: {against}."
        against = f"AUROC {model.estimate:.2f} against {own.estimate:.2f}"
        words = {
            _BETTER: f"{_sentence(self.called)} does better than {called} ({fields})",
            _UNTOLD: f"No better than {called} ({fields}), as far as these cases can tell",
            _FEW: f"Too few cases to tell {self.called} from {called} ({fields})",
        }
        return f"{words[found]}: {against} ({self.gains[name]['auroc'].as_gain})."

    def _told(self, name: str) -> str:
        control, gain = self.controls[name], self.gains[name]["auroc"]
        return gain.told(
            few=f"Too few cases to tell {self.called} from {control.called} in AUROC",
            better=f"Better than {control.called} in AUROC",
            worse=f"Worse than {control.called} in AUROC",
            same=f"No better than {control.called} in AUROC, as far as can be measured",
            unit=self.unit,
        )


_BETTER, _AS_GOOD, _WORSE = "the model is better", "they are as good", "they are better"
_UNTOLD, _FEW = "the model is no better, as far as these cases can tell", "too few cases to tell"
_NOTHING, _ALIKE = "they tell next to nothing", "they are alike"
_HARMLESS = (_BETTER, _NOTHING, _ALIKE)
_RIVALS = ("base", "untrained", "classical", "rule", "shape", "intensity", "layers")
_SHORTCUTS = {
    "headers": (
        "the files' headers alone",
        "Take cases whose files are alike in both classes, or bring them to one form before anything is learned from them.",
    ),
    "names": ("the names of the image files alone", "Give files names that say nothing of the class."),
    "words": ("the words of the prompts alone", "Word both classes alike: no word may stand in one of them alone."),
}
"""What tells a class without what is meant to tell it, and what is then to be done."""
_SHORT = {"balanced_accuracy": "balanced acc.", "auroc": "AUROC"}


def beside(ctx: Context[JudgedSettings], called: str, predictions: Predictions, known: Known, judged: str = "val") -> Beside:
    """A classifier beside its controls; logs `controls.csv`, `figures/controls.png` and the metrics `controls/…`.

    Args:
        ctx: Where it is logged.
        called: The classifier, in words.
        predictions: Of the judged cases, in the order of `known.rows`.
        known: What the controls know.
        judged: The split that is judged where there are no folds.
    """
    task = known.task(judged)
    every = [control(source, task, ctx.cache) for source in known.sources]
    every += [of_headers(known.headers, task, ctx.cache), majority(task)]
    found = compared(called, predictions, every, task.owners, ctx.resampling, unit=ctx.phase.units[1])
    log_beside(ctx, found)
    return found


def compared(
    called: str,
    predictions: Predictions,
    every: Sequence[Control],
    patients: Sequence[str],
    resampling: Resampling,
    metrics: Mapping[str, Metric] = METRICS,
    unit: str = "patients",
) -> Beside:
    """A classifier's figures, each control's, and the paired differences.

    Args:
        called: The classifier, in words.
        predictions: Of the judged cases.
        every: The controls, of the same cases: at least "headers".
        patients: Patient of each case.
        resampling: How resamples are drawn, and the coverage.
        metrics: By name, at least those of METRICS.
        unit: What is resampled.
    """
    measured = {"model": scores(predictions, patients, resampling, metrics)}
    measured |= {one.name: one.scores(patients, resampling, metrics) for one in every}
    gains = {
        one.name: {name: gain_over(one, metric, predictions, patients, resampling) for name, metric in metrics.items()}
        for one in every
    }
    return Beside(called, {one.name: one for one in every}, measured, gains, unit)


def log_beside(ctx: Context[JudgedSettings], found: Beside) -> None:
    """`controls.csv`, one row a control and metric; a picture; metrics with their intervals."""
    rows = []
    for name, measured in found.scores.items():
        for metric, own in measured.items():
            row = {"control": name, "metric": metric, "estimate": own.estimate, "low": own.low, "high": own.high}
            if name in found.gains:
                gain = found.gains[name][metric]
                row |= {"gain": gain.estimate, "gain_low": gain.low, "gain_high": gain.high}
            rows.append(row)
        if name != "model":
            ctx.intervals(f"controls/{name}/", measured)
            ctx.intervals(f"controls/gain_over_{name}/", found.gains[name])
    ctx.run.reporter.table(pd.DataFrame(rows), "controls.csv")
    names = {"model": "the model"} | {name: one.called for name, one in found.controls.items()}
    panels = {_SHORT[metric]: {called: found.scores[name][metric] for name, called in names.items()} for metric in METRICS}
    ctx.run.reporter.figure(
        bars(panels, f"Beside controls, intervals of {ctx.resampling.confidence:.0%}"), "figures/controls.png"
    )


def of_images(images: Images, architecture: Mapping[str, Any], cache: Path) -> Known:
    """What controls know of the images of training and validation: headers, an untrained encoder, HOG.

    HOG (Dalal and Triggs, CVPR 2005) of what the network sees, at 64 x 64 pixels, with an RBF support vector machine.

    Args:
        images: The images.
        architecture: Of the encoder, as `medexp.models.kinds.build` takes it.
        cache: Root of the cache.
    """
    data, facts = images.data, images.data.facts
    rows = data.by_owner[data.by_owner["split"] != "test"].reset_index(drop=True)
    splits = ["train"] if "fold" in rows else ["train", "val"]
    settings = [images.preprocessing.key, _AT_ONCE]

    @functools.cache
    def batches(split: str) -> Batches:
        """Once for all that looks at them: each image is read once."""
        return Batches(images.of(split), _AT_ONCE, images.config.training.workers)

    def in_order(parts: Sequence[Array]) -> Array:
        """Of all rows, from what was made of each split."""
        made = dict(zip((case for split in splits for case in data.ids(split)), np.concatenate(parts), strict=True))
        return np.stack([made[case] for case in rows["case"]])

    def embedded() -> list[Array]:
        nets, made = untrained(architecture, images.accelerator.device), []
        for split in splits:
            digests = [facts[case].voxels_sha256 for case in data.ids(split)]
            part = images_as_part(batches(split), digests, settings, images.accelerator)
            made.append(embed_all(nets, [part], cache, images.accelerator).features)
        return [in_order([features[name] for features in made]) for name in nets]

    def described() -> list[Array]:
        return [
            in_order([np.stack([hog_of(image) for batch in batches(split) for image in batch["image"]]) for split in splits])
        ]

    seen = [list(rows["voxels_sha256"]), settings]
    computing = [torch.__version__, images.accelerator.device.type, images.accelerator.mixed_precision]
    sources = [
        Source(*_UNTRAINED, "logistic", [dict(architecture), UNTRAINED_SEEDS, computing, *seen], embedded),
        Source("classical", "HOG and an SVM", "svm", ["hog", _SIDE, _CELL, *seen], described),
    ]
    return Known(rows, [facts[case].header for case in rows["case"]], sources)


_UNTRAINED = ("untrained", "an untrained network")


def of_volumes(
    volumes: LabelledVolumes, rows: pd.DataFrame, architecture: Mapping[str, Any], kind: FeatureKind, ctx: Context[Settings]
) -> Known:
    """What controls know of volumes: headers, an untrained encoder, statistics of their intensities, and the
    shape of what is not background.

    Args:
        volumes: The volumes.
        rows: Those that are learned from and judged, of the manifest, label as a number.
        architecture: Of the encoder, as `medexp.models.kinds.build` takes it.
        kind: Of its features.
        ctx: Where the encoders compute, and the cache.
    """
    facts, accelerator = volumes.data.facts, ctx.accelerator
    parts = cases_as_parts(volumes.cases(rows), facts, volumes.preprocessing, accelerator)

    def embedded() -> list[Array]:
        nets = untrained(architecture, accelerator.device, kind)
        return list(embed_all(nets, parts, ctx.cache, accelerator).features.values())

    intensity, form = (np.array([getattr(facts[case], what) for case in rows["case"]]) for what in ("intensity", "form"))
    key = [dict(architecture), kind, UNTRAINED_SEEDS, torch.__version__, [part.key for part in parts]]
    sources = [
        Source(*_UNTRAINED, "logistic", key, embedded),
        Source("classical", "statistics of intensities", "logistic", intensity.tolist(), lambda: [intensity]),
        Source("shape", "the shape of the head", "logistic", form.tolist(), lambda: [form]),  # apart: together they overfit
    ]
    return Known(rows.reset_index(drop=True), [facts[case].header for case in rows["case"]], sources)


def untrained(architecture: Mapping[str, Any], device: torch.device, kind: FeatureKind | None = None) -> dict[str, Embedder]:
    """Networks with initial weights, one for each of UNTRAINED_SEEDS, in eval mode and frozen, for features of a kind."""
    nets = {}
    if kind is not None and KINDS[kind].decoder:  # which an encoder is given here
        architecture = segmenter_of(architecture, len(REGIONS))
    for seed in UNTRAINED_SEEDS:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = build(dict(architecture)).eval().requires_grad_(False).to(device)
            nets[f"seed {seed}"] = Embedder(net, kind)
    return nets


def hog_of(image: torch.Tensor) -> Array:
    """HOG of an image (1, H, W), at 64 x 64 pixels."""
    small = functional.interpolate(image[None], (_SIDE, _SIDE), mode="bilinear", antialias=True)[0, 0]
    return np.asarray(hog(small.numpy(), orientations=9, pixels_per_cell=(_CELL, _CELL), cells_per_block=(2, 2)))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
