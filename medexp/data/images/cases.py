"""An image on disk."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class LabelledImage:
    """One 2D image: where its file is.

    Args:
        id: Unique over all sources.
        source: brats (a slice of a volume) or kaggle (a picture in a folder of its class).
        patient: Images of one patient stay in one split; the id of a picture of which nothing is known.
        scan: The case that a slice was cut from; the id of an image that is no slice.
        path: Its file.
        label: 1 with a tumour, 0 without; None where it follows from the mask.
    """

    id: str
    source: Literal["brats", "kaggle"]
    patient: str
    scan: str
    path: Path
    label: int | None

    @property
    def images(self) -> tuple[Path, ...]:
        """Its file, as the images of a volume's case."""
        return (self.path,)
