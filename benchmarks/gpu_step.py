"""What makes the full profile's step fast on a GPU? `python -m benchmarks.gpu_step`

128^3, two cases a step, bf16, feature_size 48: MONAI's SwinUNETR with peft's LoRA, Dice + BCE and AdamW written plainly, the
same with one thing added at a time (channels_last_3d, fused AdamW, torch.compile), and phase 1's own step as it is and
compiled. For each the time against the plain step and the peak of the memory that torch allocates. No figure is set
as a target: ours should be below 1, and what measures as faster is to be kept.

Each is built, warmed up, timed and dropped, twice in turns, so that none sits in another's memory. Where the step stands or
fails without a GPU is seen, one step each, with `--device cpu --size 64 --feature_size 12`; the figures then say nothing.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

from medexp.cli import main as medexp
from medexp.phases.phase1.config import Phase1Config

if TYPE_CHECKING:
    import torch

    from benchmarks.steps import Side

TURNS, WARM_UP, STEPS = 2, 3, 10


def compare(config: Phase1Config) -> None:
    import torch

    from benchmarks.steps import our_side, plain_side

    device = torch.device(config.device)
    plain = partial(plain_side, config, device)
    variants: dict[str, Callable[[], Side]] = {
        "plain": plain,
        "plain + channels_last_3d": partial(plain, channels_last=True),
        "plain + fused AdamW": partial(plain, fused=True),
        "plain + compile": partial(plain, compiled=True),
        "ours": partial(our_side, config),
        "ours + compile": partial(our_side, config, compiled=True),
    }
    seconds: dict[str, list[float]] = {}
    memory: dict[str, float] = {}
    failed: dict[str, str] = {}
    on_gpu = device.type == "cuda"
    for _ in range(TURNS if on_gpu else 1):
        for name, build in variants.items():
            try:
                measured, memory[name] = measure(build, device)
                seconds.setdefault(name, []).extend(measured)
            except Exception as error:  # compile may not work here: the others are still measured, and the line says so
                failed[name] = str(error).partition("\n")[0][:100]
            torch.compiler.reset()
    what = torch.cuda.get_device_name() if on_gpu else "the CPU, where the figures say nothing"
    base = median(seconds["plain"])
    for name, values in seconds.items():
        gigabytes = f", {memory[name]:.2f} GB" if on_gpu else ""
        print(f"  {name:26} {median(values):.3f} s a step, ratio {median(values) / base:.3f}{gigabytes}")
    for name, reason in failed.items():
        print(f"  {name:26} does not work here: {reason}")
    print(f"gpu_step: ours against plain, ratio {median(seconds['ours']) / base:.3f}, no target but to be below 1, on {what}")


def measure(build: Callable[[], "Side"], device: "torch.device") -> tuple[list[float], float]:
    """Seconds of each step after the warm-up, and the largest memory that torch held, in GB (0 on the CPU)."""
    import torch

    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    side = build()
    seconds = []
    warm_up, steps = (WARM_UP, STEPS) if on_gpu else (1, 1)
    for _ in range(warm_up + steps):
        started = time.perf_counter()
        side.step()
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return seconds[warm_up:], torch.cuda.max_memory_allocated() / 1e9 if on_gpu else 0.0


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--size", type=int, default=128, help="edge of a volume in voxels, a multiple of 32")
    parser.add_argument("--feature_size", type=int, default=48, help="width of the network, a multiple of 12")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        print("gpu_step: needs a CUDA device; there is none here, so nothing was measured")
        return
    settings = {
        "network.feature_size": str(given.feature_size),
        "network.window_size": "7",
        "data.input_size": str([given.size] * 3),
        "training.batch_size": "2",
        "training.precision": "bf16-mixed",
        "device": given.device,
    }
    words = [word for key, value in settings.items() for word in (f"--{key}", value)]
    medexp("phase1", words, run=compare)


if __name__ == "__main__":
    main()
