"""The attention of SwinViTs, computed faster where gradients are off."""

import torch
from torch import nn

TOLERANCE = 1e-5
"""How far the outputs of the two ways to compute attention may lie apart; they are normalised, of the order of 1."""


@torch.no_grad()
def fast_attention(net: nn.Module) -> bool:
    """Have a network's attention computed by `torch.nn.functional.scaled_dot_product_attention` wherever gradients are off,
    if on its device, and in the precision around the call, all outputs of its SwinViTs stay the same within TOLERANCE.

    MONAI's `use_flash_attention`: the same arithmetic in another order. On one thread of a CPU outputs are at most 3e-6 apart,
    and a SwinViT takes half the time or less (benchmarks/features.py); on GPUs its authors measured 1.6 to 2 times the speed.
    What lies above can be more sensitive: the instance norm of a bottleneck of two voxels makes 4e-5 of it. Asking takes two
    passes of 32^3 voxels.

    Args:
        net: Any network; nothing changes in one that has no SwinViT.

    Returns:
        Whether it is computed so now.
    """
    vits = [module for module in net.modules() if type(module).__name__ == "SwinTransformer"]  # its import takes seconds
    agree = []
    for vit in vits:
        weight = vit.get_parameter("patch_embed.proj.weight")
        x = torch.randn((1, weight.shape[1], 32, 32, 32), generator=torch.Generator().manual_seed(0)).to(weight)
        ordinary, fast = (_attending(vit, so)(x) for so in (False, True))
        agree.append(all(float((one - other).abs().max()) <= TOLERANCE for one, other in zip(ordinary, fast, strict=True)))
        _attending(vit, agree[-1])
    return bool(agree) and all(agree)


def _attending(vit: nn.Module, fast: bool) -> nn.Module:
    """The same SwinViT, whose attention is computed the fast way or not."""
    for module in vit.modules():
        if hasattr(module, "use_flash_attention"):
            setattr(module, "use_flash_attention", fast)  # noqa: B010 - to a type checker it is a tensor
    return vit
