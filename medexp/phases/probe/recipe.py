"""The probe: what a registered encoder's features tell about a labelled table, beside what simpler sources tell.

Every arm has the same cases and the same folds: the encoder, the network that it was adapted from, and the controls of every
classifier (`medexp.evaluation.controls`): untrained networks of its shape, intensities, a head's shape, the files' headers,
and the most frequent class. All that has features has the same head.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import nn

from medexp import registry
from medexp.arrays import Array
from medexp.checks import Check
from medexp.config.networks import FeatureKind
from medexp.data.volumes.tables import split_table
from medexp.errors import RegistryError
from medexp.evaluation.classification import METRICS
from medexp.evaluation.controls import Source, control, majority, of_headers
from medexp.evaluation.embeddings import Embedder, cases_as_parts, embed_all
from medexp.models.swin.network import SwinEncoder, SwinSegmenter
from medexp.phases.probe import PHASE, checks
from medexp.phases.probe.config import ProbeConfig
from medexp.phases.probe.report import CALLED, Judged, log_judged, summary
from medexp.phases.shared.context import Context, context
from medexp.phases.shared.controls import compared, of_volumes, untrained
from medexp.phases.shared.features import kinds_of, side_by_side
from medexp.phases.shared.folds import in_folds
from medexp.phases.shared.foresight import foresee
from medexp.phases.shared.labelled_volumes import LabelledVolumes, demand_every_label, read_volumes
from medexp.phases.shared.packaging import parent_of
from medexp.registry.leaks import LEARNED, fetch_parent, leak_check
from medexp.registry.loading import load_verified, whole_network
from medexp.registry.package import Parent
from medexp.registry.packages import DECODER, read_json
from medexp.registry.store import Pulled

Encoder = SwinEncoder | SwinSegmenter


@dataclass(frozen=True)
class Work:
    """The encoder's package, the labelled volumes as it wants them, and the kinds of features that it gives, the one that is
    asked for first."""

    pulled: Pulled
    volumes: LabelledVolumes
    kinds: list[FeatureKind]

    @property
    def judged(self) -> str:
        """The split that is judged: test, or, where cases are judged out of fold, val."""
        return "val" if self.volumes.data.folds else "test"


def run(config: ProbeConfig) -> None:
    """The whole phase; `ProbeConfig` says what can be set.

    Raises:
        CheckFailed: The encoder has seen patients who are judged; nothing was embedded.
        DataError: The table or a volume in it cannot be used.
        RegistryError: There is no such encoder, or what there is is none.
    """
    with context(PHASE, config) as ctx:
        work = read(ctx)
        volumes = work.volumes
        ctx.demand(*guard(work, work.judged))
        foresee(ctx, "balanced accuracy", ["correct"], volumes.data.rows(work.judged)["patient"], split="test")
        judged = judge(ctx, work, *load_encoders(ctx, work.pulled))
        log_judged(ctx, volumes, judged)
        gains = {arm: gain["balanced_accuracy"] for arm, gain in judged.beside.gains.items()}
        ctx.check(
            checks.better_than_majority(gains["majority"]),
            checks.attribution(gains.get("unadapted"), judged.left_out),
            *judged.beside.checks,
        )
        ctx.finish(summary(ctx, f"{work.pulled.name} version {work.pulled.version}", volumes, judged))


def read(ctx: Context[ProbeConfig]) -> Work:
    """The encoder's package; the table and every volume in it as the encoder wants them, split, or in folds, where it has no
    test cases.

    Raises:
        DataError: The table or volumes cannot be used; all problems of each step at once.
        RegistryError: There is no such encoder, or it wants volumes of a kind that the probe cannot make.
    """
    config, folder = ctx.config, ctx.run.folder
    pulled = registry.pull(config.encoder)
    kinds = kinds_of(pulled, config.features)
    judged, names = None if config.folds else "test", config.data.suffixes
    split = partial(split_table, fraction=config.test_fraction, seed=config.seed, judged=judged)
    volumes = read_volumes(config.table, config.phantoms, pulled, config.jobs, folder, ctx.cache, split, judged, names)
    if not volumes.data.ids("test"):
        strata, demands = volumes.table.labels, [partial(demand_every_label, volumes)]
        known = [pulled]  # of whom nobody can be judged
        data = in_folds(volumes.data, config.folds, config.seed, strata, built_on=known, learned=LEARNED, demands=demands)
        volumes = replace(volumes, data=data)
    ctx.built_on({"encoder": parent_of(pulled)})
    ctx.given(volumes.data, {}, "cases")
    return Work(pulled, volumes, kinds)


def guard(work: Work, split: str) -> list[Check]:
    """LEAK: the encoder has not seen a split's cases."""
    return [leak_check(work.pulled, work.volumes.data.judged(split))]


def load_encoders(ctx: Context[ProbeConfig], pulled: Pulled) -> tuple[dict[str, Encoder], str]:
    """The encoder and the one that it was adapted from, in eval mode.

    Returns:
        The encoders by arm, and why the unadapted one is not among them; empty when it is.

    Raises:
        RegistryError: What was pulled is no encoder.
    """
    own = (whole_network if (pulled.folder / DECODER).is_file() else load_verified)(pulled.folder)
    encoders = {"encoder": _as_encoder(own, ctx.config.encoder)}
    left_out = ""
    if record := read_json(pulled.folder, "parents.json").get("base"):
        parent = fetch_parent(Parent(**record))
        if isinstance(parent, Pulled):
            ctx.built_on({"base": parent_of(parent)})
            encoders["unadapted"] = _as_encoder(load_verified(parent.folder), f"{parent.name} version {parent.version}")
        else:
            left_out = f"No row for the unadapted encoder, {parent.rstrip(',')}."
    else:
        left_out = f"No row for an unadapted encoder: {pulled.name} names no base that it was adapted from."
    return encoders, left_out


def architecture_of(pulled: Pulled) -> Mapping[str, Any]:
    """What a network of the encoder's shape is built from."""
    architecture: Mapping[str, Any] = read_json(pulled.folder, "contract.json")["architecture"]
    return architecture.get("base", architecture)


def _as_encoder(net: nn.Module, called: str) -> Encoder:
    if adapted := getattr(net, "get_base_model", None):  # of peft, whose import takes seconds
        net = adapted()
    if not isinstance(net, SwinEncoder | SwinSegmenter):
        raise RegistryError(f"encoder {called}: is a {type(net).__name__}; the probe takes a SwinEncoder or a SwinUNETR")
    return net


def judge(ctx: Context[ProbeConfig], work: Work, encoders: Mapping[str, Encoder], left_out: str) -> Judged:
    """Every arm on the judged cases: heads that are fitted on all others, or fold by fold, beside what needs no encoder.

    Args:
        ctx: The phase's context.
        work: The volumes.
        encoders: As of `load_encoders`.
        left_out: Likewise.
    """
    config, volumes, architecture = ctx.config, work.volumes, architecture_of(work.pulled)
    labels = [volumes.table.classes.index(label) for label in volumes.data.by_owner["label"]]
    rows = volumes.data.by_owner.assign(label=labels)
    parts = cases_as_parts(volumes.cases(rows), volumes.data.facts, volumes.preprocessing, ctx.accelerator)
    asked = config.features
    own = {name: Embedder(net, asked) for name, net in encoders.items()}
    more: dict[str, Embedder] = {kind: Embedder(encoders["encoder"], kind) for kind in work.kinds[1:]}
    every = {**own, **more, **untrained(architecture, ctx.device, asked)}  # at once: each volume is read once for all
    embedded = embed_all(every, parts, ctx.cache, ctx.accelerator)
    ctx.figures({"params/embeddings_computed": embedded.computed})
    known = of_volumes(volumes, rows, architecture, asked, ctx)
    task = known.task(work.judged)

    def features(name: str) -> list[Array]:
        return [embedded.features[name]]

    sources = [Source(name, CALLED[name], config.head, None, partial(features, name)) for name in encoders]
    sources += [replace(source, learner=config.head) for source in known.sources]
    encoder, *others = [control(source, task, ctx.cache, config.search, config.seed) for source in sources]
    others += [of_headers(known.headers, task, ctx.cache), majority(task)]
    beside = compared(CALLED["encoder"], encoder.predictions[0], others, task.owners, ctx.resampling, METRICS)
    chosen = {one.name: one.chosen[: len(task.pairs)] for one in (encoder, *others) if one.chosen}
    by_kind = {kind: embedded.features["encoder" if kind == asked else kind] for kind in work.kinds}
    told = side_by_side(ctx, by_kind, task, config.head, config.search, config.seed)
    return Judged(work.judged, encoder.predictions[0], beside, told, chosen, left_out)
