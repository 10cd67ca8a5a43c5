"""How much the stages of the SwinViT carry: what changes in the segmentation when their outputs tell nothing of a case.

Adapters in a stage act on the segmentation through the outputs of that stage and of those after it, and through nothing else.
A network that segments by its shallow skip connections alone gives the same masks whatever these are; then adapters there
cannot change the segmentation, and what a training of them came to is no finding.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pandas as pd
import torch
from monai.metrics import compute_dice
from torch import Tensor

from medexp.data.volumes.datasets import evaluation_dataset
from medexp.data.volumes.prepared import PreparedVolumes
from medexp.data.volumes.regions import REGIONS, to_regions
from medexp.models.swin.network import SwinSegmenter
from medexp.phases.phase1.config import Phase1Config
from medexp.phases.shared.context import Context

CASES = (
    4  # looked at, at most: this is a question about the network, and each stage's answer costs a pass of the decoder a case
)
LEAST_DICE = 0.005  # half of what a promotion asks for: no comparison would ever see less
LEAST_LOGITS = 0.05  # of their spread: all that the stages give is a twentieth of what the logits differ by; docs/requirements
STAGES = (1, 2, 3, 4)
_DICE = [f"dice_{region}" for region in REGIONS]


@dataclass(frozen=True)
class Reach:
    """What the stages carry.

    Attributes:
        table: A row a set of stages: `stages`, such as `3` or `3-4`; `targeted`, whether these are what the adapters reach;
            `logits`, the root mean square of the change in the logits over their standard deviation; `dice_<region>`, the mean
            absolute change in Dice, NaN where no case holds the region.
        adapted: The stages that are adapted.
        cases: How many cases it was measured on.
    """

    table: pd.DataFrame
    adapted: tuple[int, ...]
    cases: int

    @property
    def targeted(self) -> pd.Series:
        """The row of what the adapters reach."""
        return self.table[self.table["targeted"]].iloc[0]

    @property
    def any(self) -> bool:
        """Whether that carries anything."""
        return bool(self.carries[self.table["targeted"]].iloc[0])

    @property
    def carries(self) -> pd.Series:
        """Whether a row's stages carry anything."""
        return (self.table[_DICE].max(axis=1) >= LEAST_DICE) | (self.table["logits"] >= LEAST_LOGITS)

    @property
    def would(self) -> list[int]:
        """Stages in which adapters would change the segmentation: those whose own outputs carry something; where only several
        together do, the deepest of such sets."""
        found = self.table.loc[self.carries, "stages"]
        alone = [int(name) for name in found if "-" not in name]
        return alone or list(range(int(found.iloc[-1][0]), 5) if len(found) else ())


def measure(ctx: Context[Phase1Config], data: PreparedVolumes, net: SwinSegmenter) -> Reach:
    """`reach` of the stages that the configuration adapts, on the first validation cases with a tumour."""
    cases, size = evaluation_dataset(data, "val", ctx.config.data, ctx.cache), ctx.config.data.input_size
    with_tumour = (item for item in map(cases.__getitem__, range(len(data.ids("val")))) if item["label"].any())
    windows = [window(item["image"], item["label"], size) for item in islice(with_tumour, CASES)]
    return reach(
        net, [(image.to(ctx.device), label.to(ctx.device)) for image, label in windows], ctx.config.lora.target_stages
    )


def window(image: Tensor, label: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """What the network sees at once, around the middle of the tumour.

    Args:
        image: (4, X, Y, Z), at least as large as the window.
        label: (X, Y, Z) with a tumour.
        size: The window, in voxels.
    """
    middle = label.nonzero().float().mean(0).round().int().tolist()
    starts = [min(max(at - edge // 2, 0), whole - edge) for at, edge, whole in zip(middle, size, label.shape, strict=True)]
    box = tuple(slice(start, start + edge) for start, edge in zip(starts, size, strict=True))
    return image[(slice(None), *box)].unsqueeze(0), label[box].unsqueeze(0)


@torch.inference_mode()
def reach(net: SwinSegmenter, windows: Sequence[tuple[Tensor, Tensor]], targeted: Sequence[int]) -> Reach:
    """What changes when the outputs of stages are replaced by their mean over cases and positions.

    Over positions too, for a window lies elsewhere in each case, and a mean of a few cases at one position still holds a good
    part of each. What is left is a number a channel, which says neither which case it is nor where in it.

    Args:
        net: The base, in eval mode.
        windows: Images (1, 4, X, Y, Z) with their labels (1, X, Y, Z).
        targeted: The stages that are adapted; what they reach is the shallowest of them and all after it.
    """
    shallow = [net.encoder1(image) for image, _ in windows]
    hidden = [net.swinViT(image, net.normalize) for image, _ in windows]
    means = [torch.stack([maps[stage].mean((2, 3, 4), keepdim=True) for maps in hidden]).mean(0) for stage in (0, *STAGES)]

    def logits(replaced: Collection[int]) -> list[Tensor]:
        outputs = []
        for finest, maps in zip(shallow, hidden, strict=True):
            given = [means[at].expand_as(own).contiguous() if at in replaced else own for at, own in enumerate(maps)]
            outputs.append(net.decode(finest, given)[0])
        return outputs

    def dice(outputs: Sequence[Tensor]) -> np.ndarray:
        pairs = zip(outputs, windows, strict=True)
        return torch.cat([compute_dice((out > 0).float(), to_regions(label)) for out, (_, label) in pairs]).cpu().numpy()

    whole = logits(())
    before = dice(whole)
    rows = []
    for stages in [(stage,) for stage in STAGES] + [tuple(range(first, 5)) for first in (1, 2, 3)]:
        without = logits(stages)
        change = [float((one - two).square().mean().sqrt() / two.std()) for one, two in zip(without, whole, strict=True)]
        changed = np.ma.masked_invalid(np.abs(dice(without) - before)).mean(axis=0).filled(np.nan)
        name = str(stages[0]) if len(stages) == 1 else f"{stages[0]}-4"
        row = {"stages": name, "targeted": stages[0] == min(targeted) and stages[-1] == 4, "logits": float(np.mean(change))}
        rows.append(row | dict(zip(_DICE, changed.tolist(), strict=True)))
    return Reach(pd.DataFrame(rows), tuple(sorted(set(targeted))), len(windows))
