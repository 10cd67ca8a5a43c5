"""How alike are hashes of different heads, and which copies are found? `python -m benchmarks.twins PICTURES --patients 100`

Pictures of a folder with yes/ and no/, and phantom volumes: the nearest pairs that are no copies, however one of the two lies,
and the share of made copies that is found. What the threshold takes for copies is left out of the nearest: look at those.
docs/twins.md has what came out.
"""

import argparse
import io
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image
from scipy import ndimage
from scipy.sparse.csgraph import connected_components

from medexp.arrays import Array
from medexp.config.shared import cache_root
from medexp.data import twins
from medexp.data.images.kaggle import find_kaggle, read_kaggle
from medexp.data.volumes.phantoms import PATIENT_PATTERN, ensure_phantoms

Changes = Mapping[str, Callable[[Array], Array]]


def saved(pixels: Array, quality: int) -> Array:
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file), np.float32)


def half(pixels: Array) -> Array:
    height, width = pixels.shape
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize((width // 2, height // 2)), np.float32)


def cropped(image: Array, share: float) -> Array:
    return image[tuple(slice(int(share * length), length - int(share * length)) for length in image.shape)]


def noisy(voxels: Array, share: float) -> Array:
    return voxels + np.random.default_rng(0).normal(0, share * voxels.max(), voxels.shape)


LIE: Mapping[int, Changes] = {
    2: {
        "as it is": lambda image: image,
        "mirrored": np.fliplr,
        "upside down": np.flipud,
        "turned by half": lambda image: np.rot90(image, 2),
        "turned by a quarter": np.rot90,
        "turned by a quarter, mirrored": lambda image: np.fliplr(np.rot90(image)),
    },
    3: {
        "as it is": lambda image: image,
        "mirrored": lambda image: image[::-1],
        "front to back": lambda image: image[:, ::-1],
        "LPS for RAS": lambda image: image[::-1, ::-1],
    },
}
COPIES: Mapping[int, Changes] = {
    2: {
        "JPEG of quality 30": lambda image: saved(image, 30),
        "mirrored, half the size, JPEG of quality 30": lambda image: saved(half(np.fliplr(image)), 30),
        "turned by a quarter, half the size, JPEG of quality 30": lambda image: saved(half(np.rot90(image)), 30),
        "cropped by 5 %": lambda image: cropped(image, 0.05),
        "mirrored, cropped by 5 %": lambda image: cropped(np.fliplr(image), 0.05),
        "mirrored, cropped by 10 %": lambda image: cropped(np.fliplr(image), 0.1),
        "turned by a quarter, cropped by 5 %": lambda image: cropped(np.rot90(image), 0.05),
        "turned by 5 degrees": lambda image: ndimage.rotate(image, 5, reshape=False, order=1),
    },
    3: {
        "half the size": lambda image: ndimage.zoom(image, 0.5, order=1),
        "0.75 times the size": lambda image: ndimage.zoom(image, 0.75, order=1),
        "1.3 times the size": lambda image: ndimage.zoom(image, 1.3, order=1),
        "slices twice as thick": lambda image: ndimage.zoom(image, (1, 1, 0.5), order=1),
        "mirrored, 0.75 times the size, noise of 5 %": lambda image: noisy(ndimage.zoom(image[::-1], 0.75, order=1), 0.05),
        "noise of 5 %": lambda image: noisy(image, 0.05),
        "noise of 10 %": lambda image: noisy(image, 0.1),
        "smoothed by a voxel": lambda image: ndimage.gaussian_filter(image, 1),
        "cropped by 4 %": lambda image: cropped(image, 0.04),
        "cropped by 10 %": lambda image: cropped(image, 0.1),
        "the top tenth cut off": lambda image: image[:, :, : int(0.9 * image.shape[2])],
        "padded": lambda image: np.pad(image, 6),
        "padded on two sides": lambda image: np.pad(image, ((10, 0), (0, 0), (0, 6))),
        "a gamma of 0.6": lambda image: image.clip(0) ** 0.6,
        "a bias field of 30 %": lambda image: image * np.linspace(0.7, 1.3, len(image))[:, None, None],
        "turned by 5 degrees in plane": lambda image: ndimage.rotate(image, 5, (0, 1), reshape=False, order=1),
        "tilted by 5 degrees": lambda image: ndimage.rotate(image, 5, (1, 2), reshape=False, order=1),
    },
}


def report(images: Sequence[Array], owners: Sequence[str]) -> None:
    """Owners: those of one are not held against each other."""
    dimensions, pictures = images[0].ndim, images[0].ndim == 2
    start = time.process_time()
    hashes = [twins.perceptual_hash(image, cropped=pictures) for image in images]
    print(f"{len(images)} images, {(time.process_time() - start) / len(images) * 1000:.0f} ms a hash")
    vectors = np.array([[[int(digit, 16) for digit in view] for view in views[: twins.BASES]] for views in hashes], float)
    vectors -= vectors.mean(axis=-1, keepdims=True)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True).clip(1e-9)
    found = twins.like(hashes, hashes)
    graph = np.zeros((len(images), len(images)), bool)
    graph[found["one"], found["other"]] = True
    _, group = connected_components(graph)
    strangers = (np.array(owners)[:, None] != np.array(owners)) & (group[:, None] != group)
    for lie, change in LIE[dimensions].items():
        turned = np.array([[change(grid) for grid in views] for views in _grids(vectors, dimensions)]).reshape(vectors.shape)
        alike = np.max([vectors[:, view] @ turned[:, view].T for view in range(vectors.shape[1])], axis=0)
        own = "" if lie == "as it is" else f"; of one and itself: median {np.median(alike.diagonal()):.3f}, "
        own += "" if lie == "as it is" else f"largest {alike.diagonal().max():.3f}"
        print(f"{lie}: nearest of {strangers.sum() // 2} pairs that are no copies {(alike * strangers).max():.3f}{own}")
    chosen = np.random.default_rng(0).choice(len(images), min(50, len(images)), replace=False)
    for called, change in {**LIE[dimensions], **COPIES[dimensions]}.items():
        copies = [twins.perceptual_hash(np.asarray(change(images[place]), float), cropped=pictures) for place in chosen]
        ways = (twins.like(copies, hashes), twins.like(hashes, copies).rename(columns={"one": "other", "other": "one"}))
        pairs = {(int(chosen[one]), other) for way in ways for one, other in way[["one", "other"]].to_numpy().tolist()}
        wrong = sum(bool(strangers[pair]) for pair in pairs)
        print(
            f"{called}: {sum((place, place) in pairs for place in chosen) / len(chosen):.0%} found, {wrong} wrong", flush=True
        )


def _grids(vectors: Array, dimensions: int) -> Array:
    side = round(vectors.shape[-1] ** (1 / dimensions))
    return vectors.reshape(*vectors.shape[:2], *[side] * dimensions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="?", type=Path, help="folder with yes/ and no/")
    parser.add_argument("--patients", type=int, help="phantoms of each domain")
    given = parser.parse_args()
    if given.pictures:
        cases = find_kaggle(given.pictures, "(x)")
        report([read_kaggle(case.path).image for case in cases], [case.id for case in cases])
    if given.patients:
        folders = [
            case
            for domain in ("glioma", "meningioma")
            for case in sorted(ensure_phantoms(domain, given.patients, 0, cache_root(None)).iterdir())
        ]
        volumes = [nib.as_closest_canonical(nib.load(next(folder.glob("*-t1n.nii.gz")))) for folder in folders]
        owners = [re.sub(PATIENT_PATTERN, r"\1", folder.name) for folder in folders]
        report([np.asarray(volume.dataobj, np.float32) for volume in volumes], owners)


if __name__ == "__main__":
    main()
