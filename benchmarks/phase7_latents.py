"""What do cached latents save, and what does a mask lose on the network's grid? `python -m benchmarks.phase7_latents`

Latents: an epoch of phase7's demo over pairs whose latents `FCDDataset` has against one that encodes each pair again, as a
training without a cache would, the pairs in memory on both sides. Over the demo's 50 epochs, with the latents computed in the
first one, and with a cache that is full already. CPU time, since the machine is shared. Target: 10 times, the same to the bit.

Masks: their volume on grids of 6, 3 and 2 mm against the file's, and soft Dice with the share of each voxel that the lesion
fills, of the product's way (as many of the fullest voxels as the volume makes), nearest voxel, linear interpolation with a
threshold of a half, and the share of a voxel with a threshold of a half; of phantoms and of a layer 2 mm thin.
"""

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import SpatialResample
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.sides import empty_home, in_turns, told, verdict
from medexp.cli import configuration
from medexp.config.shared import cache_root
from medexp.data.pairs.prepared import prepare_pairs
from medexp.data.pairs.read import image_on_grid, mask_on_grid, read_pair
from medexp.evaluation.latents import FCDDataset, load_pairs
from medexp.models.autoencoder.network import Autoencoder
from medexp.models.meanflow.joint import Joint

PATIENTS, EPOCHS, ROUNDS = 32, 50, 3
SPACINGS = (6.0, 3.0, 2.0)
Mask = NDArray[np.uint8]
Array = NDArray[Any]


def latents() -> None:
    config = configuration("phase7", ["--data.mask_strategy=vae", f"--phantoms.patients={PATIENTS}"])
    prepared, cache = prepare_pairs(config), cache_root(None)
    cases = [*prepared.cases.values()]
    pairs = load_pairs(cases, config.data)
    joint = Joint(Autoencoder(), "vae", mean=[0.1] * 8, std=[0.9] * 8)

    def dataset(folder: Path) -> FCDDataset:
        return FCDDataset(cases, prepared.facts, config.data, joint, "vae", folder, pairs)

    def encoded() -> list[torch.Tensor]:
        return [joint.encode(*(torch.from_numpy(part[None]).float() for part in pair[:2]))[0] for pair in pairs]

    def seconds(work: Callable[[], Any], times: int = 1) -> float:
        before = time.process_time()
        for _ in range(times):
            work()
        return (time.process_time() - before) / times

    def read() -> list[torch.Tensor]:
        return [made[index]["z"] for index in range(len(made))]

    rounds = iter(range(ROUNDS))
    made = dataset(cache)
    same = all(torch.equal(one, other) for one, other in zip(read(), encoded(), strict=True))
    epochs = {
        "again in each": lambda: EPOCHS * seconds(encoded, 2),
        "first time": lambda: seconds(lambda: dataset(cache / str(next(rounds)))) + EPOCHS * seconds(read, EPOCHS),
        "full cache": lambda: seconds(lambda: dataset(cache)) + EPOCHS * seconds(read, EPOCHS),
    }
    found = in_turns(epochs, ROUNDS)
    plain = found["again in each"]
    for name in ("first time", "full cache"):
        ratio = median(plain) / median(found[name])
        print(
            f"{len(cases)} pairs, {EPOCHS} epochs, {name}: {told(found[name], plain)}, {ratio:.1f} x: {verdict(ratio >= 10)}"
        )
    print(f"the latents are the same to the bit: {verdict(same)}")


def masks() -> None:
    print(f"\n{'':24}{'volume, mean error':>28}{'worst':>28}{'soft Dice':>28}")
    print(f"{'':24}" + "".join(f"{name:>7}" for name in ("ours", "near", "linear", "share")) * 3)
    for what in ("phantoms", "layer of 2 mm"):
        for spacing in SPACINGS:
            edge = int(192 / spacing)
            given = [f"--data.spacing=[{spacing},{spacing},{spacing}]", f"--data.input_size=[{edge},{edge},{edge}]"]
            config = configuration("phase7", [*given, "--phantoms.patients=12"])
            rows = []
            for case in prepare_pairs(config).cases.values():
                volume = read_pair(case, config.data)
                label, affine = volume.label, volume.affine
                if what != "phantoms":
                    label, affine = _layer(label, affine)
                grid = image_on_grid(volume, config.data)[1]
                rows.append(_losses(label, affine, grid, config.data.input_size))
            error, dice = np.array(rows).swapaxes(0, 1)
            columns = [*np.abs(error).mean(0), *np.abs(error).max(0)]
            print(
                f"{what:15}{spacing:4g} mm  "
                + "".join(f"{one:7.1%}" for one in columns)
                + "".join(f"{one:7.3f}" for one in dice.mean(0))
            )


def _layer(label: Mask, affine: Array) -> tuple[Mask, Array]:
    """Of a lesion on a grid three times as fine a layer, as thin as a cortex is."""
    fine = ndimage.zoom(label, 3, order=0, grid_mode=True, mode="grid-constant")
    onto = affine.copy()
    onto[:3, :3] /= 3
    onto[:3, 3] -= affine[:3, :3] @ np.full(3, 1 / 3)
    depth = ndimage.distance_transform_edt(fine, sampling=np.linalg.norm(onto[:3, :3], axis=0))
    return ((depth > 0) & (depth <= 2)).astype(np.uint8), onto


def _losses(label: Mask, affine: Array, grid: Array, size: tuple[int, int, int]) -> tuple[list[float], list[float]]:
    """Of each way: error of the volume, as a share of it, and soft Dice with the share of each voxel that is filled."""
    parts = int(np.ceil(3 * np.linalg.norm(grid[:3, 0]) / np.linalg.norm(affine[:3, :3], axis=0).max()))
    share = _resampled(label, affine, grid, size, "nearest", min(parts, 6))
    ways: list[Array] = [mask_on_grid(label, affine, grid, size).mask, _resampled(label, affine, grid, size, "nearest")]
    ways += [_resampled(label, affine, grid, size, "bilinear") >= 0.5, share >= 0.5]
    of_file, of_grid = (abs(np.linalg.det(one)) for one in (affine, grid))
    error = [float(way.sum() * of_grid / (label.sum() * of_file) - 1) for way in ways]
    return error, [float(2 * np.minimum(way, share).sum() / (way.sum() + share.sum())) for way in ways]


def _resampled(label: Mask, affine: Array, grid: Array, size: tuple[int, int, int], mode: str, parts: int = 1) -> Array:
    """A mask on the grid; of `parts` points along each edge of a voxel the mean."""
    finer = grid.copy()
    finer[:3, :3] /= parts
    finer[:3, 3] -= grid[:3, :3] @ np.full(3, (1 - 1 / parts) / 2)
    image = MetaTensor(torch.from_numpy(label[None].astype(np.float32)), affine=torch.from_numpy(affine))
    wanted: dict[str, Any] = {"dst_affine": torch.from_numpy(finer), "spatial_size": tuple(edge * parts for edge in size)}
    found = torch.as_tensor(SpatialResample(mode=mode, padding_mode="zeros")(image, **wanted))
    return np.asarray(torch.nn.functional.avg_pool3d(found[None], parts)[0, 0])


if __name__ == "__main__":
    torch.set_num_threads(1)
    with empty_home():
        latents()
        masks()
