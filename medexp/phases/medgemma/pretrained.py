"""The demo's base: a tiny Gemma 3 that reads drawn images, and knows of no treatment of a scenario what it is for.

First its vision tower learns to name modality and finding of a drawing and the half that the finding lies in. Then all of it
learns to describe drawings and to judge what is proposed for one, with an answer and a reason as scenarios have them: a
diagnosis, in several wordings, or a remedy with a made-up name, each for one finding. The treatments of scenarios stand in
descriptions alone, as something that a patient had earlier, drawn without regard to anything: as words they are known, and
their indications cannot be. So what the base cannot answer of scenarios, and an adapter has to learn, is which finding a
treatment is for.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from medexp.data.parallel import in_parallel
from medexp.data.scenarios.phantoms import draw as drawings
from medexp.data.scenarios.phantoms import words
from medexp.data.scenarios.phantoms.draw import FINDINGS, draw
from medexp.data.scenarios.phantoms.words import JUDGED, PICTURES, PROPOSED, QUESTION, REPORTED, SHOWN, TREATMENTS, patient
from medexp.files import filling
from medexp.models.vision_language.tiny import SPECIAL, Sizes, write_tiny

SHIPPED = Path(__file__).with_name("bases")  # `python -m benchmarks.medgemma_base` makes it anew
_VERSION = 1  # of the pretraining below: raise it when its outcome changes
_STREAM = 1  # of the drawings: others than any scenario's, whatever its seed
_PLACES = ("", "left", "right")
_SHOWN = tuple((modality, finding) for modality, findings in FINDINGS.items() for finding in findings)
_REMEDY = ("{}", "{} today", "a course of {}", "an early {}")
_TOGETHER = 200  # drawings that a process makes at a time


@dataclass(frozen=True)
class Recipe:
    """How the base is pretrained.

    Attributes:
        drawings: So many, each finding as often.
        vision_steps: Of the vision tower alone.
        vision_batch: Drawings a step.
        steps: Of the whole network.
        batch: Drawings a step, each with one text.
        described: Share of texts that describe a drawing; the others judge what is proposed.
        remedies: Share of proposals that are a made-up remedy, no diagnosis.
        lr: Largest learning rate.
        vision_lr: That of the vision tower in the second part, as a share of it.
    """

    drawings: int = 8000
    vision_steps: int = 1000
    vision_batch: int = 64
    steps: int = 1400
    batch: int = 32
    described: float = 0.2
    remedies: float = 0.6
    lr: float = 2e-3
    vision_lr: float = 0.3


RECIPE = Recipe()
SIZES = Sizes()


@dataclass(frozen=True)
class Drawn:
    """Drawings as the network takes them.

    Attributes:
        pixels: (N, 3, H, W) as the processor makes them, float16.
        shown: Places in FINDINGS, modalities one after the other (N,).
        places: 0 where nothing is found, 1 left, 2 right (N,).
    """

    pixels: Tensor
    shown: Tensor
    places: Tensor


def demo_base(cache: Path) -> Path:
    """The folder of the demo's base in the cache, as Hugging Face keeps models.

    Args:
        cache: Root of the cache; the folder goes under `bases/`.

    Raises:
        StorageError: The cache cannot be written.
    """
    folder = cache / "bases" / f"medgemma-{key()}"
    if not folder.is_dir():
        with filling(folder, "cache_dir") as partial:
            shutil.copytree(SHIPPED / key(), partial, dirs_exist_ok=True)
    return folder


def key() -> str:
    """Of all that the shipped base follows from."""
    parts = [_VERSION, drawings.VERSION, words.VERSION, asdict(RECIPE), asdict(SIZES)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def render(count: int, stream: int, processor: Any, jobs: int) -> Drawn:
    """Drawings of every finding in turn.

    Args:
        count: How many.
        stream: Other streams give other drawings; 1 are those of pretraining.
        processor: The base's.
        jobs: Processes.
    """
    calls = [(range(at, min(at + _TOGETHER, count)), stream, processor.image_processor) for at in range(0, count, _TOGETHER)]
    parts = list(in_parallel(_render, calls, jobs, "Drawing images"))
    pixels, shown, places = (torch.cat(part) for part in zip(*parts, strict=True))
    return Drawn(pixels, shown, places)


def _render(numbers: range, stream: int, image_processor: Any) -> tuple[Tensor, Tensor, Tensor]:
    shown = [number % len(_SHOWN) for number in numbers]
    drawn = [draw(*_SHOWN[one], np.random.default_rng((stream, number))) for one, number in zip(shown, numbers, strict=True)]
    pictures = [Image.fromarray(one.pixels).convert("RGB") for one in drawn]
    pixels = image_processor(pictures, return_tensors="pt")["pixel_values"].half()
    return pixels, torch.tensor(shown), torch.tensor([_PLACES.index(one.place) for one in drawn])


def description(shown: int, place: int, rng: np.random.Generator) -> tuple[str, str]:
    """A question that asks what a drawing shows, and the answer."""
    modality, _ = _SHOWN[shown]
    asked = f"Describe the {PICTURES[modality]}.\n{patient(modality, rng)} Earlier: {rng.choice(TREATED)}."
    return asked, f"It shows {_found(shown, place)}."


def judgement(shown: int, place: int, rng: np.random.Generator) -> tuple[str, str]:
    """A question whether a diagnosis or a made-up remedy fits a drawing, right half of the time, and the answer with its
    reason."""
    modality, finding = _SHOWN[shown]
    right = rng.random() < 0.5
    meant = finding if right else str(rng.choice([other for other in FINDINGS[modality] if other != finding]))
    if rng.random() < RECIPE.remedies:
        what, said = "treatment", str(rng.choice(_REMEDY)).format(rng.choice(REMEDIES[modality, meant]))
    else:
        what, said = "diagnosis", str(rng.choice([SHOWN[modality, meant], *REPORTED[modality, meant]]))
    answers = ["CORRECT", "ERROR"] if rng.random() < 0.5 else ["ERROR", "CORRECT"]
    question = "\n".join(
        [
            str(rng.choice(JUDGED)).format(picture=PICTURES[modality], what=what),
            f"{patient(modality, rng)} {PROPOSED.format(what=what, said=said)}",
            QUESTION.format(first=answers[0], second=answers[1]),
        ]
    )
    reason = f"it shows {_found(shown, place)}"
    return question, f"CORRECT - {reason}." if right else f"ERROR - {reason}, not {SHOWN[modality, meant]}."


def _remedies() -> Mapping[tuple[str, str], Sequence[str]]:
    stems, endings = ("bal", "dor", "fen", "gal", "kir", "lom", "mur", "nep"), ("ada", "ixo", "one", "umi", "ery", "ost")
    names = [stem + ending for stem in stems for ending in endings]
    np.random.default_rng(4).shuffle(names)
    each = len(names) // len(_SHOWN)
    return {shown: names[each * place : each * (place + 1)] for place, shown in enumerate(_SHOWN)}


REMEDIES = _remedies()
"""Made-up names, by modality and finding; no syllable tells the finding."""
TREATED = [wording for treatments in TREATMENTS.values() for wordings in treatments for wording in wordings]
"""The treatments of scenarios, in all wordings."""


def _found(shown: int, place: int) -> str:
    return SHOWN[_SHOWN[shown]] + (f" on the {_PLACES[place]}" if place else "")


def texts() -> list[str]:
    """What the tokenizer learns from: questions and answers of pretraining, and every treatment as it is proposed."""
    rng = np.random.default_rng(_STREAM)
    made = [
        text
        for number in range(3000)
        for ask in (description, judgement)
        for text in ask(number % len(_SHOWN), int(rng.integers(3)), rng)
    ]
    proposed = [PROPOSED.format(what="treatment", said=said) for said in TREATED] * 30
    return [*made, *proposed, *(asked.format(picture="image", what="treatment") for asked in JUDGED * 30)]


def pretrain(folder: Path, jobs: int, report: Callable[[str], None] = print) -> None:
    """Pretrain the base and write its folder, weights rounded to float16.

    Args:
        folder: Gets what transformers writes.
        jobs: Processes that draw.
        report: Told how it goes.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    write_tiny(folder, texts(), 0, SIZES)
    processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    net = AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    data = render(RECIPE.drawings, _STREAM, processor, jobs)
    torch.manual_seed(0)
    _pretrain_vision(net.model, data, report)
    _pretrain_whole(net, processor, data, report)
    net.half().save_pretrained(folder)


def _pretrain_vision(model: Any, data: Drawn, report: Callable[[str], None]) -> None:
    width = int(model.config.text_config.hidden_size)
    heads = nn.ModuleList([nn.Linear(width, len(_SHOWN)), nn.Linear(width, len(_PLACES))])

    def loss(step: int) -> Tensor:
        chosen = torch.randint(len(data.pixels), (RECIPE.vision_batch,))
        seen = model.vision_tower(data.pixels[chosen].float()).last_hidden_state
        features = model.multi_modal_projector(seen).mean(1)
        wanted = (data.shown[chosen], data.places[chosen])
        return torch.stack(
            [functional.cross_entropy(head(features), want) for head, want in zip(heads, wanted, strict=True)]
        ).sum()

    parts = [*model.vision_tower.parameters(), *model.multi_modal_projector.parameters(), *heads.parameters()]
    _minimise(loss, [{"params": parts, "lr": RECIPE.lr}], RECIPE.vision_steps, "vision", report)


def _pretrain_whole(net: Any, processor: Any, data: Drawn, report: Callable[[str], None]) -> None:
    rng = np.random.default_rng((_STREAM, 0))

    def loss(step: int) -> Tensor:
        chosen = rng.integers(len(data.pixels), size=RECIPE.batch)
        pairs = []
        for place, one in enumerate(chosen):
            ask = description if place < RECIPE.described * RECIPE.batch else judgement
            pairs.append(ask(int(data.shown[one]), int(data.places[one]), rng))
        inputs, said = batch(processor, pairs)
        hidden = net.model(**inputs, pixel_values=data.pixels[chosen].float()).last_hidden_state[:, :-1][said[:, 1:]]
        return functional.cross_entropy(net.lm_head(hidden), inputs["input_ids"][:, 1:][said[:, 1:]])

    vision = {id(one) for one in net.model.vision_tower.parameters()}
    groups = [
        {"params": [one for one in net.parameters() if id(one) not in vision], "lr": RECIPE.lr},
        {"params": [*net.model.vision_tower.parameters()], "lr": RECIPE.lr * RECIPE.vision_lr},
    ]
    _minimise(loss, groups, RECIPE.steps, "whole", report)


def batch(processor: Any, pairs: Sequence[tuple[str, str]]) -> tuple[Mapping[str, Tensor], Tensor]:
    """Questions about an image each and their answers as one batch, without pixels: inputs (B, L) padded on the right, and
    which tokens are the answer's (B, L)."""
    rows = []
    for question, answer in pairs:
        turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
        text = processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
        parts = (text.replace(processor.boi_token, processor.full_image_sequence), answer + SPECIAL["eot_token"])
        rows.append([processor.tokenizer(part, add_special_tokens=False).input_ids for part in parts])
    longest = max(len(asked) + len(said) for asked, said in rows)
    ids = torch.full((len(rows), longest), processor.tokenizer.pad_token_id)
    answered, mask = torch.zeros_like(ids, dtype=torch.bool), torch.zeros_like(ids)
    for row, (asked, said) in enumerate(rows):
        end = len(asked) + len(said)
        ids[row, :end], mask[row, :end], answered[row, len(asked) : end] = torch.tensor(asked + said), 1, True
    images = (ids == processor.tokenizer.image_token_id).long()
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": images}, answered


def _minimise(
    loss: Callable[[int], Tensor], groups: list[dict[str, Any]], steps: int, title: str, report: Callable[[str], None]
) -> None:
    """AdamW with a rate that rises for a tenth of the steps and falls to nothing."""
    optimizer = torch.optim.AdamW(groups, weight_decay=0.02, betas=(0.9, 0.98))
    rates = [group["lr"] for group in groups]
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, steps, pct_start=0.1)
    weights = [one for group in groups for one in group["params"]]
    for step in range(steps):
        optimizer.zero_grad()
        value = loss(step)
        value.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        scheduler.step()
        if (step + 1) % 100 == 0:
            report(f"{title}: step {step + 1} of {steps}, loss {float(value):.3f}")
