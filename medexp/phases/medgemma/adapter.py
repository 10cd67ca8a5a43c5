"""The adapter on its base: trained, and shown to be what it is said to be."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from peft import PeftModel
from torch import nn

from medexp.arrays import Array
from medexp.checks import Check
from medexp.data.scenarios.cases import Scenario
from medexp.data.scenarios.prompts import Prompt, answer_ids
from medexp.evaluation.answers import score_answers
from medexp.models.vision_language.adapters import add_adapter, digests, expected_parameters, merged, untouched
from medexp.models.vision_language.bases import Base, load_base
from medexp.phases.medgemma import checks
from medexp.phases.medgemma.asking import Asking, Examples
from medexp.phases.medgemma.config import MedgemmaConfig
from medexp.phases.shared.context import Context
from medexp.training.adapters import fit_adapter
from medexp.training.loop import FitResult

_TRIED = 4  # scenarios by which networks are held against each other


@dataclass(frozen=True)
class Trained:
    """An adapter that was trained.

    Attributes:
        net: The base with the adapter on it, in eval mode.
        fitted: The training.
        checks: MEDGEMMA-PARAMETERS, -FROZEN, -MERGE and -LOSS.
    """

    net: PeftModel
    fitted: FitResult
    checks: Sequence[Check]


def loaded(ctx: Context[MedgemmaConfig], base: Base) -> nn.Module:
    """The base as it is computed with: in bfloat16 where the training is, quantised where that is asked for."""
    return load_base(base, quantize=ctx.config.quantize, dtype=getattr(torch, dtype_of(ctx.config)), device=ctx.device)


def dtype_of(config: MedgemmaConfig) -> str:
    """What the base is computed in."""
    return "bfloat16" if config.training.precision == "bf16-mixed" else "float32"


def trained(
    ctx: Context[MedgemmaConfig], base: Base, asking: Asking, examples: Mapping[str, Examples], tried: Sequence[Scenario]
) -> Trained:
    """Train an adapter on a base that is loaded anew.

    Args:
        ctx: Where it is logged, and goes on from.
        base: The base.
        asking: What makes prompts.
        examples: What is learned from, `train`, and what the loss is told of after each epoch, `val`.
        tried: Scenarios by which the adapted network is held against the base and the merged one.
    """
    config = ctx.config
    net = loaded(ctx, base)
    prompts = [asking.prompt(one) for one in tried[:_TRIED]]
    before, of_base = digests(net), _logs(ctx, asking, net, prompts)
    torch.manual_seed(config.seed)
    adapted = add_adapter(net, config.lora)
    learns = {name: one.numel() for name, one in adapted.named_parameters() if one.requires_grad}
    counted = checks.parameters(
        sum(learns.values()), expected_parameters(net, config.lora), [name for name in learns if "lora_" not in name]
    )
    fitted = fit_adapter(
        adapted,
        examples["train"],
        examples["val"],
        config.training,
        seed=config.seed,
        accelerator=ctx.accelerator,
        reporter=ctx.run.reporter,
        folder=ctx.state(),
        title=", ".join(filter(None, ["training the adapter", ctx.fold])),
        pad_id=asking.pad_id,
        until=ctx.until,
    )
    adapted.eval()
    frozen = checks.frozen(untouched(adapted, before), len(before))
    return Trained(
        adapted, fitted, [counted, frozen, _merge(ctx, asking, adapted, prompts, of_base), checks.loss(fitted.history)]
    )


def _merge(
    ctx: Context[MedgemmaConfig], asking: Asking, adapted: PeftModel, prompts: Sequence[Prompt], of_base: Array
) -> Check:
    """MEDGEMMA-MERGE; of a quantised base, whose weights cannot hold an update, that disabled the adapter changes nothing."""
    with adapted.disable_adapter():
        disabled = float(np.abs(_logs(ctx, asking, adapted, prompts) - of_base).max())
    logs = _logs(ctx, asking, adapted, prompts)
    moved = float(np.abs(logs - of_base).max())
    if ctx.config.quantize != "none":
        return checks.merge(disabled, None, (), moved=moved, quantize=ctx.config.quantize)
    whole, certificate = merged(adapted)
    difference = float(np.abs(_logs(ctx, asking, whole, prompts) - logs).max())
    wrong = (*certificate.left_over, *certificate.changed_elsewhere)
    return checks.merge(disabled, difference, wrong, moved=moved, half=ctx.config.training.precision == "bf16-mixed")


def _logs(ctx: Context[MedgemmaConfig], asking: Asking, net: nn.Module, prompts: Sequence[Prompt]) -> Array:
    """Log-probabilities of both answers (N, 2)."""
    answers = answer_ids(asking.processor)
    return score_answers(net, prompts, answers, pad_id=asking.pad_id, batch_size=len(prompts), device=ctx.device)
