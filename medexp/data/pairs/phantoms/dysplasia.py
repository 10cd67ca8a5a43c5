"""Focal cortical dysplasia (FCD) as a function of position: where it is, the cortex is thicker, its border to the white matter
is blurred, and FLAIR is brighter."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medexp.arrays import Array
from medexp.data.volumes.phantoms.head import TISSUES, Waves, anatomy_at, distances, drawn_for_patient, soft

_FLAIR = 0  # among the channels of TISSUES
_LOBE = (-0.5, 0.75, 0.4)
"""The direction from the brain's centre to the left frontal lobe, in which all lesions lie, as in a study of one region."""
_SPREAD = 0.12
"""Standard deviation of a lesion's direction, some 8 mm on the brain's surface. Lesions anywhere in the brain are more than a
small adapter learns from a few dozen pairs (docs/phase7_demo.md)."""


@dataclass(frozen=True)
class Dysplasia:
    """One lesion.

    Attributes:
        centre: In mm, some way below the brain's surface (3,).
        radius: In mm.
        stretch: Of it along the axes (3,).
        irregular: What its border follows besides.
        thickened: So much thicker is the cortex at its heart, in mm.
        blurred: So much wider is the cortex's border at its heart, in mm.
        flair: Intensity of dysplastic tissue, in units of TISSUES.
        strength: Share of that contrast that it shows, 0 to 1.
    """

    centre: NDArray[np.float64]
    radius: float
    stretch: NDArray[np.float64]
    irregular: Waves
    thickened: float
    blurred: float
    flair: float
    strength: float

    @classmethod
    def draw(cls, rng: np.random.Generator, radii: NDArray[np.float64]) -> "Dysplasia":
        """Draws a lesion in a brain of these radii in mm."""
        direction = np.array(_LOBE) + rng.normal(0, _SPREAD, 3)
        radius = rng.uniform(14, 22)  # a few cells of the demo's latents; of smaller ones Dice would measure the grid
        return cls(
            centre=direction / np.linalg.norm(direction) * (radii - rng.uniform(10, 18)),
            radius=radius,
            stretch=rng.normal(1, 0.15, 3).clip(0.7, 1.4),
            irregular=Waves.draw(rng, 1.7 * radius, 10),
            thickened=rng.uniform(1, 3.5),
            blurred=rng.uniform(0.5, 2),
            flair=TISSUES["edema"][_FLAIR] * rng.normal(1, 0.06),
            strength=float(np.clip(rng.normal(0.8, 0.12), 0.4, 1)),
        )

    def extent(self, points: Array) -> Array:
        """How much of a lesion there is at points (N, 3): 0 to 1, 0.5 at its border."""
        border = self.radius * (1 + 0.1 * self.irregular(points))
        return soft(border - distances(points, self.centre, self.stretch), 1.5)


def scan(entropy: tuple[int, ...], dysplastic: bool, points: Array) -> tuple[Array, NDArray[np.bool_], NDArray[np.bool_]]:
    """A patient's head at points (N, 3).

    Args:
        entropy: Seed of the patient.
        dysplastic: Whether there is a lesion; the brain is otherwise the same with and without.
        points: float32 (N, 3), RAS+ mm from the brain's centre.

    Returns:
        FLAIR (N,), around 0 to 1, without artefacts; the lesion (N,); the brain (N,).
    """
    rng = np.random.default_rng(entropy)
    contrasts, radii = drawn_for_patient(rng)
    # Of its own random numbers, so that the rest of the brain does not depend on it.
    lesion = Dysplasia.draw(np.random.default_rng((*entropy, 1)), radii)
    extent = lesion.extent(points) if dysplastic else np.zeros(len(points), np.float32)
    anatomy = anatomy_at(points, radii, contrasts, rng, lesion.thickened * extent, lesion.blurred * extent)
    # Fluid stays dark, and so do the sulci in it; a part of the white matter's share is less bright than the cortex's.
    share = extent * lesion.strength * (1 - anatomy.fluid) * (1 - 0.25 * anatomy.white)
    flair = anatomy.tissue[_FLAIR] + share * (np.float32(lesion.flair) - anatomy.tissue[_FLAIR])
    brain = anatomy.depth > 0
    return flair.astype(np.float32), (extent > 0.5) & (anatomy.fluid < 0.5) & brain, brain
