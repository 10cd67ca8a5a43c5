"""What phase7 leaves behind: pictures and tables, what was drawn as files, the registered adapter, the last lines."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors.torch import save_file

from medexp.config.flags import flags
from medexp.config.keys import Role, marked
from medexp.data.manifest import seen_cases
from medexp.data.pairs.prepared import PreparedPairs, preprocessing
from medexp.data.pairs.written import unfit, write_pairs
from medexp.evaluation.synthesis import Judgement, Pairs, contrast
from medexp.files import replacing
from medexp.models.checkpoints import weights_digest
from medexp.models.kinds import ONLY
from medexp.models.meanflow.lora import Counts, save_lora
from medexp.phases.phase7 import PHASE
from medexp.phases.phase7.ablation import Ablated
from medexp.phases.phase7.adapting import Trained
from medexp.phases.phase7.comparison import FIGURES, Compared, Drawn, figures_of, in_words, median
from medexp.phases.phase7.config import Phase7Config
from medexp.phases.phase7.reading import BASE_MODEL, Base
from medexp.phases.shared.again import changed
from medexp.phases.shared.context import Context
from medexp.phases.shared.packaging import VELOCITY, contract, made_with, packaged
from medexp.phases.shared.publishing import Summary, caveat, selection
from medexp.registry import store
from medexp.registry.package import Learned, Package, Parent
from medexp.registry.packages import ADAPTER, ADAPTER_KIND, VAE, read_json
from medexp.registry.synthesis import GRID, LATENTS, Generator, grid_of, judged_on, latents_of, per_sample
from medexp.tracking.figures import curves, pairs

MODEL = "phase7_fcd_adapter"
_OUTPUT = "velocity (B, C, x, y, z); a sample in one step is z = noise - u(noise, 1, 0), which the base's VAE decodes"


def pictured(compared: Compared, held: Pairs, shown: int) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """Rows of the picture of pairs: real ones, what the VAE keeps of them, and samples of the first seed."""
    rows = {"real": held, "through the VAE": compared.ceiling}
    rows |= {in_words(one.steps): one.pairs for one in compared.drawn if one.seed == 0}
    return {name: (one.images[:shown], one.masks[:shown]) for name, one in rows.items()}


def registered_base(ctx: Context[Phase7Config], base: Base, affine: NDArray[np.float64]) -> Parent:
    """The base as what is made from it names it; one that is not in the registry is registered with its VAE."""
    if base.parent.version is not None:
        return base.parent
    latents = latents_of(base.joint, base.vae_architecture)
    if found := store.find_by_weights(BASE_MODEL, weights_digest(base.weights)):
        there = store.pull(f"models:/{found.name}/{found.version}").folder
        if read_json(there, "contract.json")[LATENTS] == latents:  # the same U-Net may stand with another VAE
            return Parent(found.name, found.version, found.digest, found.weights_digest)
    config, file = ctx.config, ctx.run.folder / VAE
    with replacing(file) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in base.joint.vae.state_dict().items()}, temporary)
    steps = preprocessing(config.data.spacing, config.data.input_size)
    known = Learned("healthy phantoms", phantoms=True) if base.is_embedded else None
    cases = seen_cases(pd.DataFrame({"split": [], "patient": [], "case": []}), ()) if base.is_embedded else None
    if learned := base.learned_on:
        known = Learned(learned.source, learned.digest, learned.phantoms)
        cases = seen_cases(learned.manifest, learned.facts.values())
    return ctx.publish(
        Package(
            name=BASE_MODEL,
            architecture=base.architecture,
            contract=contract(
                BASE_MODEL,
                _OUTPUT,
                steps,
                {ONLY: VELOCITY},
                **{LATENTS: latents, GRID: grid_of(config.data.input_size, affine)},
            ),
            weights=base.weights,
            cases=cases,
            learned=known,
            facts=made_with(ctx),
            extra={VAE: file},
        ),
        judged=False,
    )


def publish(
    ctx: Context[Phase7Config], base: Base, data: PreparedPairs, held: Pairs, done: Trained, compared: Compared
) -> None:
    """Register the adapter, and the base where this store does not have it yet."""
    config, generator = ctx.config, done.generator
    folder = ctx.run.folder / ADAPTER
    save_lora(done.net, folder)
    ctx.run.reporter.file(folder)
    parent = registered_base(ctx, base, generator.affine)
    joint = generator.joint
    drawn = {"steps": config.sampling.steps[0], "size": list(config.data.input_size), "ring": config.sampling.ring}
    ctx.publish(
        packaged(
            ctx,
            MODEL,
            data,
            output=_OUTPUT,
            preprocessing=preprocessing(config.data.spacing, config.data.input_size),
            outputs={ONLY: VELOCITY},
            evaluation={"data_digest": judged_on(data.digests["val"], **drawn), **drawn},
            facts=_facts(config, data, done, compared),
            beside={
                LATENTS: latents_of(joint, base.vae_architecture),
                GRID: grid_of(config.data.input_size, generator.affine),
            },
            architecture={"kind": ADAPTER_KIND, "base": base.architecture, "channels": joint.channels},
            weights={},
            parents={"base": parent},
            per_case=scored(config, held, compared.drawn),
            figures={**_counted(done.counts), **dict(_figures(compared))},
            extra={ADAPTER: folder},
        )
    )


def scored(config: Phase7Config, held: Pairs, drawn: Sequence[Drawn]) -> pd.DataFrame:
    """One row a sample of the first number of steps, as promotion compares them (`medexp.registry.synthesis.per_sample`)."""
    ring = config.sampling.ring
    real = contrast(held.images, held.masks, ring)
    first = [one for one in drawn if one.steps == config.sampling.steps[0]]
    return pd.concat(
        [per_sample(one.seed, contrast(one.pairs.images, one.pairs.masks, ring), real) for one in first], ignore_index=True
    )


def _facts(config: Phase7Config, data: PreparedPairs, done: Trained, compared: Compared) -> dict[str, str | None]:
    """What the card says of pairs and training, by item of CLAIM."""
    training, lora = config.training, config.lora
    boundary = "new slices" if lora.boundary == "slices" else "all"
    counted = done.counts
    unlike = [one.told for one in compared.pooled[config.sampling.steps[0]].statements if one.found == "unlike"]
    return {
        "Reference standard": f"the masks of {data.source}",
        "Assignment to partitions": f"{len(data.cases)} pairs of {data.manifest['patient'].nunique()} patients, by patient; "
        "synthetic pairs in training alone",
        "Training": f"{training.epochs} epochs, rate {training.lr:g} ({training.lr_new:g} for new slices), moving average "
        f"{training.ema:g}; LoRA rank {lora.rank}, alpha {lora.alpha:g}, on {', '.join(lora.target_modules)} of each "
        f"attention ({counted.lora:,} parameters) and {boundary} of the first and last convolution "
        f"({counted.slices if lora.boundary == 'slices' else counted.convolutions:,}), of {counted.total:,} in all; powers "
        f"{config.loss.p_img:g} and {config.loss.p_mask:g}; masks: {done.generator.joint.strategy}",
        "Selection of the final model": selection(training, "the lowest held-out loss"),
        "Limitations": " ".join(unlike) or None,
    }


def _counted(counts: Counts) -> dict[str, str]:
    """For the card: what may train in the network, in three counts, each with its share of all parameters."""
    beside = {"alone": 0, "and the new slices": counts.slices, "and both boundary convolutions": counts.convolutions}
    return {
        f"parameters of LoRA {which}": f"{counts.lora + more:,}, {(counts.lora + more) / counts.total:.2%} of {counts.total:,}"
        for which, more in beside.items()
    }


def _figures(compared: Compared) -> Iterator[tuple[str, str]]:
    """For the card: each figure of samples beside the same of real pairs."""
    for steps, judged in compared.pooled.items():
        for one in judged.statements:
            yield f"{one.called}, {in_words(steps)}", f"{one.generated.in_a_cell(3)}; of real ones {one.real.in_a_cell(3)}"


def finish(
    ctx: Context[Phase7Config],
    data: PreparedPairs,
    held: Pairs,
    done: Trained,
    compared: Compared,
    powers: Ablated,
    augmented: Sequence[str],
) -> None:
    """Log all of it, and the last lines."""
    config, reporter = ctx.config, ctx.run.reporter
    shown = config.sampling.shown
    reporter.figure(
        pairs(
            pictured(compared, held, shown), "real pairs and drawn ones: axial planes through the masks", config.data.spacing
        ),
        "figures/pairs.png",
    )
    reporter.figure(curves(done.fitted.history), "figures/curves.png")
    reporter.table(done.fitted.history, "training_log.csv")
    tables = [one.table.assign(drawn=which) for which, one in compared.single.items()]
    reporter.table(pd.concat(tables, ignore_index=True), "samples.csv")
    reporter.table(_statements(compared.pooled), "judgement.csv")
    reporter.table(scored(config, held, compared.drawn), "per_case.csv")
    for steps, judged in compared.pooled.items():
        prefix = "val/final/" if steps == config.sampling.steps[0] else f"steps{steps}/"
        ctx.intervals(prefix, {one.name: one.generated for one in judged.statements})
    first = compared.drawn[0]
    folder = ctx.run.folder / "generated"
    if ctx.accelerator.is_main_process:
        if written(folder, first.pairs, done.generator, ctx.run.id, first.seed, first.steps):
            reporter.file(folder)
        with replacing(ctx.run.folder / "metrics.json") as temporary:
            temporary.write_text(json.dumps(_metrics(compared, held, powers), indent=2) + "\n")
        reporter.file(ctx.run.folder / "metrics.json")
    head, rows = rows_of(compared)
    pooled = compared.pooled[config.sampling.steps[0]]
    ctx.finish(
        Summary(
            headline=f"phase7, profile {config.profile}, rank {config.lora.rank}, masks by {done.generator.joint.strategy}, "
            f"on {data.source}",
            compared_by=("val/final/contrast", "lesion contrast"),
            title=f"samples beside {len(held.images)} held-out real pairs",
            head=head,
            rows=rows,
            first=_told_apart(compared),
            words=[
                *pooled.words,
                _of_base(compared),
                *powers.words,
                caveat(done.fitted, ctx.resampling),
            ],
            following=[*augmented, *_utility(config, data)],
        )
    )


def written(folder: Path, drawn: Pairs, generator: Generator, run: str, seed: int, steps: int) -> Path | None:
    """A data set of samples, tagged as synthetic, whose files say what drew them; of those alone that are a pair, with a mask.

    Returns:
        The folder; None where no sample is a pair.
    """
    fit = [place for place in range(len(drawn.images)) if not unfit(drawn.images[place], drawn.masks[place])]
    if not fit:
        return None
    return write_pairs(
        folder,
        drawn.images[fit],
        drawn.masks[fit],
        [generator.affine] * len(fit),
        [drawn.patients[place] for place in fit],
        synthetic={"model": generator.called, "digest": generator.digest, "run": run, "seed": seed, "steps": steps},
    )


def rows_of(compared: Compared) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of the closing table: real pairs, what the VAE keeps of them, and each set of samples."""
    first = next(iter(compared.pooled.values()))
    real = ["real", *(first.of(name).real.in_a_cell(3, bounds=False) for name in FIGURES)]
    ceiling = ["real, through the VAE", *(_cell(first.ceiling, name) for name in FIGURES)]
    sets = [[which, *(f"{value:.3f}" for value in figures_of(judged).values())] for which, judged in compared.single.items()]
    return ["", *FIGURES.values()], [real, ceiling, *sets]


def _cell(figures: Mapping[str, Any], name: str) -> str:
    return figures[name].in_a_cell(3, bounds=False) if name in figures else "-"


def _statements(pooled: Mapping[int, Judgement]) -> pd.DataFrame:
    """One row a statement and number of steps: steps, name, generated, real, p, found, told."""
    rows = [
        {
            "steps": steps,
            "name": one.name,
            "generated": one.generated.estimate,
            "real": one.real.estimate,
            "gap": one.gap.estimate,
            "gap_low": one.gap.low,
            "gap_high": one.gap.high,
            "p": one.p,
            "found": one.found,
            "told": one.told,
        }
        for steps, judged in pooled.items()
        for one in judged.statements
    ]
    return pd.DataFrame(rows)


def _told_apart(compared: Compared) -> list[str]:
    """In how many figures samples are unlike real pairs, which a reader must know before any of them."""
    lines = []
    for steps, judged in compared.pooled.items():
        if unlike := [one.called.partition(",")[0] for one in judged.statements if one.found == "unlike"]:
            count = f"{len(unlike)} of {len(judged.statements)} figures"
            lines.append(f"Samples in {in_words(steps)} are told from real pairs in {count}: {', '.join(unlike)}.")
    return lines


def _of_base(compared: Compared) -> str:
    """What the anatomy alone has of contrast under the samples' masks."""
    found = median(compared.of_base)
    return f"Under the same masks, what the base draws of the same noise without the adapter has a contrast of {found:.3f}."


def _metrics(compared: Compared, held: Pairs, powers: Ablated) -> dict[str, Any]:
    return {
        "samples": {which: figures_of(judged) for which, judged in compared.single.items()},
        "real": {one.name: one.real.estimate for one in next(iter(compared.pooled.values())).statements},
        "ceiling": {name: one.estimate for name, one in next(iter(compared.pooled.values())).ceiling.items()},
        "base_without_adapter": {"contrast": median(compared.of_base)},
        "held_out_pairs": len(held.images),
        "ablation": powers.table.to_dict("records"),
    }


def _utility(config: Phase7Config, data: PreparedPairs) -> Iterator[str]:
    if data.ids("test"):
        command = f"mlflow run . -e phase7 -P mode=utility {again(config)}".rstrip()
        yield f"Next, is it of use: {command}   # a segmenter with and without it"


def again(config: Phase7Config) -> str:
    """The pairs, the base and all else that a run was made with otherwise than its profile, as a command takes it."""
    left_out = marked(Phase7Config, Role.WHERE)
    given = {key: value for key, value in changed(PHASE, config).items() if key not in left_out}
    if config.folders:
        given["data_dir"] = ",".join(config.folders)
    return flags({"profile": None if config.profile == "demo" else config.profile, **given})
