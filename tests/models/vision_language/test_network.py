"""The kind vision_language: built from a config.json, tied when loaded, called as its specs say."""

import json
from typing import Any

import pytest
import torch
from accelerate import init_empty_weights

from medexp.errors import CheckpointError, RegistryError
from medexp.models.checkpoints import load_weights
from medexp.models.kinds import Architecture, build, kind_of, outputs_of
from medexp.models.vision_language.network import context_of
from tests.gemma import tiny_gemma


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Architecture:
    folder = tiny_gemma(tmp_path_factory.mktemp("gemma") / "base")
    return {"kind": "vision_language", "config": json.loads((folder / "config.json").read_text())}


def example(architecture: Architecture, seed: int = 0) -> dict[str, torch.Tensor]:
    return dict(kind_of(architecture).example(architecture, {}, torch.Generator().manual_seed(seed)))


def test_an_example_fits_what_the_kind_says_of_inputs_and_outputs(gemma: Architecture) -> None:
    given, kind = example(gemma), kind_of(gemma)
    specs = kind.inputs(gemma)
    assert [*given] == [*specs] == ["input_ids", "attention_mask", "token_type_ids", "pixel_values"]
    for name, spec in specs.items():
        assert str(given[name].dtype) == f"torch.{spec.dtype}"
        assert all(free in (-1, size) for free, size in zip(spec.shape, given[name].shape, strict=True)), name
    assert (given["token_type_ids"].sum(dim=1) == gemma["config"]["mm_tokens_per_image"]).all()
    with torch.inference_mode():
        logits = outputs_of(build(gemma).eval(), gemma, given)["logits"]
    assert logits.dtype == torch.float32
    assert logits.shape == (*given["input_ids"].shape, kind.outputs(gemma)["logits"].shape[-1])


def test_without_token_types_the_image_is_seen_otherwise(gemma: Architecture) -> None:
    torch.manual_seed(0)
    net, given = build(gemma).eval(), example(gemma)
    torch.nn.init.normal_(net.get_parameter("model.multi_modal_projector.mm_input_projection_weight"))
    without = {name: value for name, value in given.items() if name != "token_type_ids"}
    with torch.inference_mode():
        assert not torch.allclose(net(**given).logits[:, -1], net(**without).logits[:, -1], atol=1e-5)


@pytest.mark.parametrize("empty", [True, False])
def test_weights_are_kept_once_and_tied_again_when_loaded(gemma: Architecture, empty: bool) -> None:
    torch.manual_seed(0)
    net = build(gemma).eval()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    assert "lm_head.weight" not in state
    if empty:
        with init_empty_weights(include_buffers=False):
            other: Any = build(gemma)
    else:
        other = build(gemma)
    load_weights(other, state, "a package")
    assert other.lm_head.weight is other.model.language_model.embed_tokens.weight
    with torch.inference_mode():
        assert torch.equal(net(**example(gemma)).logits, other.eval()(**example(gemma)).logits)
    state.pop("model.language_model.norm.weight")
    with pytest.raises(CheckpointError, match="1 missing keys: model.language_model.norm.weight"):
        load_weights(other, state, "a package")


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"model_type": "nothing"}, "none that this version of transformers builds"),
        ({"model_type": "own", "auto_map": {}}, "never run"),
        ({"model_type": "bert"}, "a bert takes no image and text"),
        ({}, "model_type 'None'"),
    ],
)
def test_a_configuration_of_no_such_network_is_an_error(config: dict[str, Any], told: str) -> None:
    with pytest.raises(RegistryError, match=told):
        build({"kind": "vision_language", "config": config})


def test_a_network_that_does_not_say_how_many_tokens_an_image_takes_has_no_example() -> None:
    with pytest.raises(RegistryError, match="a qwen2_vl does not say how many tokens an image takes"):
        example({"kind": "vision_language", "config": {"model_type": "qwen2_vl"}})


def test_a_context_that_a_configuration_does_not_say_is_that_of_its_kind(gemma: Architecture) -> None:
    """MedGemma's config.json leaves it out."""
    config = gemma["config"]
    assert context_of(config) == config["text_config"]["max_position_embeddings"] == 512
    left_out = {key: value for key, value in config["text_config"].items() if key != "max_position_embeddings"}
    assert context_of(config | {"text_config": left_out}) == 131_072
