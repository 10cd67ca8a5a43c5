"""Losses and the warm-up of the auxiliary weight."""

import pytest
import torch
from monai.losses import DiceCELoss, DiceLoss

from medexp.config.training import AuxHeadsConfig
from medexp.data.volumes.regions import to_regions
from medexp.models.heads import SemanticHeads
from medexp.training.losses import aux_weight, segmentation_loss


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, 8, 8, 8, generator=generator), to_regions(torch.randint(0, 4, (2, 8, 8, 8), generator=generator))


def test_dice_bce_is_the_sum_of_its_parts() -> None:
    logits, regions = batch()
    parts = segmentation_loss(logits, regions, "dice_bce")
    bce = torch.nn.functional.binary_cross_entropy_with_logits(logits, regions)
    assert parts["ce"] == pytest.approx(float(bce))
    assert parts["segmentation"] == pytest.approx(float(DiceLoss(sigmoid=True)(logits, regions) + bce))


def test_the_specifications_literal_form_stays_reachable() -> None:
    logits, regions = batch()
    assert segmentation_loss(logits, regions, "dice_ce")["segmentation"] == DiceCELoss(sigmoid=True)(logits, regions)


def test_bf16_logits_are_taken_to_float32() -> None:
    logits, regions = batch()
    assert segmentation_loss(logits.bfloat16(), regions, "dice_bce")["segmentation"].dtype == torch.float32


def test_the_auxiliary_weight_rises_as_the_specification_says() -> None:
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
