"""Latents of pairs, computed once for a VAE and then read from the cache."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from medexp.arrays import Array
from medexp.config.data import PairDataConfig
from medexp.data.kept import kept_arrays
from medexp.data.pairs.facts import PairFacts
from medexp.data.pairs.read import Pair, load_pair, preprocessing
from medexp.data.parallel import ahead
from medexp.data.volumes.cases import Case
from medexp.errors import ConfigError
from medexp.evaluation.batches import demand_finite
from medexp.models.checkpoints import weights_digest
from medexp.models.meanflow.joint import Joint
from medexp.terminal import followed

STRATEGIES = ("vae", "downsample", "image")
"""How a mask stands in a latent (`Joint`): encoded as an image is, pooled, or not at all."""

VERSION = 2
"""Part of the cache's key: raise it when what is computed here changes."""


_ADVICE = "Give a VAE (vae) whose weights fit it, and leave the case out (data.exclude) if others are encoded."


class FCDDataset(Dataset[dict[str, Tensor]]):
    """Standardised latents of pairs, by index, or by (epoch, index, repeat) as the fit loop asks: `z` (C, x, y, z), float32.

    What is cached is not standardised, each pair's latent by itself: it is found again with other splits and another order. It
    follows from the pair's voxels, mask and affine, from what is done to them, from the VAE's weights, the strategy and the
    device. All latents are held in memory: of 128^3 voxels and 8 channels a pair takes 1 MB.

    Args:
        cases: Pairs, or volumes alone under strategy image.
        facts: Of each, by id, as `prepare_pairs` has them.
        data: How they are read.
        joint: What turns a pair into a latent.
        mask_strategy: vae (C = 8 with a VAE of 4 channels), downsample (C = 5) or image (C = 4); that of `joint`.
        cache: Root of the cache; one small file a pair goes under `latents/`.
        loaded: Pairs that are in memory already, in the order of `cases`.

    Attributes:
        computed: How many were not in the cache.

    Raises:
        ConfigError: An unknown strategy, or another one than that of `joint`.
        DataError: A pair cannot be read.
        TrainingDiverged: A latent holds NaN or infinity; the pair is named.
        StorageError: The cache cannot be written.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        facts: Mapping[str, PairFacts],
        data: PairDataConfig,
        joint: Joint,
        mask_strategy: str,
        cache: Path,
        loaded: Sequence[Pair] | None = None,
    ) -> None:
        if mask_strategy not in STRATEGIES:
            raise ConfigError(f"data.mask_strategy: found {mask_strategy}; allowed are {', '.join(STRATEGIES)}")
        if mask_strategy != joint.strategy:
            raise ConfigError(
                f"data.mask_strategy: found {mask_strategy}; the latents' mean and standard deviation are those of strategy "
                f"{joint.strategy}: fit them anew, or give that one"
            )
        self.cases = tuple(cases)
        raw = Joint(joint.vae, joint.strategy, joint.pooling).to(joint.mean.device)
        reads = (
            [partial(load_pair, case, data) for case in cases] if loaded is None else [partial(_same, one) for one in loaded]
        )
        made_by = [VERSION, weights_digest(joint.vae.state_dict()), repr(joint.vae), joint.vae.scale_factor]
        made_by += [joint.strategy, joint.pooling if joint.strategy == "downsample" else "", joint.mean.device.type]
        made_by.append(preprocessing(data.spacing, data.input_size).key)
        mean, std = (values.cpu().view(-1, 1, 1, 1) for values in (joint.mean, joint.std))
        self.computed, self.latents = 0, []
        for case, read in zip(cases, reads, strict=True):
            kept, known = kept_arrays(cache / "latents", [facts[case.id].sha256, *made_by], partial(_encoded, raw, case, read))
            self.computed += not known
            self.latents.append((torch.from_numpy(kept["z"]) - mean) / std)

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, key: int | tuple[int, ...]) -> dict[str, Tensor]:
        return {"z": self.latents[key if isinstance(key, int) else key[1]]}


def load_pairs(cases: Sequence[Case], data: PairDataConfig, title: str = "  reading pairs") -> list[Pair]:
    """`load_pair` of each case, in their order, in `data.jobs` threads."""
    coming = ahead([partial(load_pair, case, data) for case in cases], data.jobs)
    return [part.result() for part in followed(coming, len(cases), title, transient=False, stderr=True)]


def _encoded(joint: Joint, case: Case, read: Any) -> Mapping[str, Array]:
    pair = read()
    image, mask = (torch.from_numpy(part[None]).to(joint.mean) for part in (pair.image, pair.mask))
    z = joint.encode(image, mask)
    demand_finite(z.flatten(1), [case.id], "the latents of the VAE", _ADVICE)
    return {"z": np.asarray(z[0].float().cpu())}


def _same(pair: Pair) -> Pair:
    return pair
