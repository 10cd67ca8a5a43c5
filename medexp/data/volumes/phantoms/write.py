"""Scans heads on the grids that real data brings and writes them as BraTS folders of NIfTI."""

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from threadpoolctl import threadpool_limits

from medexp.data.parallel import written_once
from medexp.data.volumes.cases import CHANNELS
from medexp.data.volumes.phantoms.head import Domain, Head, Waves

VERSION = 5
"""Part of the folder's name: raise it when what is written changes."""

FIELD_OF_VIEW = {"L": 192.0, "R": 192.0, "P": 192.0, "A": 192.0, "S": 144.0, "I": 144.0}
"""Extent in mm along the axis that a letter names."""

PATIENT_PATTERN = r"^(BraTS-[A-Za-z]+-\d+)-\d+$"
"""Of the folders' names, as `DataConfig.patient_pattern` takes it: collection and patient, then the time point."""

_COLLECTIONS = {"glioma": "BraTS-GLI", "meningioma": "BraTS-MEN"}
_DIRECTIONS = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}


@dataclass(frozen=True)
class _Scan:
    """One case folder to write."""

    folder: str
    patient: int
    time_point: int


def ensure_phantoms(domain: Domain, patients: int, seed: int, cache: Path) -> Path:
    """The folder of phantoms of a domain, written when it is not there yet.

    Cases are named as in BraTS 2023 (`BraTS-MEN-00001-000`), 4 channels int16 and labels uint8. A seed above 0 stands before
    the patient's number (`BraTS-MEN-700001-000`): patients of different seeds are different patients. Most cases are LPS with
    voxels of 3.0 x 3.0 x 4.5 mm; some lie otherwise, are oblique or have thicker slices. Every eighth patient has two time
    points, and the last patient's scan is an exact duplicate of the second's.

    Args:
        domain: glioma (BraTS-GLI) or meningioma (BraTS-MEN).
        patients: Number of patient ids, the duplicate included; at least 4.
        seed: The same domain, seed and patient give the same voxels, whatever the number of patients.
        cache: Root of the cache; the folder goes under `phantoms/`.

    Raises:
        StorageError: When the cache cannot be written.
    """
    folder = cache / "phantoms" / f"{domain}-{patients}-seed{seed}-v{VERSION}"
    calls = [(scan, domain, seed) for scan in _scans(domain, patients, seed)]
    return written_once(folder, _write, calls, f"Writing {domain} phantoms")


def _scans(domain: Domain, patients: int, seed: int) -> list[_Scan]:
    collection = f"{_COLLECTIONS[domain]}-{seed or ''}"
    scans = []
    for patient in range(1, patients):
        for time_point in range(2 if patient % 8 == 3 else 1):
            scans.append(_Scan(f"{collection}{patient:05d}-{time_point:03d}", patient, time_point))
    scans.append(_Scan(f"{collection}{patients:05d}-000", 2, 0))
    return scans


def grid(patient: int, rng: np.random.Generator) -> tuple[tuple[int, ...], NDArray[np.float64]]:
    """Shape and affine of a patient's scans; the centre of the grid is the centre of the brain, give or take 4 mm."""
    axes = "RAS" if patient % 4 == 3 else "ASL" if patient % 16 == 9 else "LPS"
    in_plane, slices = (2.5, 6.0) if patient % 5 == 0 else (3.0, 4.5)
    spacing = np.array([slices if axis in "SI" else in_plane for axis in axes])
    shape = tuple(round(FIELD_OF_VIEW[axis] / edge) for axis, edge in zip(axes, spacing, strict=True))
    directions = np.array([_DIRECTIONS[axis] for axis in axes], np.float64).T
    if patient % 7 == 4:
        directions = Rotation.from_rotvec(rng.normal(size=3) * np.deg2rad(8)).as_matrix() @ directions
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing
    affine[:3, 3] = rng.uniform(-4, 4, 3) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return shape, affine


def positions(shape: tuple[int, ...], affine: NDArray[np.float64]) -> NDArray[np.float32]:
    """Where a grid's voxels lie, in mm: (voxels, 3), the last axis the fastest."""
    indices = np.stack(np.meshgrid(*(np.arange(size) for size in shape), indexing="ij"), axis=-1).reshape(-1, 3)
    return (indices @ affine[:3, :3].T + affine[:3, 3]).astype(np.float32)


def _write(scan: _Scan, domain: Domain, seed: int, root: Path) -> None:
    entropy = (seed, list(_COLLECTIONS).index(domain), scan.patient)
    shape, affine = grid(scan.patient, np.random.default_rng((*entropy, 1)))
    points = positions(shape, affine)
    with threadpool_limits(1):  # the processes share the cores already
        clean, label, brain = Head(domain, (*entropy, 0), findings=True).scan(points, scan.time_point)
        image = acquired(clean, brain, points, np.random.default_rng((*entropy, 2, scan.time_point)))
    folder = root / scan.folder
    folder.mkdir()
    volumes = {channel: voxels.reshape(shape) for channel, voxels in zip(CHANNELS, image, strict=True)}
    for suffix, voxels in {**volumes, "seg": label.reshape(shape)}.items():
        nifti = nib.Nifti1Image(voxels, affine)
        nifti.header.set_xyzt_units("mm")
        nib.save(nifti, folder / f"{scan.folder}-{suffix}.nii.gz")


def acquired(
    clean: NDArray[np.float32], brain: NDArray[np.bool_], points: NDArray[np.float32], rng: np.random.Generator
) -> NDArray[np.int16]:
    """What a scanner makes of a head: bias field, texture, noise and an arbitrary scale; exactly 0 outside the brain.

    Args:
        clean: Intensities without artefacts, float32 (channels, N), around 0 to 1.
        brain: Where there is brain, (N,).
        points: Positions in mm, float32 (N, 3); bias field and texture are functions of them.
        rng: Draws all that is random, channel by channel.

    Returns:
        (channels, N), in no unit, 1 to 32767 in the brain.
    """
    channels = []
    for channel in clean:
        bias = np.exp(rng.uniform(0.05, 0.18) * Waves.draw(rng, 260, 6)(points))
        texture = 1 + rng.uniform(0.02, 0.05) * Waves.draw(rng, 14, 16)(points)
        noise = rng.normal(0, rng.uniform(0.01, 0.03), len(points))  # an SNR of some 20 to 60, as large voxels have
        signal = np.abs(channel * bias * texture + noise) * rng.uniform(350, 1500)
        channels.append(np.where(brain, np.clip(np.round(signal), 1, 32767), 0).astype(np.int16))
    return np.stack(channels)
