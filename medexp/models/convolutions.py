"""Convolutions of volumes, computed faster on a CPU where gradients are off."""

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad


def by_onednn(net: nn.Module) -> None:
    """Have a network's convolutions of volumes computed by oneDNN on a CPU wherever gradients are off, in float32.

    PyTorch leaves a volume that comes alone to a loop of its own where channels times the first two edges are at most 20480
    (`use_mkldnn` in ATen's Convolution.cpp): 12 channels of 32^3 voxels take that ten times as long and more
    (benchmarks/features.py). The sums come in another order: outputs are 1e-6 apart.

    Args:
        net: Any network; its parameters, their names and its outputs in training stay what they are.
    """
    for module in net.modules():
        if type(module) is nn.Conv3d:
            module.__class__ = _ByOneDNN


class _ByOneDNN(nn.Conv3d):
    def forward(self, x: Tensor) -> Tensor:
        plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        derived = torch.is_grad_enabled() or forward_ad.unpack_dual(x).tangent is not None
        if derived or not plain or not torch.backends.mkldnn.is_available():
            return super().forward(x)
        assert not isinstance(self.padding, str)
        return torch.mkldnn_convolution(x, self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups)
