"""What phase 7 registers, of tiny networks with random weights: a base with its VAE, and an adapter of either strategy."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mlflow import MlflowClient
from peft import PeftModel
from safetensors.torch import save_file

from medexp.checks import Check, Severity
from medexp.data.preprocessing import Preprocessing
from medexp.data.volumes.steps import Orient, ReadChannels, Resample
from medexp.models.autoencoder.network import Autoencoder
from medexp.models.kinds import ONLY, build
from medexp.models.meanflow.joint import Joint, Strategy
from medexp.models.meanflow.lora import inject_lora, save_lora
from medexp.models.meanflow.network import MeanFlowUNet, widen
from medexp.phases import phase
from medexp.phases.shared.packaging import VELOCITY, contract
from medexp.registry.definitions import load_definition
from medexp.registry.package import Package, Parent
from medexp.registry.promotion import Nominated, nominate
from medexp.registry.registration import register
from medexp.registry.synthesis import grid_of, judged_on, latents_of, per_sample
from medexp.registry.writing import write_package

ADAPTER, BASE = "phase7_fcd_adapter", "meanflow_base"
VAE = {"kind": "autoencoder_kl", "channels": [4, 4, 4], "norm_groups": 2, "scale_factor": 0.7}
UNET = {"kind": "meanflow_unet", "channels": 4, "num_channels": [8, 8], "attention_levels": [False, True]}
UNET |= {"num_head_channels": [0, 4], "num_res_blocks": 1, "norm_groups": 4}
SIZE, AFFINE = (16, 16, 16), np.diag([6.0, 6.0, 6.0, 1.0])
STEPS = Preprocessing(
    "volumes", (ReadChannels(("t2f",), {"t2f": ("FLAIR",)}), Orient("RAS"), Resample((6.0, 6.0, 6.0), "bilinear"))
)
CHANNELS: Mapping[Strategy, int] = {"image": 4, "vae": 8, "downsample": 5}


def network(seed: int = 0) -> MeanFlowUNet:
    """The base; no layer of it is zero, as those that give velocities are before training."""
    torch.manual_seed(seed)
    net = build(UNET).eval()
    assert isinstance(net, MeanFlowUNet)
    for parameter in net.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return net


def joint(strategy: Strategy, seed: int = 0) -> Joint:
    torch.manual_seed(seed)
    vae = build(VAE)
    assert isinstance(vae, Autoencoder)
    channels = CHANNELS[strategy]
    mean, std = np.linspace(-0.5, 0.5, channels).tolist(), np.linspace(0.5, 1.5, channels).tolist()
    return Joint(vae, strategy, mean=mean, std=std, threshold=0.5)


def adapted(strategy: Strategy, folder: Path, seed: int = 0) -> PeftModel:
    """The base with an adapter that draws something, in eval mode; the adapter is in the folder."""
    net = network()
    widen(net, CHANNELS[strategy])
    peft = inject_lora(net, rank=2, alpha=4)
    torch.manual_seed(seed)
    for parameter in peft.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    save_lora(peft, folder)
    return peft.eval()


def publish(store: MlflowClient, folder: Path, name: str, strategy: Strategy, outcome: str | None, **given: Any) -> Nominated:
    """A version of a model, registered as the phase does from a package in a folder that is not there yet."""
    definition, run = load_definition(name), store.create_run("0").info.run_id
    latents = latents_of(joint(strategy), VAE)
    said = contract(name, definition.output, STEPS, {ONLY: VELOCITY}, latents=latents, grid=grid_of(SIZE, AFFINE))
    made = Package(name, contract=said, **given)
    write_package(made, definition, folder)
    return nominate(register(run, folder, definition, outcome), definition, outcome, run)


def publish_base(store: MlflowClient, folder: Path, seed: int = 0, **given: Any) -> Nominated:
    vae = folder.with_suffix(".safetensors")
    save_file(joint("image", seed).vae.state_dict(), vae)
    content = {"architecture": UNET, "weights": network(seed).state_dict(), "extra": {"vae.safetensors": vae}}
    return publish(store, folder, BASE, "image", None, **content | given)


def publish_adapter(
    store: MlflowClient, folder: Path, strategy: Strategy, adapter: Path, parent: Parent, contrast: float = 0.2, **given: Any
) -> Nominated:
    """An adapter that was judged by 40 samples, whose contrast lies about the one given; every tenth mask is empty."""
    found = contrast + 0.02 * np.random.default_rng(0).standard_normal(40)
    found[::10] = np.nan
    required = load_definition(ADAPTER).required_checks
    content: dict[str, Any] = {
        "architecture": {"kind": "lora_adapter", "base": UNET, "channels": CHANNELS[strategy]},
        "weights": {},
        "parents": {"base": parent},
        "checks": [Check(one, "", Severity.BLOCKING, True, "") for one in required],
        "evaluation": {"phase": "phase7", "revision": phase("phase7").revision, "split": "val", "steps": 1}
        | {"data_digest": judged_on("d1", steps=1, size=SIZE), "made_on": "d0", "selected": False},
        "per_case": per_sample(0, found, np.array([0.25, 0.3, np.nan, 0.35])),
        "cases": pd.DataFrame({"case_sha256": ["a"], "patient_sha256": ["a"], "voxels_sha256": ["v"], "split": ["train"]}),
        "extra": {"adapter": adapter},
    }
    return publish(store, folder, ADAPTER, strategy, "PASSED", **content | given)
