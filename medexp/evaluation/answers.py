"""What a vision-language model answers: how probable each whole answer is after a prompt, and what it says by itself.

The summed log-probability of a whole answer is what an answer is scored by. The first token's alone would do where answers
differ in it, and says nothing where they do not; a word that occurs somewhere in a reply says nothing where both occur.
"""

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from medexp.arrays import Array
from medexp.data.scenarios.cases import ANSWERS
from medexp.data.scenarios.prompts import Processor, Prompt, collate, completion_ids, followed_by, is_text
from medexp.errors import DataError
from medexp.evaluation.batches import demand_finite


@torch.inference_mode()
def score_answers(
    net: nn.Module,
    prompts: Sequence[Prompt],
    answers: Sequence[Tensor],
    *,
    pad_id: int,
    batch_size: int,
    device: torch.device | str,
) -> Array:
    """How probable each whole answer is as the beginning of the reply to each prompt.

    A prompt, which is long, is run once; its keys and values are then shared by the answers, which are short. The same comes
    out as when each answer is run with its whole prompt: in fp32 to 1e-4, of a network in 16 bits to some hundredths.

    Args:
        net: Of transformers, with an adapter of peft on it or without, on the device.
        prompts: As `medexp.data.scenarios.prompts.prompt_of` makes them.
        answers: Tokens of each (tokens,), such as of `medexp.data.scenarios.prompts.answer_ids`.
        pad_id: As of `medexp.data.scenarios.prompts.collate`.
        batch_size: Prompts at a time.
        device: Where it is computed.

    Returns:
        Summed log-probabilities (N, answers), float64, in nats.

    Raises:
        TrainingDiverged: What the network makes of a prompt is NaN or infinite; its id is named.
        DataError: An image in a prompt whose tokens nothing marks as an image's, though the network asks for it.
    """
    count, longest = len(answers), max(map(len, answers))
    known = torch.arange(longest) < torch.tensor([[len(answer)] for answer in answers])
    padded = torch.stack([functional.pad(answer, (0, longest - len(answer)), value=pad_id) for answer in answers])
    padded = padded.to(device)
    scores = np.zeros((len(prompts), count))
    with _judging(net):
        takes = _takes(net)
        for rows, some in _alike(prompts, batch_size):
            _demand_marked(takes, some)
            batch = {name: value.to(device) for name, value in collate(some, pad_id).items()}
            last = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}  # else a vocabulary of numbers a token
            positions = _positions(net, batch)
            first = net(**batch, position_ids=positions, **last, use_cache=True)
            logits = first.logits[:, -1:].float().repeat_interleave(count, 0)
            if longest > 1:
                cache, tokens = first.past_key_values, padded[:, :-1].repeat(len(some), 1)
                cache.batch_repeat_interleave(count)
                seen = batch["attention_mask"].repeat_interleave(count, 0)
                mask = torch.cat([seen, torch.ones_like(tokens)], 1)
                behind = positions[..., -1:].repeat_interleave(count, -2) + 1 + torch.arange(longest - 1, device=device)
                rest = net(input_ids=tokens, attention_mask=mask, past_key_values=cache, position_ids=behind, use_cache=True)
                logits = torch.cat([logits, rest.logits.float()], 1)
            demand_finite(logits.reshape(len(some), -1), [prompt.case for prompt in some])
            said = logits.log_softmax(-1).gather(-1, padded.repeat(len(some), 1).unsqueeze(-1)).squeeze(-1)
            summed = said.cpu().double().where(known.repeat(len(some), 1), 0).sum(1)  # an MPS device has no float64
            scores[rows] = summed.reshape(len(some), count).numpy()
    return scores


@torch.inference_mode()
def score_alone(net: nn.Module, prompt: Prompt, answer: Tensor, device: torch.device | str) -> float:
    """The same of one answer to one prompt, by running both in one: what `score_answers` is held against.

    Args:
        net: As of `score_answers`.
        prompt: Likewise.
        answer: Its tokens (tokens,).
        device: Likewise.
    """
    inputs = {name: value.to(device) for name, value in followed_by(prompt.inputs, answer).items()}
    with _judging(net):
        logits = net(**inputs, use_cache=False).logits
    demand_finite(logits, [prompt.case])
    said = logits[0, prompt.length - 1 : -1].float().log_softmax(-1)
    return float(said.gather(-1, answer[:, None].to(said.device)).cpu().double().sum())


@torch.inference_mode()
def generate(
    net: nn.Module,
    prompts: Sequence[Prompt],
    processor: Processor,
    *,
    max_new_tokens: int,
    batch_size: int,
    device: torch.device | str,
) -> list[str]:
    """What the network says to each prompt by itself, always the most probable token, up to the end of its turn.

    Args:
        net: As of `score_answers`.
        prompts: Likewise.
        processor: By which the prompts were made.
        max_new_tokens: Tokens of a reply at most.
        batch_size: Prompts at a time.
        device: Where it is computed.

    Returns:
        The replies, without control tokens.
    """
    from transformers import GenerationConfig

    tokenizer = processor.tokenizer
    speaker: Any = net
    own = getattr(speaker, "generation_config", None)
    ends = own.eos_token_id if own is not None and own.eos_token_id is not None else tokenizer.eos_token_id
    ends = {*(ends if isinstance(ends, list) else [ends]), int(completion_ids(processor, f"{ANSWERS[0]} - ?")[-1])} - {None}
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(ends)
    settings = GenerationConfig(do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=sorted(ends), pad_token_id=pad_id)
    replies = [""] * len(prompts)
    with _judging(net):
        takes = _takes(net)
        for rows, some in _alike(prompts, batch_size):
            _demand_marked(takes, some)
            batch = {name: value.to(device) for name, value in collate(some, pad_id).items()}
            finite = partial(_finite, cases=[prompt.case for prompt in some])
            made: Tensor = speaker.generate(**batch, generation_config=settings, logits_processor=[finite])
            new = made[:, batch["input_ids"].shape[1] :]
            for row, reply in zip(rows, tokenizer.batch_decode(new, skip_special_tokens=True), strict=True):
                replies[row] = reply
    return replies


def parse(reply: str) -> Literal["ERROR", "CORRECT"] | None:
    """The answer that a reply gives: the one of both that stands in it as a whole word, in capitals or not.

    None where both do or neither does: such a reply is wrong, whatever was meant. "Incorrect" is neither.
    """
    words = {word.upper() for word in re.findall(r"\w+", reply)}
    found = [answer for answer in ANSWERS if answer in words]
    return found[0] if len(found) == 1 else None  # type: ignore[return-value]


def _finite(_: Tensor, logits: Tensor, cases: Sequence[str]) -> Tensor:
    """Of the tokens so far and what comes next, as `generate` of transformers asks: the same logits, if they are numbers."""
    demand_finite(logits, cases)
    return logits


@contextmanager
def _judging(net: nn.Module) -> Iterator[None]:
    """Without dropout; as it was afterwards."""
    training = net.training
    net.eval()
    try:
        yield
    finally:
        net.train(training)


def _bare(net: Any) -> Any:
    """The network of transformers, which an adapter of peft may be put on."""
    return net.get_base_model() if hasattr(net, "get_base_model") else net


def _takes(net: nn.Module) -> frozenset[str]:
    """The inputs of the network by name."""
    return frozenset(inspect.signature(_bare(net).forward).parameters)


def _positions(net: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Where each token of prompts stands (..., B, L), padding not counted."""
    bare = _bare(net)
    if any(hasattr(part, "get_rope_index") for part in (bare, getattr(bare, "model", None))):
        # Rows and columns of the image have places too, which the network alone knows: it says them to its `generate`.
        return bare._prepare_position_ids_for_generation(batch["input_ids"], dict(batch))
    return (batch["attention_mask"].long().cumsum(1) - 1).clamp(min=0)


def _alike(prompts: Sequence[Prompt], size: int) -> Iterator[tuple[list[int], list[Prompt]]]:
    """Prompts that fit into a batch, with their rows: with the same inputs, and images of the same shape."""
    for start in range(0, len(prompts), size):
        groups: dict[tuple[Any, ...], tuple[list[int], list[Prompt]]] = {}
        for row, prompt in enumerate(prompts[start : start + size], start):
            shapes = tuple((name, is_text(name, prompt) or value.shape[1:]) for name, value in prompt.inputs.items())
            rows, some = groups.setdefault(shapes, ([], []))
            rows.append(row)
            some.append(prompt)
        yield from groups.values()


def _demand_marked(takes: frozenset[str], prompts: Sequence[Prompt]) -> None:
    bare = [prompt.case for prompt in prompts if prompt.images and "token_type_ids" not in prompt.inputs]
    if "token_type_ids" in takes and bare:
        told = "token_type_ids are missing, by which the network tells an image's tokens"
        raise DataError(f"scenario {', '.join(bare)}: {told}. Make the prompts by the processor of this network")
