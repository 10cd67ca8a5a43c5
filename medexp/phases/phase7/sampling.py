"""mode=sample, and data sets of synthetic pairs."""

from pathlib import Path

import numpy as np

from medexp.checks import verdict
from medexp.config.flags import flags
from medexp.data.pairs.written import unfit
from medexp.errors import ConfigError, DataError
from medexp.evaluation.proportions import proportion
from medexp.evaluation.synthesis import Pairs
from medexp.phases.phase7 import PHASE, checks
from medexp.phases.phase7.comparison import in_words
from medexp.phases.phase7.config import Phase7Config
from medexp.phases.phase7.report import written
from medexp.phases.shared.again import changed
from medexp.phases.shared.context import Context
from medexp.phases.shared.packaging import parent_of
from medexp.phases.shared.publishing import Summary
from medexp.registry.store import pull
from medexp.registry.synthesis import Generator, called, load_generator
from medexp.tracking.figures import pairs

_TOGETHER = 2  # samples that are drawn at a time
_TRIES = 4  # times as many samples are drawn at most as are wanted: those without a mask are no pairs


def draw_registered(ctx: Context[Phase7Config]) -> None:
    """Draw from a registered adapter: pictures, NIfTI files, and a data set where one is asked for."""
    config, sampling = ctx.config, ctx.config.sampling
    generator = load_generator(config.adapter, device=ctx.device)
    ctx.built_on({"adapter": parent_of(pull(config.adapter))})
    rows, drawn = {}, {}
    for steps in sampling.steps:
        images, masks = generator.draw(sampling.samples, config.seed, steps)
        drawn[steps] = Pairs(images, masks, [called(config.seed, number) for number in range(sampling.samples)])
        rows[in_words(steps)] = (images[: sampling.shown], masks[: sampling.shown])
    ctx.run.reporter.figure(pairs(rows, f"drawn by {generator.called}", generator.spacing), "figures/pairs.png")
    first = sampling.steps[0]
    folder = written(ctx.run.folder / "generated", drawn[first], generator, ctx.run.id, config.seed, first)
    if folder:
        ctx.run.reporter.file(folder)
    filled = {
        in_words(steps): proportion(one.masks.any(axis=(1, 2, 3)), one.patients, config.confidence)
        for steps, one in drawn.items()
    }
    ctx.check(checks.drawn(filled, config.target.non_empty))
    following = write_augmented(ctx, generator)
    ml = float(np.prod(generator.spacing)) / 1000
    table = [
        [in_words(steps), f"{filled[in_words(steps)].estimate:.0%}", f"{np.median(one.masks.sum(axis=(1, 2, 3))) * ml:.2g}"]
        for steps, one in drawn.items()
    ]
    ctx.finish(
        Summary(
            headline=f"{sampling.samples} samples of {generator.called}, seed {config.seed}",
            title="drawn",
            head=["", "with a mask", "volume of the mask, median, ml"],
            rows=table,
            words=[
                f"Files of those with a mask: {folder or 'none'}. They are synthetic, and say so; how they compare with real "
                "ones is on the model's card."
            ],
            following=following,
        )
    )


def demand_free(config: Phase7Config) -> None:
    """That the folder for synthetic pairs holds nothing: known before anything is trained.

    Raises:
        ConfigError: It holds something.
    """
    folder = Path(config.augment_dir or "")
    if config.augment_dir and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"augment_dir={folder}: is there and holds something; give a folder that is not there yet")


def write_augmented(ctx: Context[Phase7Config], generator: Generator) -> list[str]:
    """A data set of `augment` synthetic pairs, in the first number of steps; samples without a mask are drawn anew.

    Returns:
        What can be done with it, in lines for the end of the output; none where no pairs are asked for.

    Raises:
        DataError: The folder is there already, or too few samples have a mask.
    """
    config = ctx.config
    if not config.augment or not ctx.accelerator.is_main_process:
        return []
    if verdict(ctx.checks) != "PASSED":
        return [f"augment={config.augment}: nothing was written, for a BLOCKING check failed"]
    folder = Path(config.augment_dir) if config.augment_dir else ctx.run.folder / "augmented"
    steps, seed = config.sampling.steps[0], config.seed
    images, masks = [], []
    names: list[str] = []
    for first in range(0, _TRIES * config.augment, _TOGETHER):
        if len(names) >= config.augment:
            break
        for number, pair in enumerate(zip(*generator.draw(_TOGETHER, seed, steps, first=first), strict=True), first):
            if not unfit(*pair) and len(names) < config.augment:
                images.append(pair[0])
                masks.append(pair[1])
                names.append(called(seed, number))
    if len(names) < config.augment:
        raise DataError(
            f"augment={config.augment}: of {_TRIES * config.augment} samples {len(names)} are a head with a lesion; train an "
            "adapter whose masks are not empty (P7-T5), or give a smaller augment"
        )
    made = written(folder, Pairs(np.stack(images), np.stack(masks), names), generator, ctx.run.id, seed, steps)
    print(f"Synthetic pairs: {len(names)} in {made}")
    both = ",".join([*(config.folders or ["FOLDER"]), str(made)])
    read = {f"pair_{key}": value for key, value in changed(PHASE, config).items() if key.startswith("data.")}
    command = flags({"pairs": both, **read})
    return [f"Next, train on them: mlflow run . -e prepare {command}   # then phase7, as it says, with data_dir={both}"]
