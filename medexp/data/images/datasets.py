"""Labelled 2D images of all sources: read, described, split, and served to a network."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from monai.data import MetaTensor
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from medexp.config.data import ImageDataConfig, ImagePhantomConfig
from medexp.data.cases import LabelledImage
from medexp.data.images.facts import ImageFacts, describe_images, read_image
from medexp.data.images.kaggle import find_kaggle, left_aside, split_kaggle
from medexp.data.images.phantoms import ensure_kaggle, ensure_slices
from medexp.data.images.slices import find_slices
from medexp.data.images.transforms import augmentation, preprocess
from medexp.data.manifest import data_digest, split_digest
from medexp.data.splits import SPLITS, Splits, make_splits, some
from medexp.errors import ConfigError, DataError, all_problems

__all__ = [
    "SOURCES",
    "ImageFacts",
    "LabelledImage",
    "MultiSourceDataset",
    "PreparedImages",
    "describe_images",
    "expected_draws",
    "prepare_images",
    "read_image",
    "sampling_order",
]

SOURCES = ("brats", "kaggle")

_KEYS = {"brats": "slices_dir", "kaggle": "kaggle_dir"}

_KEPT_BYTES = 2**29  # of preprocessed images in memory; what is more is read again each time


@dataclass(frozen=True)
class PreparedImages:
    """Images that were all read and found good, split.

    Args:
        images: By id; those that were dropped are not among them.
        facts: By id.
        splits: Ids by split.
        manifest: One row an image, sorted by case: case, patient, scan, source, label (0 or 1), tumour_pixels (empty without
            a mask), height, width, split, sha256, voxels_sha256.
        dropped: One row an image that is in no split, or a file that is not read: case, source, label, reason.
        source: What they are in words: the folders, or which phantoms.
    """

    images: dict[str, LabelledImage]
    facts: dict[str, ImageFacts]
    splits: Splits
    manifest: pd.DataFrame
    dropped: pd.DataFrame
    source: str

    def ids(self, split: str) -> tuple[str, ...]:
        """The ids of train, val or test, sorted."""
        ids: tuple[str, ...] = getattr(self.splits, split)
        return ids

    @property
    def digest(self) -> str:
        """Of all images, 32 hexadecimal digits."""
        return data_digest(self.manifest)

    @property
    def digests(self) -> dict[str, str]:
        """The digest of each split that has images."""
        return {split: split_digest(self.manifest, split) for split in SPLITS if self.ids(split)}


def prepare_images(
    slices_dir: str | None,
    kaggle_dir: str | None,
    data: ImageDataConfig,
    phantoms: ImagePhantomConfig,
    seed: int,
    cache: Path,
    sources: Sequence[str] = SOURCES,
) -> PreparedImages:
    """Finds, checks, describes and splits the images of one or both sources.

    Slices are split by patient, Kaggle images class by class (`split_kaggle`). Slices without a picture, all pixels equal, and
    exact duplicates of Kaggle images are dropped. Exact duplicates of slices keep their patients together. Whoever
    nobody names is called after the pixels of the picture: file names such as Y1.jpg are in every folder.

    Args:
        slices_dir: Folder of slices, as `prepare` cuts them.
        kaggle_dir: Folder with yes/ and no/.
        data: How images are read and split.
        phantoms: The embedded data, used where neither folder is given; with one given, that one is used alone.
        seed: Seed of the splits.
        cache: Root of the cache of phantoms and of what is known of each image.
        sources: What is wanted, of SOURCES.

    Raises:
        DataError: A folder, an image or what they hold together cannot be used; all problems of each step at once.
        ConfigError: The only folder given is of a source that is not wanted.
        StorageError: When the cache cannot be written.
    """
    given = dict(zip(SOURCES, (slices_dir, kaggle_dir), strict=True))
    folders = {source: Path(given[source] or "").expanduser().absolute() for source in sources if given[source] is not None}
    source = ", ".join(given[name] or "" for name in folders)
    if not folders and (others := [f"{_KEYS[name]}={folder}" for name, folder in given.items() if folder is not None]):
        raise ConfigError(f"found {', '.join(others)}; what is wanted here is {' or '.join(_KEYS[name] for name in sources)}")
    if not folders:
        ensure = {
            "brats": lambda: ensure_slices(phantoms.patients, phantoms.seed, cache, data.jobs),
            "kaggle": lambda: ensure_kaggle(phantoms.yes_images, phantoms.no_images, phantoms.seed, cache),
        }
        words = {"brats": "slices of meningioma phantoms", "kaggle": "Kaggle-like phantoms"}
        folders = {name: ensure[name]() for name in sources}
        source = " and ".join(words[name] for name in sources)
    find = {"brats": find_slices, "kaggle": find_kaggle}
    images = [image for name, folder in folders.items() for image in find[name](folder, data.patient_pattern)]
    facts = {fact.case: fact for fact in describe_images(images, data, cache)}
    images = [replace(image, patient=_patient(image, facts[image.id])) for image in images]
    dropped = {image.id: "a blank slice, all pixels are equal" for image in images if facts[image.id].constant}
    parts = []
    for name in folders:
        mine = [image for image in images if image.source == name and image.id not in dropped]
        known = [facts[image.id] for image in mine]
        if name == "kaggle":
            split, duplicates = split_kaggle(mine, known, data.val_fraction, data.test_fraction, seed)
            dropped |= duplicates
        else:
            split = make_splits(mine, known, data, seed)
        parts.append(split)
    splits = Splits(*(tuple(sorted(case for part in parts for case in getattr(part, name))) for name in SPLITS))
    if problems := _shared(images, facts):
        raise DataError(all_problems(source, problems, "Take them out of one of the two folders."))
    kept = {image.id: image for image in images if image.id not in dropped}
    rows = [
        {"case": image.id, "source": image.source, "label": facts[image.id].label, "reason": dropped[image.id]}
        for image in images
        if image.id in dropped
    ]
    rows += left_aside(folders["kaggle"]) if "kaggle" in folders else []
    return PreparedImages(
        images=kept,
        facts={case: facts[case] for case in kept},
        splits=splits,
        manifest=_manifest(kept, facts, splits),
        dropped=pd.DataFrame(rows, columns=["case", "source", "label", "reason"]).sort_values("case", ignore_index=True),
        source=source,
    )


class MultiSourceDataset(Dataset[dict[str, Any]]):
    """The images of a split, of all sources, in the order of `prepared.ids(split)`.

    An item is asked for by index or, where randomness is wanted, by (epoch, index), or by (epoch, index, repeat) where an
    epoch may have it again; it then follows from the seed and these alone, and repeat 0 is the same as none. Items have image
    float32 (1, H, W); mask float32 (1, H, W) of 0 and 1, all 0 where there is none; has_mask; label int64, 1 with a tumour;
    source; case.

    Args:
        prepared: The images.
        split: train, val or test.
        data: `input_size`.
        seed: Seed of the augmentation.
        augment: Whether images that are asked for with an epoch are augmented.
        masked: Whether images without a mask are left out.

    Attributes:
        cases: Id of each item.
        sources: Source of each item.
        labels: Label of each item.
    """

    def __init__(
        self,
        prepared: PreparedImages,
        split: str,
        data: ImageDataConfig,
        seed: int,
        augment: bool,
        masked: bool = False,
    ) -> None:
        ids = [case for case in prepared.ids(split) if not masked or prepared.facts[case].tumour_pixels is not None]
        self.images = [prepared.images[case] for case in ids]
        self.labels = [prepared.facts[case].label for case in ids]
        self.cases, self.sources = ids, [str(image.source) for image in self.images]
        self.size, self.seed = data.input_size, seed
        self.augment = augmentation() if augment else None
        self._kept: dict[int, tuple[Tensor, Tensor, bool]] = {}
        self._most = _KEPT_BYTES // (8 * self.size[0] * self.size[1])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: int | tuple[int, ...]) -> dict[str, Any]:
        index = key[1] if isinstance(key, tuple) else key
        image, mask, has_mask = self._preprocessed(index)
        if self.augment is not None and isinstance(key, tuple):
            self.augment.set_random_state(seed=int(np.random.SeedSequence((self.seed, *key)).generate_state(1)[0]))
            item = self.augment({"image": MetaTensor(image), "mask": MetaTensor(mask)})
            image, mask = item["image"].as_tensor(), item["mask"].as_tensor()
        return {
            "image": image,
            "mask": mask,
            "has_mask": has_mask,
            "label": self.labels[index],
            "source": self.sources[index],
            "case": self.cases[index],
        }

    def _preprocessed(self, index: int) -> tuple[Tensor, Tensor, bool]:
        if index in self._kept:
            return self._kept[index]
        image, mask = read_image(self.images[index])
        done = (*preprocess(image, mask, self.size), mask is not None)
        if len(self._kept) < self._most:
            self._kept[index] = done
        return done


def sampling_order(sources: Sequence[str], weights: Mapping[str, float], seed: int) -> Callable[[int], NDArray[np.intp]]:
    """The indices of an epoch's items, as many as there are items, at least one; they follow from (seed, epoch) alone.

    Each source gets a share of the epoch in proportion to its weight, however many items it has. Within a source every item is
    used equally often, give or take one: some are left out of an epoch where the share is smaller than the source, all are
    used again where it is larger. So equal weights give half of the epoch to each of two sources, which is NOT each item once:
    of 300 slices and 100 pictures, 200 of the slices come and every picture twice. Each item comes once where the weights are
    as the numbers of items.

    Args:
        sources: Source of each item.
        weights: By source, above 0; those of sources without items do not count.
        seed: Seed of the draw.

    Raises:
        ConfigError: A source without a weight above 0.
    """
    members, shares = _shares(sources, weights)

    def order(epoch: int) -> NDArray[np.intp]:
        rng = np.random.default_rng((seed, epoch))
        drawn = []
        for indices, share in zip(members, shares, strict=True):
            rounds, rest = divmod(int(share), len(indices))
            drawn += [*[indices] * rounds, rng.permutation(indices)[:rest]]
        return rng.permutation(np.concatenate(drawn))

    return order


def expected_draws(sources: Sequence[str], weights: Mapping[str, float]) -> NDArray[np.float64]:
    """How often an epoch of `sampling_order` draws each item, on average over epochs (N,); they add up to N.

    Args:
        sources: As of `sampling_order`.
        weights: As of `sampling_order`.

    Raises:
        ConfigError: A source without a weight above 0.
    """
    draws = np.zeros(len(sources))
    for indices, share in zip(*_shares(sources, weights), strict=True):
        draws[indices] = share / len(indices)
    return draws


def _shares(sources: Sequence[str], weights: Mapping[str, float]) -> tuple[list[NDArray[np.intp]], NDArray[np.intp]]:
    """The indices of each source's items, and how many items of an epoch are its own."""
    members = {source: np.flatnonzero(np.array(sources) == source) for source in sorted(set(sources))}
    if missing := [source for source in members if not weights.get(source, 0) > 0]:
        raise ConfigError(f"data.weights: no weight above 0 for {', '.join(missing)}; found {dict(weights)}")
    exact = np.array([weights[source] for source in members]) * len(sources) / sum(weights[source] for source in members)
    shares = np.floor(exact).astype(np.intp)
    shares[np.argsort(shares - exact, kind="stable")[: len(sources) - shares.sum()]] += 1  # the largest remainders
    return list(members.values()), shares


def _patient(image: LabelledImage, fact: ImageFacts) -> str:
    return fact.patient or (f"picture-{fact.voxels_sha256[:16]}" if image.patient == image.id else image.patient)


def _shared(images: Iterable[LabelledImage], facts: Mapping[str, ImageFacts]) -> list[str]:
    """Patients and exact duplicates that are in two sources."""
    by_patient: dict[str, dict[str, str]] = defaultdict(dict)
    by_pixels: dict[str, dict[str, str]] = defaultdict(dict)
    for image in images:
        by_patient[image.patient].setdefault(image.source, image.id)
        by_pixels[facts[image.id].voxels_sha256].setdefault(image.source, image.id)
    patients = [f"{who} ({', '.join(found.values())})" for who, found in sorted(by_patient.items()) if len(found) > 1]
    same = [" and ".join(found.values()) for found in by_pixels.values() if len(found) > 1]
    return [
        f"{what} in two sources: {some(found)}" for what, found in (("patients", patients), ("the same pixels", same)) if found
    ]


def _manifest(images: Mapping[str, LabelledImage], facts: Mapping[str, ImageFacts], splits: Splits) -> pd.DataFrame:
    split_of = {case: split for split, cases in asdict(splits).items() for case in cases}
    rows = []
    for case, image in sorted(images.items()):
        fact = facts[case]
        rows.append(
            {
                "case": case,
                "patient": image.patient,
                "scan": image.scan,
                "source": image.source,
                "label": fact.label,
                "tumour_pixels": fact.tumour_pixels,
                "height": fact.shape[0],
                "width": fact.shape[1],
                "split": split_of[case],
                "sha256": fact.sha256,
                "voxels_sha256": fact.voxels_sha256,
            }
        )
    return pd.DataFrame(rows).astype({"tumour_pixels": "Int64"})
