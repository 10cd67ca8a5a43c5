"""What medgemma registers, of the micro Gemma 3 of `tests.gemma`: the base, an adapter, their packages; and scenarios."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mlflow import MlflowClient
from peft import PeftModel
from PIL import Image
from torch import nn

from medexp.checks import Check, Severity
from medexp.config.networks import DecoderLoraConfig
from medexp.data.preprocessing import Preprocessing
from medexp.data.scenarios.cases import ANSWERS
from medexp.data.scenarios.steps import Ask
from medexp.models.vision_language.adapters import add_adapter, save_adapter
from medexp.models.vision_language.bases import Base, load_base
from medexp.phases import phase
from medexp.registry.definitions import load_definition
from medexp.registry.package import Package, Parent
from medexp.registry.promotion import Nominated, nominate
from medexp.registry.registration import register
from medexp.registry.writing import write_package

ASK = Ask("Answer with {first} or {second}, a dash and the reason.", "CORRECT")
STEPS = Preprocessing("scenarios", (ASK,))
ADAPTER, BASE = "medgemma_lora_adapter", "medgemma_base"


def network(base: Base) -> nn.Module:
    return load_base(base, quantize="none", dtype=torch.float32, device=torch.device("cpu"))


def adapted(base: Base, folder: Path, seed: int = 0) -> PeftModel:
    """A base with an adapter that changes its answers, in eval mode; the adapter is in the folder."""
    bare = network(base)
    torch.manual_seed(seed)
    net = add_adapter(bare, DecoderLoraConfig(rank=2, alpha=8, dropout=0.0, targets=("q_proj", "v_proj")))
    for name, parameter in net.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    save_adapter(net, base, folder)
    return net.eval()


def publish(store: MlflowClient, folder: Path, name: str, **given: Any) -> Nominated:
    """A version of a model, registered as a phase does from a package in a folder that is not there yet."""
    definition, run = load_definition(name), store.create_run("0").info.run_id
    said = {"what": "answers", "classes": list(ANSWERS), "calibration": "none"}
    contract = {"input": definition.input_as_records, "preprocessing": STEPS.as_record, "output": definition.output}
    made = Package(name, contract={**contract, "outputs": {"logits": said}}, **given)
    write_package(made, definition, folder)
    return nominate(register(run, folder, definition, "PASSED"), definition, "PASSED", run)


def publish_base(store: MlflowClient, folder: Path, base: Base) -> Nominated:
    weights = network(base).state_dict()
    return publish(store, folder, BASE, architecture=base.architecture, weights=weights, extra=processor_in(base.folder))


def publish_adapter(store: MlflowClient, folder: Path, base: Base, adapter: Path, parent: Parent, **given: Any) -> Nominated:
    """An adapter that was judged on 24 scenarios, of which it got 18 right."""
    extra: dict[str, Path] = {"adapter": adapter, "training_metadata.json": folder.with_suffix(".json")}
    extra["training_metadata.json"].write_text('{"dtype": "float32", "epochs": 3}\n')
    cases = [f"s{number}" for number in range(24)]
    right = [float(number % 4 > 0) for number in range(24)]
    content: dict[str, Any] = {
        "architecture": {"kind": "lora_adapter", "base": base.architecture},
        "weights": {},
        "parents": {"base": parent},
        "checks": [Check(one, "", Severity.BLOCKING, True, "") for one in load_definition(ADAPTER).required_checks],
        "evaluation": {
            "phase": "medgemma",
            "revision": phase("medgemma").revision,
            "split": "val",
            "data_digest": "d1",
            "made_on": "d0",
        },
        "per_case": pd.DataFrame({"case": cases, "patient": cases, "label": [*ANSWERS] * 12, "correct": right}),
        "extra": extra | processor_in(base.folder),
    }
    return publish(store, folder, ADAPTER, **content | given)


def processor_in(folder: Path) -> dict[str, Path]:
    """The files of a folder's processor, by their places in a package."""
    weights = ("config.json", "generation_config.json", "model.safetensors")
    return {f"processor/{path.name}": path for path in folder.iterdir() if path.name not in weights}


def scenario(folder: Path, name: str, seed: int = 0, **given: Any) -> dict[str, Any]:
    """A line of a JSONL file, whose picture is drawn into images/ of the folder."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (20 + seed, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "images" / f"{name}.png")
    said = {"instruction": "Is the treatment appropriate?", "input": f"A nodule of {seed} mm; a biopsy is proposed."}
    metadata = {"scenario_id": name, "modality": "xray"}
    return {"id": name, **said, "image_file": f"{name}.png", "metadata": metadata, **given}


def write_scenarios(path: Path, *lines: Mapping[str, Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
