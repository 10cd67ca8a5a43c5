"""What does the fit loop cost, with all its tracking? `python -m benchmarks.fit_loop`

The demo's adapted arm at 64 x 64 x 32 on one CPU thread: `medexp.training.loop.fit` inside a tracked run (MLflow on sqlite,
metrics of every step, system metrics, training state) against the same steps in a bare loop over the same tensors: same
network, loss, AdamW and clipping, and nothing else. Target: at most 1.03.

Epochs are taken in turns, in one process, and each has as many steps as the demo's. An epoch of ours has in it what comes
with it: loading and collating, schedule, reading the losses, progress bar, `last.pt`, writing the metrics, and, which the
demo has once in four epochs, `best.pt`. Making the volumes, augmentation and validation are in neither. The first epoch
warms up.

Wall time shows what ours waits for. CPU time shows what its threads (progress bar, system metrics) take of another core: all
threads of the process count for ours, the main thread alone for the bare loop.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

from benchmarks.sides import empty_home, told, verdict
from medexp.cli import main as medexp
from medexp.phases.phase1.config import Phase1Config

CASES = 63  # the demo's training cases: 32 steps of 2
ROUNDS = 3
Seconds = tuple[float, float]


def stopwatch(cpu: Callable[[], float]) -> Callable[[], Seconds]:
    """Starts now; gives wall and CPU seconds since then."""
    wall, used = time.perf_counter(), cpu()
    return lambda: (time.perf_counter() - wall, cpu() - used)


def compare(config: Phase1Config) -> None:
    import torch

    from benchmarks.steps import our_loss, our_module, random_batch
    from medexp.phases.shared.launch import start_accelerator
    from medexp.tracking.runs import tracked_run
    from medexp.training.loop import Objective, fit

    tensors = random_batch(config, CASES)

    class Cases(torch.utils.data.Dataset[dict[str, Any]]):
        def __len__(self) -> int:
            return CASES

        def __getitem__(self, key: tuple[int, int]) -> dict[str, torch.Tensor]:
            return {name: tensor[key[1]] for name, tensor in tensors.items()}

    ours: list[Seconds] = []
    plain: list[Seconds] = []
    bare_epoch = bare_loop(config, tensors)
    with empty_home() as folder:
        training = replace(config.training, epochs=ROUNDS + 1, validate_every=1)
        config = replace(config, output_dir=str(folder / "outputs"), training=training)
        accelerator = start_accelerator(config.device, config.threads, config.training.precision)
        module, groups = our_module(config, accelerator.device)
        heads = module.heads
        assert heads is not None
        with tracked_run("fit_loop", config) as run:
            watch = stopwatch(time.process_time)

            def turn(_: torch.nn.Module, epoch: int) -> dict[str, float]:
                """Where fit validates, the other side has its turn; what ends an epoch of ours comes after it and is timed."""
                nonlocal watch
                ours.append(watch())
                bare = stopwatch(time.thread_time)
                bare_epoch()
                plain.append(bare())
                watch = stopwatch(time.process_time)
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
    worse = max(median(a) / median(b) for a, b in (wall, cpu))
    print(f"fit_loop: wall {told(*wall)}; CPU {told(*cpu)}; target 1.03: {verdict(worse <= 1.03)}; epochs of 32 steps")


def bare_loop(config: Phase1Config, tensors: dict[str, Any]) -> Callable[[], None]:
    """An epoch of the same steps and nothing else."""
    import torch

    from benchmarks.steps import adamw, our_loss, our_module

    module, groups = our_module(config, torch.device("cpu"))
    heads = module.heads
    assert heads is not None
    optimizer = adamw(groups, config, fused=False)
    parameters = [parameter for group in groups for parameter in group.parameters]

    def epoch() -> None:
        for picked in torch.randperm(CASES).split(config.training.batch_size):
            loss = our_loss(module, heads, {name: tensor[picked] for name, tensor in tensors.items()}, config)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, config.training.grad_clip)
            optimizer.step()
            optimizer.zero_grad()

    return epoch


if __name__ == "__main__":
    medexp("phase1", ["--device", "cpu", "--threads", "1"], run=compare)
