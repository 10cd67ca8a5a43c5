"""Adapters: in the decoder's attention and nowhere else, as many parameters as arithmetic says, off again and merged."""

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from medexp.config.networks import DecoderLoraConfig, Projection
from medexp.errors import ConfigError
from medexp.models.kinds import kind_of
from medexp.models.vision_language.adapters import (
    add_adapter,
    attention_of_decoder,
    digests,
    expected_parameters,
    merged,
    save_adapter,
    untouched,
)
from medexp.models.vision_language.bases import Base, find_base, load_base
from tests.gemma import tiny_gemma

ALL: tuple[Projection, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    folder = tmp_path_factory.mktemp("gemma")
    return find_base(str(tiny_gemma(folder / "base")), None, folder)


@pytest.fixture
def net(base: Base) -> Any:
    return load_base(base, quantize="none", dtype=torch.float32, device=torch.device("cpu"))


def lora(*targets: Projection, rank: int = 4) -> DecoderLoraConfig:
    return DecoderLoraConfig(rank=rank, alpha=8.0, dropout=0.0, targets=targets or ALL)


def logits(net: nn.Module, base: Base) -> Tensor:
    given = kind_of(base.architecture).example(base.architecture, {}, torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return net(**given).logits.clone()


def learned(peft: PeftModel) -> PeftModel:
    """As if it had been trained: B is not zero."""
    torch.manual_seed(1)
    for name, parameter in peft.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    return peft.eval()  # type: ignore[return-value]


def llava() -> Any:
    """Another network of such a kind, whose vision tower has q_proj, k_proj and v_proj too."""
    vision = CLIPVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4
    )
    text = LlamaConfig(
        vocab_size=32,
        hidden_size=12,
        intermediate_size=8,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text, image_token_index=31))


def test_the_path_is_the_decoders_and_never_the_vision_towers(net: Any) -> None:
    pattern = r"^model\.language_model\.layers\.\d+\.self_attn\.(q_proj|k_proj|v_proj|o_proj)$"
    assert attention_of_decoder(net, ALL) == attention_of_decoder(llava(), ALL) == pattern
    assert [name for name, _ in net.named_modules() if "vision" in name and name.endswith("q_proj")]
    peft = add_adapter(net, lora())
    adapted = [name for name, parameter in peft.named_parameters() if parameter.requires_grad]
    assert len(adapted) == 2 * len(ALL) * 2  # of two layers
    assert all(".language_model.layers." in name and "lora_" in name for name in adapted)


@pytest.mark.parametrize("targets", [chosen for size in (1, 2, 4) for chosen in combinations(ALL, size)])
def test_as_many_parameters_train_as_arithmetic_says(targets: tuple[Projection, ...]) -> None:
    net = llava()
    expected = expected_parameters(net, lora(*targets, rank=3))
    peft = add_adapter(net, lora(*targets, rank=3))
    assert sum(parameter.numel() for parameter in peft.parameters() if parameter.requires_grad) == expected


def test_medgemmas_adapter_is_counted_as_published_sizes_say() -> None:
    from transformers import Gemma3Config

    class Known(nn.Module):
        config = Gemma3Config(
            text_config={
                "hidden_size": 2560,
                "num_hidden_layers": 34,
                "num_attention_heads": 8,
                "num_key_value_heads": 4,
                "head_dim": 256,
            }
        )

    assert expected_parameters(Known(), lora(rank=16)) == 34 * 16 * (2 * (2560 + 2048) + 2 * (2560 + 1024)) == 8_912_896


def test_a_projection_that_the_decoder_lacks_is_an_error_that_says_what_there_is(net: Any) -> None:
    with pytest.raises(ConfigError, match=r"lora.targets: qkv_proj .* linear layers are down_proj, gate_proj, k_proj"):
        attention_of_decoder(net, ("q_proj", "qkv_proj"))


def test_a_rank_above_the_widest_projection_is_refused_before_it_takes_memory(net: Any) -> None:
    with pytest.raises(ConfigError, match=r"lora.rank: found 1,000,000; at most \d+, the widest side of q_proj: .*=16"):
        add_adapter(net, lora("q_proj", rank=10**6))


def test_what_an_adapter_leaves_alone_is_seen_to_the_bit(net: Any, base: Base) -> None:
    before, plain = digests(net), logits(net, base)
    peft = add_adapter(net, lora())
    assert untouched(peft, before) == []
    assert torch.equal(logits(peft, base), plain)
    learned(peft)
    assert untouched(peft, before) == []
    assert not torch.allclose(logits(peft, base), plain, atol=1e-3)
    with peft.disable_adapter():
        assert torch.equal(logits(peft, base), plain)
    vision = "model.vision_tower.encoder.layers.0.self_attn.q_proj.weight"
    tied = ["lm_head.weight", "model.language_model.embed_tokens.weight"]
    with torch.no_grad():
        net.get_parameter(vision).view(torch.int32)[0, 0] ^= 1  # one bit
        net.get_parameter(tied[0])[5, 5] += 1
        net.get_buffer("model.language_model.rotary_emb.full_attention_inv_freq")[0] += 1
    assert untouched(peft, before) == [*tied[:1], tied[1], "model.language_model.rotary_emb.full_attention_inv_freq", vision]
    assert untouched(peft, before | {"gone": ""})[0] == "gone"


def test_merged_it_answers_the_same_and_both_go_on_side_by_side(net: Any, base: Base) -> None:
    before, plain = digests(net), logits(net, base)
    peft = learned(add_adapter(net, lora()))
    adapted = logits(peft, base)
    whole, certificate = merged(peft)
    assert certificate.left_over == certificate.changed_elsewhere == ()
    assert len(certificate.tensors) == len(ALL) * 2 and max(certificate.tensors.values()) < 1e-6
    assert torch.allclose(logits(whole, base), adapted, atol=1e-5)
    assert whole.state_dict().keys() == net_keys(base)
    assert sorted(untouched(whole, before)) == sorted(certificate.tensors)
    embedding = whole.get_parameter("model.language_model.embed_tokens.weight")
    assert whole.get_parameter("lm_head.weight") is embedding is net.get_parameter("lm_head.weight")
    assert torch.equal(logits(peft, base), adapted)
    with peft.disable_adapter():
        assert torch.equal(logits(peft, base), plain)


def net_keys(base: Base) -> Any:
    return load_base(base, quantize="none", dtype=torch.float32, device=torch.device("cpu")).state_dict().keys()


def test_a_saved_adapter_names_its_base_and_is_put_on_it_again(net: Any, base: Base, tmp_path: Path) -> None:
    named = Base("google/medgemma-4b-it", "abc", base.folder, base.digest, base.architecture)
    peft = learned(add_adapter(net, lora("q_proj", "v_proj")))
    save_adapter(peft, named, tmp_path / "adapter")
    said = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (said["base_model_name_or_path"], said["revision"]) == (named.source, named.revision)
    assert (said["r"], said["task_type"]) == (4, "CAUSAL_LM")
    assert not [path.name for path in (tmp_path / "adapter").iterdir() if path.suffix in (".bin", ".pt")]
    fresh = load_base(base, quantize="none", dtype=torch.float32, device=torch.device("cpu"))
    again = PeftModel.from_pretrained(fresh, str(tmp_path / "adapter")).eval()  # type: ignore[arg-type]
    assert torch.equal(logits(again, base), logits(peft, base))


def test_an_adapter_on_weights_of_half_precision_trains_in_float32(base: Base) -> None:
    net = load_base(base, quantize="none", dtype=torch.bfloat16, device=torch.device("cpu"))
    peft = add_adapter(net, lora())
    assert {parameter.dtype for parameter in peft.parameters() if parameter.requires_grad} == {torch.float32}
    assert {parameter.dtype for parameter in peft.parameters() if not parameter.requires_grad} == {torch.bfloat16}
