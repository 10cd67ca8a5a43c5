"""A tiny Gemma 3 as Hugging Face keeps models: of the same classes, with a tokenizer and a processor of its own.

What holds for a folder of MedGemma holds for such a folder: `AutoModelForImageTextToText` and `AutoProcessor` load it, the
chat template is Gemma's, token types tell the image's tokens, and the output layer is the embedding (tied).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3Processor,
    GenerationConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

SPECIAL = {
    "pad_token": "<pad>",
    "eos_token": "<eos>",
    "bos_token": "<bos>",
    "unk_token": "<unk>",
    "sot_token": "<start_of_turn>",
    "eot_token": "<end_of_turn>",
    "boi_token": "<start_of_image>",
    "eoi_token": "<end_of_image>",
    "image_token": "<image_soft_token>",
}
"""Gemma's special tokens, by what they are for; ids in this order, from 0."""

CHAT_TEMPLATE = """\
{{ bos_token }}
{%- for message in messages -%}
    {{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- else -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}{{ '<start_of_image>' }}
            {%- elif item['type'] == 'text' -%}{{ item['text'] | trim }}{%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{ '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}
"""


@dataclass(frozen=True)
class Sizes:
    """Of a tiny Gemma 3.

    Attributes:
        image: Pixels of an image's edge, which every image is resized to.
        patch: Pixels of a patch's edge.
        image_tokens: Tokens that the decoder sees of an image, a square number: patches are averaged down to so many.
        vision_dim: Width of the vision tower.
        vision_layers: Its blocks.
        vision_heads: Its heads.
        dim: Width of the decoder.
        layers: Its blocks; every second one attends to the whole context, the others to the 512 tokens before.
        heads: Its heads; half as many hold keys and values.
        vocabulary: Tokens at most, bytes and special ones included.
        context: Tokens of a prompt and its answer at most.
        spread: Standard deviation of the initial weights.
    """

    image: int = 64
    patch: int = 8
    image_tokens: int = 16
    vision_dim: int = 64
    vision_layers: int = 3
    vision_heads: int = 4
    dim: int = 96
    layers: int = 4
    heads: int = 4
    vocabulary: int = 1280
    context: int = 512
    spread: float = 0.05


def write_tiny(folder: Path, texts: Iterable[str], seed: int, sizes: Sizes | None = None) -> Path:
    """A folder of a tiny Gemma 3 with random weights, as transformers writes one.

    Args:
        folder: Made where it is not there.
        texts: What the tokenizer learns its merges from; any other text is told by its bytes, so that nothing is unknown.
        seed: Of the weights.
        sizes: Of the network; the demo's where not given.

    Returns:
        The folder.
    """
    sizes = sizes or Sizes()
    tokenizer = _tokenizer(texts, sizes)
    processor = Gemma3Processor(
        image_processor=Gemma3ImageProcessorPil(
            size={"height": sizes.image, "width": sizes.image}, image_mean=[0.5] * 3, image_std=[0.5] * 3
        ),
        tokenizer=tokenizer,
        chat_template=CHAT_TEMPLATE,
        image_seq_length=sizes.image_tokens,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Gemma3ForConditionalGeneration(_config(tokenizer, sizes))
        # transformers leaves this projection at zero: nothing of an image would ever reach the decoder.
        nn.init.normal_(net.model.multi_modal_projector.mm_input_projection_weight, std=sizes.vision_dim**-0.5)
    ends = [tokenizer.convert_tokens_to_ids(SPECIAL[name]) for name in ("eos_token", "eot_token")]
    net.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id
    )
    net.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _tokenizer(texts: Iterable[str], sizes: Sizes) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer; each digit is a token, as in Gemma's."""
    made = Tokenizer(models.BPE(byte_fallback=False))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=sizes.vocabulary,
        special_tokens=list(SPECIAL.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    named = ("pad_token", "eos_token", "bos_token", "unk_token")
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        model_max_length=sizes.context,
        padding_side="left",
        **{name: SPECIAL[name] for name in named},
        extra_special_tokens={name: token for name, token in SPECIAL.items() if name not in named},
    )


def _config(tokenizer: PreTrainedTokenizerFast, sizes: Sizes) -> Gemma3Config:
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in SPECIAL.items()}
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": sizes.dim,
        "intermediate_size": 2 * sizes.dim,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": max(1, sizes.heads // 2),
        "head_dim": sizes.dim // sizes.heads,
        "query_pre_attn_scalar": sizes.dim // sizes.heads,
        "max_position_embeddings": sizes.context,
        "sliding_window": 512,
        "layer_types": ["full_attention" if layer % 2 else "sliding_attention" for layer in range(sizes.layers)],
        "initializer_range": sizes.spread,
        "pad_token_id": ids["pad_token"],
        "bos_token_id": ids["bos_token"],
        "eos_token_id": ids["eos_token"],
    }
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": sizes.vision_dim,
        "intermediate_size": 2 * sizes.vision_dim,
        "num_hidden_layers": sizes.vision_layers,
        "num_attention_heads": sizes.vision_heads,
        "image_size": sizes.image,
        "patch_size": sizes.patch,
        "vision_use_head": False,
    }
    tokens: dict[str, Any] = {
        "boi_token_index": ids["boi_token"],
        "eoi_token_index": ids["eoi_token"],
        "image_token_index": ids["image_token"],
        "eos_token_id": [ids["eos_token"], ids["eot_token"]],
    }
    return Gemma3Config(
        text_config=text,
        vision_config=vision,
        mm_tokens_per_image=sizes.image_tokens,
        initializer_range=sizes.spread,
        architectures=["Gemma3ForConditionalGeneration"],
        **tokens,
    )
