"""A registered model on new files: the contract of its package executed, and what its network says put into a user's terms."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medexp.arrays import Array
from medexp.data import seen
from medexp.data.headers import of_volume
from medexp.data.images import inputs as pictures
from medexp.data.images import transforms as images
from medexp.data.images.kaggle import read_kaggle
from medexp.data.inputs import Inputs
from medexp.data.preprocessing import Preprocessing
from medexp.data.volumes import inputs as volume_inputs
from medexp.data.volumes import transforms as volumes
from medexp.data.volumes.brats import read_case
from medexp.data.volumes.cases import CHANNELS, Case
from medexp.data.volumes.facts import fields_of
from medexp.data.volumes.steps import ReadChannels, SlidingWindow
from medexp.errors import DataError, RegistryError
from medexp.evaluation.batches import demand_finite
from medexp.evaluation.segmentation import mask_on_own_grid, sliding_window
from medexp.models.kinds import ONLY, outputs_of
from medexp.registry.contracts import outputs_said, preprocessing_of
from medexp.registry.loading import load_verified
from medexp.registry.packages import MANIFEST, SEEN, network_of, read_json
from medexp.registry.store import Pulled, pin, pull


@dataclass(frozen=True)
class Ready:
    """A case as the network takes it, and what it takes to bring answers back to its files.

    Attributes:
        case: The case.
        image: (C, X, Y, Z) or (1, H, W), float32.
        affine: From the image's voxels to RAS+ mm; None for a picture.
        shape: Of the files' grid.
        own: From the files' voxels to RAS+ mm; None for a picture.
        outside: What of it lies outside what the model saw, a sentence each.
    """

    case: Any
    image: Tensor
    affine: Tensor | None
    shape: tuple[int, ...]
    own: NDArray[np.float64] | None
    outside: tuple[str, ...]


@dataclass(frozen=True)
class Prediction:
    """What a model says of a case.

    Attributes:
        case: Its id.
        mask: Of a segmenter, in the values of the segmentations that it was trained on: a nibabel image on the grid and affine
            of the case's files; of a picture uint8 (H, W), 1 where there is tumour.
        logits: Of a segmenter of volumes, on the network's grid (regions, X, Y, Z), float32, before they become a mask.
        probabilities: Of a classifier, by class.
        features: Of an encoder (D,), float32.
        outside: What of the case lies outside what the model saw, a sentence each.
    """

    case: str
    mask: Any = None
    logits: Tensor | None = None
    probabilities: Mapping[str, float] | None = None
    features: Array | None = None
    outside: tuple[str, ...] = ()


@dataclass(frozen=True)
class Predictor:
    """A registered model that takes files. Called with a path, it says what the model says of the one case there.

    Attributes:
        called: Name and version.
        digest: Of its package.
        folder: Its package.
        net: Its network, in eval mode, on the device.
        architecture: Of the network.
        preprocessing: What is done to a file first.
        outputs: By name of the network's outputs, what they mean.
        device: Where it computes.
    """

    called: str
    digest: str
    folder: Path
    net: nn.Module
    architecture: Mapping[str, Any]
    preprocessing: Preprocessing
    outputs: Mapping[str, Mapping[str, Any]]
    device: torch.device

    def __call__(self, path: str | Path) -> Prediction:
        """What the model says of a case.

        Args:
            path: A case's folder or a 4D NIfTI file, or a picture, as the model takes them.

        Raises:
            DataError: There are no files of a case, or of several cases.
        """
        found = self.find(path)
        if found.problems:
            raise DataError("\n".join(found.problems.values()))
        if len(found.cases) != 1:
            raise DataError(
                f"{path}: holds {len(found.cases)} cases, one is wanted. For all of them: medexp predict MODEL {path}"
            )
        return self.answer(self.ready(found.cases[0]))

    def find(self, path: str | Path, patient: Callable[[str], str] = str) -> Inputs:
        """The cases that a path names, of the kind that the model takes.

        Args:
            path: One case, a folder of cases, or a table (`medexp.data.volumes.inputs`, `medexp.data.images.inputs`).
            patient: From a case's id to its patient.
        """
        place = Path(path).expanduser()
        if self.preprocessing.data == "images":
            return pictures.find_inputs(place, patient)
        return volume_inputs.find_inputs(place, self.preprocessing.get(ReadChannels), patient)

    def ready(self, case: Any) -> Ready:
        """A case as the network takes it: read, checked, and all steps of the contract executed.

        Raises:
            DataError: It cannot be read, or is none that the network can take.
        """
        known = read_json(self.folder, SEEN) if (self.folder / SEEN).is_file() else {}
        if self.preprocessing.data == "images":
            read = read_kaggle(case.path)
            image = images.execute(self.preprocessing.steps, read.image)
            return Ready(case, image, None, read.image.shape, None, tuple(seen.outside(read.header, known)))
        assert isinstance(case, Case)
        volume = read_case(replace(case, label=None), {})
        shape = volume.image.shape[1:]
        if min(shape) < 2:
            told = f"a volume of one slice, {' x '.join(map(str, shape))} voxels"
            raise DataError(f"case {case.id}: {told}; {self.called} takes whole volumes")
        done, channels = volumes.execute(self.preprocessing.steps, volume), self.preprocessing.get(ReadChannels).channels
        found: Sequence[str] = ()
        if known and channels == CHANNELS and "grounds" in done:
            header = of_volume(dict(zip(channels if len(case.images) > 1 else ("images",), case.images, strict=True)))
            found = seen.outside(fields_of(header, volume.image, done["grounds"]), known)
        image = done["image"]
        return Ready(case, image.as_tensor().float(), image.affine, shape, volume.affine, tuple(found))

    @torch.inference_mode()
    def answer(self, ready: Ready) -> Prediction:
        """What the network says of a case, put into the terms of its files.

        Raises:
            TrainingDiverged: NaN or infinity, which would pass for an answer.
        """
        image = ready.image[None].to(self.device)
        said: dict[str, Any] = {}
        if window := self.preprocessing.find(SlidingWindow):
            run = sliding_window(self.net, window.size, window.overlap, blending=window.blending)
            given = {ONLY: run(image)}
        else:
            given = outputs_of(self.net, self.architecture, {ONLY: image})
        for name, output in given.items():
            demand_finite(output, [ready.case.id])
            said |= self._in_terms(self.outputs[name], output[0].float().cpu(), ready)
        return Prediction(ready.case.id, outside=ready.outside, **said)

    def _in_terms(self, meaning: Mapping[str, Any], output: Tensor, ready: Ready) -> dict[str, Any]:
        match meaning["what"]:
            case "regions":
                assert ready.own is not None
                assert ready.affine is not None
                mask = mask_on_own_grid(output, ready.affine, ready.shape, ready.own, meaning["painted"])
                return {"mask": as_nifti(mask, ready.own, self.called), "logits": output}
            case "mask":
                own = images.onto_own_pixels(output, (ready.shape[0], ready.shape[1]))
                return {"mask": (own[0] > 0).numpy().astype(np.uint8)}
            case "classes":
                return {"probabilities": dict(zip(meaning["classes"], output.softmax(0).tolist(), strict=True))}
            case "features":
                return {"features": output.numpy()}
            case unknown:
                raise RegistryError(f"contract.json of {self.called}: an output is {unknown!r}, which medexp does not know")


def as_nifti(mask: NDArray[np.uint8], affine: NDArray[np.float64], called: str) -> Any:
    """A mask as a NIfTI image that says which model it is of.

    Args:
        mask: (X, Y, Z).
        affine: From its voxels to RAS+ mm.
        called: The model.
    """
    image = nib.Nifti1Image(mask, affine)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = f"medexp {called}".encode()[:79]
    return image


def predictor(uri: str, device: str = "auto") -> Predictor:
    """`medexp.registry.predictor`."""
    pulled = pull(uri)
    pin(pulled)
    return of_pulled(pulled, device)


def of_pulled(pulled: Pulled, device: str = "auto") -> Predictor:
    """A model that was pulled, and verified with that."""
    return from_package(pulled.folder, f"{pulled.name} version {pulled.version}", device)


def from_package(folder: Path, called: str, device: str = "auto") -> Predictor:
    """A package that was verified.

    Args:
        folder: The package.
        called: Name and version, for messages.
        device: auto, cpu, cuda or mps.

    Raises:
        RegistryError: It names steps or outputs that this version of medexp does not know, or cannot be loaded.
    """
    contract = read_json(folder, "contract.json")
    preprocessing, outputs = preprocessing_of(folder, called), outputs_said(contract)  # before the weights are read
    chosen, digest = device_of(device), read_json(folder, MANIFEST)["digest"]
    net = load_verified(folder).to(chosen)
    return Predictor(called, digest, folder, net, network_of(contract), preprocessing, outputs, chosen)


def device_of(device: str) -> torch.device:
    """The device that a name stands for; auto is a GPU where there is one."""
    if device != "auto":
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")
