"""Features of whole volumes, each computed once for an encoder and then read from the cache."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import DivisiblePad
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from medexp.config import DataConfig
from medexp.data import transforms
from medexp.data.brats import read_case
from medexp.data.cases import Case
from medexp.data.facts import CaseFacts
from medexp.files import replacing
from medexp.models.checkpoints import weights_digest
from medexp.models.swin import DIVISOR, SwinEncoder, SwinSegmenter, embed

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
        facts: `medexp.data.facts.describe_cases` of them, by case.
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
    for case in track(cases, f"Embedding with {len(encoders)} encoders", console=Console(stderr=True)):
        image = None
        for name, net in encoders.items():
            key = hashlib.sha256(json.dumps([digests[name], facts[case.id].sha256, preprocessing]).encode()).hexdigest()[:40]
            entry = cache / "embeddings" / f"{key}.safetensors"
            features = _cached(entry)
            if features is None:
                if image is None:
                    volume = transforms.preprocess(read_case(case, data.label_map), data)["image"]
                    image = torch.as_tensor(pad(volume)).unsqueeze(0).to(device)
                features = np.asarray(embed(net, image).float().cpu()[0])
                with replacing(entry) as temporary:
                    save_file({"features": features}, temporary, metadata={"sha256": _sha256(features)})
                computed += 1
            rows[name].append(features)
    return Embeddings({name: np.stack(features) for name, features in rows.items()}, computed)


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
