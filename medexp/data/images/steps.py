"""The steps between a picture's file and what a 2D network takes (`medexp.data.images.transforms` executes them)."""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

_STRICT = ConfigDict(extra="forbid")
_Edge = Annotated[int, Field(gt=0)]


@dataclass(frozen=True, config=_STRICT)
class ReadGrey:
    """A JPEG, PNG or npz file as one grey channel: pictures in 0 to 255, whatever their mode, turned as their EXIF data says.

    `medexp.data.images.kaggle.read_kaggle`.
    """

    NAME: ClassVar[str] = "read_grey"
    VERSION: ClassVar[int] = 1


@dataclass(frozen=True, config=_STRICT)
class ZeroDarkest:
    """The darkest value becomes 0, and so does a pixel of a value that no tissue has, such as a marker that was burnt in.

    Padding of any value, and the 0 of an image that was z-scored over the brain, come to lie below the tissue before
    (`medexp.data.images.background`).
    """

    NAME: ClassVar[str] = "zero_darkest"
    VERSION: ClassVar[int] = 1


@dataclass(frozen=True, config=_STRICT)
class Fit:
    """Centred in zeros that give it the proportions of a size, then resized to it: bilinear with antialiasing, masks by
    nearest pixel.

    Attributes:
        size: Height and width, in pixels.
    """

    NAME: ClassVar[str] = "fit"
    VERSION: ClassVar[int] = 1
    size: tuple[_Edge, _Edge]


@dataclass(frozen=True, config=_STRICT)
class ZScoreForeground:
    """Mean 0 and standard deviation 1 over the foreground; background becomes 0. One that is black and white stays so.

    Attributes:
        above: Foreground is what is brighter than this share of the maximum, 0 to 1.
    """

    NAME: ClassVar[str] = "z_score_foreground"
    VERSION: ClassVar[int] = 1
    above: Annotated[float, Field(ge=0, lt=1)]


ImageStep = ReadGrey | ZeroDarkest | Fit | ZScoreForeground
STEPS: Sequence[type[Any]] = ImageStep.__args__
"""All that there are, of every version."""
