"""How networks and heads are trained: blocks that several phases have."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, MinLen

from medexp.config.bounds import Count, Natural, NotNegative, Positive, Told
from medexp.config.keys import Role


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
        patience: Epochs without a better validation score after which training stops and keeps the best epoch; 0 never stops
            early, and keeps the last.
        workers: Processes that load data; 0 loads in the training process.
    """

    epochs: Count
    optimizer: Literal["adamw"]
    weight_decay: NotNegative
    batch_size: Count
    accumulate: Count
    scheduler: Literal["cosine"]
    warmup_epochs: Natural
    grad_clip: Positive
    precision: Literal["fp32", "bf16-mixed"]
    validate_every: Count
    patience: Annotated[Natural, Role.JUDGING]
    workers: Annotated[Natural, Role.WHERE]

    def problems(self) -> Iterator[str]:
        if self.warmup_epochs >= self.epochs:
            yield f"warmup_epochs: found {self.warmup_epochs}; below epochs ({self.epochs})"


@dataclass(frozen=True)
class AdapterTrainingConfig(TrainingConfig):
    """Training of an adapter on a vision-language model.

    Args:
        lr: Learning rate of the adapter at the end of the warm-up.
        gradient_checkpointing: Whether the inside of layers is computed again for the gradients instead of kept: less memory,
            more time.
    """

    lr: Positive
    gradient_checkpointing: Annotated[bool, Role.WHERE]


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
    lambda_aux: NotNegative
    warmup_start_epoch: Natural
    warmup_duration: Natural


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

    folds: Annotated[int, Ge(2)]
    c: Annotated[tuple[Positive, ...], MinLen(1), Told("one or more values above 0", list)]
    hidden_size: Annotated[tuple[Count, ...], MinLen(1), Told("one or more values above 0", list)]
    weight_decay: NotNegative
    iterations: Count
