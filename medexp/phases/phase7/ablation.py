"""P7-T7: the loss's powers of 1.5 on images and 2 on masks against 2 on both, each trained with several seeds."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pandas as pd

from medexp.checks import Check
from medexp.evaluation.intervals import GAIN, Interval, mean_by_patient
from medexp.evaluation.synthesis import Pairs, contrast, mean_dice
from medexp.phases.phase7 import checks
from medexp.phases.phase7.comparison import median
from medexp.phases.phase7.config import Phase7Config
from medexp.phases.shared.context import Context
from medexp.registry.synthesis import Generator
from medexp.reporting import NullReporter

POWERS = {"1.5 and 2": (1.5, 2.0), "2 and 2": (2.0, 2.0)}
"""Of images and of masks."""

COLUMNS = ["powers", "seed", "dice", "non_empty", "contrast"]


@dataclass(frozen=True)
class Ablated:
    """Trainings with other powers.

    Attributes:
        table: One row a training: powers, seed, and of its samples in one step dice (mean, with held-out real masks),
            non_empty and contrast (median).
        check: P7-T7.
        words: What it comes to, a null result as one.
    """

    table: pd.DataFrame
    check: Check
    words: tuple[str, ...]


def ablated(ctx: Context[Phase7Config], train: Callable[[Context[Phase7Config], str], Generator], held: Pairs) -> Ablated:
    """Train with each powers and seed, and compare masks; of what is compared a seed is what a patient is elsewhere.

    Args:
        ctx: Where it is logged: `ablation.csv`.
        train: From a context, and which training it is in words, to what draws.
        held: Real pairs that nothing was trained on.
    """
    config = ctx.config
    silent = replace(ctx, run=replace(ctx.run, reporter=NullReporter()))
    rows = []
    for number in range(config.ablation.seeds):
        for name, (p_img, p_mask) in POWERS.items():
            own = replace(
                config,
                seed=config.seed + number,
                loss=replace(config.loss, p_img=p_img, p_mask=p_mask),
                training=replace(config.training, epochs=config.ablation.epochs),
            )
            generator = train(replace(silent, config=own), f"powers {name}, seed {own.seed}")
            images, masks = generator.draw(config.sampling.samples, own.seed, config.sampling.steps[0])
            found = {"dice": mean_dice(masks, held.masks), "non_empty": masks.any(axis=(1, 2, 3)).mean()}
            rows.append({"powers": name, "seed": own.seed, **found, "contrast": median(contrast(images, masks))})
    table = pd.DataFrame(rows, columns=COLUMNS)
    difference = _difference(table, ctx) if len(table) else None
    if difference is not None:
        ctx.run.reporter.table(table, "ablation.csv")
    return Ablated(table, checks.powers(difference, config.ablation.seeds), _words(table, difference))


def _difference(table: pd.DataFrame, ctx: Context[Phase7Config]) -> Interval:
    own, plain = (table[table["powers"] == name].set_index("seed")["dice"] for name in POWERS)
    return mean_by_patient((own - plain).to_numpy(), [f"seed {seed}" for seed in own.index], ctx.resampling, GAIN)


def _words(table: pd.DataFrame, difference: Interval | None) -> tuple[str, ...]:
    if difference is None:
        return ()
    apart = table.pivot_table(index="seed", columns="powers", values="dice")
    first, second = POWERS
    gaps = apart[first] - apart[second]
    said = difference.told(
        few="Too few seeds to tell powers of 1.5 and 2 from 2 and 2 in mask Dice",
        better="Powers of 1.5 and 2 give a higher mask Dice than 2 and 2",
        worse="Powers of 1.5 and 2 give a lower mask Dice than 2 and 2",
        same="Powers of 1.5 and 2 and of 2 and 2 cannot be told apart in mask Dice",
        unit="seeds",
    )
    return (f"{said} Over {len(gaps)} seeds the difference goes from {gaps.min():+.3f} to {gaps.max():+.3f}.",)
