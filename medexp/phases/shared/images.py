"""What the phases on 2D images share: how they begin, and how both tasks are trained and judged."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from matplotlib.figure import Figure
from torch import Tensor

from medexp.arrays import Array
from medexp.data.images.datasets import MultiSourceDataset
from medexp.data.images.prepared import SOURCES, PreparedImages, prepare_images
from medexp.data.images.steps import Fit
from medexp.data.images.transforms import preprocessing
from medexp.data.preprocessing import Preprocessing
from medexp.data.splits import SPLITS
from medexp.errors import ConfigError, DataError, RegistryError, all_problems
from medexp.evaluation.batches import Batches, demand_finite, in_batches, map_batches
from medexp.evaluation.classification import Predictions
from medexp.evaluation.segmentation import PIXELS, count_pixels, dice_by_scan, evaluate_slices
from medexp.models.checkpoints import save_checkpoint
from medexp.models.unet.network import MultiTaskModel
from medexp.phases.shared.config import ImagePhaseConfig
from medexp.phases.shared.context import Context
from medexp.phases.shared.folds import in_folds
from medexp.registry.contracts import preprocessing_of
from medexp.registry.packages import read_json
from medexp.registry.store import Pulled
from medexp.tracking.figures import curves, gallery
from medexp.training.loop import FitResult

CLASSES = ("no tumour", "tumour")
_ACROSS = 2  # and down: the frame of a picture in MLflow's grid is a square


@dataclass(frozen=True)
class Images:
    """The images of a phase, split, as networks take them.

    Attributes:
        config: How they are read and sampled.
        data: All images.
        accelerator: Device and precision; one process.
    """

    config: ImagePhaseConfig
    data: PreparedImages
    accelerator: Accelerator
    _judged: dict[str, Batches] = field(default_factory=dict, init=False, repr=False)
    _kept: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def preprocessing(self) -> Preprocessing:
        """What is done to a file before a network sees it."""
        return preprocessing(self.config.data.input_size)

    def under(self, data: PreparedImages) -> "Images":
        """The same images, split otherwise; those that were read are not read again."""
        return replace(self, data=data)

    def of(self, split: str, *, augment: bool = False, masked: bool = False) -> MultiSourceDataset:
        """The images of a split; with `masked` those that have a mask."""
        return MultiSourceDataset(self.data, split, self.config.data, self.config.seed, augment, masked, self._kept)

    def batches(self, split: str) -> Batches:
        """The images of a split to be judged, made once: they stay in memory from one validation to the next."""
        if split not in self._judged:
            training = self.config.training
            self._judged[split] = Batches(self.of(split), training.batch_size, training.workers)
        return self._judged[split]

    def picture(self, case: str) -> Array:
        """An image (H, W) as the network sees it."""
        images = self.of(self.data.splits.of(case))
        image: Array = np.asarray(images[images.cases.index(case)]["image"][0])
        return image


@dataclass(frozen=True)
class Trained:
    """A multi-task network with the kept epoch's weights, and its training."""

    net: MultiTaskModel
    fitted: FitResult


Requirement = Callable[[PreparedImages], None]
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
    """Training and validation have slices with a tumour in their mask: empty masks alone teach nothing, and have no Dice.

    Raises:
        DataError: One of them has not.
    """
    outlined = set(data.manifest.query("label == 1 and tumour_pixels.notna()")["split"])
    problems = [f"{split}: no slice with a mask of a tumour" for split in ("train", "val") if split not in outlined]
    if problems:
        advice = "Segmenting takes some in both: give slices_dir=FOLDER of slices with masks, of more patients."
        raise DataError(all_problems(data.source, problems, advice))


def demand_input(pulled: Pulled, input_size: tuple[int, int]) -> None:
    """A registered network takes the images that are made here.

    Args:
        pulled: Its package.
        input_size: Height and width that images are brought to.

    Raises:
        RegistryError: Its contract asks for images that are prepared otherwise.
        ConfigError: It was trained on images of another size.
    """
    called = f"{pulled.name} version {pulled.version}"
    found, made = preprocessing_of(pulled.folder, called), preprocessing(input_size)
    trained = found.get(Fit).size if found.data == made.data else None
    if trained not in (None, input_size):
        raise ConfigError(f"data.input_size: found {input_size}, {called} was trained on images of {trained}; give that")
    if found != made:
        told = [f"preprocessing is {found.in_words}; {made.in_words} can be made"]
        raise RegistryError(all_problems(f"contract.json of {called}", told, "Give a network of such images."))


def encoder_alone(multitask: Pulled) -> dict[str, Any]:
    """The architecture of a multi-task network's encoder."""
    architecture = read_json(multitask.folder, "contract.json")["architecture"]
    return {"kind": "unet_encoder"} | {key: architecture[key] for key in ("in_channels", "base_filters", "depth")}


def one_process(accelerator: Accelerator, phase: str) -> None:
    """Images are small, and alternating tasks leave parameters without gradients: these phases train in one process.

    Raises:
        ConfigError: There are several.
    """
    if accelerator.num_processes > 1:
        raise ConfigError(f"{phase} trains in one process, found {accelerator.num_processes}; start it without a launcher")


def read_images(
    ctx: Context[ImagePhaseConfig],
    requirements: Sequence[Requirement],
    kaggle_dir: str | None = None,
    sources: Sequence[str] = SOURCES,
    built_on: Sequence[Pulled] = (),
) -> Images:
    """Read and split the images, log what they are and what was dropped, and take over what an interrupted run had trained.

    Args:
        ctx: What the phase works with; one process.
        requirements: What the images must have: `both_classes`, `masks`.
        kaggle_dir: Folder of pictures, None where there is none.
        sources: What is wanted, of SOURCES.
        built_on: The models that the phase builds on, for folds: what they were trained on is judged in none.

    Raises:
        DataError: The images cannot be used, all problems of each step at once; or the test split is scored and is empty.
        ConfigError: There are several processes, or the run that is resumed was begun with other images.
    """
    one_process(ctx.accelerator, ctx.phase.name)
    config = ctx.config
    data = prepare_images(config.slices_dir, kaggle_dir, config.data, config.phantoms, ctx.cache, sources)
    strata = {str(row.case): f"{row.source} {row.label}" for row in data.manifest.itertuples()}
    data = in_folds(data, config.folds, config.data.split_seed, strata, built_on=built_on, demands=requirements)
    if "test" in ctx.splits and not data.ids("test"):
        raise DataError(
            f"test=true: no image is in the test split, data.test_fraction {config.data.test_fraction:g}. "
            "Raise data.test_fraction, add patients, or leave test out"
        )
    ctx.given(data, {"images": data.digest}, "images")
    ctx.figures({"params/dropped_images": len(data.dropped)})
    for split in ("train", "test") if data.folds else SPLITS:
        rows = data.rows(split)
        shares = rows.groupby("source")["label"].agg(["size", "sum"])
        told = "; ".join(f"{source} {row['size']}, {row['sum']} with a tumour" for source, row in shares.iterrows())
        print(f"{split}: {len(rows)} images ({told or 'none'})", flush=True)
    if len(data.dropped):
        ctx.run.reporter.table(data.dropped, "dropped.csv")
        reasons = data.dropped["reason"].str.partition(" of ")[0].value_counts()
        told = "; ".join(f"{count} {reason}" for reason, count in reasons.items())
        print(f"Left out: {told}; dropped.csv of the run lists them", flush=True)
    return Images(config, data, ctx.accelerator)


def outlined_patients(images: Images) -> pd.Series:
    """Patient of each slice that is judged by Dice: those without a tumour have none."""
    return images.data.rows("val").query("tumour_pixels > 0")["patient"]


def demand_outlines(images: Images, *splits: str) -> None:
    """Splits can be judged by: one slice of each has tumour in its mask at the size that the network sees.

    Raises:
        DataError: None has.
    """
    for split in splits:
        masked = images.of(split, masked=True)
        if not any(masked[index]["mask"].any() for index in range(len(masked))):
            raise DataError(
                f"{images.data.source}: none of the {len(masked)} slices with a mask of the split {split} has a pixel of its "
                f"tumour left at {' x '.join(map(str, images.config.data.input_size))} pixels; raise data.input_size"
            )


def predict(images: Images, logits: Callable[[Tensor], Tensor], split: str = "val") -> Predictions:
    """What a classifier says of the images of a split, in the order of `images.data.ids(split)`.

    Args:
        images: The images.
        logits: From images (B, 1, H, W) to logits (B, 2), in eval mode.
        split: train, val or test.
    """
    rows = in_batches(logits, images.batches(split), images.accelerator, "  classifying")
    return _predictions(images, rows, split)


def dice(images: Images, logits: Callable[[Tensor], Tensor], split: str = "val") -> pd.DataFrame:
    """Dice of each scan of a split over its slices together, as `medexp.evaluation.segmentation.dice_by_scan` has it.

    Args:
        images: The images.
        logits: From images (B, 1, H, W) to logits (B, 1, H, W), in eval mode.
        split: train, val or test.
    """
    return evaluate_slices(logits, images.batches(split), images.data.by_owner, images.accelerator)[0]


def predict_and_dice(images: Images, net: MultiTaskModel, split: str = "val") -> tuple[Predictions, pd.DataFrame]:
    """`predict` and `dice` of a network in eval mode, whose encoder sees each image once for both.

    Args:
        images: The images.
        net: The network.
        split: train, val or test.
    """

    def judge(batch: Any) -> tuple[Array, list[dict[str, Any]]]:
        masked = bool(batch["has_mask"].any())
        found = net(batch["image"].to(images.accelerator.device), do_seg=masked)
        demand_finite(found["cls"], batch["case"])
        return np.asarray(found["cls"].float().cpu()), count_pixels(found["seg"], batch) if masked else []

    logits, pixels = zip(*map_batches(judge, images.batches(split), images.accelerator, "  evaluating"), strict=True)
    slices = pd.DataFrame([row for rows in pixels for row in rows], columns=["case", *PIXELS])
    return _predictions(images, np.concatenate(logits), split), dice_by_scan(slices, images.data.by_owner)


def _predictions(images: Images, logits: Array, split: str) -> Predictions:
    labels = [images.data.facts[case].label for case in images.data.ids(split)]
    return Predictions(np.array(labels), np.asarray(torch.from_numpy(logits).softmax(dim=1)))


def segment(net: MultiTaskModel, images: Tensor) -> Tensor:
    """Logits (B, 1, H, W) of images (B, 1, H, W)."""
    logits: Tensor = net(images, do_cls=False)["seg"]
    return logits


def log_training(ctx: Context[ImagePhaseConfig], images: Images, trained: Trained) -> None:
    """The log of a training with its curves, pictures of what the network outlines, and its checkpoint, `final_model.pt`."""
    reporter, checkpoint = ctx.run.reporter, ctx.run.folder / "final_model.pt"
    reporter.table(trained.fitted.history, "training_log.csv")
    reporter.figure(curves(trained.fitted.history), "figures/curves.png")
    if outlined := segmentations(images, trained.net):
        reporter.figure(outlined, "figures/segmentations.png")
    save_checkpoint(trained.net.state_dict(), checkpoint)
    reporter.file(checkpoint)


@torch.inference_mode()
def segmentations(images: Images, net: MultiTaskModel, epoch: int | None = None) -> Figure | None:
    """A picture of validation slices, truth and prediction outlined: those with most tumour, one a scan.

    Args:
        images: The images.
        net: The network.
        epoch: The epoch, from 0, after which it is; None: the one that is kept.

    Returns:
        None where no slice has a mask.
    """
    masked = images.of("val", masked=True)
    rows = images.data.manifest.set_index("case").loc[masked.cases].reset_index()
    order = rows.sort_values("tumour_pixels", ascending=False).drop_duplicates("scan").index
    wanted = images.config.shown if epoch is None else min(images.config.shown, _ACROSS**2)
    items = [masked[int(index)] for index in order[:wanted]]
    if not items:
        return None
    stacked = torch.stack([item["image"] for item in items]).to(images.accelerator.device)
    predicted = (segment(net.eval(), stacked) > 0).cpu().numpy()[:, 0]
    return gallery(
        [np.asarray(item["image"][0]) for item in items],
        [item["case"] for item in items],
        f"Largest cut of each scan, {'truth solid, prediction dashed' if epoch is None else f'epoch {epoch + 1}'}",
        [np.asarray(item["mask"][0]) for item in items],
        list(predicted),
        len(order),
        across=6 if epoch is None else _ACROSS,
    )


def claims(images: Images) -> dict[str, str | None]:
    """How the images were chosen, labelled and split, by item of CLAIM."""
    config, data = images.config, images.data
    return {
        "Inclusion and exclusion": f"all images but {len(data.dropped)} that dropped.csv of the run lists",
        "Missing data": "an image that cannot be read stops the phase",
        "Reference standard": f"a tumour where a slice has at least {config.data.min_tumour_pixels} mask pixels; of a Kaggle "
        "image its folder",
        "Assignment to partitions": f"drawn by seed {config.data.split_seed}: slices by patient, Kaggle images class by "
        f"class, copies together; validation {config.data.val_fraction:.0%}, test {config.data.test_fraction:.0%}",
    }
