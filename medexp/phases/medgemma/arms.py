"""What a model is asked about scenarios: as it is meant to be asked, and in the ways that show what its answers rest on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from medexp.data.scenarios.cases import Scenario
from medexp.errors import DataError
from medexp.phases.medgemma.config import MedgemmaConfig

ADAPTER, BASE, BLIND, OTHER, SWAPPED, PARAPHRASE = "adapter", "base", "blind", "other_image", "error_first", "paraphrase_"
"""Names of the arms; of the paraphrases with a number behind it."""


@dataclass(frozen=True)
class Arm:
    """One way of asking.

    Attributes:
        name: In tables and metrics.
        called: In words.
        adapted: Whether the adapter answers, or the base without it.
        image: The scenario's own, none, or that of another scenario.
        instruction: In place of the scenario's own; None: its own.
        first: The answer that the question names first.
    """

    name: str
    called: str
    adapted: bool = True
    image: Literal["own", "none", "other"] = "own"
    instruction: str | None = None
    first: Literal["CORRECT", "ERROR"] = "CORRECT"

    @property
    def replies(self) -> bool:
        """Whether it is also asked to say something by itself."""
        return self.name in (ADAPTER, BASE)


JUDGED = Arm(ADAPTER, "the adapter")
"""The way of asking that is judged."""

UNADAPTED = Arm(BASE, "the base without the adapter", adapted=False)


def arms(config: MedgemmaConfig) -> list[Arm]:
    """All ways of asking, the judged one first."""
    wordings = [
        Arm(f"{PARAPHRASE}{number}", f"asked: {text}", instruction=text)
        for number, text in enumerate(config.scoring.paraphrases, 1)
    ]
    return [
        JUDGED,
        UNADAPTED,
        Arm(BLIND, "the adapter, without the image", image="none"),
        Arm(OTHER, "the adapter, with another scenario's image", image="other"),
        Arm(SWAPPED, "the adapter, ERROR named first", first="ERROR"),
        *wordings,
    ]


def strangers(scenarios: Sequence[Scenario], seed: int) -> dict[str, Path]:
    """By a scenario's id the image of another one, of another family and of the same modality where there is such a one.

    Images change places, so that as many show each thing as before: each is taken about once.

    Raises:
        DataError: All scenarios are of one family.
    """
    found: dict[str, Path] = {}
    rows = pd.DataFrame({"modality": [one.modality for one in scenarios], "family": [one.patient for one in scenarios]})
    order = np.random.default_rng(seed).permutation(len(rows))
    for among in (*rows.groupby("modality").indices.values(), np.arange(len(rows))):
        places = order[np.isin(order, among)]
        for step, place in enumerate(places):
            others = (places[(step + shift) % len(places)] for shift in range(1, len(places)))
            other = next((one for one in others if rows["family"][one] != rows["family"][place]), None)
            if other is not None:
                found.setdefault(scenarios[place].id, scenarios[other].image)
    if len(found) < len(rows):
        raise DataError("scenarios: all that are judged are of one family: none has the image of another. Give more of them")
    return found
