"""OCT-like retinas: layers, fovea, vessels and small findings, scanned by four devices.

Lengths are micrometres. A retina is a function of place: where each layer begins below each point of the fundus, and what
lies in the layers. A device samples it on its own grid, with its own resolution, speckle, contrast and noise.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medexp.arrays import Array

Eye = Literal["R", "L"]

FIELD = 6000.0
"""Side of the scanned square of the fundus."""

_SPREAD = 0.6  # SD of a person's severity around the group's: neighbouring groups overlap
_LAYERS = ("NFL", "GCL+IPL", "INL", "OPL", "ONL", "IS/OS", "OS", "RPE", "choroid")
_THICKNESS = np.array([32.0, 72.0, 36.0, 26.0, 74.0, 22.0, 24.0, 22.0, 210.0])
_REFLECTIVITY = np.array([0.06, 0.72, 0.50, 0.27, 0.50, 0.19, 0.88, 0.42, 1.0, 0.52, 0.30])  # vitreous, layers, sclera
LABELS = len(_LAYERS) + 4
"""Values of a label volume: 0 vitreous, the layers from the nerve fibres to the choroid, sclera, foci, cystoid spots."""

_INNER = slice(0, 2)  # NFL and GCL+IPL: what thins
_DISPLACED = np.array([0.95, 0.92, 0.85, 0.6, -0.25, 0.0, 0.0, 0.0, 0.0])  # share of a layer that is missing in the foveola


@dataclass(frozen=True)
class Device:
    """What scans a retina.

    Attributes:
        folder: Of its files in the data set.
        manufacturer: As the manifest and the DICOM header name it.
        model: As the manifest names it.
        header: As the DICOM header names it.
        protocol: Part of the files' names.
        shape: B-scans, rows (axial), columns of a B-scan.
        axial: Height of a row.
        resolution: Standard deviation of the axial blur.
        looks: Averaged speckle patterns: the fewer, the grainier.
        gamma: Exponent of the grey scale.
        floor: Level of the additive noise.
        per_frame: Whether the DICOM header gives the spacing frame by frame.
    """

    folder: str
    manufacturer: str
    model: str
    header: str
    protocol: str
    shape: tuple[int, int, int]
    axial: float
    resolution: float
    looks: float
    gamma: float
    floor: float
    per_frame: bool = False


DEVICES = (
    Device("topcon_maestro2", "Topcon", "Maestro2", "3DOCT-1Maestro2", "3d_macula", (16, 96, 96), 10.5, 7.0, 4.0, 0.8, 0.05),
    Device("topcon_triton", "Topcon", "Triton", "Triton plus", "macula_6x6", (16, 112, 80), 9.5, 9.0, 3.0, 0.65, 0.09),
    Device("zeiss_cirrus", "Zeiss", "Cirrus", "CIRRUS HD-OCT 5000", "mac", (20, 104, 72), 9.5, 6.0, 2.5, 0.95, 0.04),
    Device(
        "heidelberg_spectralis",
        "Heidelberg",
        "Spectralis",
        "Spectralis",
        "ppol_mac",
        (12, 80, 96),
        12.0,
        5.0,
        8.0,
        0.7,
        0.03,
        True,
    ),
)
"""Sizes are those of the data set's volumes, divided by some 4 to 10; the axial field is that of the retina and no more."""


@dataclass(frozen=True)
class Retina:
    """An eye, and what was drawn for it.

    Attributes:
        severity: Of the person.
        inner: Mean thickness of NFL and GCL+IPL outside the fovea.
        foci: Hyperreflective foci in INL, OPL and ONL.
        cysts: Small dark cystoid spots in INL and ONL.
        thickness: Of each layer outside the fovea.
        density: Share of the fundus's capillary bed that is perfused, 0 to 1.
        entropy: Seed of all that is random in its texture and its findings.
        eye: R or L; the nasal side of a right eye is at large x.
    """

    severity: float
    inner: float
    foci: int
    cysts: int
    thickness: tuple[float, ...]
    density: float
    entropy: tuple[int, ...]
    eye: Eye


def severity(group: int, rng: np.random.Generator) -> float:
    """A person's severity: around that of the group, 0 to 3."""
    return float(rng.normal(group, _SPREAD))


def retina(severity: float, eye: Eye, entropy: tuple[int, ...]) -> Retina:
    """The eye of a person.

    With each unit of severity NFL and GCL+IPL thin by 6 % (between people of one severity they differ by 8 %, SD, and all
    layers together by 5 %); foci grow by 5 from 3 and cystoid spots by 2 from 0 (Poisson, times a log-normal factor of SD
    0.3; below 0 no fewer); the perfused share of the capillary bed falls by 0.09 from 0.8 (SD 0.08), and inner layers are
    darker where it is not perfused. A person's severity has SD 0.6 around the group's. Nothing else depends on it: not
    device, site, eye, brightness or place. The effects are larger than those of diabetes on people without retinopathy: the
    grid is coarse.

    Args:
        severity: Of the person.
        eye: R or L.
        entropy: Seed of the person; both eyes of a person share what is drawn of the person alone.
    """
    person, own = np.random.default_rng((*entropy, 1)), np.random.default_rng((*entropy, 2, int(eye == "L")))
    size = person.normal(1, 0.05) * person.normal(1, 0.04, len(_LAYERS)) * own.normal(1, 0.015, len(_LAYERS))
    thickness = _THICKNESS * size
    thickness[_INNER] *= max(0.5, 1 - 0.06 * severity + person.normal(0, 0.08))
    above = max(severity, 0.0)
    foci = own.poisson((3.0 + 5.0 * above) * np.exp(person.normal(0, 0.3)))
    cysts = own.poisson(2.0 * above * np.exp(person.normal(0, 0.3)))
    density = float(np.clip(0.8 - 0.09 * severity + person.normal(0, 0.08), 0.2, 0.95))
    drawn = tuple(float(value) for value in thickness)
    return Retina(severity, sum(drawn[_INNER]), int(foci), int(cysts), drawn, density, entropy, eye)


def scan(retina: Retina, device: Device, entropy: tuple[int, ...]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A volume of an eye.

    Args:
        retina: The eye.
        device: Of its grid, resolution, speckle and grey scale.
        entropy: Seed of the scan: how the head is held, the signal's strength, speckle and noise.

    Returns:
        Grey values, uint8 (B-scans, rows, columns); rows from vitreous to sclera, columns and B-scans across 6 x 6 mm. And
        what each voxel shows, below LABELS.
    """
    rng, texture = np.random.default_rng(entropy), np.random.default_rng((*retina.entropy, 3, int(retina.eye == "L")))
    frames, rows, columns = device.shape
    centre = rng.normal(0, 250, 2)  # of the fovea
    y, x = np.meshgrid(
        (np.arange(frames) + 0.5) * FIELD / frames - FIELD / 2 - centre[0],
        (np.arange(columns) + 0.5) * FIELD / columns - FIELD / 2 - centre[1],
        indexing="ij",
    )
    nasal = x if retina.eye == "R" else -x
    distance = np.hypot(x, y)
    boundaries = _boundaries(retina, nasal, distance, texture)
    slopes = rng.normal(0, 0.018, 2)  # of the head
    boundaries -= boundaries[7]  # the pit is in the retina's inner side; the pigment epithelium lies flat
    boundaries += (
        rows * device.axial * 0.62
        + rng.normal(0, 45)
        + slopes[0] * x
        + slopes[1] * y
        + (distance / 1000) ** 2 * rng.normal(2.5, 1.0)
    )

    depth = (np.arange(rows, dtype=np.float32) + 0.5)[None, :, None] * np.float32(device.axial)
    edges = boundaries[:, :, None, :].astype(np.float32)  # (layers + 1, B-scans, 1, columns)
    values = _reflectivity(retina, texture)
    signal = np.full(device.shape, values[0], np.float32)
    blur = np.float32(device.resolution)
    for edge, step in zip(edges, np.diff(values), strict=True):
        signal += np.float32(step) / (1 + np.exp(np.clip((edge - depth) / blur * np.float32(1.7), -30, 30)))
    below = np.clip(depth - edges[8], 0, None)
    signal *= np.exp(-below / 260)
    inner = (depth > edges[0]) & (depth < edges[3])
    signal = np.where(inner, signal * _capillaries(retina, x, y, texture)[:, None, :], signal)
    labels = (depth > edges).sum(axis=0, dtype=np.uint8)
    _findings(signal, labels, retina, x, y, edges, depth, texture)
    signal *= _shadows(retina, nasal, y, edges[1], depth, texture)
    return _acquired(signal, device, rng), labels


def _boundaries(retina: Retina, nasal: Array, distance: Array, rng: np.random.Generator) -> NDArray[np.float64]:
    """Depth of each layer's upper side and of the choroid's lower side, of (layers + 1, B-scans, columns)."""
    width = 420.0 * rng.normal(1, 0.1)
    pit, rim = np.exp(-0.5 * (distance / width) ** 2), np.exp(-0.5 * ((distance - 1100) / 500) ** 2)
    thickness = np.array(retina.thickness)[:, None, None] * (1 - _DISPLACED[:, None, None] * pit)
    thickness[0] *= np.clip(1 + 0.22 * nasal / 1000, 0.4, 2)  # nerve fibres lie thicker towards the disc
    thickness[1] *= 0.85 + 0.3 * rim
    return np.concatenate([np.zeros((1, *distance.shape)), np.cumsum(thickness, axis=0)])


def _reflectivity(retina: Retina, rng: np.random.Generator) -> Array:
    return (_REFLECTIVITY * rng.normal(1, 0.06, len(_REFLECTIVITY))).astype(np.float32)


def _capillaries(retina: Retina, x: Array, y: Array, rng: np.random.Generator) -> Array:
    """Fine texture of the inner retina: perfused patches are brighter and mottled (B-scans, columns)."""
    waves = rng.normal(0, 1, (12, 2)) * 2 * np.pi / 900
    phases = rng.uniform(0, 2 * np.pi, 12)
    field = sum(np.cos(a * x + b * y + p) for (a, b), p in zip(waves, phases, strict=True)) / np.sqrt(6)
    perfused = 1 / (1 + np.exp(-(np.sqrt(2) * _quantile(retina.density) + field) / 0.15))
    mottle = np.cos(x * 2 * np.pi / 260 + rng.uniform(0, 6)) * np.cos(y * 2 * np.pi / 900 + rng.uniform(0, 6))
    return (0.75 + perfused * (0.32 + 0.14 * mottle)).astype(np.float32)


def _quantile(share: float) -> float:
    """Where a normal value lies above minus this with that probability, by the logistic approximation."""
    return float(np.log(share / (1 - share)) / 1.702 / np.sqrt(2))


def _findings(
    signal: Array,
    labels: NDArray[np.uint8],
    retina: Retina,
    x: Array,
    y: Array,
    edges: Array,
    depth: Array,
    rng: np.random.Generator,
) -> None:
    """Add the foci and the cystoid spots to the signal in place."""
    spacing = depth[0, 1, 0] - depth[0, 0, 0]
    for number in range(retina.foci + retina.cysts):
        bright = number < retina.foci
        where = rng.uniform(-0.42, 0.42, 2) * FIELD
        frame, column = np.argmin(np.abs(y[:, 0] - where[0])), np.argmin(np.abs(x[0] - where[1]))
        first, last = ((2, 5) if bright else (2, 3)) if rng.random() < 0.7 else (4, 5)
        top, bottom = edges[first, frame, 0, column], edges[last, frame, 0, column]
        z = top + (bottom - top) * rng.uniform(0.2, 0.8)
        axial, lateral = (
            (rng.uniform(11, 17), rng.uniform(90, 150)) if bright else (rng.uniform(13, 22), rng.uniform(120, 240))
        )
        frames, columns = slice(max(0, frame - 2), frame + 3), slice(max(0, column - 8), column + 9)
        row = int(z / spacing)
        rows = slice(max(0, row - 8), max(0, row + 9))
        r2 = ((x[frames, columns] - where[1]) / lateral) ** 2 + ((y[frames, columns] - where[0]) / max(lateral, 190)) ** 2
        blob = np.exp(-0.5 * (r2[:, None, :] + ((depth[:, rows] - z) / axial) ** 2))
        part = signal[frames, rows, columns]
        labels[frames, rows, columns][blob > 0.5] = len(_LAYERS) + (2 if bright else 3)
        part += blob * (0.75 - part) if bright else -0.85 * blob * part


def _shadows(retina: Retina, nasal: Array, y: Array, top: Array, depth: Array, rng: np.random.Generator) -> Array:
    """Shadows of the large vessels: two arcades and some branches, below the nerve fibres."""
    attenuation = np.zeros(nasal.shape)
    for side in (-1, 1):
        for branch in range(2):
            bend = rng.uniform(1300, 2300) * side * (1 - 0.4 * branch)
            course = bend * (1 - ((nasal - 2600) / 7000) ** 2) + 150 * np.sin(
                nasal / rng.uniform(500, 900) + rng.uniform(0, 6)
            )
            attenuation += rng.uniform(0.3, 0.6) * np.exp(-0.5 * ((y - course) / rng.uniform(70, 130)) ** 2)
    below = 1 / (1 + np.exp(np.clip((top - depth) / 10, -30, 30)))
    return np.asarray(1 - np.clip(attenuation, 0, 0.8)[:, None, :].astype(np.float32) * below)


def _acquired(signal: Array, device: Device, rng: np.random.Generator) -> NDArray[np.uint8]:
    """What a device makes of it: uneven illumination, speckle, noise, and a grey scale of its own."""
    frames, _, columns = signal.shape
    uneven = ndimage.gaussian_filter(rng.normal(0, 1, (frames, 1, columns)), (3, 0, 12), mode="nearest")
    signal = signal * np.exp(0.12 * uneven / max(uneven.std(), 1e-6)).astype(np.float32)
    looks = device.looks * np.exp(rng.normal(0, 0.15))
    speckle = rng.standard_gamma(looks, signal.shape, dtype=np.float32) / np.float32(looks)
    noisy = signal * speckle + np.float32(device.floor * np.exp(rng.normal(0, 0.2))) * rng.standard_exponential(
        signal.shape, dtype=np.float32
    )
    gain, gamma = rng.uniform(0.8, 1.0), device.gamma * rng.normal(1, 0.05)
    return np.clip(255 * gain * (noisy / 1.6) ** gamma, 0, 255).astype(np.uint8)
