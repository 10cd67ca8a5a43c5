"""What predict works on, and what came of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medexp.data.inputs import Inputs
from medexp.phases.predict.scoring import Truth
from medexp.phases.predict.written import Record
from medexp.registry.predictors import Predictor


@dataclass(frozen=True)
class Work:
    """The model, the cases, what is known of them, and where predictions go.

    Attributes:
        predictor: The model.
        inputs: The cases.
        source: What they are, in words.
        truth: What is known of them.
        folder: Where predictions go.
        made_with: What answers follow from beside the case.
    """

    predictor: Predictor
    inputs: Inputs
    source: str
    truth: Truth
    folder: Path
    made_with: Mapping[str, Any]


@dataclass(frozen=True)
class Done:
    """What came of the cases.

    Attributes:
        records: The sidecars of those that were predicted, now or before.
        problems: What is wrong with the others, by id.
        before: How many were predicted before.
    """

    records: Sequence[Record]
    problems: Mapping[str, str]
    before: int

    @property
    def scored(self) -> list[Record]:
        """Of those whose truth is known."""
        return [record for record in self.records if record["scores"]]
