"""What must hold before anything is compared: seconds, of a few volumes."""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

from medexp.arrays import Array
from medexp.checks import Check
from medexp.data.oct.datasets import prepared_scan
from medexp.data.oct.prepared import PreparedVolumes
from medexp.data.oct.steps import Resize
from medexp.evaluation.collapse import spread_of
from medexp.evaluation.embeddings import scans_as_parts
from medexp.phases.oct import checks
from medexp.phases.oct.config import OctConfig
from medexp.phases.oct.encoders import Encoder
from medexp.phases.oct.heads import Features
from medexp.phases.shared.context import Context

_LOADED, _BY_HEART = 5, 8  # volumes


@torch.inference_mode()
def smoke(ctx: Context[OctConfig], encoders: list[Encoder], data: PreparedVolumes, features: Features) -> list[Check]:
    """OCT-VOLUMES, OCT-EMBEDDING, OCT-OVERFIT and OCT-COLLAPSE.

    Args:
        ctx: Where the encoders compute.
        encoders: All that are compared.
        data: The volumes, split.
        features: Of all of them.
    """
    manifest = data.manifest
    first = [data.cases[case] for case in manifest.drop_duplicates("patient")["case"][:_LOADED]]
    steps = encoders[0].preprocessing
    loaded = [prepared_scan(volume, steps) for volume in first]
    distinct = len({image.numpy().tobytes() for image in loaded})
    finite = all(bool(image.isfinite().all()) for image in loaded)
    wanted = (1, *steps.get(Resize).size)
    drift = {}
    for encoder in encoders:
        volume, row = first[0], int(np.flatnonzero(manifest["case"] == first[0].id)[0])
        (part,) = scans_as_parts([volume], [data.facts[volume.id].voxels_sha256], encoder.preprocessing, ctx.accelerator)
        (again,) = part.features(encoder.net, [None], part.read().to(ctx.device))
        kept = features.pooled[encoder.name][row]
        drift[encoder.name] = float(np.linalg.norm(again - kept)) / max(float(np.linalg.norm(kept)), 1e-12)
    rows, targets = _of_each_class(data)
    spread = {encoder.name: spread_of(features.pooled[encoder.name]) for encoder in encoders}
    losses = {name: _by_heart(features.pooled[name][rows], targets) for name, one in spread.items() if not one.collapsed}
    return [
        checks.volumes([tuple(image.shape) for image in loaded], wanted, finite, distinct),
        checks.embedding({encoder.name: encoder.width for encoder in encoders}, ctx.config.model.emb_dim, drift),
        checks.overfit(losses, len(rows)),
        checks.collapse(spread),
    ]


def _of_each_class(data: PreparedVolumes) -> tuple[Array, Array]:
    """Rows and classes of a few volumes to train on, of different participants, taking turns among the classes."""
    known = data.manifest.reset_index()
    learned = known[known["case"].isin(data.ids("train"))].drop_duplicates("patient")
    turn = learned.groupby("target").cumcount()
    rows = learned.assign(turn=turn).sort_values(["turn", "target"])[:_BY_HEART]
    return rows["index"].to_numpy(), rows["target"].to_numpy()


def _by_heart(features: Array, targets: Array) -> float:
    """Cross-entropy, in nats, of a linear head on the very volumes that it was fitted to, without a penalty to speak of."""
    standard = StandardScaler().fit_transform(features.astype(np.float64))
    head = LogisticRegression(C=1e6, max_iter=5000).fit(standard, targets)
    return float(log_loss(targets, head.predict_proba(standard), labels=head.classes_))
