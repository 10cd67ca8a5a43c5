"""Losses and the warm-up of the auxiliary weight."""

from typing import Any

import numpy as np
import pytest
import torch
from monai.losses import DiceCELoss, DiceLoss
from sklearn.utils.class_weight import compute_class_weight

from medexp.config.training import AuxHeadsConfig
from medexp.data.images.sampling import expected_draws
from medexp.data.volumes.regions import to_regions
from medexp.errors import ConfigError
from medexp.models.heads import SemanticHeads
from medexp.training.losses import aux_weight, class_weights, segmentation_loss


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, 8, 8, 8, generator=generator), to_regions(torch.randint(0, 4, (2, 8, 8, 8), generator=generator))


def test_dice_bce_is_the_sum_of_its_parts() -> None:
    logits, regions = batch()
    parts = segmentation_loss(logits, regions, "dice_bce")
    bce = torch.nn.functional.binary_cross_entropy_with_logits(logits, regions)
    assert parts["ce"] == pytest.approx(float(bce))
    assert parts["segmentation"] == pytest.approx(float(DiceLoss(sigmoid=True)(logits, regions) + bce))


def test_the_form_with_a_softmax_over_regions_stays_reachable() -> None:
    logits, regions = batch()
    assert segmentation_loss(logits, regions, "dice_ce")["segmentation"] == DiceCELoss(sigmoid=True)(logits, regions)


def test_bf16_logits_are_taken_to_float32() -> None:
    logits, regions = batch()
    assert segmentation_loss(logits.bfloat16(), regions, "dice_bce")["segmentation"].dtype == torch.float32


def test_the_auxiliary_weight_is_0_and_then_rises_to_lambda() -> None:
    aux = AuxHeadsConfig(enabled=True, lambda_aux=0.1, warmup_start_epoch=5, warmup_duration=10)
    weights = [aux_weight(epoch, aux) for epoch in range(20)]
    assert weights[:5] == [0] * 5
    assert weights[5] == pytest.approx(0.01)
    assert weights[14:] == pytest.approx([0.1] * 6)
    assert weights == sorted(weights)
    assert aux_weight(19, AuxHeadsConfig(False, 0.1, 0, 0)) == 0
    assert aux_weight(0, AuxHeadsConfig(True, 0.1, 0, 0)) == 0.1


def test_semantic_heads_work_in_the_units_of_the_targets() -> None:
    torch.manual_seed(0)
    features, targets = torch.randn(50, 12) * 1e-3 + 2, torch.randn(50, 10) * 7 + 30
    targets[:, 3] = 1.0  # a target that does not vary
    heads = SemanticHeads(features, targets)
    optimizer = torch.optim.Adam(heads.parameters(), lr=0.1)
    first = float(heads.loss(heads(features), targets).detach())
    for _ in range(100):
        optimizer.zero_grad()
        loss = heads.loss(heads(features), targets)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.9 * first
    assert heads.predict(features).detach().mean(0).numpy() == pytest.approx(targets.mean(0).numpy(), abs=0.5)
    assert torch.isfinite(heads.predict(features)).all()


def test_balanced_classes_count_the_same_over_what_is_drawn_on_average() -> None:
    labels, draws = [0, 0, 0, 1], np.array([0.5, 0.5, 0.5, 2.5])
    assert class_weights(labels, draws, 2, "balanced").tolist() == pytest.approx([4 / 3, 4 / 5])
    assert class_weights(labels, np.ones(4), 2, "balanced").tolist() == pytest.approx([2 / 3, 2])
    assert class_weights(labels, draws, 2, "none").tolist() == [1, 1]


def test_weights_do_not_hang_on_what_one_epoch_happens_to_draw() -> None:
    """Of 40 slices an epoch draws half, besides one picture over and over: often not the only slice with a tumour."""
    sources, labels = ["brats"] * 40 + ["kaggle"], [1] + [0] * 40
    draws = expected_draws(sources, {"brats": 1.0, "kaggle": 1.0})
    weights = class_weights(labels, draws, 2, "balanced")
    assert draws[0] < 1 and weights[1] == pytest.approx(len(labels) / (2 * draws[0]))


@pytest.mark.parametrize("kind", ["balanced", "none"])
def test_a_class_that_is_never_drawn_is_told(kind: Any) -> None:
    with pytest.raises(ConfigError, match="data.weights: training would draw cases of one class alone"):
        class_weights([0, 0, 1], [1.5, 1.5, 0.0], 2, kind)


def test_of_three_classes_the_weights_are_those_of_scikit_learn() -> None:
    labels = [0] * 5 + [1] * 2 + [2]
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert class_weights(labels, np.ones(8), 3, "balanced").tolist() == pytest.approx(expected)
    with pytest.raises(ConfigError, match="would draw cases of 2 of 4 classes alone; raise the weight of the others' sources"):
        class_weights([0, 2, 0], [1, 1, 1], 4, "balanced")
