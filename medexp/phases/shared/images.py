"""What the phases on 2D images share: how they begin, and how both tasks are trained and judged."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from torch import Tensor

from medexp.arrays import Array
from medexp.config.shared import cache_root
from medexp.data.images.datasets import MultiSourceDataset
from medexp.data.images.prepared import SOURCES, PreparedImages, prepare_images
from medexp.data.images.transforms import INPUT
from medexp.data.splits import SPLITS
from medexp.errors import ConfigError, DataError, RegistryError, all_problems
from medexp.evaluation.batches import Batches, in_batches, map_batches
from medexp.evaluation.classification import Predictions
from medexp.evaluation.segmentation import PIXELS, count_pixels, dice_by_scan, evaluate_slices
from medexp.models.checkpoints import save_checkpoint
from medexp.models.unet.network import MultiTaskModel
from medexp.phases.shared.config import ImagePhaseConfig
from medexp.phases.shared.launch import same_as_begun, take_over_state
from medexp.phases.shared.publishing import packaged
from medexp.registry.packages import other_input, read_json
from medexp.registry.store import Pulled
from medexp.tracking.datasets import log_datasets
from medexp.tracking.figures import curves, gallery
from medexp.tracking.runs import TrackedRun
from medexp.training.loop import FitResult

CLASSES = ("no tumour", "tumour")


@dataclass(frozen=True)
class ImageStudy:
    """What a phase on images works with.

    Attributes:
        config: Its configuration.
        data: All images, split.
        accelerator: Device and precision; one process.
        run: The run.
    """

    config: Any
    data: PreparedImages
    accelerator: Accelerator
    run: TrackedRun
    _judged: dict[str, Batches] = field(default_factory=dict, init=False, repr=False)

    def images(self, split: str, *, augment: bool = False, masked: bool = False) -> MultiSourceDataset:
        """The images of a split; with `masked` those that have a mask."""
        return MultiSourceDataset(self.data, split, self.config.data, self.config.seed, augment, masked)

    def batches(self, split: str) -> Batches:
        """The images of a split to be judged, made once: they stay in memory from one validation to the next."""
        if split not in self._judged:
            training = self.config.training
            self._judged[split] = Batches(self.images(split), training.batch_size, training.workers)
        return self._judged[split]

    def picture(self, case: str) -> Array:
        """An image (H, W) as the network sees it."""
        split = self.data.splits.of(case)
        images = self.images(split)
        image: Array = np.asarray(images[images.cases.index(case)]["image"][0])
        return image


Need = Callable[[PreparedImages], None]
"""Raises a DataError where images lack what a phase trains on."""


def both_classes(data: PreparedImages) -> None:
    """Training and validation have images with and without a tumour.

    Raises:
        DataError: One of them has not.
    """
    problems = []
    for split in ("train", "val"):
        labels = set(data.manifest.loc[data.manifest["split"] == split, "label"])
        missing = [name for label, name in enumerate(CLASSES) if label not in labels]
        problems += [f"{split}: no image of the class {name!r}" for name in missing]
    if problems:
        raise DataError(all_problems(data.source, problems, "Add images of it; telling apart takes two classes."))


def masks(data: PreparedImages) -> None:
    """Training and validation have slices with a tumour in their mask: empty masks alone teach nothing, and score 1.

    Raises:
        DataError: One of them has not.
    """
    outlined = set(data.manifest.query("label == 1 and tumour_pixels.notna()")["split"])
    problems = [f"{split}: no slice with a mask of a tumour" for split in ("train", "val") if split not in outlined]
    if problems:
        advice = "Segmenting takes some in both: give slices_dir=FOLDER of slices with masks, of more patients."
        raise DataError(all_problems(data.source, problems, advice))


def warm_up_images(
    config: Any, kaggle_dir: str | None, sources: Sequence[str], needs: Sequence[Need], *, test: bool
) -> PreparedImages:
    """Do once what the trials of a study share: make the phantoms, read and describe the images.

    Args:
        config: The phase's configuration.
        kaggle_dir: As of `begin`.
        sources: As of `begin`.
        needs: As of `begin`.
        test: Whether the test split will be scored.

    Raises:
        DataError: The images cannot be used, or the test split is to be scored and is empty.
    """
    data = _read(config, kaggle_dir, sources, needs)
    if test and not data.ids("test"):
        raise DataError(
            f"test=true: no image is in the test split, data.test_fraction {config.data.test_fraction:g}. "
            "Raise data.test_fraction, add patients, or leave test out"
        )
    return data


def _read(config: Any, kaggle_dir: str | None, sources: Sequence[str], needs: Sequence[Need]) -> PreparedImages:
    cache = cache_root(config.cache_dir)
    data = prepare_images(config.slices_dir, kaggle_dir, config.data, config.phantoms, cache, sources)
    for need in needs:
        need(data)
    return data


def demand_input(pulled: Pulled, input_size: tuple[int, int]) -> None:
    """A registered network takes the images that are made here.

    Args:
        pulled: Its package.
        input_size: Height and width that images are brought to.

    Raises:
        RegistryError: Its contract asks for images of another kind; all that differs at once.
        ConfigError: It was trained on images of another size.
    """
    contract, called = read_json(pulled.folder, "contract.json").get("input", {}), f"{pulled.name} version {pulled.version}"
    problems = other_input(contract, INPUT)
    problems += ["input.example_shape is missing"] if "example_shape" not in contract else []
    if problems:
        raise RegistryError(all_problems(f"contract.json of {called}", problems, "Give a network of such images."))
    trained = tuple(contract["example_shape"][-2:])
    if trained != input_size:
        raise ConfigError(f"data.input_size: found {input_size}, {called} was trained on images of {trained}; give that")


def one_process(accelerator: Accelerator, phase: str) -> None:
    """Images are small, and alternating tasks leave parameters without gradients: these phases train in one process.

    Raises:
        ConfigError: There are several.
    """
    if accelerator.num_processes > 1:
        raise ConfigError(f"{phase} trains in one process, found {accelerator.num_processes}; start it without a launcher")


def begin(
    config: ImagePhaseConfig,
    phase: str,
    accelerator: Accelerator,
    run: TrackedRun,
    needs: Sequence[Need],
    kaggle_dir: str | None = None,
    sources: Sequence[str] = SOURCES,
) -> ImageStudy:
    """Read and split the images, log what they are and what was dropped, and take over what an interrupted run had trained.

    Args:
        config: The phase's configuration.
        phase: Its name.
        accelerator: Device and precision; one process.
        run: The run.
        needs: What the images must have: `both_classes`, `masks`.
        kaggle_dir: Folder of pictures, None where there is none.
        sources: What is wanted, of SOURCES.

    Raises:
        DataError: The images cannot be used; all problems of each step at once.
        ConfigError: There are several processes, or the run that is resumed was begun with other images.
    """
    one_process(accelerator, phase)
    data = _read(config, kaggle_dir, sources, needs)
    same_as_begun(config.resume, run, {"images": data.digest})
    take_over_state(config.resume, run)
    log_datasets(run, data.manifest, data.digests, data.source, phase)
    counts = {"params/dropped_images": len(data.dropped)}
    for split in SPLITS:
        rows = data.manifest[data.manifest["split"] == split]
        counts |= {f"params/{split}_images": len(rows), f"params/{split}_patients": rows["patient"].nunique()}
        shares = rows.groupby("source")["label"].agg(["size", "sum"])
        told = "; ".join(f"{source} {row['size']}, {row['sum']} with a tumour" for source, row in shares.iterrows())
        print(f"{split}: {len(rows)} images ({told or 'none'})", flush=True)
    run.reporter.metrics(counts)
    if len(data.dropped):
        run.reporter.table(data.dropped, "dropped.csv")
        reasons = data.dropped["reason"].str.partition(" of ")[0].value_counts()
        told = "; ".join(f"{count} {reason}" for reason, count in reasons.items())
        print(f"Left out: {told}; dropped.csv of the run lists them", flush=True)
    return ImageStudy(config, data, accelerator, run)


def predict(study: ImageStudy, logits: Callable[[Tensor], Tensor], split: str = "val") -> Predictions:
    """What a classifier says of the images of a split, in the order of `study.data.ids(split)`.

    Args:
        study: The images.
        logits: From images (B, 1, H, W) to logits (B, 2), in eval mode.
        split: train, val or test.
    """
    rows = in_batches(logits, study.batches(split), study.accelerator, "  classifying")
    return _predictions(study, rows, split)


def dice(study: ImageStudy, logits: Callable[[Tensor], Tensor], split: str = "val") -> pd.DataFrame:
    """Dice of each scan of a split over its slices together: case, patient, source, dice, slices.

    Args:
        study: The images.
        logits: From images (B, 1, H, W) to logits (B, 1, H, W), in eval mode.
        split: train, val or test.
    """
    return evaluate_slices(logits, study.batches(split), study.data.manifest, study.accelerator)[0]


def predict_and_dice(study: ImageStudy, net: MultiTaskModel, split: str = "val") -> tuple[Predictions, pd.DataFrame]:
    """`predict` and `dice` of a network in eval mode, whose encoder sees each image once for both.

    Args:
        study: The images.
        net: The network.
        split: train, val or test.
    """

    def judge(batch: Any) -> tuple[Array, list[dict[str, Any]]]:
        masked = bool(batch["has_mask"].any())
        found = net(batch["image"].to(study.accelerator.device), do_seg=masked)
        return np.asarray(found["cls"].float().cpu()), count_pixels(found["seg"], batch) if masked else []

    logits, pixels = zip(*map_batches(judge, study.batches(split), study.accelerator, "  evaluating"), strict=True)
    slices = pd.DataFrame([row for rows in pixels for row in rows], columns=["case", *PIXELS])
    return _predictions(study, np.concatenate(logits), split), dice_by_scan(slices, study.data.manifest)


def _predictions(study: ImageStudy, logits: Array, split: str) -> Predictions:
    labels = [study.data.facts[case].label for case in study.data.ids(split)]
    return Predictions(np.array(labels), np.asarray(torch.from_numpy(logits).softmax(dim=1)))


def segment(net: MultiTaskModel, images: Tensor) -> Tensor:
    """Logits (B, 1, H, W) of images (B, 1, H, W)."""
    logits: Tensor = net(images, do_cls=False)["seg"]
    return logits


def log_training(study: ImageStudy, net: MultiTaskModel, fitted: FitResult) -> None:
    """The log of a training with its curves, pictures of what the network outlines, and its checkpoint, `best_model.pt`."""
    reporter, checkpoint = study.run.reporter, study.run.folder / "best_model.pt"
    reporter.table(fitted.history, "training_log.csv")
    reporter.figure(curves(fitted.history), "figures/curves.png")
    show_segmentations(study, net)
    save_checkpoint(net.state_dict(), checkpoint)
    reporter.file(checkpoint)


@torch.inference_mode()
def show_segmentations(study: ImageStudy, net: MultiTaskModel) -> None:
    """A picture of validation slices, truth and prediction outlined: those with most tumour, one a scan."""
    images = study.images("val", masked=True)
    rows = study.data.manifest.set_index("case").loc[images.cases].reset_index()
    order = rows.sort_values("tumour_pixels", ascending=False).drop_duplicates("scan").index[: study.config.shown]
    items = [images[int(index)] for index in order]
    if not items:
        return
    stacked = torch.stack([item["image"] for item in items]).to(study.accelerator.device)
    predicted = (segment(net.eval(), stacked) > 0).cpu().numpy()[:, 0]
    figure = gallery(
        [np.asarray(item["image"][0]) for item in items],
        [item["case"] for item in items],
        "Largest cut of each scan, truth solid, prediction dashed",
        [np.asarray(item["mask"][0]) for item in items],
        list(predicted),
    )
    study.run.reporter.figure(figure, "figures/segmentations.png")


def claims(config: ImagePhaseConfig, data: PreparedImages) -> dict[str, str | None]:
    """How the images were chosen, labelled and split, by item of CLAIM."""
    return {
        "Inclusion and exclusion": f"all images but {len(data.dropped)} that dropped.csv of the run lists",
        "Missing data": "an image that cannot be read stops the phase",
        "Reference standard": f"a tumour where a slice has at least {config.data.min_tumour_pixels} mask pixels; of a Kaggle "
        "image its folder",
        "Assignment to partitions": f"drawn by seed {config.data.split_seed}: slices by patient, Kaggle images class by "
        f"class; validation {config.data.val_fraction:.0%}, test {config.data.test_fraction:.0%}",
    }


def packaged_images(study: ImageStudy, name: str, phase: str, output: str) -> dict[str, Any]:
    """`medexp.phases.shared.publishing.packaged` of a phase's images.

    Args:
        study: What it was made with.
        name: Name of the model.
        phase: The phase that made it.
        output: What comes out, in words.
    """
    config, data = study.config, study.data
    return packaged(
        config,
        study.run,
        name,
        phase,
        output,
        manifest=data.manifest,
        cases=data.facts.values(),
        source=data.source,
        example={"example_shape": [1, 1, *config.data.input_size]},
        claims=claims(config, data),
    )
