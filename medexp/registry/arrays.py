"""Arrays that users prepared themselves, held against the steps that their model's contract leaves them with.

No spacing, no orientation and no order of channels can be read from an array, so most of what can be wrong with it cannot be
seen. What can be seen is its shape, and whether its channels are z-scores.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from medexp.data.images.steps import Fit
from medexp.data.oct.steps import Resize, ToUnit
from medexp.data.preprocessing import Preprocessing
from medexp.data.volumes.steps import PadTo, ReadChannels
from medexp.errors import RegistryError
from medexp.models.kinds import Spec
from medexp.models.swin.network import DIVISOR

_AXES = {"images": ("B", "C", "H", "W"), "volumes": ("B", "C", "X", "Y", "Z"), "oct": ("B", "C", "D", "H", "W")}
_RAW = 10.0  # root mean square of a channel: at most 1 of whole cases, up to 1.4 in windows of 64^3 at 1 mm of two patients
_OFF = 0.1  # mean of a channel's nonzero voxels: below 1e-3 of whole cases, up to 0.8 in these windows
_FLAT = 0.5  # their root mean square: 1 of whole cases, above 0.6 in these windows


def demand_prepared(preprocessing: Preprocessing, spec: Spec, array: NDArray[np.float32], called: str) -> tuple[str, ...]:
    """Refuse what a contract's steps cannot have made.

    Args:
        preprocessing: Of the model's contract.
        spec: What its network takes.
        array: What was given for it, the batch first.
        called: The model, for messages.

    Returns:
        What is no fault of an array, but of no whole case either, in lines that name the model.

    Raises:
        RegistryError: In one line: another number of axes or channels, X, Y or Z that are no multiples of 32 or all 32, a
            picture of another size, NaN or infinite values, a constant array, values that are no z-scores.
    """
    subject = f"array for {called}"
    advice = "Give the files' paths instead, in a data frame with a column path, or use medexp.registry.predictor(URI)"
    problems = [*_of_shape(preprocessing, spec, array.shape)]
    if not problems:
        problems = [*_of_values(preprocessing, array)]
    if problems:
        raise RegistryError(f"{subject}: {'; '.join(problems)}. {advice}")
    return tuple(f"{subject}: {odd}. {advice}" for odd in _odd(preprocessing, array))


def _of_shape(preprocessing: Preprocessing, spec: Spec, shape: tuple[int, ...]) -> Iterator[str]:
    axes = _AXES[preprocessing.data]
    if len(shape) != len(spec.shape):
        yield f"its shape is {shape}; taken are {len(axes)} axes ({', '.join(axes)}), the batch first"
        return
    if 0 in shape:
        yield f"its shape is {shape}, an empty array"
        return
    if spec.shape[1] not in (-1, shape[1]):
        channels = preprocessing.find(ReadChannels)
        named = f" ({', '.join(channels.channels)})" if channels else ""
        yield f"its shape is {shape}, {shape[1]} channels along the second axis; taken are {spec.shape[1]}{named}"
    if fit := preprocessing.find(Fit) or preprocessing.find(Resize):
        if shape[2:] != tuple(fit.size):
            found, made = (" x ".join(map(str, sizes)) for sizes in (shape[2:], fit.size))
            yield f"cases of {found}; the contract makes {made} of each"
    elif wrong := [f"{axis} {size}" for axis, size in zip("XYZ", shape[2:], strict=True) if size % DIVISOR]:
        yield f"{', '.join(wrong)} voxels; the contract leaves multiples of {DIVISOR}"
    elif shape[2:] == (DIVISOR,) * 3:
        yield f"{DIVISOR} voxels along each axis leave one voxel to normalise over, and nothing of it; one axis must be longer"


def _of_values(preprocessing: Preprocessing, array: NDArray[np.float32]) -> Iterator[str]:
    bad = int(array.size - np.isfinite(array).sum())
    if bad:
        yield f"{bad} NaN or infinite values; the contract leaves none"
        return
    of_unit = preprocessing.find(ToUnit)
    told = {
        index: fault
        for index, case in enumerate(array, 1)
        if (fault := _not_of_unit(case) if of_unit else _no_z_scores(preprocessing, case))
    }
    if told:
        first, others = next(iter(told)), len(told) - 1
        which = f"{first} of {len(array)}: " if len(array) > 1 else ""
        left = "values from 0 to 1" if of_unit else "mean 0 and SD 1"
        yield f"{which}{told[first]}; the contract leaves {left}" + (f"; {others} more are such" if others else "")


def _no_z_scores(preprocessing: Preprocessing, case: NDArray[np.float32]) -> str | None:
    low, high = float(case.min()), float(case.max())
    if low == high:
        return f"a constant array, all {low:g}"
    if max(_root_mean_square(channel) for channel in case) > _RAW:
        return f"values of {low:g} to {high:g} are no z-scores"
    if low >= 0 and not _black_and_white(preprocessing, case):
        return f"values of {low:g} to {high:g}, none below 0, are no z-scores"
    return None


def _not_of_unit(case: NDArray[np.float32]) -> str | None:
    low, high = float(case.min()), float(case.max())
    if low == high:
        return f"a constant array, all {low:g}"
    return None if low >= 0 and high <= 1 else f"values of {low:g} to {high:g}"


def _black_and_white(preprocessing: Preprocessing, case: NDArray[np.float32]) -> bool:
    """Whether it is a picture of two values, which stays one."""
    return preprocessing.data == "images" and bool(np.isin(case, (0, 1)).all())


def _odd(preprocessing: Preprocessing, array: NDArray[np.float32]) -> Iterator[str]:
    """What windows of a case may have, and whole cases never."""
    pad = preprocessing.find(PadTo)
    if pad and any(size < least for size, least in zip(array.shape[2:], pad.size, strict=True)):
        told, least = (" x ".join(map(str, sizes)) for sizes in (array.shape[2:], pad.size))
        yield f"{told} voxels; the contract pads cases to {least} at least"
    if preprocessing.find(ToUnit):
        return
    means, spreads = [], []
    for case in array:
        if not _black_and_white(preprocessing, case):
            for channel in case:
                if len(values := channel[channel != 0]):
                    means.append(float(values.mean(dtype=np.float64)))
                    spreads.append(_root_mean_square(values))
    if (farthest := max(means, key=abs, default=0.0)) and abs(farthest) > _OFF:
        yield f"nonzero values of a channel have the mean {farthest:.2g}; a whole case that the contract's steps made has 0"
    if (flattest := min(spreads, default=1.0)) < _FLAT:
        yield f"nonzero values of a channel have the root mean square {flattest:.2g}; a whole case has 1"


def _root_mean_square(values: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))
