"""Features of volumes, of OCT and of images, computed once for an encoder and then read from the cache."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from medexp.arrays import Array
from medexp.config.networks import FeatureKind
from medexp.data.kept import entry_of, keep, known_arrays
from medexp.data.oct.cases import OctVolume
from medexp.data.oct.facts import read_volume
from medexp.data.oct.transforms import execute as execute_oct
from medexp.data.parallel import ahead
from medexp.data.preprocessing import Preprocessing
from medexp.data.volumes.brats import read_case
from medexp.data.volumes.cases import Case
from medexp.data.volumes.facts import CaseFacts
from medexp.data.volumes.transforms import execute
from medexp.errors import StorageError, TrainingDiverged
from medexp.evaluation.batches import Batches, demand_finite, in_batches, shown
from medexp.models.checkpoints import weights_digest
from medexp.models.swin.attention import fast_attention
from medexp.models.swin.features import KINDS
from medexp.models.swin.network import SwinEncoder, SwinSegmenter, encoder_state, features, padded

VERSION = 1
"""Part of the cache's key of images and OCT volumes: raise it when what is computed here changes."""
_OF_VOLUMES = 2  # likewise of those that a SwinUNETR embeds

_TOO_LARGE = (
    "Weights and voxels are finite, and what comes of them overflows: leave the encoder out if other cases fail too, "
    "else the case."
)


class Embedder(NamedTuple):
    """What gives features.

    Attributes:
        net: In eval mode.
        kind: Of features, where volumes are embedded; None: what the network gives when it is called.
        made_of: What features follow from beside the weights, such as the number of attention heads.
        called: What messages call it; without it the name that its features are asked for by.
    """

    net: nn.Module
    kind: FeatureKind | None = None
    made_of: str = ""
    called: str = ""


@dataclass(frozen=True)
class Embeddings:
    """Features of the same cases, from several networks or of several kinds.

    Attributes:
        features: By name (cases, D), float32, in the order of the cases.
        computed: How many parts were not in the cache: at most parts x names.
    """

    features: dict[str, Array]
    computed: int


@dataclass(frozen=True)
class Part:
    """Cases whose features are computed together, and kept as one entry of the cache.

    Attributes:
        key: What the features follow from beside the encoder's weights, as JSON can write it; None: they are not kept.
        read: Reads what the encoders are given, in a thread, while an earlier part is embedded; a tensor goes to the device.
        features: From an encoder in eval mode, some kinds and what was read to the features of each kind (cases, D), or (D,)
            of a single case, float32, in one pass.
    """

    key: Sequence[Any] | None
    read: Callable[[], Any]
    features: Callable[[Any, Sequence[FeatureKind | None], Any], Sequence[Array]]


@torch.inference_mode()
def embed_all(
    embedders: Mapping[str, Embedder],
    parts: Sequence[Part],
    cache: Path,
    accelerator: Accelerator,
    title: str = "  embedding",
    jobs: int = 1,
) -> Embeddings:
    """Features of all cases from each embedder, from the cache where they are there; shared among the processes of a launch.

    A network is passed once for all kinds of features that are not in the cache. An entry's key is of the weights that the
    features follow from, of volumes also of their kind and of how attention is computed (`fast_attention`), and of the part's
    key alone: what was computed under another name, or by another phase, is found. A damaged entry is computed again.

    Args:
        embedders: By name; their networks are moved to the device.
        parts: The cases in order, as `cases_as_parts`, `volumes_as_parts` or `images_as_part` make them.
        cache: Root of the cache; one small file a name and part goes under `embeddings/`.
        accelerator: Device and processes.
        title: Name in the progress bar.
        jobs: Parts that are read at a time, ahead of the one that is embedded.

    Raises:
        DataError: A case cannot be read.
        TrainingDiverged: An encoder gives NaN or infinity; the encoder and the case are named.
        StorageError: The cache cannot be written.
        RegistryError: Features are asked for that take a decoder, of a network without one.
    """
    rows = [
        (index, known, computed)
        for index, _, known, computed in _computed(embedders, parts, cache, accelerator, title, jobs, _cached_features)
    ]
    rows = sorted(gather_object(rows), key=lambda row: row[0])
    found = {name: np.concatenate([np.atleast_2d(known[name]) for _, known, _ in rows]) for name in embedders}
    return Embeddings(found, sum(computed for *_, computed in rows))


@torch.inference_mode()
def embed_to_files(
    embedder: Embedder, parts: Sequence[Part], cache: Path, accelerator: Accelerator, title: str = "  embedding", jobs: int = 1
) -> list[Path]:
    """Where the features of each part lie, for `read_features`: of those that are too large to be held, such as all tokens.

    Arguments, cache and errors as of `embed_all`; every part has a key.
    """
    found = _computed({"": embedder}, parts, cache, accelerator, title, jobs, _is_kept)
    files = gather_object([(index, str(entries[""])) for index, entries, *_ in found])
    return [Path(file) for _, file in sorted(files)]


def read_features(file: Path) -> Array:
    """What `embed_to_files` kept.

    Raises:
        StorageError: It is not there any more, or it is damaged.
    """
    kept = known_arrays(file)
    if kept is None:
        raise StorageError(f"{file}: is gone or damaged since it was written; run it again, which computes it anew")
    return kept["features"]


def _computed(
    embedders: Mapping[str, Embedder],
    parts: Sequence[Part],
    cache: Path,
    accelerator: Accelerator,
    title: str,
    jobs: int,
    look: Callable[[Path], Array | None],
) -> Iterator[tuple[int, dict[str, Path], dict[str, Array], int]]:
    """This process's parts, one after the other: index, where the features of each embedder are kept, the features, and how
    many were computed; `look` says what there is of an entry, None where that is nothing."""
    by_net: dict[int, dict[str, Embedder]] = {}
    for name, embedder in embedders.items():
        by_net.setdefault(id(embedder.net), {})[name] = embedder
    keys: dict[str, list[Any]] = {}
    for group in by_net.values():
        net = next(iter(group.values())).net.to(accelerator.device)
        attention = "flash" if fast_attention(net) else "plain"
        for name, (_, kind, made_of, _) in group.items():
            follows = encoder_state(net) if kind and not KINDS[kind].decoder else net.state_dict()
            keys[name] = [weights_digest(follows), *([kind, attention] if kind else []), *([made_of] if made_of else [])]

    mine = range(accelerator.process_index, len(parts), accelerator.num_processes)
    coming = ahead([functools.partial(_begin, parts[index], keys, cache, look) for index in mine], jobs)
    for index, part in zip(mine, shown(coming, len(mine), title, accelerator), strict=True):
        entries, known, read = part.result()
        missing = [name for name in embedders if name not in known]
        given = read.to(accelerator.device) if isinstance(read, Tensor) else read
        for group in by_net.values():
            if names := [name for name in group if name in missing]:
                kinds = [group[name].kind for name in names]
                try:
                    made = parts[index].features(group[names[0]].net, kinds, given)
                except TrainingDiverged as error:
                    told = dict.fromkeys(group[name].called or name for name in names)
                    raise TrainingDiverged(f"{' and '.join(filter(None, told))}: {error}") from error
                known |= dict(zip(names, made, strict=True))
                for name in names:
                    if name in entries:
                        keep(entries[name], {"features": known[name]})
        yield index, entries, known, len(missing)


def _begin(
    part: Part, keys: Mapping[str, Sequence[Any]], cache: Path, look: Callable[[Path], Array | None]
) -> tuple[dict[str, Path], dict[str, Array], Any]:
    """Where the features of a part are kept, those that are there, and what the encoders of the others are given."""
    entries = {} if part.key is None else {name: entry_of(cache / "embeddings", [*of, *part.key]) for name, of in keys.items()}
    known = {name: kept for name, entry in entries.items() if (kept := look(entry)) is not None}
    return entries, known, part.read() if len(known) < len(keys) else None


def _cached_features(entry: Path) -> Array | None:
    kept = known_arrays(entry)
    return None if kept is None else kept["features"]


def _is_kept(entry: Path) -> Array | None:
    """Nothing of features that nobody wants to hold; None where they have to be computed."""
    return None if known_arrays(entry) is None else np.empty(0, np.float32)


def cases_as_parts(
    cases: Sequence[Case], facts: Mapping[str, CaseFacts], preprocessing: Preprocessing, accelerator: Accelerator
) -> list[Part]:
    """`volumes_as_parts` of volumes that are read from their files.

    Args:
        cases: What is embedded.
        facts: `medexp.data.volumes.facts.describe_cases` of them, by case.
        preprocessing: What is done to them before the encoders see them.
        accelerator: Where the encoders compute.
    """

    def read(index: int) -> Tensor:
        volume = read_case(replace(cases[index], label=None), {})
        return torch.as_tensor(execute(preprocessing.steps, volume)["image"].as_tensor())

    ids = [case.id for case in cases]
    return volumes_as_parts(read, ids, [facts[case].sha256 for case in ids], preprocessing, accelerator)


def volumes_as_parts(
    read: Callable[[int], Tensor],
    cases: Sequence[str],
    digests: Sequence[str | None],
    preprocessing: Preprocessing,
    accelerator: Accelerator,
) -> list[Part]:
    """Whole volumes, each a part of its own, padded to multiples of 32, always in float32.

    The pooled features vary little over cases: the rounding of bf16 is larger than what tells one case from another. A volume
    is read once for all encoders that lack it, and not at all where none does.

    Args:
        read: From a volume's index to the volume (4, X, Y, Z), preprocessed.
        cases: Id of each.
        digests: `CaseFacts.sha256` of each, of voxels and affine; None of what is random, which is embedded anew each time.
        preprocessing: How they were made of the files.
        accelerator: Where the encoders compute.
    """
    made: list[Any] = [preprocessing.key, _OF_VOLUMES]
    if accelerator.device.type != "cpu":  # another device, other last bits: a run ends as it would without a cache
        made.append(accelerator.device.type)

    def of(index: int, encoder: SwinEncoder | SwinSegmenter, kinds: Sequence[FeatureKind], image: Tensor) -> list[Array]:
        found = features(encoder, padded(image)[None], kinds)
        for pooled in found.values():
            demand_finite(pooled, [cases[index]], advice=_TOO_LARGE)
        return [np.asarray(found[kind].float().cpu()[0]) for kind in kinds]

    keys = [None if digest is None else [digest, made] for digest in digests]
    every = enumerate(keys)
    return [Part(key, functools.partial(read, index), functools.partial(of, index)) for index, key in every]


def scans_as_parts(
    volumes: Sequence[OctVolume],
    digests: Sequence[str],
    preprocessing: Preprocessing,
    accelerator: Accelerator,
    *,
    tokens: bool = False,
) -> list[Part]:
    """OCT volumes, each a part of its own, always computed in float32, as whoever uses the network later will: the mean over
    tokens (D,) float32, or all tokens (N, D) float16.

    Features in bf16 lay 5 % as far from these as volumes lay from their mean (`python -m benchmarks.oct_gpu`, one H200).

    Args:
        volumes: What is embedded.
        digests: sha256 of the voxels of each.
        preprocessing: What is done to them before the encoders see them.
        accelerator: Where the encoders compute.
        tokens: Whether all tokens are wanted.
    """
    made: list[Any] = ["oct tokens" if tokens else "oct", preprocessing.key, VERSION]
    made.append(accelerator.device.type)

    def read(volume: OctVolume) -> Tensor:
        return execute_oct(preprocessing.steps, read_volume(volume))[None]

    def of(volume: OctVolume, encoder: Any, kinds: Sequence[None], image: Tensor) -> list[Array]:
        found = encoder.tokens(image).half() if tokens else encoder(image).float()
        demand_finite(found, [volume.id], advice=_TOO_LARGE)
        return [np.asarray(found[0].cpu())]

    pairs = zip(volumes, digests, strict=True)
    return [Part([digest, made], functools.partial(read, one), functools.partial(of, one)) for one, digest in pairs]


def images_as_part(batches: Batches, pixels: Sequence[str], settings: Sequence[Any], accelerator: Accelerator) -> Part:
    """2D images in the precision of training, all of them one part: how images share batches changes the last bits on some
    devices, and what is kept is what computing anew would give.

    Args:
        batches: The images; the encoder takes (B, 1, H, W) to (B, D).
        pixels: sha256 of the decoded pixels of each.
        settings: What else the images and their batches follow from: `Preprocessing.key`, batch size.
        accelerator: Device and precision.
    """
    computing = [torch.__version__, accelerator.device.type, accelerator.mixed_precision]
    key = [list(pixels), [VERSION, *settings], computing]
    return Part(key, lambda: None, lambda encoder, kinds, _: [in_batches(encoder, batches, accelerator, "  features")])
