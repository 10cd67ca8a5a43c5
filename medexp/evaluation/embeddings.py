"""Features of volumes and images, computed once for an encoder and then read from the cache."""

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from monai.transforms import DivisiblePad
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor, nn

from medexp.config.data import DataConfig
from medexp.data.images import transforms as image_transforms
from medexp.data.volumes import transforms
from medexp.data.volumes.brats import read_case
from medexp.data.volumes.cases import Case
from medexp.data.volumes.facts import CaseFacts
from medexp.evaluation.batches import Batches, in_batches
from medexp.files import replacing
from medexp.models.checkpoints import weights_digest
from medexp.models.swin.network import DIVISOR, SwinEncoder, SwinSegmenter, embed

Array = NDArray[np.floating[Any]]

VERSION = 1
"""Part of the cache's key: raise it when what is computed here changes."""


@dataclass(frozen=True)
class Embeddings:
    """Features of the same cases from several encoders.

    Attributes:
        features: By encoder (cases, D), float32, in the order of the cases.
        computed: How many were not in the cache: at most cases x encoders.
    """

    features: dict[str, Array]
    computed: int


@torch.inference_mode()
def embed_volumes(
    encoders: Mapping[str, SwinEncoder | SwinSegmenter],
    cases: Sequence[Case],
    facts: Mapping[str, CaseFacts],
    data: DataConfig,
    cache: Path,
    device: torch.device,
) -> Embeddings:
    """GAP(encoder10) of whole volumes, always in float32. A volume is read once for all encoders that lack it.

    An entry's key is of the encoder's weights, the volume's voxels and affine, and how it is preprocessed: a case of another
    name, or a table of other cases, finds what was computed before. An entry that is damaged is computed again.

    Args:
        encoders: In eval mode, by name; moved to the device.
        cases: What is embedded.
        facts: `medexp.data.volumes.facts.describe_cases` of them, by case.
        data: `spacing` and `input_size`, and `label_map` where cases have segmentations.
        cache: Root of the cache; one small file a volume and encoder goes under `embeddings/`.
        device: Where the encoders compute.

    Raises:
        DataError: A case cannot be read.
        StorageError: The cache cannot be written.
    """
    pad = DivisiblePad(k=DIVISOR)
    preprocessing = [transforms.VERSION, VERSION, list(data.spacing), list(data.input_size)]
    digests = {name: weights_digest(net.to(device).state_dict()) for name, net in encoders.items()}
    rows: dict[str, list[Array]] = {name: [] for name in encoders}
    computed = 0

    @functools.lru_cache(maxsize=1)
    def image(case: Case) -> Tensor:
        volume = transforms.preprocess(read_case(case, data.label_map), data)["image"]
        return torch.as_tensor(pad(volume)).unsqueeze(0).to(device)

    def features(name: str, case: Case) -> Array:
        return np.asarray(embed(encoders[name], image(case)).float().cpu()[0])

    for case in track(cases, f"Embedding with {len(encoders)} encoders", console=Console(stderr=True)):
        for name in encoders:
            key = [digests[name], facts[case.id].sha256, preprocessing]
            found, known = _kept(key, cache, functools.partial(features, name, case))
            rows[name].append(found)
            computed += not known
    return Embeddings({name: np.stack(found) for name, found in rows.items()}, computed)


def embed_images(
    encoder: nn.Module, batches: Batches, pixels: Sequence[str], settings: Sequence[Any], cache: Path, accelerator: Accelerator
) -> tuple[Array, bool]:
    """Features of images in the precision of training, and whether they were in the cache.

    All images together are one entry: how images share batches changes the last bits on some devices, and an entry is what
    computing anew would give. Its key is of the encoder's weights, the pixels of all images in order, how they are
    preprocessed and all that floats hang on. An entry that is damaged is computed again.

    Args:
        encoder: From images (B, 1, H, W) to features (B, D), in eval mode, on the device.
        batches: The images.
        pixels: sha256 of the decoded pixels of each.
        settings: What else the images and their batches follow from: input size, batch size.
        cache: Root of the cache; one file goes under `embeddings/`.
        accelerator: Device and precision.

    Raises:
        DataError: An image cannot be read.
        StorageError: The cache cannot be written.
    """
    computing = [torch.__version__, accelerator.device.type, accelerator.mixed_precision]
    made = [image_transforms.VERSION, VERSION, *settings]
    key = [weights_digest(encoder.state_dict()), list(pixels), made, computing]
    return _kept(key, cache, lambda: in_batches(encoder, batches, accelerator, "  features"))


def _kept(content: Sequence[Any], cache: Path, compute: Callable[[], Array]) -> tuple[Array, bool]:
    """The features that follow from `content` alone, and whether they were in the cache; else they are computed and kept."""
    key = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:40]
    entry = cache / "embeddings" / f"{key}.safetensors"
    known = _cached(entry)
    if known is not None:
        return known, True
    features = compute()
    with replacing(entry) as temporary:
        save_file({"features": features}, temporary, metadata={"sha256": _sha256(features)})
    return features, False


def _cached(entry: Path) -> Array | None:
    """The features; None where there are none or the file is damaged."""
    try:
        with safe_open(entry, framework="numpy") as file:
            features: Array = file.get_tensor("features")
            return features if file.metadata()["sha256"] == _sha256(features) else None
    except (OSError, SafetensorError, KeyError, TypeError):
        return None


def _sha256(features: Array) -> str:
    return hashlib.sha256(np.ascontiguousarray(features).data).hexdigest()
