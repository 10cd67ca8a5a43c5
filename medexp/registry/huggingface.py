"""A registered adapter of a vision-language model as peft and the Hugging Face Hub take it: a folder that needs no medexp."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from huggingface_hub import EvalResult, ModelCardData

from medexp.data.scenarios.cases import ANSWERS
from medexp.data.scenarios.steps import Ask
from medexp.errors import RegistryError, StorageError
from medexp.evaluation.intervals import Interval
from medexp.evaluation.proportions import proportion
from medexp.files import filling, read_csv
from medexp.models import vision_language
from medexp.models.vision_language.bases import quietly
from medexp.registry.card import without_paths
from medexp.registry.contracts import draws, preprocessing_of
from medexp.registry.definitions import load_definition
from medexp.registry.loading import load_verified
from medexp.registry.packages import ADAPTER, ADAPTER_KIND, ADAPTER_WEIGHTS, PROCESSOR, TRAINING, network_of, read_json
from medexp.registry.store import Pulled, pull

BASE = "base"
"""The folder in the exported one that holds a base which no hub has."""

_CONFIG = f"{ADAPTER}/adapter_config.json"
_ON_A_HUB = re.compile(r"[\w.-]+/[\w.-]+")
_CONFIDENCE = 0.95
_LICENSE = re.compile(r"^\| license \| ([a-z0-9][a-z0-9.-]*) \|$", re.MULTILINE)
_UNKNOWN = "unknown"


class Exported(NamedTuple):
    """What was written.

    Attributes:
        pulled: What it was made of.
        base: What the adapter goes on, in words.
    """

    pulled: Pulled
    base: str


def export_huggingface(uri: str, folder: Path) -> Exported:
    """Write a registered adapter of a vision-language model as `peft.PeftModel.from_pretrained(base, folder)` takes it.

    Args:
        uri: `models:/NAME@alias` or `models:/NAME/VERSION`.
        folder: Where; it must not exist. It gets the adapter, the tokenizer and the image processor, training_metadata.json,
            the model card, and where the base is registered, which no hub knows, that too, in `base`.

    Raises:
        RegistryError: No such model, or one that is no adapter of a vision-language model.
        StorageError: The folder exists or cannot be written.
    """
    if folder.exists():
        raise StorageError(f"FOLDER {folder}: exists already, and nothing is overwritten. Give the name of a new folder")
    pulled = pull(uri)
    contract = read_json(pulled.folder, "contract.json")
    called, kind = f"{pulled.name} version {pulled.version}", network_of(contract)["kind"]
    if contract["architecture"]["kind"] != ADAPTER_KIND or kind not in vision_language.KINDS:
        what = f"an adapter of a {kind}" if contract["architecture"]["kind"] == ADAPTER_KIND else f"a {kind}"
        what += ", a network that no library of the Hub builds" if draws(contract) else ""
        raise RegistryError(
            f"{called}: is {what}. What is exported is an adapter of a vision-language model, such as medgemma_lora_adapter"
        )
    parent, config = read_json(pulled.folder, "parents.json")["base"], read_json(pulled.folder, _CONFIG)
    if parent["version"]:
        config |= {"base_model_name_or_path": BASE, "revision": None}
    with filling(folder, "FOLDER") as within:
        shutil.copytree(pulled.folder / PROCESSOR, within, dirs_exist_ok=True)
        shutil.copyfile(pulled.folder / ADAPTER_WEIGHTS, within / "adapter_model.safetensors")
        (within / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
        shutil.copyfile(pulled.folder / TRAINING, within / TRAINING)
        if parent["version"]:
            base: Any = load_verified(pull(f"models:/{parent['name']}/{parent['version']}").folder)
            with quietly():
                base.save_pretrained(within / BASE)
        ask = preprocessing_of(pulled.folder, called).get(Ask)
        (within / "README.md").write_text(_card(pulled, config, ask))
    return Exported(pulled, _in_words(config, parent))


def _in_words(config: Mapping[str, Any], parent: Mapping[str, Any]) -> str:
    source, at = config["base_model_name_or_path"], config.get("revision")
    if parent["version"]:
        return f"{BASE}/ in it: {parent['name']} version {parent['version']}, which is on no hub"
    if _ON_A_HUB.fullmatch(source):
        return source + (f" at {at}" if at else "")
    return (
        f"{source}, a folder of this machine. Before the adapter goes elsewhere, write the name that the base has on the hub "
        "into base_model_name_or_path of adapter_config.json, and as base_model into the head of README.md"
    )


def _card(pulled: Pulled, config: Mapping[str, Any], ask: Ask) -> str:
    """A model card as the Hub reads it: facts for programs, how the adapter is used, and the card of the registered model."""
    own, definition = (pulled.folder / "README.md").read_text(), load_definition(pulled.name)
    dtype = read_json(pulled.folder, TRAINING).get("dtype", "float32")
    known, source = _LICENSE.search(own), config["base_model_name_or_path"]
    data = ModelCardData(
        model_name=pulled.name,
        base_model=source if _ON_A_HUB.fullmatch(source) else None,
        library_name="peft",
        pipeline_tag="image-text-to-text",
        tags=["lora", "medical", "medexp"],
        license=known[1] if known and known[1] != _UNKNOWN else "other",
        metrics=["accuracy"],
        eval_results=_measured(pulled.folder),
    )
    return f"""---
{data.to_yaml()}
---

# {definition.title}

{" ".join(definition.task.split())}

{_usage(config, dtype, ask)}
This folder was made of {pulled.name}, version {pulled.version}; digest of the registered package: {pulled.digest}.
What follows is its card.

{without_paths(own[own.index("## ") :])}"""


def _measured(folder: Path) -> list[EvalResult]:
    """The shares of right answers on the scenarios that the adapter was judged on, with exact intervals."""
    scores, evaluation = read_csv(folder / "per_case.csv"), read_json(folder, "evaluation.json")
    if scores.empty or "correct" not in scores:
        return []
    shares: dict[str, tuple[str, Any]] = {"accuracy": ("accuracy", np.ones(len(scores), bool))}
    if "label" in scores:
        shares |= {
            "recall": ("true-positive rate, CORRECT said CORRECT", scores["label"] == "CORRECT"),
            "specificity": ("true-negative rate, ERROR said ERROR", scores["label"] == "ERROR"),
        }
    found = []
    for metric, (name, rows) in shares.items():
        those = scores[rows]
        if those.empty:
            continue
        share: Interval = proportion(those["correct"].to_numpy() > 0, those["patient"].astype(str).tolist(), _CONFIDENCE)
        about = f"{name}; {_CONFIDENCE:.0%} interval {share.low:.3f} to {share.high:.3f}, {len(those)} scenarios"
        found.append(
            EvalResult(
                task_type="image-text-to-text",
                dataset_type="clinical-scenarios",
                dataset_name=f"clinical scenarios, digest {evaluation['data_digest']}",
                dataset_split=evaluation["split"],
                metric_type=metric,
                metric_name=f"{about} of {share.patients} families",
                metric_value=round(float(share.estimate), 4),
            )
        )
    return found


def _usage(config: Mapping[str, Any], dtype: str, ask: Ask) -> str:
    """Code that runs as it stands, and asks what the adapter was trained to answer."""
    source, revision = config["base_model_name_or_path"], config.get("revision")
    named = f'f"{{FOLDER}}/{BASE}"' if source == BASE else json.dumps(source)
    at = f", revision={json.dumps(revision)}" if revision else ""
    at += f", dtype=torch.{dtype}"
    return f'''## How to use it

```python
import torch
from peft import PeftModel
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

FOLDER = "."  # where this card lies; from the Hub: hf download OWNER/NAME --local-dir FOLDER
QUESTION = {json.dumps(ask.asked)}

base = AutoModelForImageTextToText.from_pretrained({named}{at})
model = PeftModel.from_pretrained(base, FOLDER).eval()
processor = AutoProcessor.from_pretrained(FOLDER, backend="pil")


def prompt(image, instruction, text):
    turn = [{{"type": "image", "image": image}}, {{"type": "text", "text": "\\n".join([instruction, text, QUESTION])}}]
    return processor.apply_chat_template(
        [{{"role": "user", "content": turn}}], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )


@torch.inference_mode()
def log_probability(inputs, answer):
    """Of the whole answer, summed over its tokens; the likelier of both is what the adapter says."""
    answer = processor.tokenizer(answer, add_special_tokens=False, return_tensors="pt").input_ids
    beside = {{"attention_mask": torch.ones_like(answer), "token_type_ids": torch.zeros_like(answer), "input_ids": answer}}
    whole = {{name: torch.cat([inputs[name], more], 1) for name, more in beside.items() if name in inputs}}
    logits = model(**{{**inputs, **whole}}).logits[0, -answer.shape[1] - 1 : -1].float()
    return logits.log_softmax(-1).gather(1, answer.T).sum().item()


def answer(image, instruction, text):
    inputs = prompt(Image.open(image).convert("RGB"), instruction, text)
    return {{answer: log_probability(inputs, f"{{answer}} -") for answer in {json.dumps(list(ANSWERS))}}}
```

`answer("scan.png", INSTRUCTION, TEXT)` gives the log-probabilities of both answers.
'''
