"""Drawn medical images of four modalities, each normal or with one of two findings, and where the finding lies.

A finding shows at every size and contrast that is drawn, now and then barely. Size, frame, contrast, noise and all that is
normal are drawn without regard to the finding.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medexp.arrays import Array

VERSION = 1
"""Raise it when what is drawn changes."""

FINDINGS: Mapping[str, tuple[str, str, str]] = {
    "xray": ("normal", "effusion", "mass"),
    "histopathology": ("normal", "carcinoma", "inflammation"),
    "mri": ("normal", "glioma", "haemorrhage"),
    "ultrasound": ("normal", "cyst", "mass"),
}
"""What an image of each modality shows, by modality."""

_SIDES = (96, 160)  # pixels of an edge


class Drawing(NamedTuple):
    """A drawn image.

    Attributes:
        pixels: uint8, (H, W), of histopathology (H, W, 3); edges of 96 to 159 pixels.
        place: The half of the picture that the finding lies in, `left` or `right`; empty where there is none.
    """

    pixels: NDArray[np.uint8]
    place: str


class _Canvas(NamedTuple):
    """Coordinates of each pixel, of -1 to 1 but for a small turn, stretch and shift, and what draws at random."""

    x: Array
    y: Array
    rng: np.random.Generator

    def smooth(self, scale: float) -> Array:
        """A random field of mean 0 and standard deviation 1, smooth over `scale` of the picture."""
        cells = max(2, round(2 / scale))
        coarse = self.rng.normal(size=(cells + 2, cells + 2))
        zoom = (self.x.shape[0] / len(coarse), self.x.shape[1] / len(coarse))
        return np.asarray(ndimage.zoom(coarse, zoom, order=1))[: self.x.shape[0], : self.x.shape[1]]

    def ellipse(self, x: float, y: float, width: float, height: float, soft: float = 0.05, turn: float = 0.0) -> Array:
        """1 inside, 0 outside, with a soft border."""
        across, down = self.x - x, self.y - y
        across, down = across * np.cos(turn) + down * np.sin(turn), down * np.cos(turn) - across * np.sin(turn)
        return _step(1 - np.hypot(across / width, down / height), soft / min(width, height))


def draw(modality: str, finding: str, rng: np.random.Generator) -> Drawing:
    """A drawn image.

    Args:
        modality: One of FINDINGS.
        finding: One of its findings.
        rng: Draws everything.
    """
    height, width = (int(edge) for edge in rng.integers(*_SIDES, size=2))
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    turn, grown = rng.normal(0, 0.08), rng.uniform(0.9, 1.12, 2)
    x, y = (x * np.cos(turn) + y * np.sin(turn)) / grown[0], (y * np.cos(turn) - x * np.sin(turn)) / grown[1]
    canvas = _Canvas(x + rng.normal(0, 0.05), y + rng.normal(0, 0.05), rng)
    side = int(rng.integers(2))
    picture = _DRAWN[modality](canvas, finding, 2 * side - 1)
    contrast, light = rng.uniform(0.75, 1.1), rng.normal(0, 0.04)
    grain = rng.normal(0, rng.uniform(0.01, 0.05), picture.shape)
    pixels = (((picture - 0.5) * contrast + 0.5 + light + grain).clip(0, 1) * 255).astype(np.uint8)
    return Drawing(pixels, "" if finding == "normal" else ("left", "right")[side])


def _step(distance: Array, soft: float) -> Array:
    return np.asarray((distance / soft + 0.5).clip(0, 1))


def _chest(canvas: _Canvas, finding: str, side: int) -> Array:
    x, y, rng = canvas.x, canvas.y, canvas.rng
    tall, wide, apart = rng.uniform(0.55, 0.7), rng.uniform(0.26, 0.34), rng.uniform(0.4, 0.5)
    body = 0.62 + 0.05 * canvas.smooth(0.5)
    each = {one: canvas.ellipse(one * apart, 0.02 * rng.normal(), wide, tall, 0.08) for one in (-1, 1)}
    lungs = each[-1] + each[1]
    ribs = np.cos((y + 0.35 * np.abs(x) ** 1.5) * rng.uniform(17, 24) + rng.uniform(0, 6)) ** 8
    picture = body * (1 - lungs) + (0.24 + 0.04 * canvas.smooth(0.25) + 0.1 * ribs) * lungs
    heart = canvas.ellipse(0.12 + 0.05 * rng.normal(), 0.3, rng.uniform(0.22, 0.32), rng.uniform(0.28, 0.36), 0.1)
    picture += (0.72 - picture) * np.maximum(heart, canvas.ellipse(0, 0, 0.1, 1.2, 0.06)) * 0.9
    strength = rng.uniform(0.55, 1)
    if finding == "effusion":
        level = rng.uniform(-0.05, 0.3)
        below = _step(y - level - 0.12 * np.cos((x - side * apart) / wide * 1.5), 0.08)
        picture += (0.74 - picture) * below * each[side] * strength
    if finding == "mass":
        radius = rng.uniform(0.11, 0.2)
        blob = canvas.ellipse(
            side * apart + 0.08 * rng.normal(), rng.uniform(-0.35, 0.2), radius, radius * rng.uniform(0.8, 1.2), 0.05
        )
        picture += (0.8 - picture) * blob * strength
    return picture


def _tissue(canvas: _Canvas, finding: str, side: int) -> Array:
    rng = canvas.rng
    stain = np.array([0.86, 0.62, 0.76]) + rng.normal(0, 0.03, 3)
    nucleus = np.array([0.36, 0.2, 0.5]) + rng.normal(0, 0.03, 3)
    picture = stain + 0.04 * canvas.smooth(0.3)[..., None]
    where: list[tuple[float, float, float]] = []  # x, y and radius of nuclei
    for _ in range(int(rng.integers(3, 6))):
        x, y, radius = *rng.uniform(-0.8, 0.8, 2), rng.uniform(0.14, 0.24)
        lumen = canvas.ellipse(x, y, radius, radius * rng.uniform(0.7, 1.3), 0.05)[..., None]
        picture = picture + (0.95 - picture) * lumen
        angles = np.arange(0, 2 * np.pi, 0.1 / radius) + rng.uniform(0, 1)
        where += [(x + 1.25 * radius * np.cos(a), y + 1.25 * radius * np.sin(a), 0.045) for a in angles]
    where += [(*rng.uniform(-1, 1, 2), 0.04) for _ in range(int(rng.integers(10, 25)))]
    if finding != "normal":
        centre, spread = (side * rng.uniform(0.4, 0.6), rng.uniform(-0.45, 0.45)), rng.uniform(0.2, 0.3)
        many, size = (int(rng.integers(14, 24)), 0.1) if finding == "carcinoma" else (int(rng.integers(80, 130)), 0.028)
        places = rng.normal(centre, spread, (many, 2))
        where += [(x, y, size * rng.uniform(0.8, 1.3)) for x, y in places]
    dark = np.zeros_like(canvas.x)
    for x, y, radius in where:
        one = canvas.ellipse(x, y, radius * rng.uniform(0.8, 1.3), radius, 0.03, rng.uniform(0, 3))
        np.maximum(dark, one * rng.uniform(0.7, 1), out=dark)
    return np.asarray(picture + (nucleus - picture) * dark[..., None])


def _brain(canvas: _Canvas, finding: str, side: int) -> Array:
    rng = canvas.rng
    wide, tall = rng.uniform(0.68, 0.78), rng.uniform(0.8, 0.92)
    inside = canvas.ellipse(0, 0, wide, tall, 0.05)
    skull = canvas.ellipse(0, 0, wide + 0.14, tall + 0.12, 0.05) - canvas.ellipse(0, 0, wide + 0.06, tall + 0.05, 0.05)
    white = canvas.ellipse(0, 0, wide * 0.78, tall * 0.8, 0.2) * 0.12
    picture = 0.06 + (0.38 + white + 0.06 * canvas.smooth(0.16)) * inside + rng.uniform(0.4, 0.6) * skull.clip(0)
    size = rng.uniform(0.75, 1.3)
    for one in (-1, 1):
        ventricle = canvas.ellipse(one * 0.13, -0.05, 0.07 * size, 0.26 * size, 0.05, one * 0.25)
        picture += (0.12 - picture) * ventricle
    strength = rng.uniform(0.55, 1)
    if finding != "normal":
        x, y, radius = side * rng.uniform(0.3, 0.45), rng.uniform(-0.4, 0.4), rng.uniform(0.17, 0.26)
        shape = (radius, radius * rng.uniform(0.75, 1.25), 0.06, rng.uniform(0, 3))
        lesion = canvas.ellipse(x, y, *shape)
        if finding == "glioma":
            core = canvas.ellipse(x, y, shape[0] * 0.6, shape[1] * 0.6, 0.06, shape[3])
            picture += (0.85 - picture) * lesion * strength
            picture += (0.1 - picture) * core * strength
        else:
            picture += (0.95 - picture) * lesion * strength
    return picture


def _breast(canvas: _Canvas, finding: str, side: int) -> Array:
    x, y, rng = canvas.x, canvas.y, canvas.rng
    layers = 0.08 * np.sin(y * rng.uniform(8, 14) + canvas.smooth(0.4) * 0.8 + rng.uniform(0, 6))
    picture = 0.5 + layers - 0.12 * y + 0.06 * canvas.smooth(0.2)
    skin = rng.uniform(-0.9, -0.75)
    picture += (0.85 - picture) * _step(skin - y + 0.04 * np.cos(2 * x), 0.06)
    strength = rng.uniform(0.6, 1)
    if finding != "normal":
        at, depth, radius = side * rng.uniform(0.35, 0.5), rng.uniform(-0.35, 0.15), rng.uniform(0.2, 0.3)
        under = _step(radius * 0.9 - np.abs(x - at), 0.08) * _step(y - depth, 0.1)
        if finding == "cyst":
            lesion = canvas.ellipse(at, depth, radius, radius * rng.uniform(0.6, 0.9), 0.04)
            picture += (0.88 - picture) * under * 0.7 * strength
            picture += (0.04 - picture) * lesion * strength
        else:
            ragged = 1 + 0.25 * np.cos(np.arctan2(y - depth, x - at) * rng.integers(4, 8) + rng.uniform(0, 6))
            away = np.hypot(x - at, (y - depth) / rng.uniform(0.8, 1.1)) / (radius * ragged)
            picture += (0.1 - picture) * under * 0.8 * strength
            picture += (0.3 - picture) * _step(1 - away, 0.4) * strength
    return np.asarray(picture * rng.gamma(12, 1 / 12, x.shape))


_DRAWN: Mapping[str, Callable[[_Canvas, str, int], Array]] = {
    "xray": _chest,
    "histopathology": _tissue,
    "mri": _brain,
    "ultrasound": _breast,
}
