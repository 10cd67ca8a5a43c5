"""A registered model on new files: the contract of its package executed, and what its network says put into a user's terms."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from medexp.addresses import local_path
from medexp.arrays import Array
from medexp.config.networks import FeatureKind
from medexp.data.images import transforms as images
from medexp.data.images.kaggle import FOLDERS
from medexp.data.inputs import TABLES, Inputs
from medexp.data.nifti import unit_of
from medexp.data.preprocessing import Preprocessing
from medexp.data.scenarios.cases import ANSWERS
from medexp.data.scenarios.prompts import Prompt, answer_ids
from medexp.data.scenarios.steps import Ask
from medexp.data.volumes.steps import SlidingWindow
from medexp.errors import DataError, RegistryError
from medexp.evaluation.answers import score_answers
from medexp.evaluation.batches import demand_finite
from medexp.evaluation.segmentation import mask_on_own_grid, sliding_window
from medexp.files import replacing
from medexp.models.kinds import ONLY, Tensors, kind_of, outputs_of
from medexp.models.swin.features import KINDS
from medexp.models.swin.network import SwinEncoder, SwinSegmenter, features, padded
from medexp.registry.contracts import draws, outputs_said, preprocessing_of
from medexp.registry.loading import load_verified, whole_network
from medexp.registry.packages import ADAPTER_KIND, MANIFEST, SEEN, network_of, read_json
from medexp.registry.readers import READERS, Asked, Looked, Ready, processor_of
from medexp.registry.store import Pulled, pin, pull

_QFORM = ("qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")
_PLACE = ("pixdim", *_QFORM, "sform_code", "srow_x", "srow_y", "srow_z")


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
        pulled: Its package, as it was pulled; None of a folder.
        digest: Of its package.
        folder: Its package.
        net: Its network, in eval mode, on the device.
        architecture: Of the network.
        preprocessing: What is done to a file first.
        outputs: By name of the network's outputs, what they mean.
        device: Where it computes.
        features: The kind of features that was asked for, of a SwinUNETR or its encoder; None: what the network gives.
    """

    called: str
    digest: str
    folder: Path
    net: nn.Module
    architecture: Mapping[str, Any]
    preprocessing: Preprocessing
    outputs: Mapping[str, Mapping[str, Any]]
    device: torch.device
    features: FeatureKind | None = None
    pulled: Pulled | None = None

    def __call__(self, path: str | Path) -> Prediction:
        """What the model says of a case.

        Args:
            path: A case's folder or a 4D NIfTI file, or a picture, as the model takes them.

        Raises:
            DataError: There are no files of a case, or of several cases.
        """
        return self.answer(self.ready(self.one(path)))

    def one(self, path: str | Path) -> Any:
        """The one case that a path names.

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
        return found.cases[0]

    @property
    def takes(self) -> str:
        """What it takes, in words."""
        return READERS[self.preprocessing.data].takes

    @property
    def encodes(self) -> bool:
        """Whether features are all that it gives."""
        return {meaning["what"] for meaning in self.outputs.values()} == {"features"}

    def find(
        self,
        path: str | Path,
        patient: Callable[[str], str] = str,
        image_dir: Path | None = None,
        suffixes: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
        classes: Mapping[str, tuple[str, ...]] = FOLDERS,
    ) -> Inputs:
        """The cases that a path names, of the kind that the model takes.

        Args:
            path: One case, a folder of cases, or a table (`find_inputs` of the kind of data, as `medexp.data.volumes.inputs`).
            patient: From a case's id to its patient.
            image_dir: Folder of the images that scenarios name; None: beside their file.
            suffixes: How the names of volumes' files end, by channel, where not as the contract has it.
            classes: Names of the folders of pictures, by class, where not no and yes.

        Raises:
            DataError: There is nothing at the path, or what there is is of another kind.
        """
        place, reader = local_path(path), READERS[self.preprocessing.data]
        others = [ending for one in READERS.values() for ending in one.endings if ending not in reader.endings]
        given = None if place.suffix.lower() in TABLES else next(_ending_in(place, others), None)
        if given and not any(_ending_in(place, reader.endings)):
            raise DataError(f"{path}: {self.called} takes {self.takes}; {given.name} is none")
        return reader.find(place, Looked(self.preprocessing, patient, image_dir, suffixes, classes))

    def content(self, case: Any) -> str:
        """A digest of what the answer to a case follows from, its files and what is asked of them.

        Raises:
            DataError: A file cannot be read.
        """
        return READERS[self.preprocessing.data].content(case)

    def ready(self, case: Any, classes: Mapping[int, int] | None = None, *, identify: bool = False) -> Ready:
        """A case as the network takes it: read, checked, and all steps of the contract executed.

        Args:
            case: As `find` gives it.
            classes: From the values of its segmentation to classes 0 to 3, where that is to be brought along.
            identify: Whether the leak guard will ask for it.

        Raises:
            DataError: It cannot be read, or is none that the network can take.
        """
        known = read_json(self.folder, SEEN) if (self.folder / SEEN).is_file() else {}
        asked = Asked(self.preprocessing, self.architecture, self.folder, known, self.called, classes, identify)
        return READERS[self.preprocessing.data].read(case, asked)

    @torch.inference_mode()
    def answer(self, ready: Ready, painted: Mapping[str, int | None] | None = None) -> Prediction:
        """What the network says of a case, put into the terms of its files.

        Args:
            ready: The case.
            painted: The value of each region in a mask; None: as in the segmentations that the model was trained on.

        Raises:
            TrainingDiverged: NaN or infinity, which would pass for an answer.
        """
        given = {name: tensor.to(self.device) for name, tensor in ready.given.items()}
        said: dict[str, Any] = {}
        if self.features:
            assert isinstance(self.net, SwinSegmenter | SwinEncoder)
            found = features(self.net, padded(given[ONLY][0])[None], [self.features])[self.features]
            demand_finite(found, [ready.case.id])
            said["features"] = found[0].float().cpu().numpy()
            if self.encodes:
                return Prediction(ready.case.id, outside=ready.outside, **said)
        for name, output in self._run(given, ready.case.id).items():
            demand_finite(output, [ready.case.id])
            said |= self._in_terms(self.outputs[name], output[0].float().cpu(), ready, painted)
        return Prediction(ready.case.id, outside=ready.outside, **said)

    @cached_property
    def _run(self) -> Callable[[Tensors, str], Mapping[str, Tensor]]:
        """From what the network is called with, and the case's id, to what it gives, by name of the output: window by window
        where the contract says so, and of a scenario the summed log-probability of each whole answer (1, answers)."""
        if window := self.preprocessing.find(SlidingWindow):
            segment = sliding_window(self.net, window.size, window.overlap, blending=window.blending)
            return lambda given, _: {ONLY: segment(given[ONLY])}
        if self.preprocessing.find(Ask):
            return self._scored_answers()
        return lambda given, _: outputs_of(self.net, self.architecture, given)

    def _scored_answers(self) -> Callable[[Tensors, str], Mapping[str, Tensor]]:
        processor = processor_of(self.folder)
        ((name, meaning),) = self.outputs.items()
        tokens = dict(zip(ANSWERS, answer_ids(processor), strict=True))
        if set(meaning["classes"]) != set(ANSWERS):
            told = f"classes {', '.join(meaning['classes'])}"
            raise RegistryError(f"contract.json of {self.called}: {told}; answers are {', '.join(ANSWERS)}")
        answers = [tokens[answer] for answer in meaning["classes"]]

        def run(given: Tensors, case: str) -> Mapping[str, Tensor]:
            found = score_answers(self.net, [Prompt(case, given, 1)], answers, pad_id=0, batch_size=1, device=self.device)
            return {name: torch.from_numpy(found)}

        return run

    def _in_terms(
        self, meaning: Mapping[str, Any], output: Tensor, ready: Ready, painted: Mapping[str, int | None] | None
    ) -> dict[str, Any]:
        match meaning["what"]:
            case "regions":
                assert ready.own is not None
                assert ready.affine is not None
                mask = mask_on_own_grid(output, ready.affine, ready.shape, ready.own, painted or meaning["painted"])
                return {"mask": as_nifti(mask, nib.load(ready.case.images[0]), self.called), "logits": output}
            case "mask":
                own = images.onto_own_pixels(output, (ready.shape[0], ready.shape[1]))
                return {"mask": (own[0] > 0).numpy().astype(np.uint8)}
            case "classes" | "answers":
                return {"probabilities": dict(zip(meaning["classes"], output.softmax(0).tolist(), strict=True))}
            case "features":
                return {"features": output.numpy()}
            case unknown:
                raise RegistryError(f"contract.json of {self.called}: an output is {unknown!r}, which medexp does not know")


def _ending_in(place: Path, endings: Sequence[str]) -> Iterator[Path]:
    """The file, or the files in a folder and in those below it, whose names end so."""
    files = [place] if place.is_file() else place.rglob("*") if place.is_dir() else ()
    return (file for file in files if file.name.lower().endswith(tuple(endings)))


def as_nifti(mask: NDArray[np.uint8], of: Any, called: str) -> Any:
    """A mask as a NIfTI image that says which model it is of.

    It lies where the case's file lies for every viewer: one goes by the sform, another by the qform, and where a header has
    neither each by a rule of its own.

    Args:
        mask: (X, Y, Z).
        of: The image that it is the mask of, from nibabel.
        called: The model.
    """
    header = nib.Nifti1Header()
    header.set_data_dtype(mask.dtype)
    header.set_data_shape(mask.shape)
    for name in _PLACE:
        header[name] = of.header[name]
    header.set_xyzt_units(unit_of(of.header))
    header["descrip"] = f"medexp {called}".encode()[:79]
    return nib.Nifti1Image(mask, header.get_best_affine(), header)


def as_columns(shares: Mapping[str, float]) -> dict[str, Any]:
    """Probabilities by class as a row of a table: `predicted`, the likeliest class, and `probability_CLASS` of each."""
    return {"predicted": max(shares, key=shares.__getitem__)} | {f"probability_{name}": one for name, one in shares.items()}


MASKS = (".nii.gz", ".png")
"""What the files of masks end with, of volumes and of pictures."""


def save_mask(mask: Any, place: Path) -> Path:
    """Write the mask of a prediction.

    Args:
        mask: As a `Prediction` has it; of a picture it becomes 0 and 255.
        place: The file, without the ending that it gets.

    Returns:
        The file.

    Raises:
        StorageError: The folder cannot be written.
    """
    of_picture = isinstance(mask, np.ndarray)
    file = place.with_name(place.name + MASKS[of_picture])
    with replacing(file) as temporary:
        if of_picture:
            Image.fromarray(mask * 255).save(temporary)
        else:
            nib.save(mask, temporary)
    return file


def predictor(uri: str, device: str = "auto", kind: FeatureKind | None = None, base: Path | str | None = None) -> Predictor:
    """`medexp.registry.predictor`."""
    pulled = pull(uri)
    contract = read_json(pulled.folder, "contract.json")
    if draws(contract):
        named = f"{uri}: draws from noise, and takes no files."
        if contract["architecture"]["kind"] != ADAPTER_KIND:
            raise RegistryError(f"{named} It is for adapting: mlflow run . -e phase7 -P base={uri}")
        raise RegistryError(
            f"{named} Draw some: mlflow run . -e phase7 -P mode=sample -P adapter={uri} -P sampling.samples=16"
        )
    pin(pulled)
    made = from_package(pulled.folder, f"{pulled.name} version {pulled.version}", device, kind, base)
    return replace(made, pulled=pulled)


def from_package(
    folder: Path, called: str, device: str = "auto", kind: FeatureKind | None = None, base: Path | str | None = None
) -> Predictor:
    """A package that was verified.

    Args:
        folder: The package.
        called: Name and version, for messages.
        device: auto, cpu, cuda or mps.
        kind: The features that are wanted; None: those that the network gives as it is, if it gives any.
        base: As `medexp.registry.load` has it.

    Raises:
        RegistryError: It names steps or outputs that this version of medexp does not know, or cannot be loaded.
    """
    contract = read_json(folder, "contract.json")
    preprocessing, outputs = preprocessing_of(folder, called), outputs_said(contract)  # before the weights are read
    architecture, digest = network_of(contract), read_json(folder, MANIFEST)["digest"]
    encodes = any(meaning["what"] == "features" for meaning in outputs.values())
    if kind and not kind_of(architecture).pooled:
        raise RegistryError(f"features={kind}: {called} is a {architecture['kind']}; encoders and segmenters give features")
    net = whole_network(folder) if encodes and kind and KINDS[kind].decoder else load_verified(folder, base)
    chosen = device_of(device)
    if adapted := getattr(net, "get_base_model", None):  # of peft, whose import takes seconds
        net = adapted()
    if not getattr(net, "is_quantized", False):  # such a one is where it can be, and stays there
        net = net.to(chosen)
    return Predictor(called, digest, folder, net, architecture, preprocessing, outputs, chosen, kind)


def device_of(device: str) -> torch.device:
    """The device that a name stands for; auto is a GPU where there is one."""
    if device != "auto":
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")
