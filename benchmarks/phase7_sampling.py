"""What does drawing in one step save over 50 steps of Euler? `python -m benchmarks.phase7_sampling`

The demo's U-Net on its latents, 16 samples: `medexp.models.meanflow.sampling.sample` in one step against the flow's own
velocity (r = t) in 50 Euler steps, in turns, as CPU time. Target: at least 30. Decoding costs both sides the same, and is
measured beside them, by a VAE of the demo's size: what a user waits for is the sum.
"""

import time
from collections.abc import Callable
from statistics import median

from benchmarks.sides import in_turns, told, verdict
from medexp.cli import main as medexp
from medexp.phases.phase7.config import Phase7Config

TARGET, SAMPLES, EULER = 30, 16, 50
ROUNDS = 3


def compare(config: Phase7Config) -> None:
    import torch
    from torch import Tensor

    from medexp.models.autoencoder.network import FACTOR, Autoencoder
    from medexp.models.meanflow.network import MeanFlowUNet
    from medexp.models.meanflow.sampling import noise, sample

    torch.set_num_threads(config.threads or torch.get_num_threads())
    torch.manual_seed(0)
    given = config.network
    widths, heads = given.num_channels, given.head_channels
    net = MeanFlowUNet(4, widths, given.attention_levels, heads, given.num_res_blocks, given.norm_groups).eval()
    vae = Autoencoder().eval()
    drawn = noise(SAMPLES, (4, *(edge // FACTOR for edge in config.data.input_size)), 0)

    @torch.no_grad()
    def euler() -> Tensor:
        z = drawn
        for step in range(EULER):
            t = torch.full((SAMPLES,), 1 - step / EULER)
            z = z - net(z, t, t) / EULER
        return z

    @torch.no_grad()
    def decode() -> Tensor:
        return vae.decode(drawn)

    def timed(work: Callable[[], Tensor]) -> float:
        started = time.process_time()
        work()
        return time.process_time() - started

    sides = {
        "one step": lambda: timed(lambda: sample(net, drawn, 1, SAMPLES)),
        "Euler": lambda: timed(euler),
        "decoding": lambda: timed(decode),
    }
    in_turns(sides, 1)  # warms up
    measured = in_turns(sides, ROUNDS)
    one, many, decoding = (median(measured[name]) for name in sides)
    print(
        f"phase7_sampling, {SAMPLES} samples: {EULER} Euler steps over one: {told(measured['Euler'], measured['one step'])}; "
        f"target {TARGET}: {verdict(many >= TARGET * one)}; with decoding {(many + decoding) / (one + decoding):.1f}, "
        f"which takes {decoding:.3g} s"
    )


if __name__ == "__main__":
    medexp("phase7", run=compare)
