"""How networks and heads are trained: blocks that several phases have."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Interval, MinLen

from medexp.config.bounds import Count, Fraction, Natural, NotNegative, Positive, Told
from medexp.config.keys import Compared, Role, Short


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

    epochs: Annotated[Count, Compared()]
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

    lr: Annotated[Positive, Compared()]
    gradient_checkpointing: Annotated[bool, Role.WHERE]


@dataclass(frozen=True)
class FlowTrainingConfig(TrainingConfig):
    """Training of a MeanFlow network, or of an adapter on it. A Jacobian-vector product is taken in each step: in fp32.

    Args:
        epochs: Passes over the training cases.
        lr: Learning rate at the end of the warm-up.
        lr_new: That of the new slices of the first and the last convolution.
        ema: Decay of the moving average of the weights, which is what is kept; 0 keeps the weights themselves.
        repeats: How often an epoch takes each case, with other noise and other times.
    """

    epochs: Annotated[Count, Short("training.max_epochs"), Compared()]
    lr: Annotated[Positive, Compared()]
    lr_new: Positive
    ema: Fraction
    repeats: Count

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        if self.precision != "fp32":
            yield f"precision: found {self.precision}; a Jacobian-vector product is taken in fp32: group norm has none in bf16"


@dataclass(frozen=True)
class FlowLossConfig:
    """The MeanFlow loss by channel (docs/requirements/phase7.md).

    With z_t = (1 - t) z + t eps and v = eps - z it is the mean over t, r and eps of w(t) times the sum over channels of
    lambda |V - v|^p, V = u(z_t, t, r) + (t - r) du/dt.

    Args:
        p_img: Power on the channels of the image.
        p_mask: Power on the channels of the mask.
        lambda_img: Weight of each channel of the image.
        lambda_mask: Weight of each channel of the mask.
        time_weight: w(t): uniform, or adaptive, 1 / (error + 0.001)^0.75 of each sample.
        tangent: What du/dt is taken along: conditional, v itself; predicted, the network's own velocity u(z_t, t, t), as in
            improved MeanFlow.
        unequal: Share of a batch with r below t; the others are flow matching.
        curriculum: Share of the training, from its start, over which `unequal` rises from 0.
        uniform: Share of times that are drawn evenly from 0 to 1; the others are logit-normal.
        time_mean: Mean of the logits of the others.
        time_sd: Their standard deviation.
    """

    p_img: Positive
    p_mask: Positive
    lambda_img: Positive
    lambda_mask: Positive
    time_weight: Literal["uniform", "adaptive"]
    tangent: Literal["conditional", "predicted"]
    unequal: Annotated[float, Interval(ge=0, le=1)]
    curriculum: Fraction
    uniform: Annotated[float, Interval(ge=0, le=1)]
    time_mean: float
    time_sd: Positive


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
