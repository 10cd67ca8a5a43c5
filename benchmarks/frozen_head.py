"""What does computing a frozen encoder's features once save? `python -m benchmarks.frozen_head`

Phase 2.2's 30 epochs on the demo's images, with `training.cache_features` (each image's features once, that time included) and
with the encoder in the loop of training and validation. At least 10 times as fast; accuracy and loss of every epoch, and the
weights of the head, the same to the bit. The encoder has its full size and initial weights: neither time nor equality depends
on what it was trained on.
"""

import shutil
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.sides import empty_home, in_turns, told, verdict
from medexp.cli import main
from medexp.config.shared import cache_root
from medexp.models.checkpoints import save_checkpoint, weights_digest
from medexp.models.unet.network import MultiTaskModel
from medexp.phases.phase2_2.config import Phase2_2Config

ROUNDS = 2
EPOCHS = 30


def compare(config: Phase2_2Config) -> None:
    from medexp.phases.phase2_2 import PHASE
    from medexp.phases.phase2_2.recipe import read, train
    from medexp.phases.shared.context import context

    outcomes: dict[bool, tuple[Any, str]] = {}

    def seconds(cached: bool) -> float:
        shutil.rmtree(cache_root(config.cache_dir) / "embeddings", ignore_errors=True)
        settings = replace(config, training=replace(config.training, cache_features=cached))
        with context(PHASE, settings) as ctx:
            work = read(ctx)
            started = time.perf_counter()
            trained = train(ctx, work)
            taken = time.perf_counter() - started
        outcomes[cached] = (trained.fitted.history, weights_digest(trained.head.state_dict()))
        return taken

    seconds(True)  # once unmeasured: phantoms, imports
    measured = in_turns({"in the loop": partial(seconds, False), "cached": partial(seconds, True)}, ROUNDS)
    accuracy = [outcomes[cached][0]["val/accuracy"] for cached in (True, False)]
    same = accuracy[0].equals(accuracy[1])
    to_the_bit = outcomes[True][1] == outcomes[False][1]
    slow, fast = measured["in the loop"], measured["cached"]
    ratio = min(a / b for a, b in zip(slow, fast, strict=True))
    print(
        f"frozen_head, {EPOCHS} epochs, encoder in the loop against features computed once: {told(slow, fast)}; target 10: "
        f"{verdict(ratio >= 10)}; accuracy of every epoch the same: {verdict(same)} (from {accuracy[0].min():.3f} to "
        f"{accuracy[0].max():.3f}); weights of the head the same to the bit: {verdict(to_the_bit)}"
    )


def encoder(path: Path) -> None:
    """A network of initial weights whose batch norm has seen noise, so that its features differ from image to image."""
    torch.manual_seed(0)
    net = MultiTaskModel().train()
    with torch.no_grad():
        for _ in range(50):
            net(torch.randn(8, 1, 64, 64))
    save_checkpoint(net.state_dict(), path)


if __name__ == "__main__":
    with empty_home() as home:
        encoder(home / "multitask.pt")
        flags = ["--encoder", str(home / "multitask.pt"), "--training.epochs", str(EPOCHS), "--threads", "1", "--folds=0"]
        main("phase2_2", flags, run=compare)
