"""How networks and heads are trained: blocks that several phases have."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TrainingConfig:
    """One training of the fit loop.

    Args:
        epochs: Passes over the training cases.
        optimizer: adamw.
        weight_decay: Decoupled weight decay.
        batch_size: Cases a step and process.
        accumulate: Steps whose gradients are averaged before the optimiser moves.
        scheduler: cosine, down to 0, after the warm-up.
        warmup_epochs: Epochs of linear warm-up of the learning rates.
        grad_clip: Largest norm of all gradients together.
        precision: fp32 or bf16-mixed.
        validate_every: Epochs between validations; the last epoch is always validated.
        patience: Epochs without a better validation score after which training stops; 0 never stops early.
        workers: Processes that load data; 0 loads in the training process.
    """

    epochs: int
    optimizer: Literal["adamw"]
    weight_decay: float
    batch_size: int
    accumulate: int
    scheduler: Literal["cosine"]
    warmup_epochs: int
    grad_clip: float
    precision: Literal["fp32", "bf16-mixed"]
    validate_every: int
    patience: int
    workers: int

    def problems(self) -> Iterator[str]:
        for key in ("epochs", "batch_size", "accumulate", "validate_every"):
            if getattr(self, key) < 1:
                yield f"{key}: found {getattr(self, key)}; at least 1"
        for key in ("weight_decay", "warmup_epochs", "patience", "workers"):
            if getattr(self, key) < 0:
                yield f"{key}: found {getattr(self, key)}; at least 0"
        rates = [field.name for field in dataclasses.fields(self) if field.name.startswith("lr_")]
        for key in (*rates, "grad_clip"):
            if not getattr(self, key) > 0:
                yield f"{key}: found {getattr(self, key)}; above 0"
        if self.warmup_epochs >= self.epochs:
            yield f"warmup_epochs: found {self.warmup_epochs}; below epochs ({self.epochs})"


@dataclass(frozen=True)
class AuxHeadsConfig:
    """Auxiliary regression of volume, location and shape from the bottleneck.

    Args:
        enabled: Whether the heads are trained.
        lambda_aux: Weight of their loss after the warm-up.
        warmup_start_epoch: Epoch before which the weight is 0.
        warmup_duration: Epochs over which it then rises to lambda_aux.
    """

    enabled: bool
    lambda_aux: float
    warmup_start_epoch: int
    warmup_duration: int

    def problems(self) -> Iterator[str]:
        for key in ("lambda_aux", "warmup_start_epoch", "warmup_duration"):
            if getattr(self, key) < 0:
                yield f"{key}: found {getattr(self, key)}; at least 0"


@dataclass(frozen=True)
class SearchConfig:
    """How a head's hyperparameter is chosen: the least log loss in cross-validation across training patients.

    Args:
        folds: Folds of the cross-validation, by patient; fewer where a class has fewer patients.
        c: Candidates for C, the inverse penalty, of the logistic regression.
        hidden_size: Candidates for the width of the MLP's hidden layer.
        weight_decay: L2 penalty of the MLP's weights.
        iterations: Most steps of the solver.
    """

    folds: int
    c: tuple[float, ...]
    hidden_size: tuple[int, ...]
    weight_decay: float
    iterations: int

    def problems(self) -> Iterator[str]:
        if self.folds < 2:
            yield f"folds: found {self.folds}; at least 2"
        for key in ("c", "hidden_size"):
            if not getattr(self, key) or min(getattr(self, key)) <= 0:
                yield f"{key}: found {list(getattr(self, key))}; one or more values above 0"
        if self.weight_decay < 0:
            yield f"weight_decay: found {self.weight_decay}; at least 0"
        if self.iterations < 1:
            yield f"iterations: found {self.iterations}; at least 1"
