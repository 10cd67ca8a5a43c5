"""The two training steps that fit_loop, lora_step and gpu_step compare: phase 1's adapted arm, and the same written plainly.

Both train the adapters and the decoder of one architecture, with the rates and the clipping of the configuration, on one
batch of random volumes. Ours has the semantic heads on top, as the phase has them, and makes the regions from the labels in
each step.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from monai.losses import DiceLoss
from monai.networks.nets import SwinUNETR
from peft import LoraConfig as PeftLoraConfig
from peft import get_peft_model
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from medexp.data.volumes.regions import to_regions
from medexp.models.heads import SegmenterWithHeads, SemanticHeads
from medexp.models.lora import add_lora, decoder_parameters, lora_parameters
from medexp.phases.phase1.config import Phase1Config
from medexp.phases.phase1.pretrained import initial
from medexp.phases.shared.launch import start_accelerator
from medexp.training.loop import Batch, Group
from medexp.training.losses import segmentation_loss

Step = Callable[[], Tensor]


@dataclass(frozen=True)
class Side:
    """A step that can be repeated, and how many parameters of adapters and decoder it trains."""

    step: Step
    trained: int


def random_batch(config: Phase1Config, cases: int) -> dict[str, Tensor]:
    """Image (B, 4, *input_size), label (B, *input_size) of 0 to 3 and semantic (B, 10), as the data set gives them."""
    generator = torch.Generator().manual_seed(config.seed)
    size = config.data.input_size
    return {
        "image": torch.randn(cases, 4, *size, generator=generator),
        "label": torch.randint(0, 4, (cases, *size), generator=generator),
        "semantic": torch.randn(cases, 10, generator=generator),
    }


def our_module(config: Phase1Config, device: torch.device) -> tuple[SegmenterWithHeads, list[Group]]:
    """What phase 1 trains in its adapted arm, with initial weights and heads that are standardised by random features."""
    torch.manual_seed(config.seed)
    net = initial(config).to(device)
    add_lora(net, config.lora)
    heads = SemanticHeads(torch.randn(8, 16 * config.network.feature_size), torch.randn(8, 10)).to(device)
    groups = [
        Group("lora", config.training.lr_lora, list(lora_parameters(net).values())),
        Group("decoder", config.training.lr_decoder, list(decoder_parameters(net).values())),
        Group("aux", config.training.lr_aux, list(heads.parameters())),
    ]
    return SegmenterWithHeads(net, heads).train(), groups


def our_loss(module: nn.Module, heads: SemanticHeads, batch: Batch, config: Phase1Config) -> Tensor:
    """The loss of phase 1's adapted arm, its auxiliary weight fully risen."""
    logits, semantic = module(batch["image"])
    loss = segmentation_loss(logits, to_regions(batch["label"]), config.training.loss)["segmentation"]
    return loss + config.aux_heads.lambda_aux * heads.loss(semantic, batch["semantic"])


def adamw(groups: list[Group], config: Phase1Config, fused: bool) -> torch.optim.AdamW:
    named = [{"params": list(group.parameters), "lr": group.lr} for group in groups]
    return torch.optim.AdamW(named, weight_decay=config.training.weight_decay, fused=fused)


def our_side(config: Phase1Config, compiled: bool = False) -> Side:
    """Phase 1's step as the fit loop takes it: through accelerate, AdamW fused on CUDA."""
    accelerator = start_accelerator(config.device, config.threads, config.training.precision)
    module, groups = our_module(config, accelerator.device)
    heads = module.heads
    assert heads is not None
    if compiled:
        module.compile()
    wrapped, optimizer = accelerator.prepare(module, adamw(groups, config, fused=accelerator.device.type == "cuda"))
    parameters = [parameter for group in groups for parameter in group.parameters]
    batch = {key: value.to(accelerator.device) for key, value in random_batch(config, config.training.batch_size).items()}

    def step() -> Tensor:
        loss = our_loss(wrapped, heads, batch, config)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(parameters, config.training.grad_clip)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return Side(step, _count(groups[:2]))


def plain_side(
    config: Phase1Config, device: torch.device, channels_last: bool = False, fused: bool = False, compiled: bool = False
) -> Side:
    """MONAI's SwinUNETR, peft's LoRA, Dice + BCE and AdamW as one writes them down, and what may make them faster."""
    torch.manual_seed(config.seed)
    net = SwinUNETR(
        in_channels=4, out_channels=3, feature_size=config.network.feature_size, window_size=config.network.window_size
    ).to(device)
    if channels_last:
        net.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # torch's stubs lack this argument alone
    lora = PeftLoraConfig(
        r=config.lora.rank,
        lora_alpha=int(config.lora.alpha),
        target_modules=r"swinViT\.layers[34]\.0\.blocks\.\d+\.attn\.qkv",
        lora_dropout=config.lora.lora_dropout,
    )
    model = get_peft_model(net, lora).train()
    decoder = [parameter for name, parameter in net.named_parameters() if name.startswith(("decoder", "out."))]
    for parameter in decoder:
        parameter.requires_grad_(True)
    adapters = [parameter for name, parameter in net.named_parameters() if "lora_" in name]
    groups = [Group("lora", config.training.lr_lora, adapters), Group("decoder", config.training.lr_decoder, decoder)]
    optimizer = adamw(groups, config, fused)
    dice, parameters = DiceLoss(sigmoid=True), adapters + decoder
    if compiled:
        model.compile()
    batch = random_batch(config, config.training.batch_size)
    image, regions = batch["image"].to(device), to_regions(batch["label"]).to(device)

    def step() -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=config.training.precision == "bf16-mixed"):
            logits = model(image)
        logits = logits.float()
        loss = dice(logits, regions) + binary_cross_entropy_with_logits(logits, regions)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, config.training.grad_clip)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return Side(step, _count(groups))


def _count(groups: list[Group]) -> int:
    return sum(parameter.numel() for group in groups for parameter in group.parameters)
