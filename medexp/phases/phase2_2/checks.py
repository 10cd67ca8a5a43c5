"""The checks of phase 2.2: the success criteria of docs/requirements/phase2.md, and the majority class."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from medexp.checks import Check, Severity
from medexp.errors import CheckpointError
from medexp.evaluation.intervals import Interval
from medexp.models.checkpoints import load_state, load_weights


def accuracy(found: float, bar: float) -> Check:
    """P2_2-ACCURACY: the share of the judged cases that is right."""
    return Check(
        "P2_2-ACCURACY",
        "Accuracy on the judged cases",
        Severity.BLOCKING,
        passed=found > bar,
        threshold=f"accuracy > {bar:g}",
        measured={"accuracy": found},
        advice="More epochs (training.epochs=30), other features, another encoder; or look for wrong labels in "
        "figures/misclassified.png.",
    )


def majority(gain: Interval, found: float, constant: float) -> Check:
    """P2_2-MAJORITY: better than always saying the judged cases' most frequent class, by more than chance; no constant answer
    does better than that.

    Args:
        gain: Accuracy minus that of the constant answer, paired.
        found: The accuracy.
        constant: That of the constant answer.
    """
    return Check(
        "P2_2-MAJORITY",
        "Better than the majority class",
        Severity.BLOCKING,
        passed=gain.above,
        threshold="interval above 0 for accuracy minus that of the majority class",
        measured={"accuracy": found, "majority": constant, "gain_low": gain.low, "gain_high": gain.high},
        advice="Too few cases, or the head learned nothing from the features: give more cases, look at labels and splits, or "
        "train it on other features or another encoder.",
    )


def frozen(before: Mapping[str, Tensor], after: Mapping[str, Tensor], trained: int, expected: int) -> Check:
    """P2_2-FROZEN: only the head was trained; with 256 features and two classes it has 66,306 parameters.

    Args:
        before: All tensors but the head's before training, batch norm's statistics included.
        after: The same after training.
        trained: Parameters that got gradients, or that the optimiser had.
        expected: Parameters of the head, by arithmetic.
    """
    changed = [name for name in before if name not in after or not torch.equal(before[name], after[name])]
    return Check(
        "P2_2-FROZEN",
        "Only the head was trained",
        Severity.BLOCKING,
        passed=bool(before) and not changed and before.keys() == after.keys() and trained == expected,
        threshold=f"{expected:,} parameters train, every other tensor is the same bit for bit",
        measured={"trainable": trained, "compared": len(before), "changed": ", ".join(changed[:5]) or "none"},
        advice="Something besides the head was trained; nothing after it can be trusted.",
    )


def checkpoints(files: Mapping[str, Path], net: nn.Module, registered: Mapping[str, Tensor], kept: str) -> Check:
    """P2_2-CHECKPOINTS: what was written loads with every key, and the kept epoch is what is registered.

    Args:
        files: `last`, and `best` where it was validated.
        net: A network of their architecture; its weights are overwritten.
        registered: The weights that are registered.
        kept: Which of the files holds them.
    """
    same = f"{kept}_is_registered"
    measured: dict[str, float | int | str | bool | None] = {}
    for name, path in files.items():
        try:
            load_weights(net, load_state(path), str(path))
            measured[name] = "loads"
            if name == kept:
                measured[same] = all(
                    torch.equal(value.cpu(), registered[key].cpu()) for key, value in net.state_dict().items()
                )
        except CheckpointError as error:
            measured[name] = str(error).partition("\n")[0]
    return Check(
        "P2_2-CHECKPOINTS",
        "Best and last checkpoint",
        Severity.BLOCKING,
        passed={"last", kept} <= {*files} and all(measured[name] == "loads" for name in files) and measured[same] is True,
        threshold=f"{' and '.join(sorted(files))} load with every key, and the {kept} is what is registered",
        measured=measured,
        advice="Look for free space in output_dir, and train it again.",
    )
