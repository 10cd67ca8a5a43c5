"""What does our training step cost at the real network's width? `python -m benchmarks.lora_step`

BrainSegFounder's SwinUNETR (feature_size 48, window 7) at 64^3, one case a step, fp32 on one CPU thread: phase 1's step
(channels last, LoRA through `add_lora`, semantic heads, accelerate) against MONAI's SwinUNETR with peft's get_peft_model,
DiceLoss + BCE, clipping and AdamW. Both adapt the same layers and train the whole decoder. Target: at most 1.03 in time, and
the same memory. Time is measured in turns in one process, as CPU time as well, which a busy machine disturbs less; the peak
of the resident set (VmHWM, Linux) in a process of its own for each. A side's peak differs from itself by up to 2 % from
process to process.
"""

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from benchmarks.sides import told, verdict
from medexp.cli import main as medexp
from medexp.phases.phase1.config import Phase1Config

SETTINGS = {
    "network.feature_size": "48",
    "network.window_size": "7",
    "data.input_size": "[64, 64, 64]",
    "training.batch_size": "1",
    "device": "cpu",
    "threads": "1",
}
ROUNDS = 4
STEPS_TO_PEAK = 2  # the second step has the optimiser's state as well


def compare(config: Phase1Config) -> None:
    import torch

    from benchmarks.sides import in_turns
    from benchmarks.steps import Step, our_side, plain_side

    cpu: dict[str, list[float]] = {"ours": [], "plain": []}

    def timed(name: str, step: Step) -> float:
        started, used = time.perf_counter(), time.process_time()
        step()
        cpu[name].append(time.process_time() - used)
        return time.perf_counter() - started

    peaks = peak_memory("ours", "plain")  # both at once: it is no timing
    ours, plain = our_side(config), plain_side(config, torch.device("cpu"))
    assert ours.trained == plain.trained, (ours.trained, plain.trained)
    sides = {"ours": lambda: timed("ours", ours.step), "plain": lambda: timed("plain", plain.step)}
    in_turns(sides, 1)  # warms up
    cpu["ours"].clear()
    cpu["plain"].clear()
    wall = in_turns(sides, ROUNDS)
    worse = max(median(one["ours"]) / median(one["plain"]) for one in (wall, cpu))
    memory = peaks["ours"] / peaks["plain"]
    print(
        f"lora_step: wall {told(wall['ours'], wall['plain'])}; CPU {told(cpu['ours'], cpu['plain'])}; target 1.03: "
        f"{verdict(worse <= 1.03)}; memory ratio {memory:.3f}, {peaks['ours']:.2f} GB against {peaks['plain']:.2f} GB, target "
        f"the same: {verdict(memory <= 1.02)}; both train {ours.trained:,} parameters"
    )


def peak_memory(*sides: str) -> dict[str, float]:
    """Largest resident set of a process that takes STEPS_TO_PEAK steps of a side, in GB, by side."""
    command = [sys.executable, "-m", "benchmarks.lora_step", "--peak-of"]
    started = {side: subprocess.Popen([*command, side], stdout=subprocess.PIPE, text=True) for side in sides}  # noqa: S603  fixed
    return {side: float(process.communicate()[0].split()[-1]) for side, process in started.items()}


def peak(side: str, config: Phase1Config) -> None:
    import torch

    from benchmarks.steps import our_side, plain_side

    torch.set_num_threads(1)
    measured = our_side(config) if side == "ours" else plain_side(config, torch.device("cpu"))
    for _ in range(STEPS_TO_PEAK):
        measured.step()
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    print(int(found[1]) / 1e6)


def peak_of_ours(config: Phase1Config) -> None:
    peak("ours", config)


def peak_of_plain(config: Phase1Config) -> None:
    peak("plain", config)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peak-of", choices=["ours", "plain"], help="Only measure the memory of one side, in this process.")
    side = parser.parse_args().peak_of
    run = {None: compare, "ours": peak_of_ours, "plain": peak_of_plain}[side]
    medexp("phase1", [word for key, value in SETTINGS.items() for word in (f"--{key}", value)], run=run)
