"""What does an OCT encoder of full size cost on a GPU? `python -m benchmarks.oct_gpu`

64 x 384 x 384 voxels, 9,216 tokens, 92.9 M parameters: seconds a volume and peak memory of embedding in fp32 and bf16, how far
the features of bf16 lie from those of fp32 (held against how far volumes lie apart), and of a step of fine-tuning with two
volumes, with and without gradient checkpointing; a step of an attentive head on all tokens. No figure is set as a target.

`--device cpu --size 16 64 64` shows where it stands or fails without a GPU; the figures then say nothing.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from medexp.models.classifier.network import EncoderClassifier
from medexp.models.heads import head_on
from medexp.models.kinds import build
from medexp.models.vit3d.network import VisionTransformer3D

VOLUMES, STEPS = 8, 3


def peak(device: torch.device) -> str:
    if device.type != "cuda":
        return "-"
    found = torch.cuda.max_memory_allocated() / 2**30
    torch.cuda.reset_peak_memory_stats()
    return f"{found:.2f} GiB"


def seconds(device: torch.device, work: Callable[[], Any], times: int) -> float:
    work()  # once unmeasured
    started = time.perf_counter()
    for _ in range(times):
        work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / times


def volumes(size: tuple[int, int, int], device: torch.device) -> torch.Tensor:
    """Bands of several thicknesses with noise, z-scored."""
    rows = torch.linspace(0, 1, size[1])[None, :, None]
    made = [torch.sin((8 + number) * rows) + 0.5 * torch.randn(size) for number in range(VOLUMES)]
    return torch.stack([(one - one.mean()) / one.std() for one in made])[:, None].to(device)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", type=int, nargs=3, default=(64, 384, 384))
    asked = parser.parse_args()
    device, size = torch.device(asked.device), tuple(asked.size)
    torch.manual_seed(0)
    architecture = {"kind": "vit3d", "size": size, "patch": (4, 16, 16), "dim": 768, "depth": 12, "heads": 12}
    net = build(architecture).eval().to(device)
    assert isinstance(net, VisionTransformer3D)
    given = volumes(size, device)
    print(f"{sum(one.numel() for one in net.parameters()):,} parameters, {torch.__version__}, {device}")
    features = {}
    for name, kind in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with torch.inference_mode(), torch.autocast(device.type, kind, enabled=kind is torch.bfloat16):
            taken = seconds(device, lambda: net(given[:1]), STEPS)
            features[name] = torch.cat([net(one[None]).float() for one in given])
        print(f"embedding, {name}: {taken:.3f} s a volume, {peak(device)}")
    apart = (features["fp32"] - features["bf16"]).norm(dim=1).mean()
    between = (features["fp32"] - features["fp32"].mean(0)).norm(dim=1).mean()
    print(f"features: bf16 from fp32 {apart:.3g}, volumes from their mean {between:.3g}: {apart / between:.2%}")
    labels = torch.arange(2, device=device)
    for checkpointing in (False, True):
        net.checkpointing = checkpointing
        model = EncoderClassifier(net.requires_grad_(True), head_on(768, 4), frozen=False).to(device).train()
        optimizer = torch.optim.AdamW(model.parameters(), 1e-5)

        def step(model: EncoderClassifier = model, optimizer: torch.optim.AdamW = optimizer) -> None:
            with torch.autocast(device.type, torch.bfloat16):
                loss = functional.cross_entropy(model(given[:2]).float(), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        taken = seconds(device, step, STEPS)
        print(f"fine-tuning, bf16, 2 volumes, checkpointing {checkpointing}: {taken:.3f} s, {peak(device)}")
    with torch.inference_mode():
        tokens = torch.cat([net.requires_grad_(False).eval().tokens(one[None]) for one in given[:2]])
    head, tokens = head_on(768, 4, "attentive").to(device), tokens.clone()
    optimizer = torch.optim.AdamW(head.parameters(), 1e-3)
    peak(device)

    def attend() -> None:
        functional.cross_entropy(head(tokens), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    taken = seconds(device, attend, STEPS)
    print(f"attentive head, fp32, all {tokens.shape[1]} tokens of 2 volumes: {taken:.3f} s, {peak(device)}")


if __name__ == "__main__":
    main()
