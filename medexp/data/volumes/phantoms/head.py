"""A brain and its tumour as functions of position, so that one patient can be scanned on any grid.

Positions are RAS+ millimetres from the brain's centre. Boundaries are soft over about a voxel, as partial volume makes them.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from medexp.arrays import Array

Domain = Literal["glioma", "meningioma"]

# Intensity of a tissue in t2f, t1c, t1n, t2w; white matter in T1 is about 0.65. Relative contrasts are those of clinical MRI.
TISSUES = {
    "white": (0.48, 0.66, 0.65, 0.40),
    "grey": (0.62, 0.50, 0.46, 0.58),
    "fluid": (0.12, 0.20, 0.18, 1.00),
    "vessel": (0.35, 1.05, 0.40, 0.30),
    "lesion": (0.80, 0.56, 0.54, 0.62),  # white-matter hyperintensities of age: bright on FLAIR, no tumour
    "core": (0.45, 0.34, 0.32, 0.88),
    "edema": (0.92, 0.46, 0.44, 0.82),
    "enhancing": (0.70, 1.05, 0.46, 0.64),
}


@dataclass(frozen=True)
class Waves:
    """A smooth random field of unit variance: a sum of plane waves of one wavelength in random directions.

    Args:
        vectors: Wave vectors in radians a mm, float32 (waves, 3).
        phases: In radians, float32 (waves,).
    """

    vectors: Array
    phases: Array

    @classmethod
    def draw(cls, rng: np.random.Generator, wavelength: float, count: int) -> "Waves":
        """Draws `count` waves of about `wavelength` mm."""
        directions = rng.normal(size=(count, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        vectors = directions * (2 * np.pi / (wavelength * rng.uniform(0.75, 1.35, (count, 1))))
        return cls(vectors.astype(np.float32), rng.uniform(0, 2 * np.pi, count).astype(np.float32))

    def __call__(self, points: Array) -> Array:
        """The field at points (N, 3) in mm: float32 (N,)."""
        return np.cos(points @ self.vectors.T + self.phases).sum(axis=1) * np.float32(np.sqrt(2 / len(self.phases)))


@dataclass(frozen=True)
class Anatomy:
    """The brain at some points. All arrays are (N,).

    Args:
        depth: Distance below the brain's surface in mm, negative outside; approximate.
        tissue: Intensity of the healthy brain per channel, float32 (4, N).
        fluid: Share of fluid, 0 to 1.
        white: Share of white matter, 0 to 1.
    """

    depth: Array
    tissue: Array
    fluid: Array
    white: Array


@dataclass(frozen=True)
class Head:
    """One patient: draws everything that differs between patients, and answers for any points.

    Args:
        domain: Which tumour; None for a patient without one, whose brain is that of the same entropy with a tumour.
        entropy: Seed of the patient.
        findings: Whether a patient with a tumour may also have what looks like a part of one and is none, in the other
            hemisphere: an old scar, as bright as edema but around no mass; and what enhances in the wrong place, a vessel's
            malformation deep in the brain beside a meningioma, a small dural growth beside a glioma. A voxel and its
            neighbours do not tell them from tumour: the mass that edema surrounds, the surface and the size of the whole do.
    """

    domain: Domain | None
    entropy: tuple[int, ...]
    findings: bool = False

    def scan(self, points: Array, time_point: int) -> tuple[Array, NDArray[np.uint8], NDArray[np.bool_]]:
        """The head at points (N, 3).

        Args:
            points: float32 (N, 3) in mm.
            time_point: 0 for the first scan; the tumour grows with it.

        Returns:
            Intensities (4, N) around 0 to 1 without artefacts, labels (N,) of 0 to 3, and the brain mask (N,).
        """
        rng = np.random.default_rng(self.entropy)
        contrasts, radii = drawn_for_patient(rng)
        anatomy = anatomy_at(points, radii, contrasts, rng)
        grown = 1 + 0.18 * time_point
        tumours = {"glioma": _glioma, "meningioma": _meningioma}
        centre, shares = tumours[self.domain](points, anatomy, radii, grown, rng) if self.domain else (None, {})
        drawn = list(shares.items())
        if self.findings and self.domain and centre is not None:
            # Of their own random numbers, so that anatomy and labels are the same with and without; under the tumour.
            others = np.random.default_rng((*self.entropy, 1))
            drawn = [*_findings(self.domain, centre, points, anatomy, radii, others), *drawn]
        image = anatomy.tissue
        for name, share in drawn:
            # A part of every tumour's contrast against the tissue under it is missing, in each modality by itself.
            strength = np.minimum(1, rng.normal(0.8, 0.15, 4))[:, None].clip(0.35)
            image = image + (share * strength) * (contrasts[name][:, None] - image)
        label = np.zeros(len(points), np.uint8)
        for name, value in (("edema", 2), ("enhancing", 3), ("core", 1)):
            if name in shares:
                label[shares[name] > 0.5] = value
        brain = anatomy.depth > 0
        label[~brain] = 0
        return image.astype(np.float32), label, brain


def drawn_for_patient(rng: np.random.Generator) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.float64]]:
    """What a patient's random numbers begin with: intensities of the tissues, (4,) each, and the brain's radii in mm, (3,)."""
    contrasts = {name: np.array(values) * rng.normal(1, 0.06, 4) for name, values in TISSUES.items()}
    return contrasts, np.array([68.0, 86.0, 60.0]) * rng.normal(1, 0.035, 3)


def soft(distance: Array, width: float | Array = 1.2) -> Array:
    """Share of the inside at a signed distance in mm (positive inside); the border's width is in mm too."""
    return expit(distance / np.asarray(width, np.float32))


def ellipsoid(points: Array, centre: NDArray[np.float64], radii: NDArray[np.float64]) -> Array:
    """About the distance below the surface of an ellipsoid, in mm; negative outside."""
    scaled = (points - centre.astype(np.float32)) / radii.astype(np.float32)
    return (1 - np.linalg.norm(scaled, axis=1)) * np.float32(np.cbrt(radii.prod()))


def anatomy_at(
    points: Array,
    radii: NDArray[np.float64],
    contrasts: dict[str, NDArray[np.float64]],
    rng: np.random.Generator,
    thickened: float | Array = 0.0,
    blurred: float | Array = 0.0,
) -> Anatomy:
    """The brain at points (N, 3).

    Args:
        points: In mm.
        radii: Of the brain, in mm.
        contrasts: Intensities of the tissues, (4,) each.
        rng: Draws what differs between patients.
        thickened: So much thicker than elsewhere is the cortex, in mm; one number or one a point.
        blurred: So much wider than elsewhere is its border to the white matter, in mm.
    """
    x, y, z = np.abs(points[:, 0]), points[:, 1], points[:, 2]
    depth = ellipsoid(points, np.zeros(3), radii) + 1.5 * Waves.draw(rng, 45, 12)(points)
    depth = np.minimum(depth, z + np.float32(radii[2] * 0.72))  # the base of the skull is flat
    # Sulci are sheets, the zero level of a random field, down to some 16 mm; the cortex lines them and the surface.
    sheet = 5.5 * np.abs(Waves.draw(rng, 38, 24)(points))
    sulci = 0.85 * soft(1.1 - sheet, 0.6) * soft(rng.uniform(11, 17) - depth, 2.0)
    cortex = soft(4.2 + thickened - np.minimum(depth, sheet + 4 * np.maximum(depth - 14, 0)), 1.2 + blurred)
    fissure = soft(1.8 - x) * soft(30 - depth, 2.0) * soft(z - 5, 2.0)
    size = rng.uniform(0.75, 1.35)
    bent = np.stack([x - 0.18 * np.abs(y), y, z - 0.004 * y * y], axis=1).astype(np.float32)
    ventricles = soft(ellipsoid(bent, np.array([8.0, -4.0, 8.0]), np.array([6.0, 33.0, 9.0]) * size))
    third = soft(ellipsoid(np.stack([x, y, z], axis=1), np.array([0.0, -2.0, -6.0]), np.array([3.0, 12.0, 10.0]) * size))
    fluid = 1 - (1 - sulci) * (1 - fissure) * (1 - ventricles) * (1 - third)
    mirrored = np.stack([x, y, z], axis=1)
    nuclei = np.maximum(
        soft(ellipsoid(mirrored, np.array([14.0, -14.0, -2.0]), np.array([9.0, 14.0, 9.0])), 1.5),
        soft(ellipsoid(mirrored, np.array([24.0, 6.0, -2.0]), np.array([7.0, 16.0, 10.0])), 1.5),
    )
    grey = np.maximum(cortex, nuclei)
    sinus = soft(ellipsoid(np.stack([x, y * 0, z * 0], axis=1), np.zeros(3), np.array([3.5, 3.5, 3.5])), 0.8)
    vessel = 0.8 * sinus * soft(4.5 - depth) * soft(z - 12, 2.0)
    vessel = np.maximum(vessel, 0.45 * soft(6 * (Waves.draw(rng, 30, 10)(points) - 1.7)) * soft(12 - depth))
    aged = rng.uniform(0, 1) * soft(5 * (Waves.draw(rng, 16, 16)(points) - 1.5)) * (1 - grey) * soft(depth - 14, 2.0)
    tissue = np.broadcast_to(contrasts["white"][:, None], (4, len(points)))
    for name, share in (("grey", grey), ("lesion", aged), ("fluid", fluid), ("vessel", vessel)):
        tissue = tissue + share * (contrasts[name][:, None] - tissue)
    return Anatomy(depth.astype(np.float32), tissue.astype(np.float32), fluid, (1 - grey) * (1 - fluid))


def distances(points: Array, centre: NDArray[np.float64], stretch: NDArray[np.float64]) -> Array:
    """Distance from a centre in mm, in a space stretched along the axes."""
    return np.linalg.norm((points - centre.astype(np.float32)) / stretch.astype(np.float32), axis=1)


def _glioma(
    points: Array, anatomy: Anatomy, radii: NDArray[np.float64], grown: float, rng: np.random.Generator
) -> tuple[NDArray[np.float64], dict[str, Array]]:
    """Intra-axial: a necrotic core in an irregular enhancing rim, in edema that spreads through white matter."""
    radius = rng.uniform(9, 22) * grown
    direction = rng.normal(size=3) * (1.0, 1.0, 0.7)
    direction /= np.linalg.norm(direction)
    centre = direction * (radii * rng.uniform(0.3, 0.55)) + (0, 0, 4)
    centre[0] += np.copysign(8, centre[0])
    distance = distances(points, centre, rng.normal(1, 0.14, 3).clip(0.7, 1.4))
    distance = distance + 0.14 * radius * Waves.draw(rng, 1.6 * radius, 10)(points)
    necrosis = radius * rng.uniform(0.35, 0.8) if rng.random() < 0.85 else 0.0
    necrotic = soft(necrosis - distance + 0.12 * radius * Waves.draw(rng, radius, 10)(points))
    spread = rng.uniform(7, 20)
    reach = radius + spread * (0.85 + 0.45 * Waves.draw(rng, 32, 14)(points)) - 0.5 * spread * (1 - anatomy.white)
    inside = soft(radius - distance)
    shares = {
        "edema": soft(reach - distance, 2.0) * (1 - 0.8 * anatomy.fluid),
        "enhancing": inside,
        "core": necrotic * inside,
    }
    return centre, shares


def _meningioma(
    points: Array, anatomy: Anatomy, radii: NDArray[np.float64], grown: float, rng: np.random.Generator
) -> tuple[NDArray[np.float64], dict[str, Array]]:
    """Extra-axial: broad-based on the brain's surface, evenly enhancing, in some with a little edema or a part that does not
    enhance; a thin cleft of fluid lies between it and the brain."""
    # From some 150 voxels of the demo's grid on: of smaller ones Dice would measure the grid.
    radius = rng.uniform(11, 23) * grown
    direction = rng.normal(size=3) + (0, 0, 0.6)
    direction[2] = max(direction[2], -0.25)
    direction /= np.linalg.norm(direction)
    centre = direction * (radii - radius * rng.uniform(0.35, 0.75))
    distance = distances(points, centre, rng.normal(1, 0.1, 3).clip(0.75, 1.3))
    distance = distance + 0.06 * radius * Waves.draw(rng, 1.8 * radius, 8)(points)
    inside = soft(radius - distance)
    swollen = rng.uniform(3, 11) if rng.random() < 0.5 else -6.0
    reach = radius + swollen * (0.8 + 0.45 * Waves.draw(rng, 26, 12)(points))
    edema = soft(reach - distance, 1.5) * (1 - 0.8 * anatomy.fluid) * soft(anatomy.depth - 3) if swollen > 0 else 0 * distance
    dead = radius * rng.uniform(0.3, 0.55) if rng.random() < 0.35 else -6.0
    shift = rng.normal(0, 0.25, 3) * radius
    core = soft(dead - distances(points, centre + shift, np.ones(3)) + 0.1 * radius * Waves.draw(rng, radius, 8)(points))
    cleft = 0.7 * soft(radius + 1.8 - distance, 0.8) * rng.uniform(0.2, 1)
    return centre, {"edema": edema, "fluid": cleft, "enhancing": inside, "core": core * inside}


def _findings(
    domain: Domain,
    tumour: NDArray[np.float64],
    points: Array,
    anatomy: Anatomy,
    radii: NDArray[np.float64],
    rng: np.random.Generator,
) -> list[tuple[str, Array]]:
    """Shares of what looks like tumour and is none, on the other side than the tumour; each in half the patients."""
    other_side = -np.copysign(1.0, tumour[0])
    found = []
    if rng.random() < 0.5:
        centre = radii * rng.uniform((0.35, -0.5, 0.0), (0.55, 0.5, 0.4)) * (other_side, 1, 1)
        distance = distances(points, centre, rng.normal(1, 0.2, 3).clip(0.7, 1.4))
        edge = rng.uniform(10, 18) * (0.85 + 0.35 * Waves.draw(rng, 28, 14)(points))
        # As edema it spreads through white matter and leaves out fluid.
        found.append(("edema", soft(edge - 5 * (1 - anatomy.white) - distance, 2.0) * (1 - 0.8 * anatomy.fluid)))
    if rng.random() < 0.5:
        radius = rng.uniform(6, 11)
        direction = np.abs(rng.normal(size=3)) * (1, 1, 0.7)
        direction *= (other_side, rng.choice((-1, 1)), 1)
        direction /= np.linalg.norm(direction)
        place = radii - 0.5 * radius if domain == "glioma" else radii * rng.uniform(0.3, 0.55)
        centre = direction * place
        centre[0] += other_side * max(0.0, 12 - abs(centre[0]))  # of this side alone
        distance = distances(points, centre, rng.normal(1, 0.12, 3).clip(0.75, 1.3))
        found.append(("enhancing", soft(radius - distance + 0.08 * radius * Waves.draw(rng, 1.6 * radius, 8)(points))))
    return found
