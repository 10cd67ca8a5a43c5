"""What does a MeanFlow training step cost over one of plain flow matching? `python -m benchmarks.phase7_step`

The demo's U-Net on its latents, all of it trained, in batches of 16: draws, loss, gradients, clipping and AdamW. MeanFlow's
loss with r below t on the demo's share of a batch, and on all of it, against the squared error of the velocity that the same
network gives at r = t. Target: at most 2.2 in time and 1.3 in memory. Beside them the formula as it is written, one
Jacobian-vector product with gradients for the whole batch.

Time is measured in turns in one process, as CPU time, which a busy machine disturbs less; memory by how much the peak of the
resident set (VmHWM, Linux) of a process of its own grows in its steps, weights left out. On a GPU, with `--profile full
--data_dir x --base x --vae x` for the full size, it is wall time, and the peak of what torch allocated.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

from benchmarks.sides import in_turns, told, verdict
from medexp.cli import main as medexp
from medexp.phases.phase7.config import Phase7Config

SIDES = ("flow", "some", "all", "naive")
TIME, MEMORY = 2.2, 1.3
ROUNDS, STEPS = 4, 1


def compare(config: Phase7Config) -> None:
    steps = {side: stepper(side, config) for side in SIDES}
    clock = time.process_time if on_cpu(config) else time.perf_counter

    def timed(step: Callable[[], None]) -> float:
        started = clock()
        for _ in range(STEPS):
            step()
        return (clock() - started) / STEPS

    sides = {side: lambda step=step: timed(step) for side, step in steps.items()}
    in_turns(sides, 1)  # warms up
    measured = in_turns(sides, ROUNDS)
    peaks = {side: peak_of(side) for side in SIDES}
    shares = {
        "some": f"r below t on {config.loss.unequal:.0%}",
        "all": "on 100 %",
        "naive": "the formula as it is written, on 100 %",
    }
    for side, share in shares.items():
        ratio, memory = median(measured[side]) / median(measured["flow"]), peaks[side] / peaks["flow"]
        targets = (
            "" if side == "naive" else f"; targets {TIME}: {verdict(ratio <= TIME)}, {MEMORY}: {verdict(memory <= MEMORY)}"
        )
        print(
            f"phase7_step, {share}: time {told(measured[side], measured['flow'])}; memory ratio {memory:.2f}, "
            f"{peaks[side]:.0f} MB against {peaks['flow']:.0f} MB{targets}"
        )


def on_cpu(config: Phase7Config) -> bool:
    import torch

    return config.device == "cpu" or (config.device == "auto" and not torch.cuda.is_available())


def stepper(side: str, config: Phase7Config) -> Callable[[], None]:
    """A training step of one side."""
    import torch
    from torch import Tensor, nn

    from medexp.models.autoencoder.network import FACTOR
    from medexp.models.meanflow.network import MeanFlowUNet
    from medexp.training.meanflow import MeanFlowLoss

    torch.set_num_threads(config.threads or torch.get_num_threads())
    torch.manual_seed(0)
    given, device = config.network, "cpu" if on_cpu(config) else "cuda"
    widths, heads = given.num_channels, given.head_channels
    net = MeanFlowUNet(4, widths, given.attention_levels, heads, given.num_res_blocks, given.norm_groups).to(device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
    z = torch.randn(config.training.batch_size, 4, *(edge // FACTOR for edge in config.data.input_size), device=device)
    loss = MeanFlowLoss(replace(config.loss, unequal=config.loss.unequal if side == "some" else 1.0, curriculum=0.0), 4, 1)

    def flow() -> Tensor:
        eps, t = torch.randn_like(z), torch.rand(len(z), device=device)
        at = t.view(-1, 1, 1, 1, 1)
        return (net((1 - at) * z + at * eps, t, t) - (eps - z)).square().flatten(1).mean(dim=1).mean()

    def naive() -> Tensor:
        eps = torch.randn_like(z)
        t, r = (times.to(device) for times in loss.times(len(z), 1.0))
        at, v = t.view(-1, 1, 1, 1, 1), eps - z
        u, derivative = torch.func.jvp(net, ((1 - at) * z + at * eps, t, r), (v, torch.ones_like(t), torch.zeros_like(r)))[:2]
        return (u + (t - r).view(-1, 1, 1, 1, 1) * derivative.detach() - v).square().mean()

    def step() -> None:
        optimizer.zero_grad()
        found = flow() if side == "flow" else naive() if side == "naive" else loss(net, {"z": z}, 0)["loss"]
        found.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def peak_of(side: str) -> float:
    """MB that a process of its own takes for the steps of a side."""
    given = ["phase7_step", *sys.argv[1:]]
    measured = f"import sys; sys.argv = {given!r}; from benchmarks.phase7_step import peak; peak({side!r})"
    exact = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}  # what is freed goes back at once
    command = [sys.executable, "-c", measured]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=exact)  # noqa: S603  ours
    return float(done.stdout.split()[-1])


def peak(side: str) -> None:
    def measure(config: Phase7Config) -> None:
        import torch

        step = stepper(side, config)
        before = torch.cuda.memory_allocated() if not on_cpu(config) else resident()
        for _ in range(2):  # the second step has the optimiser's state as well
            step()
        after = torch.cuda.max_memory_allocated() if not on_cpu(config) else resident()
        print((after - before) / 1e6)

    medexp("phase7", run=measure)


def resident() -> float:
    """Peak of this process's resident set, bytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1e3 * int(found[1])


if __name__ == "__main__":
    medexp("phase7", run=compare)
