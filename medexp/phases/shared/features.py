"""Features of frozen encoders: what a head is trained on, and the kinds of an encoder side by side, a head each."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from medexp.arrays import Array
from medexp.config.networks import FeatureKind
from medexp.config.training import SearchConfig
from medexp.errors import RegistryError
from medexp.evaluation.classification import auroc, balanced_accuracy, gain
from medexp.evaluation.classifiers import Head
from medexp.evaluation.controls import SEARCH, SEED, Source, Task, control
from medexp.evaluation.intervals import Interval
from medexp.models.swin.features import demand_decoder, offered
from medexp.phases.shared.context import Context, JudgedSettings
from medexp.registry.packages import DECODER, read_json
from medexp.registry.store import Pulled


class LabelledFeatures(Dataset[dict[str, Any]]):
    """Features of a frozen encoder with their labels, by (epoch, index, repeat), as `medexp.training.loop.fit` asks for them.

    Args:
        read: From an index to what a head is given of that case.
        labels: Class of each (N,).
    """

    def __init__(self, read: Callable[[int], Tensor], labels: NDArray[np.int_]) -> None:
        self.read, self.labels = read, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: tuple[int, int, int]) -> dict[str, Any]:
        return {"image": self.read(key[1]), "label": int(self.labels[key[1]])}


METRICS = {"auroc": auroc, "balanced_accuracy": balanced_accuracy}


@dataclass(frozen=True)
class Kinds:
    """What is told from each kind of features of an encoder.

    Attributes:
        asked: The kind that was asked for.
        scores: By kind, that one first, then by metric.
        gains: In AUROC over the kind that was asked for, paired, of the others.
    """

    asked: FeatureKind
    scores: Mapping[FeatureKind, Mapping[str, Interval]]
    gains: Mapping[FeatureKind, Interval]

    @property
    def words(self) -> list[str]:
        """What the others tell, plainly, and what the one that was asked for tells by the head that they are compared by: a
        phase's own may be another."""
        said = [self._said(self.asked, "by the same kind of head as the others")] if self.gains else []
        for kind, found in self.gains.items():
            told = found.told(
                few=f"Too few cases to tell them from {self.asked} in AUROC",
                better=f"They tell more than {self.asked} in AUROC",
                worse=f"They tell less than {self.asked} in AUROC",
                same=f"They tell no more than {self.asked} in AUROC, as far as can be measured",
            )
            said.append(f"{self._said(kind)} {told}")
        return said

    def _said(self, kind: FeatureKind, by: str = "") -> str:
        scores = ", ".join(f"{_CALLED[metric]} {interval}" for metric, interval in self.scores[kind].items())
        return f"The encoder's {kind} features{by and ', ' + by}: {scores}."

    @property
    def table(self) -> tuple[str, list[str], list[list[str]]]:
        """A closing table: title, columns, a row a kind."""
        rows = []
        for kind, scores in self.scores.items():
            over = self.gains[kind].as_gain if kind in self.gains else "-"
            called = f"{kind}, asked for" if kind == self.asked else kind
            rows.append([called, *(one.in_a_cell(2) for one in scores.values()), over])
        head = ["features", *_CALLED.values(), "gain in AUROC"]
        return "the encoder's features by kind, a head each", head, rows


_CALLED = {"auroc": "AUROC", "balanced_accuracy": "balanced accuracy"}


def kinds_of(encoder: Pulled, asked: FeatureKind) -> list[FeatureKind]:
    """The kinds of features that a registered encoder gives, the one that is asked for first.

    Raises:
        RegistryError: It does not give that one.
    """
    architecture = read_json(encoder.folder, "contract.json")["architecture"]
    has_decoder = "base" in architecture or (encoder.folder / DECODER).is_file()  # an adapter's base is a whole network
    found = list(offered(architecture.get("base", architecture), has_decoder))
    if not found:
        called, kind = f"{encoder.name} version {encoder.version}", architecture["kind"]
        raise RegistryError(f"encoder: {called} is a {kind}; features are those of a swin_encoder or a swin_unetr")
    demand_decoder(asked in found, f"encoder {encoder.name} version {encoder.version}")
    return sorted(found, key=lambda kind: kind != asked)


def side_by_side(
    ctx: Context[JudgedSettings],
    features: Mapping[FeatureKind, Array],
    task: Task,
    head: Head = "logistic",
    search: SearchConfig = SEARCH,
    seed: int = SEED,
) -> Kinds:
    """A head on each kind of features of an encoder; logs `features.csv`.

    Args:
        ctx: Where it is logged, and the cache of what was fitted.
        features: Of all cases (N, D) by kind, the one that was asked for first.
        task: Which of them are learned from to predict which.
        head: As of `medexp.evaluation.controls.control`, like `search` and `seed`.
    """
    heads = {}
    for kind, values in features.items():
        source = Source(kind, kind, head, hashlib.sha256(values.tobytes()).hexdigest(), partial(list, [values]))
        heads[kind] = control(source, task, ctx.cache, search, seed)
    asked = next(iter(heads))
    scores = {kind: one.scores(task.owners, ctx.resampling, METRICS) for kind, one in heads.items()}
    reference = heads[asked].predictions[0]
    gains = {
        kind: gain(auroc, one.predictions[0], reference, task.owners, ctx.resampling)
        for kind, one in heads.items()
        if kind != asked
    }
    rows = [
        {"features": kind, "asked": kind == asked, "metric": metric} | asdict(interval)
        for kind, found in scores.items()
        for metric, interval in found.items()
    ]
    rows += [{"features": kind, "asked": False, "metric": "auroc_gain"} | asdict(one) for kind, one in gains.items()]
    ctx.run.reporter.table(pd.DataFrame(rows), "features.csv")
    return Kinds(asked, scores, gains)
