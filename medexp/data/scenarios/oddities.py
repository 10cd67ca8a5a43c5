"""Images that are not what they say: told, and not refused, for a scenario about one may be meant."""

from pathlib import Path

import numpy as np
from PIL import Image

MASK, BLANK, TINY, HIDDEN, DEEP, DARK = "1-bit mask", "blank", "tiny", "hidden by its alpha", "16 bits", "nearly black"
FRAMES, ENDING = "several frames", "another format than its ending"
MEANING = {
    MASK: "two values and next to nothing between them: an outline that somebody drew, not what a device recorded",
    BLANK: "all pixels equal, or nearly so",
    TINY: "a side of fewer than 32 pixels",
    HIDDEN: "all of it is transparent, so that nothing of it is seen",
    DEEP: "more than 8 bits, which are scaled to 8; other programs clip what lies above 255",
    DARK: "nothing in it reaches a tenth of white, as where 12 bits lie in a file of 16: stretch it to the range of the file",
    FRAMES: "an animation, of which the first frame is seen",
    ENDING: "the name of the file says PNG and it is a JPEG, or the other way round",
}
"""What is told of an image, and what that means."""

_FEWEST = 32  # pixels a side
_ENDS = 0.05  # of the range of values: so near to one of its ends counts as that end, since JPEG spreads values
_SHARE = 0.995  # of the pixels, that are nearly equal in a blank image
_BETWEEN = 0.02  # most of the pixels of a mask that lie between its ends, and four times as many are at the rarer one
_LEAST = 0.001  # of the pixels, at the rarer end
_DARK = 25.5  # of 255 grey levels: a tenth of white
_LEVELS = 2  # of 255 grey levels: nearly equal
_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}


def odd_image(picture: Image.Image, seen: Image.Image, stored: str, path: Path) -> tuple[str, ...]:
    """What is odd about an image, of MEANING.

    Args:
        picture: As it is stored.
        seen: As 8-bit RGB (`medexp.data.pictures.in_colours`).
        stored: The format that it is stored in.
        path: Its file.
    """
    planes = [np.asarray(channel, float) for channel in seen.split()]
    plane = max(planes, key=np.ptp)
    least, most = plane.min(), plane.max()
    low, high = np.percentile(plane, [50 * (1 - _SHARE), 50 * (1 + _SHARE)])
    lower, upper = (float((gap <= _ENDS * (most - least)).mean()) for gap in (plane - least, most - plane))
    between = 1 - lower - upper
    values = len(np.unique(plane))
    found = {
        BLANK: most - least <= _LEVELS or (high - low <= _LEVELS and values > 2),
        MASK: values == 2 or (between <= _BETWEEN and min(lower, upper) >= max(_LEAST, 4 * between)),
        TINY: min(picture.size) < _FEWEST,
        HIDDEN: picture.has_transparency_data and not np.asarray(picture.convert("RGBA"))[..., 3].any(),
        DEEP: picture.mode.startswith("I"),
        DARK: most < _DARK and not (most - least <= _LEVELS),
        FRAMES: getattr(picture, "n_frames", 1) > 1,
        ENDING: _FORMATS.get(path.suffix.lower(), stored) != stored,
    }
    return tuple(name for name, holds in found.items() if holds and not (name == MASK and found[BLANK]))
