"""A scenario as a vision-language model is asked it, by the chat template and the processor that the model comes with.

Nothing of it is written again here: what a turn looks like, where an image stands and how many tokens it takes is the
processor's to say. What can go wrong without a word is looked at: an image that no token stands for, tokens that nobody
marked as an image's, a text that closes its own turn, a prompt that is cut, an answer whose tokens alone are others than in a
reply.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from medexp.data.pictures import read_rgb
from medexp.data.scenarios.cases import ANSWERS, Scenario
from medexp.data.scenarios.steps import Ask
from medexp.errors import ConfigError, DataError

Processor = Any
"""A `transformers.ProcessorMixin`: a tokenizer, an image processor and a chat template."""

REPLIES = tuple(f"{answer} -" for answer in ANSWERS)
"""How a reply with each answer begins. The space after the dash is left to the next word: tokenizers keep them together."""

_MARKS = ("token_type_ids", "mm_token_type_ids")


@dataclass(frozen=True)
class Prompt:
    """What a model is given of a scenario.

    Attributes:
        case: The scenario's id.
        inputs: As the processor makes them, a batch of 1 on the CPU: input_ids, attention_mask and token_type_ids (1, L),
            pixel_values (1, 3, H, W) where there is an image, and whatever else the model takes.
        images: Images that stand in the ids: runs of their tokens.
    """

    case: str
    inputs: Mapping[str, Tensor]
    images: int

    @property
    def length(self) -> int:
        """Tokens."""
        return int(self.inputs["input_ids"].shape[1])


def load_processor(folder: Path) -> Processor:
    """The processor of a folder as transformers writes it; nothing is fetched, and no code of the folder's is run.

    Images are processed by Pillow, also where torchvision is installed: its pixels are others.

    Raises:
        ConfigError: The folder has none, or one without a tokenizer, an image processor or a chat template.
    """
    from transformers import AutoProcessor

    wanted = "tokenizer.json, tokenizer_config.json, processor_config.json and chat_template.jinja of the model"
    try:
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False, backend="pil")
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{folder}: no processor ({type(error).__name__}: {reason}). Put there {wanted}") from error
    parts = ("tokenizer", "image_processor")
    if lacking := [part.replace("_", " ") for part in parts if getattr(processor, part, None) is None]:
        raise ConfigError(f"{folder}: its processor has no {' and no '.join(lacking)}. Put there {wanted}")
    _template(processor, str(folder))
    return processor


def prompt_of(
    processor: Processor,
    scenario: Scenario,
    ask: Ask,
    *,
    context: int,
    instruction: str | None = None,
    image: Path | Literal["own", "none"] = "own",
) -> Prompt:
    """A scenario as the turn of a user, up to where the model's reply begins.

    Args:
        processor: As `load_processor` returns it.
        scenario: Its output is no part of the prompt; it has to fit behind it.
        ask: What is asked.
        context: Tokens that the model takes at most (`text_config.max_position_embeddings`).
        instruction: In place of the scenario's.
        image: Another one in place of the scenario's, or none at all.

    Raises:
        DataError: An image that cannot be read; text that holds a control token; a prompt that with its answer is longer than
            the context, which is never cut. The id is named.
        ConfigError: A processor that lets the image, the text or the marks of the image's tokens fall.
    """
    parts = (scenario.instruction if instruction is None else instruction, scenario.input, ask.asked)
    said = "\n".join(part for part in parts if part.strip())
    _demand_plain(processor, scenario.id, (said, scenario.instruction, scenario.output or ""))
    path = {"own": scenario.image, "none": None}[image] if isinstance(image, str) else image
    content: list[dict[str, Any]] = [] if path is None else [{"type": "image", "image": read_rgb(path)}]
    turn = [{"role": "user", "content": [*content, {"type": "text", "text": said}]}]
    template = _template(processor, type(processor).__name__)
    if said.strip() not in processor.apply_chat_template(turn, chat_template=template, add_generation_prompt=True):
        told = "its chat template leaves the text out of a turn, or changes it"
        raise ConfigError(f"{type(processor).__name__}: {told}. Use a template for lists of images and texts")
    tensors = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
    try:
        made = processor.apply_chat_template(turn, chat_template=template, add_generation_prompt=True, **tensors)
    except ValueError as error:  # such as of an image for which the template writes no token
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{type(processor).__name__}: makes no prompt of scenario {scenario.id}: {reason}") from error
    inputs = {name: value for name, value in made.items() if isinstance(value, Tensor)}
    images = _images(processor, inputs, int(path is not None), scenario.id)
    _demand_marks(processor, inputs)
    outputs = [completion_ids(processor, scenario.output)] if scenario.output else []
    length, behind = int(inputs["input_ids"].shape[1]), max(map(len, (*outputs, *answer_ids(processor))))
    if length + behind > context:
        told = f"{length:,} tokens and {behind:,} of its answer, the model takes {context:,} in all"
        raise DataError(f"scenario {scenario.id}: {told}. Shorten its instruction or its input; a prompt is never cut")
    return Prompt(scenario.id, inputs, images)


def answer_ids(processor: Processor) -> tuple[Tensor, ...]:
    """The whole answers as they stand at the start of a reply, in the order of `ANSWERS`, int64 (tokens,) each.

    Raises:
        ConfigError: A tokenizer to which one answer is the beginning of the other.
    """
    first, second = (_reply_ids(processor, reply)[:-1] for reply in REPLIES)
    shorter = min(len(first), len(second))
    if torch.equal(first[:shorter], second[:shorter]):
        raise ConfigError(f"{type(processor).__name__}: its tokenizer does not tell {' from '.join(map(repr, REPLIES))}")
    return first, second


def completion_ids(processor: Processor, output: str) -> Tensor:
    """What a model has to say after a prompt: an output and the end of the turn, as the chat template writes them.

    After them a template may write more, such as a line break: that is not the model's to say.

    Returns:
        int64 (tokens,), the last of which ends the turn.

    Raises:
        DataError: An output that holds a control token, begins with neither answer, or whose first tokens are not those of
            `answer_ids`: what is scored would be another reply than what was learned.
        ConfigError: A chat template or a tokenizer from which a reply cannot be told.
    """
    _demand_plain(processor, None, (output,))
    said = output.strip()
    began = [answer for answer, reply in zip(answer_ids(processor), REPLIES, strict=True) if said.startswith(reply)]
    if not began:
        raise DataError(f"output {said[:40]!r}: begins with neither {' nor '.join(map(repr, REPLIES))}")
    ids = _reply_ids(processor, said)
    if not torch.equal(ids[: len(began[0])], began[0]):
        pieces = [processor.tokenizer.convert_ids_to_tokens(part.tolist()) for part in (ids[: len(began[0]) + 1], began[0])]
        told = f"its tokens {pieces[0]} do not begin with those of the answer alone, {pieces[1]}"
        raise DataError(f"output {said[:40]!r}: {told}. Let a space and a word follow the dash")
    return ids


def collate(prompts: Sequence[Prompt], pad_id: int, side: Literal["left", "right"] = "left") -> dict[str, Tensor]:
    """Prompts as one batch: texts padded to the longest, everything else one behind the other.

    Args:
        prompts: At least one.
        pad_id: What `input_ids` are filled up with; masks and types are filled up with 0.
        side: Where: on the left all replies begin at the same place.

    Raises:
        DataError: Images that the processor made of different shapes.
    """
    longest = max(prompt.length for prompt in prompts)
    batch: dict[str, Tensor] = {}
    for name in dict.fromkeys(name for prompt in prompts for name in prompt.inputs):
        having = [prompt for prompt in prompts if name in prompt.inputs]
        values = [prompt.inputs[name] for prompt in having]
        if is_text(name, having[0]):
            fill = pad_id if name == "input_ids" else 0
            values = [_padded(value, longest, fill, side) for value in values]
        if len(shapes := {tuple(value.shape[1:]) for value in values}) > 1:
            cases = ", ".join(prompt.case for prompt in having)
            raise DataError(f"{cases}: {name} of shapes {sorted(shapes)} fit into no batch; use a batch size of 1")
        batch[name] = torch.cat(values)
    return batch


def followed_by(inputs: Mapping[str, Tensor], tokens: Tensor) -> dict[str, Tensor]:
    """The inputs of a prompt with more tokens of text behind it; what is no text stays as it is.

    Args:
        inputs: Of a prompt: input_ids (1, L), and others.
        tokens: Ids of what follows (tokens,).
    """
    ids = inputs["input_ids"]
    added = tokens.reshape(1, -1).to(ids)
    behind = {"input_ids": added, "attention_mask": torch.ones_like(added)}
    return {
        name: torch.cat([value, behind.get(name, torch.zeros_like(added)).to(value)], dim=1)
        if value.shape == ids.shape
        else value
        for name, value in inputs.items()
    }


def is_text(name: str, prompt: Prompt) -> bool:
    """Whether an input has a value a token: ids, masks and types, and no pixels."""
    return prompt.inputs[name].shape == prompt.inputs["input_ids"].shape


def _template(processor: Processor, where: str) -> str:
    """The chat template: the processor's, or its tokenizer's, of several the one for conversations."""
    for owner in (processor, processor.tokenizer):
        found = getattr(owner, "chat_template", None)
        found = found.get("default") if isinstance(found, Mapping) else found
        if found:
            return str(found)
    told = "no chat template: the model was not taught to follow instructions, or the file is missing"
    raise ConfigError(f"{where}: {told}. Put its chat_template.jinja into the folder, or use the instruction-tuned model")


def _control_tokens(processor: Processor) -> dict[str, int]:
    """Tokens that stand for something else than their text, by the text: special ones, and those a template writes."""
    tokenizer, template = processor.tokenizer, _template(processor, type(processor).__name__)
    named = {
        *tokenizer.all_special_tokens,
        *(str(token) for token in tokenizer.added_tokens_decoder.values() if token.special),
    }
    added = tokenizer.get_added_vocab()
    return {
        token: int(added.get(token, tokenizer.convert_tokens_to_ids(token)))
        for token in {*named, *(token for token in added if token in template)}
        if token.strip()
    }


def _demand_plain(processor: Processor, case: str | None, texts: Iterable[str]) -> None:
    """No text holds a control token: it would end its own turn, or stand for an image."""
    found = sorted({token for token in _control_tokens(processor) for text in texts if token in text})
    if found:
        told = f"its text holds {', '.join(found)}, which the model reads as a control token; take it out"
        raise DataError(f"{'output' if case is None else f'scenario {case}'}: {told}")


def _images(processor: Processor, inputs: Mapping[str, Tensor], given: int, case: str) -> int:
    """Images in the ids, as many as were given.

    Raises:
        ConfigError: Not as many, or one by another number of tokens than the processor says.
    """
    name = type(processor).__name__
    is_image = _image_tokens(processor, inputs["input_ids"])[0].int()
    edges = torch.diff(is_image, prepend=torch.zeros(1, dtype=torch.int32))
    images, tokens = int((edges == 1).sum()), int(is_image.sum())
    if images != given:
        told = f"{given} images were given with scenario {case}, and {images} stand in its ids"
        advice = "Turn off what cuts an image into pieces" if images else "Its chat template has to write the image's token"
        raise ConfigError(f"{name}: {told}. {advice}")
    if name == "Gemma3Processor" and tokens != images * processor.image_seq_length:
        told = f"{images} images of scenario {case} are {tokens} tokens, and {processor.image_seq_length} each are said"
        raise ConfigError(f"{name}: {told}. Use the processor that the model came with")
    return images


def _image_tokens(processor: Processor, ids: Tensor) -> Tensor:
    known = [token for token in processor.image_token_ids if token is not None]
    return torch.isin(ids, torch.tensor(known, dtype=ids.dtype))


def _demand_marks(processor: Processor, inputs: Mapping[str, Tensor]) -> None:
    """A processor of a kind that marks images' tokens did: without marks each sees those before it alone, in silence."""
    named = [name for name in _MARKS if name in processor.model_input_names]
    if not type(processor).return_mm_token_type_ids or not named:
        return
    marked = next((inputs[name] != 0 for name in named if name in inputs), None)
    if marked is None or not torch.equal(marked, _image_tokens(processor, inputs["input_ids"])):
        found = "does not give" if marked is None else "gives, with other marks than the image's tokens,"
        told = f"{found} {' or '.join(named)}, by which the model tells an image's tokens"
        raise ConfigError(f"{type(processor).__name__}: {told}. Use the processor that the model came with, unchanged")


def _reply_ids(processor: Processor, said: str) -> Tensor:
    """A reply as it stands in a whole conversation, behind the prompt, up to the token that ends the turn."""
    tokenizer, name = processor.tokenizer, type(processor).__name__
    template = _template(processor, name)
    asked = {"role": "user", "content": [{"type": "text", "text": "?"}]}
    reply = {"role": "assistant", "content": [{"type": "text", "text": said}]}
    prompt = processor.apply_chat_template([asked], chat_template=template, add_generation_prompt=True)
    whole = processor.apply_chat_template([asked, reply], chat_template=template)
    space, found, rest = whole.removeprefix(prompt).partition(said)
    if not whole.startswith(prompt) or not found or space.strip():
        told = f"its chat template writes {prompt!r} before a reply and {whole!r} of a whole conversation"
        raise ConfigError(f"{name}: {told}: a reply does not follow its prompt. Use a template in which it does")
    whole = whole if rest.strip() else prompt + space + said
    start, ids = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, whole))
    if ids[: len(start)] != start:
        told = f"its tokenizer joins the end of the prompt with {said[:20]!r}"
        raise ConfigError(f"{name}: {told}: what is generated would be other tokens than what is learned. Use another model")
    behind, control = ids[len(start) :], {*_control_tokens(processor).values()}
    end = next((place for place, token in enumerate(behind) if token in control), None)
    if end is None and tokenizer.eos_token_id is None:
        raise ConfigError(f"{name}: neither its chat template nor its tokenizer says what ends a turn. Use another model")
    ended = behind[: end + 1] if end is not None else [*behind, tokenizer.eos_token_id]
    return torch.tensor(ended, dtype=torch.int64)


def _padded(value: Tensor, length: int, fill: int, side: str) -> Tensor:
    lacking = length - value.shape[1]
    return functional.pad(value, (lacking, 0) if side == "left" else (0, lacking), value=fill)
