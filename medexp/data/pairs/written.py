"""Synthetic pairs on disk: a BIDS data set that `prepare` accepts, and that says in three places what it is (`marks`)."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

import medexp
from medexp.data.pairs.facts import BESIDE, LARGEST, SMALLEST
from medexp.data.pairs.marks import COLUMN, DESCRIP, GENERATED_BY
from medexp.data.volumes.background import ground_of
from medexp.errors import DataError, all_problems
from medexp.files import filling
from medexp.words import some

LESIONS = "derivatives/lesion_masks"
_DESCRIP_BYTES = 79  # of the header's 80 the last is 0


def write_pairs(
    folder: Path,
    images: NDArray[np.float32],
    masks: NDArray[np.bool_],
    affines: Sequence[NDArray[np.float64]],
    names: Sequence[str],
    *,
    synthetic: Mapping[str, Any],
    key: str = "augment_dir",
) -> Path:
    """Write synthetic pairs; the folder appears when it is full.

    `participants.tsv` (participant_id, group, synthetic, name), `sub-ID/anat/sub-ID_FLAIR.nii.gz` (float32), and under
    `derivatives/lesion_masks` `sub-ID/anat/sub-ID_label-lesion_roi.nii.gz` (uint8, 0 and 1). ID is synthetic, six digits of
    the generator's digest, and the name without what BIDS has no room for: no real patient is called so.

    Args:
        folder: Is not there yet, or is empty.
        images: (N, X, Y, Z) in [0, 1].
        masks: (N, X, Y, Z); of a pair that is `unfit` nothing is written.
        affines: Of each pair, from voxels to RAS+ mm (4, 4).
        names: Of each pair, such as seed0-sample007.
        synthetic: What drew them, for dataset_description.json: model, version, digest, seed, steps.
        key: The setting that says where the folder is, for messages.

    Returns:
        The folder.

    Raises:
        DataError: The folder holds something, or a pair is none that `prepare` accepts; all problems at once, and nothing is
            written.
        StorageError: It cannot be written.
    """
    digest = re.sub(r"[^0-9a-f]", "", str(synthetic.get("digest", "")).rpartition(":")[2])[:6]
    subjects = [f"sub-synthetic{digest}{re.sub(r'[^A-Za-z0-9]', '', name)}" for name in names]
    problems = list(_problems(folder, images, masks, affines, subjects, names))
    if problems:
        raise DataError(all_problems(f"{key} {folder}", problems, "Nothing was written."))
    drawn = " ".join(str(synthetic[name]) for name in ("model", "version") if name in synthetic)
    descrip = f"{DESCRIP} {drawn}".encode("ascii", "replace")[:_DESCRIP_BYTES]
    if folder.is_dir():
        folder.rmdir()  # an empty one, into whose place the full one comes
    with filling(folder, key) as partial:
        for subject, image, mask, affine in zip(subjects, images, masks, affines, strict=True):
            anat = Path(subject, "anat")
            for path, voxels in (
                (partial / anat / f"{subject}_FLAIR.nii.gz", np.asarray(image, np.float32)),
                (partial / LESIONS / anat / f"{subject}_label-lesion_roi.nii.gz", mask.astype(np.uint8)),
            ):
                path.parent.mkdir(parents=True)
                nifti = nib.Nifti1Image(voxels, affine)
                nifti.header.set_xyzt_units("mm")
                nifti.header["descrip"] = descrip
                nib.save(nifti, path)
        rows = pd.DataFrame({"participant_id": subjects, "group": "fcd", COLUMN: 1, "name": list(names)})
        rows.to_csv(partial / "participants.tsv", sep="\t", index=False)
        by = {"Name": GENERATED_BY, "Version": medexp.__version__, **synthetic}
        described = {
            "Name": "medexp: synthetic pairs",
            "BIDSVersion": "1.9.0",
            "DatasetType": "derivative",
            "GeneratedBy": [by],
        }
        for place in (partial, partial / LESIONS):
            (place / "dataset_description.json").write_text(json.dumps(described, indent=2) + "\n")
    return folder


def unfit(image: NDArray[np.float32], mask: NDArray[np.bool_]) -> str:
    """Why `prepare` would refuse a drawn pair, in words; empty where it would not.

    Args:
        image: (X, Y, Z).
        mask: Of the same shape.
    """
    if not np.isfinite(image).all() or image.min() == image.max():
        return "an image that is constant or holds NaN"
    if not mask.any():
        return "an empty mask"
    head = ground_of(image).brain
    if (spans := np.ptp(np.argwhere(head), axis=0) + 1).min() < SMALLEST:
        return f"a head of {' x '.join(map(str, spans))} voxels, of {SMALLEST} along each axis"
    if (beside := 1 - head[mask].mean()) > BESIDE:
        return f"{beside:.0%} of its lesion lies on background"
    filled = mask[head].mean()
    return f"a lesion that fills {filled:.0%} of the head" if filled > LARGEST else ""


def _problems(
    folder: Path,
    images: NDArray[np.float32],
    masks: NDArray[np.bool_],
    affines: Sequence[NDArray[np.float64]],
    subjects: Sequence[str],
    names: Sequence[str],
) -> list[str]:
    counts = {"images": len(images), "masks": len(masks), "affines": len(affines), "names": len(names)}
    if len(set(counts.values())) > 1 or not names:
        return [f"found {', '.join(f'{count} {what}' for what, count in counts.items())}; as many of each, and at least one"]
    problems = []
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        problems.append("is there and holds something; give another folder")
    if images.shape != masks.shape:
        problems.append(f"images {images.shape} and masks {masks.shape} differ")
    problems += [
        f"{name}: {why}" for name, image, mask in zip(names, images, masks, strict=True) if (why := unfit(image, mask))
    ]
    if twice := [subject for subject, count in Counter(subjects).items() if count > 1]:
        problems.append(f"several pairs of one name: {some(twice)}")
    return problems
