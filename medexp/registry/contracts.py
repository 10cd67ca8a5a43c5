"""What a package's contract says of its input, read as the steps that make it; and what its outputs mean.

Registration asks for the latter and imports no transforms for it: these bring MONAI's along, which takes seconds.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medexp.data.preprocessing import Preprocessing, read_preprocessing
from medexp.data.volumes.cases import CHANNELS
from medexp.data.volumes.regions import REGIONS
from medexp.data.volumes.steps import PadTo, PadToMultiple, SlidingWindow
from medexp.errors import RegistryError, all_problems
from medexp.models.kinds import ONLY, kind_of
from medexp.registry.packages import network_of, read_json

PATH = "path"
"""Name of the input of a served model that takes one array, or that can read files, and of the column with their paths."""
OUTPUT, FEATURES = "output", "features"
"""Its parameters: the folder that masks are written to, and the kind of features that is wanted; both of paths alone."""
VELOCITY = "velocity"
"""What the output of a network means that draws samples."""

_OVERLAP = 0.5  # of windows, where a package says no other
_PAINTED = {"WT": 2, "TC": 1, "ET": 3}  # as of BraTS 2023


def preprocessing_of(folder: Path, called: str) -> Preprocessing:
    """What must be done to a file before the network of a package sees it.

    Args:
        folder: The package.
        called: What it is, for messages.

    Raises:
        RegistryError: It asks for something that this version of medexp does not do; all problems at once.
    """
    from medexp.models.swin.network import DIVISOR

    contract, where = read_json(folder, "contract.json"), f"contract.json of {called}"
    if "preprocessing" in contract:
        return read_preprocessing(contract["preprocessing"], where)
    done = _from_words(contract.get("input", {}), where)
    if done.data == "images":
        return done
    if not any(meaning["what"] == "regions" for meaning in outputs_said(contract).values()):
        return done.then(PadToMultiple(DIVISOR))
    overlap = read_json(folder, "evaluation.json").get("overlap", _OVERLAP)
    return done.then(SlidingWindow(done.get(PadTo).size, overlap, "gaussian"))


def _from_words(words: Mapping[str, Any], where: str) -> Preprocessing:
    """Of a package that was written before contracts held steps: its words have one meaning each."""
    from medexp.data.images import transforms as images
    from medexp.data.volumes import transforms as volumes

    shape: list[int] = words.get("example_shape") or []
    of_images = len(words.get("shape", ())) == 4
    made = images.INPUT if of_images else volumes.INPUT | {"channels": words.get("channels", ())}
    problems = [
        f"input.{key} is {words.get(key)!r}; {value!r} can be made" for key, value in made.items() if words.get(key) != value
    ]
    problems += [
        f"input.{key} is missing" for key in ("example_shape", *(() if of_images else ("spacing_mm",))) if not words.get(key)
    ]
    channels = tuple(words.get("channels", ()))
    if not of_images and sorted(channels) != sorted(CHANNELS):
        problems.append(f"input.channels are {', '.join(channels) or 'missing'}; {', '.join(CHANNELS)} can be read")
    if problems:
        raise RegistryError(all_problems(where, problems, "Give a model of such images or volumes."))
    if of_images:
        return images.preprocessing((shape[-2], shape[-1]))
    return volumes.preprocessing(tuple(words["spacing_mm"]), (shape[-3], shape[-2], shape[-1]), channels)


def outputs_said(contract: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """By name of a network's outputs, what they mean: `what` is regions, mask, classes, answers,
    features or velocity.

    Of a package that was written before contracts said it, it follows from the shapes that its kind declares and from the
    words for what comes out.
    """
    if "outputs" in contract:
        return dict(contract["outputs"])
    architecture, words = network_of(contract), str(contract.get("output", ""))
    names = [name.strip() for name in words.rpartition("): ")[2].split(",")]
    vector = (
        {"what": "classes", "classes": names, "calibration": "none that the package tells of"}
        if "classes" in architecture
        else {"what": "features"}
    )
    spatial: dict[int, Mapping[str, Any]] = {  # by the number of axes
        4: {"what": "mask"},
        5: {"what": "regions", "regions": list(REGIONS), "painted": _PAINTED},
    }
    declared = kind_of(architecture).outputs(architecture)
    return {name: spatial.get(len(spec.shape), vector) for name, spec in declared.items()}


def draws(contract: Mapping[str, Any]) -> bool:
    """Whether a model draws samples from noise, so that no file goes in: its contract's steps made what it was trained on."""
    return any(one["what"] == VELOCITY for one in outputs_said(contract).values())


def takes_paths(contract: Mapping[str, Any]) -> bool:
    """Whether a served model takes files by their paths: what is done to them is known.

    One that takes a single array always does; one with several inputs takes them by name where its contract has no steps, and
    one that draws samples always."""
    architecture = network_of(contract)
    return not draws(contract) and ("preprocessing" in contract or ONLY in kind_of(architecture).inputs(architecture))


def parameters_of(contract: Mapping[str, Any]) -> tuple[str, ...]:
    """The parameters that a served model takes beside its input."""
    masks = any(one["what"] in ("regions", "mask") for one in outputs_said(contract).values())
    pooled = kind_of(network_of(contract)).pooled
    return (*((OUTPUT,) if masks else ()), *((FEATURES,) if pooled else ()))
