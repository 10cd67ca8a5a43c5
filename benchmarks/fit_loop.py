"""What does the fit loop cost, with all its tracking? `python -m benchmarks.fit_loop`

The demo's adapted arm at 64 x 64 x 32 on one CPU thread: `medexp.training.loop.fit` inside a tracked run (MLflow on sqlite, metrics
of every step, system metrics, training state) against the same steps in a bare loop over the same tensors: same network, loss,
AdamW and clipping, and nothing else, in a process of its own that has never heard of MLflow. Target: at most 1.03.

Epochs are taken in turns, and each has as many steps as the demo's. An epoch of ours has in it what comes with it: loading and
collating, schedule, reading the losses, progress bar, `last.pt`, writing the metrics, and, which the demo has once in four
epochs, `best.pt`. Making the volumes, augmentation and validation are in neither. The first epoch warms up.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

from benchmarks.sides import empty_home, told, verdict
from medexp.cli import main as medexp
from medexp.config import Phase1Config

CASES = 63  # the demo's training cases: 32 steps of 2
ROUNDS = 4
Clock = tuple[float, float]


def clock() -> Clock:
    """Wall and CPU seconds."""
    return time.perf_counter(), time.process_time()


def compare(config: Phase1Config) -> None:
    import torch

    from benchmarks.steps import our_loss, our_module, random_batch
    from medexp.phases.launch import start_accelerator
    from medexp.tracking.runs import tracked_run
    from medexp.training.loop import Objective, fit

    class Cases(torch.utils.data.Dataset[dict[str, Any]]):
        def __init__(self) -> None:
            self.tensors = random_batch(config, CASES)

        def __len__(self) -> int:
            return CASES

        def __getitem__(self, key: tuple[int, int]) -> dict[str, torch.Tensor]:
            return {name: tensor[key[1]] for name, tensor in self.tensors.items()}

    with empty_home() as folder, bare_process(config) as bare:
        config = replace(
            config,
            output_dir=str(folder / "outputs"),
            training=replace(config.training, epochs=ROUNDS + 1, validate_every=1),
        )
        ours: list[Clock] = []
        plain: list[Clock] = []
        accelerator = start_accelerator(config)
        module, groups = our_module(config, accelerator.device)
        heads = module.heads
        assert heads is not None
        with tracked_run("fit_loop", config) as run:
            started = clock()

            def turn(_: torch.nn.Module, epoch: int) -> dict[str, float]:
                """An epoch of ours has ended here, and what ends it begins: the other side's turn."""
                nonlocal started
                ended = clock()
                ours.append((ended[0] - started[0], ended[1] - started[1]))
                bare.send(True)
                plain.append(bare.recv())
                started = clock()
                return {"dice_WT": float(epoch)}

            fit(
                module,
                groups,
                Cases(),
                Objective(lambda wrapped, batch, epoch: {"loss": our_loss(wrapped, heads, batch, config)}, turn, "dice_WT"),
                config.training,
                seed=config.seed,
                accelerator=accelerator,
                reporter=run.reporter,
                folder=run.folder / "state",
                title="ours",
            )
    wall, cpu = (([one[i] for one in ours[1:]], [one[i] for one in plain[1:]]) for i in (0, 1))
    ratio = median(wall[0]) / median(wall[1])
    print(
        f"fit_loop: wall time {told(*wall)}, target 1.03: {verdict(ratio <= 1.03)}; CPU time {told(*cpu)}; epochs of 32 steps"
    )


@contextmanager
def bare_process(config: Phase1Config) -> Iterator[Connection]:
    """The bare loop in a process of its own: takes an epoch for each True and gives back how long it took."""
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=bare_loop, args=(there, config), daemon=True)
    process.start()
    try:
        yield here
    finally:
        here.send(False)
        process.join()


def bare_loop(connection: Connection, config: Phase1Config) -> None:
    import torch

    from benchmarks.steps import adamw, our_loss, our_module, random_batch

    torch.set_num_threads(1)
    module, groups = our_module(config, torch.device("cpu"))
    heads = module.heads
    assert heads is not None
    optimizer = adamw(groups, config, fused=False)
    parameters = [parameter for group in groups for parameter in group.parameters]
    tensors = random_batch(config, CASES)
    while connection.recv():
        started = clock()
        for picked in torch.randperm(CASES).split(config.training.batch_size):
            loss = our_loss(module, heads, {name: tensor[picked] for name, tensor in tensors.items()}, config)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, config.training.grad_clip)
            optimizer.step()
            optimizer.zero_grad()
        ended = clock()
        connection.send((ended[0] - started[0], ended[1] - started[1]))


if __name__ == "__main__":
    medexp("phase1", Phase1Config, "benchmarks.fit_loop:compare", ["--device", "cpu", "--threads", "1"])
