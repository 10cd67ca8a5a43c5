"""Encoders out of checkpoints: every layout that pretraining leaves, every key accounted for, and what is refused."""

import argparse
import json
import os
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import VJEPA2Config, VJEPA2Model

from medexp.data.oct.transforms import preprocessing
from medexp.errors import CheckpointError
from medexp.files import dump_yaml
from medexp.models.bscan_vit.network import BscanTransformer
from medexp.models.checkpoints import weights_digest
from medexp.models.encoders import EncoderCard, load_oct_encoder, write_card
from medexp.models.kinds import build
from medexp.models.vit3d import FULL
from medexp.models.vjepa2.network import VJepa2
from medexp.registry.definitions import read_definition
from medexp.registry.loading import load_package
from medexp.registry.package import Package
from medexp.registry.writing import write_package

VIT3D = {"kind": "vit3d", "size": [64, 32, 32], "patch": [4, 16, 16], "dim": 64, "depth": 2, "heads": 1}
VJEPA2 = {"kind": "vjepa2", "size": [8, 32, 32], "patch": [4, 16, 16], "dim": 24, "depth": 2, "heads": 2}
BSCAN = {"kind": "bscan_vit", "size": [8, 32, 32], "patch": [16, 16], "dim": 64, "depth": 2, "heads": 1, "bscans": 8}
ENCODERS = pytest.mark.parametrize("architecture", [VIT3D, VJEPA2, BSCAN], ids=lambda one: one["kind"])
State = dict[str, Tensor]


def weights(architecture: dict[str, Any] = VIT3D, seed: int = 0) -> State:
    torch.manual_seed(seed)
    return build(architecture).state_dict()


def under(prefix: str, state: State) -> State:
    return {f"{prefix}.{key}": value for key, value in state.items()}


def saved(tmp_path: Path, content: Any, **card: Any) -> Path:
    torch.save(content, tmp_path / "a.pt")
    if card:
        (tmp_path / "a.card.yaml").write_text(dump_yaml(card))
    return tmp_path / "a.pt"


def optimizer() -> dict[str, Any]:
    return {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1e-3, "params": [0]}]}


def pretraining() -> State:
    """The state of a whole V-JEPA, as the described project's script saves it."""
    predictor = {"predictor.net.0.weight": torch.ones(3, 3), "predictor.net.1.running_mean": torch.ones(3)}
    return under("context_encoder", weights()) | under("target_encoder.encoder", weights(seed=1)) | predictor


LAYOUTS: dict[str, Callable[[], Any]] = {
    "the weights alone": weights,
    "described": lambda: {
        **{"epoch": 3, "step": np.int64(7), "loss": np.float64(0.5), "model_state_dict": pretraining()},
        **{"optimizer_state_dict": optimizer(), "scheduler_state_dict": None, "config": {"image_size": [64, 32, 32]}},
    },
    "distributed": lambda: {"state_dict": under("module", pretraining())},
    "compiled": lambda: {"model": under("_orig_mod", pretraining())},
    "compiled inside": lambda: {"model_state_dict": under("context_encoder._orig_mod.module", weights())},
    "V-JEPA's own": lambda: {
        **{"encoder": under("module.backbone", weights()), "target_encoder": under("module.backbone", weights(seed=1))},
        **{"predictor": {"module.backbone.mask_token": torch.ones(2)}, "opt": optimizer(), "scaler": {"scale": 1.0}},
    },
    "nested by part": lambda: {"context_encoder": weights(), "target_encoder": weights(seed=1)},
    "the same twice": lambda: {"encoder_state_dict": weights(), "full_model_state_dict": pretraining()},
    "with a random state": lambda: {"state_dict": weights(), "rng_state": torch.get_rng_state(), "loss": torch.tensor(0.1)},
    "bfloat16": lambda: {key: value.bfloat16() for key, value in weights().items()},
    "half, in part": lambda: {key: value.half() if "blocks" in key else value for key, value in weights().items()},
    "arguments beside it": lambda: {"model": weights(), "args": argparse.Namespace(lr=0.1, input_size=224, path=Path("a"))},
    "Lightning's": lambda: {
        **{"state_dict": under("model", pretraining()), "optimizer_states": [optimizer()], "hyper_parameters": {"lr": 0.1}},
        **{"callbacks": {"ModelCheckpoint{'monitor': 'loss'}": {"best_model_score": torch.tensor(0.2)}}, "loops": {"fit": {}}},
    },
    "with gradients": lambda: {"model": dict(build(VIT3D | {}).named_parameters()) | weights()},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_that_checkpoints_come_in(tmp_path: Path, layout: str) -> None:
    encoder, card = load_oct_encoder(saved(tmp_path, LAYOUTS[layout]()))
    state, expected = encoder.state_dict(), weights()
    assert state.keys() == expected.keys()
    for key, value in expected.items():
        assert state[key].dtype == torch.float32
        torch.testing.assert_close(state[key], value, atol=1e-3 if "half" in layout or "float" in layout else 0, rtol=0)
    assert not encoder.training and card.size == (64, 32, 32) and card.weights == "context_encoder"
    assert {key: card.architecture[key] for key in VIT3D} == VIT3D
    with torch.no_grad():
        assert encoder(torch.zeros(1, 1, 64, 32, 32)).shape == (1, 64)


def test_what_else_a_file_holds_is_said_by_group(tmp_path: Path) -> None:
    _, card = load_oct_encoder(saved(tmp_path, LAYOUTS["described"]()))
    count = len(weights())
    (left_out,) = [line for line in card.told if line.startswith("left out")]
    assert (
        left_out == f"left out: 2 tensors of optimizer_state_dict, 2 tensors of predictor, {count} tensors of target_encoder"
    )


def test_safetensors_load(tmp_path: Path) -> None:
    save_file(under("context_encoder", weights()), tmp_path / "a.safetensors")
    assert weights_digest(load_oct_encoder(tmp_path / "a.safetensors")[0].state_dict()) == weights_digest(weights())


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    prefixes=st.lists(
        st.sampled_from(["context_encoder", "module", "_orig_mod", "backbone", "encoder", "model", "state_dict"]), max_size=5
    ),
    nested=st.integers(0, 5),
)
def test_prefixes_stack_in_any_order_as_names_and_as_nests(tmp_path: Path, prefixes: list[str], nested: int) -> None:
    content: Any = weights()
    for place, prefix in enumerate(reversed(prefixes)):
        content = {prefix: content} if place >= nested else under(prefix, content)
    encoder, card = load_oct_encoder(saved(tmp_path, content))
    assert weights_digest(encoder.state_dict()) == weights_digest(weights())
    assert not [line for line in card.told if line.startswith("left out")]


@pytest.fixture
def omegaconf() -> Iterator[types.ModuleType]:
    """Classes by the names of OmegaConf's, which is not installed: as its own, they are saved by their state."""
    module = types.ModuleType("omegaconf.listconfig")

    class ListConfig:
        def __init__(self, values: list[int]) -> None:
            self.values = values

    ListConfig.__module__, ListConfig.__qualname__ = "omegaconf.listconfig", "ListConfig"
    module.ListConfig = ListConfig  # type: ignore[attr-defined]
    sys.modules |= {"omegaconf": types.ModuleType("omegaconf"), "omegaconf.listconfig": module}
    yield module
    for name in ("omegaconf", "omegaconf.listconfig"):
        del sys.modules[name]


def test_settings_of_a_library_that_is_not_there_are_passed_over(tmp_path: Path, omegaconf: types.ModuleType) -> None:
    """The described project saves `dict(config)` of an OmegaConf, whose lists stay OmegaConf's own."""
    config = {"image_size": omegaconf.ListConfig([64, 32, 32])}
    path = saved(tmp_path, {"model_state_dict": pretraining(), "config": config})
    sys.modules.pop("omegaconf.listconfig")
    try:
        assert weights_digest(load_oct_encoder(path)[0].state_dict()) == weights_digest(weights())
    finally:
        sys.modules["omegaconf.listconfig"] = omegaconf


class Exploit:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.target}",)


class OnATpu:
    """A tensor as PyTorch saves it from an XLA device."""

    def __init__(self, value: Tensor) -> None:
        self.value = value

    def __reduce__(self) -> Any:
        return torch._utils._rebuild_device_tensor_from_cpu_tensor, (self.value, self.value.dtype, "xla:0", False)


def test_tensors_saved_on_a_tpu_load_without_one(tmp_path: Path) -> None:
    content = {key: OnATpu(value) for key, value in weights().items()}
    assert weights_digest(load_oct_encoder(saved(tmp_path, content))[0].state_dict()) == weights_digest(weights())


@pytest.mark.parametrize("place", ["config", "weights"])
def test_a_file_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path, place: str) -> None:
    exploit = Exploit(tmp_path / "ran")
    args = argparse.Namespace(hidden=exploit)
    content = {"model": weights(), "args": args} if place == "config" else {"model": weights() | {"x": exploit}}
    with pytest.raises(CheckpointError, match=r"a\.pt: refused, it would run \S*system"):
        load_oct_encoder(saved(tmp_path, content))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content", [{"target_encoder": weights()}, {"model_state_dict": under("target_encoder.encoder", weights())}]
)
def test_the_target_encoder_alone_is_refused_unless_it_is_meant(tmp_path: Path, content: Any) -> None:
    with pytest.raises(CheckpointError, match=r"holds the target_encoder \(\d+ tensors\) and no context_encoder") as caught:
        load_oct_encoder(saved(tmp_path, content))
    line = f"write the line `weights: target_encoder` in {tmp_path / 'a.card.yaml'}"
    assert line in str(caught.value)
    (tmp_path / "a.card.yaml").write_text("weights: target_encoder\n")  # as the message says
    encoder, card = load_oct_encoder(tmp_path / "a.pt")
    assert weights_digest(encoder.state_dict()) == weights_digest(weights()) and card.weights == "target_encoder"


def test_of_both_encoders_the_one_that_is_meant_is_loaded(tmp_path: Path) -> None:
    encoder, card = load_oct_encoder(saved(tmp_path, LAYOUTS["described"](), weights="target_encoder"))
    assert weights_digest(encoder.state_dict()) == weights_digest(weights(seed=1))
    assert any(f"{len(weights())} tensors of context_encoder" in line for line in card.told)


def test_every_key_is_accounted_for_in_one_error(tmp_path: Path) -> None:
    state = weights()
    del state["norm.bias"]
    state |= {"extra.weight": torch.ones(2), "blocks.0.mlp.fc2.bias": torch.ones(5)}
    with pytest.raises(CheckpointError) as caught:
        load_oct_encoder(saved(tmp_path, state))
    for part in ("missing keys: norm.bias", "unexpected keys: extra.weight", "blocks.0.mlp.fc2.bias is (5,)", "a.card.yaml"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm.bias": torch.tensor([float("nan")] * 64)}, "norm.bias has 64 values that are not finite, of 64"),
        ({"norm.bias": torch.full((64,), float("inf"))}, "norm.bias has 64 values that are not finite"),
        ({"norm.bias": torch.ones(64, dtype=torch.int8)}, "norm.bias is torch.int8"),
    ],
)
def test_weights_that_give_no_features_are_refused(tmp_path: Path, change: State, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_oct_encoder(saved(tmp_path, weights() | change))


def test_weights_of_zeros_are_told_and_ordinary_ones_are_not(tmp_path: Path) -> None:
    assert not any("all zero" in line for line in load_oct_encoder(saved(tmp_path, weights()))[1].told)
    state = weights() | {"blocks.1.mlp.fc2.weight": torch.zeros(64, 256)}
    assert any("all zero: blocks.1.mlp.fc2.weight" in line for line in load_oct_encoder(saved(tmp_path, state))[1].told)


def test_two_encoders_in_one_file_that_differ_are_refused(tmp_path: Path) -> None:
    content = {"model": weights(), "state_dict": weights(seed=1)}
    with pytest.raises(CheckpointError, match="stands twice and differs"):
        load_oct_encoder(saved(tmp_path, content))


def test_a_position_embedding_of_another_grid_is_refused_with_the_sizes(tmp_path: Path) -> None:
    card = {"preprocessing": {"size": [64, 64, 64], "normalisation": "zscore"}}
    with pytest.raises(CheckpointError, match=r"64 positions; size \[64, 64, 64\] makes 256.*not stretched"):
        load_oct_encoder(saved(tmp_path, weights(), **card))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3}, "holds no encoder: no tensor"),
        ({"predictor.weight": torch.ones(2)}, "holds no encoder: 1 tensors of predictor"),
        ({"conv.weight": torch.ones(2)}, "keys are those of no encoder that is known.*conv.weight"),
    ],
)
def test_a_file_without_an_encoder_says_what_it_holds(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_oct_encoder(saved(tmp_path, content))


def test_without_a_card_what_is_inferred_and_what_is_not_known_is_said(tmp_path: Path) -> None:
    _, card = load_oct_encoder(saved(tmp_path, weights()))
    assert card.normalisation is card.people is card.people_sha256 is None
    assert [line.split(":")[0] for line in card.unknown] == ["normalisation", "pretrained_on"]
    assert "inferred: 1 attention heads, since heads mostly have 64 features" in card.told
    assert "inferred: size [64, 32, 32] of 64 positions: 64 B-scans, square" in card.told


def test_the_described_encoder_is_recognised_by_its_shapes() -> None:
    from medexp.models.kinds import kind_of

    with torch.device("meta"):
        state = build(FULL).state_dict()
    recognise = kind_of(FULL).recognise
    assert recognise is not None and (found := recognise(state)) is not None
    assert found.architecture == FULL | {"mlp_ratio": 4.0, "qkv_bias": True} and set(found.inferred) == {
        "heads",
        "size",
        "norm_eps",
    }


def test_what_weights_do_not_tell_is_asked_for(tmp_path: Path) -> None:
    architecture = {"kind": "vit3d", "size": [8, 32, 48], "patch": [4, 16, 16], "dim": 24, "depth": 1, "heads": 3}
    path = saved(tmp_path, weights(architecture))
    with pytest.raises(CheckpointError, match=r"do not tell size and heads. Say in .*a\.card\.yaml: preprocessing") as caught:
        load_oct_encoder(path)
    assert "architecture: {heads: ...}" in str(caught.value)
    (tmp_path / "a.card.yaml").write_text("preprocessing: {size: [8, 32, 48]}\narchitecture: {heads: 3, norm_eps: 1e-6}\n")
    _, card = load_oct_encoder(path)
    assert card.size == (8, 32, 48) and card.architecture["heads"] == 3 and not card.told
    assert [line.split(":")[0] for line in card.unknown] == ["normalisation", "pretrained_on"]


CARD = {
    "architecture": {"kind": "vit3d", "patch": [4, 16, 16], "dim": 64, "depth": 2, "heads": 4, "norm_eps": 1e-6},
    "preprocessing": {"size": [64, 32, 32], "normalisation": "zscore"},
    "pretrained_on": {"people": [1001, "4002"]},
    "source": "a study",
    "licence": "CC-BY-4.0",
    "notes": "120 epochs",
}


def test_a_card_says_what_weights_do_not(tmp_path: Path) -> None:
    encoder, card = load_oct_encoder(saved(tmp_path, weights(), **CARD))
    assert card.architecture["heads"] == 4 and encoder.blocks[0].attn.heads == 4  # type: ignore[index,union-attr]
    assert encoder.norm.eps == 1e-6  # type: ignore[union-attr]
    assert (card.normalisation, card.people, card.unknown) == ("zscore", frozenset({"1001", "4002"}), ())
    assert (card.source, card.licence, card.notes) == ("a study", "CC-BY-4.0", "120 epochs")
    assert not any(line.startswith("inferred") for line in card.told)


def test_what_is_written_as_a_card_is_read_as_that_card(tmp_path: Path) -> None:
    path = saved(tmp_path, weights())
    architecture = VIT3D | {"mlp_ratio": 4.0, "qkv_bias": True}
    for card in (
        EncoderCard(architecture, "unit", frozenset({"007"}), frozenset({"a" * 64}), "here", "MIT", "", "context_encoder"),
        EncoderCard(architecture, None, weights="context_encoder"),
    ):
        write_card(card, path)
        read = load_oct_encoder(path)[1]
        assert replace(read, told=(), unknown=()) == replace(card, told=(), unknown=())


@pytest.mark.parametrize(
    ("name", "text", "said", "people", "hashed"),
    [
        ("cases.csv", "split,patient_sha256\ntrain,aa\nval,bb\ntest,cc\n", {}, [], ["aa", "bb", "cc"]),
        ("cases.csv", "split,patient_sha256\ntrain,aa\nval,bb\ntest,cc\n", {"splits": ["train", "val"]}, [], ["aa", "bb"]),
        ("p.tsv", "participant_id\trecommended_split\r\n1001\ttrain\r\n7001\ttest\r\n", {"splits": ["train"]}, ["1001"], []),
        ("p.tsv", "person_id\tage\n007\t50\n", {"people": [5]}, ["007", "5"], []),
    ],
)
def test_people_stand_in_a_file_beside_the_card(
    tmp_path: Path, name: str, text: str, said: dict[str, Any], people: list[str], hashed: list[str]
) -> None:
    (tmp_path / name).write_bytes(text.encode())
    _, card = load_oct_encoder(saved(tmp_path, weights(), **CARD | {"pretrained_on": {"file": name} | said}))
    assert card.people == set(people) and card.people_sha256 == set(hashed)


def test_a_cases_csv_beside_a_checkpoint_says_whom_it_has_seen_where_its_card_does_not(tmp_path: Path) -> None:
    path = saved(tmp_path, weights(), **{key: value for key, value in CARD.items() if key != "pretrained_on"})
    assert load_oct_encoder(path)[1].people_sha256 is None
    (tmp_path / "cases.csv").write_text(f"split,patient_sha256\ntrain,{'a' * 64}\ntest,{'b' * 64}\n")
    card = load_oct_encoder(path)[1]
    assert card.people_sha256 == {"a" * 64, "b" * 64} and any("cases.csv beside it" in line for line in card.told)


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        ({"preprocesing": {}}, ["unknown key preprocesing; known are architecture, preprocessing"]),
        ({"preprocessing": {"size": [64, 32], "normalisation": "zscore"}}, ["preprocessing.size"]),
        (
            {"preprocessing": {"size": [64, 0, 32], "normalisation": "minmax"}, "weights": "both"},
            [
                "3 problems",
                "preprocessing.size.1: found 0",
                "preprocessing.normalisation: found 'minmax'",
                "weights: found 'both'",
            ],
        ),
        ({"architecture": {"kind": "resnet"}}, ["architecture.kind: found 'resnet'; known are bscan_vit, vit3d, vjepa2"]),
        ({"architecture": CARD["architecture"] | {"size": [1, 2, 3]}}, ["preprocessing.size is [64, 32, 32]", "[1, 2, 3]"]),  # type: ignore[operator]
        ({"architecture": CARD["architecture"] | {"width": 3}}, ["a.card.yaml: architecture vit3d", "width"]),  # type: ignore[operator]
        ({"architecture": CARD["architecture"] | {"heads": 5}}, ["dim 64 is no multiple of heads 5"]),  # type: ignore[operator]
        ({"pretrained_on": {"file": "absent.csv"}}, ["pretrained_on.file: no file", "absent.csv"]),
        ({"pretrained_on": {"file": "a.card.yaml"}}, ["a.card.yaml: found columns", "patient_sha256"]),
    ],
)
def test_a_card_that_does_not_hold_is_refused_with_all_its_problems(
    tmp_path: Path, change: dict[str, Any], messages: list[str]
) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_oct_encoder(saved(tmp_path, weights(), **CARD | change))
    for message in messages:
        assert message in str(caught.value)


@ENCODERS
def test_each_kind_comes_back_out_of_its_checkpoint(tmp_path: Path, architecture: dict[str, Any]) -> None:
    path = saved(tmp_path, {"model": under("module", weights(architecture))})
    write_card(EncoderCard(architecture, "unit"), path)
    encoder, card = load_oct_encoder(path)
    assert weights_digest(encoder.state_dict()) == weights_digest(weights(architecture))
    assert card.architecture | architecture == card.architecture
    volumes = torch.rand(2, 1, *architecture["size"])
    with torch.no_grad():
        tokens, features = encoder.tokens(volumes), encoder(volumes)  # type: ignore[operator]
        torch.testing.assert_close(features, tokens.mean(1))
        with torch.autocast("cpu", torch.bfloat16):
            rough = encoder(volumes)
    assert features.shape == (2, encoder.width) and tokens.shape[::2] == (2, encoder.width)
    assert rough.dtype == torch.float32 and rough.isfinite().all()
    torch.testing.assert_close(rough, features, atol=0.05, rtol=0.05)
    assert encoder.bfloat16()(volumes.bfloat16()).dtype == torch.float32


@ENCODERS
def test_checkpointing_changes_no_gradient(architecture: dict[str, Any]) -> None:
    gradients = []
    for on in (False, True):
        torch.manual_seed(0)
        net = build(architecture)
        net.checkpointing = on  # type: ignore[assignment]
        assert net.checkpointing is on
        net(torch.rand(1, 1, *architecture["size"], generator=torch.Generator().manual_seed(2))).square().sum().backward()
        gradients.append({key: value.grad for key, value in net.named_parameters()})
    for key, gradient in gradients[0].items():
        assert gradient is not None, key
        torch.testing.assert_close(gradients[1][key], gradient)


def hugging_face(folder: Path, **changes: Any) -> VJEPA2Model:
    torch.manual_seed(3)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 16, "tubelet_size": 2}
    config = VJEPA2Config(crop_size=32, frames_per_clip=8, pred_hidden_size=24, pred_num_attention_heads=2, **sizes, **changes)
    model = VJEPA2Model(config).eval()
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("channels", [1, 3])
def test_a_hugging_face_folder_gives_what_transformers_gives(tmp_path: Path, channels: int) -> None:
    model = hugging_face(tmp_path / "hf", in_chans=channels, pred_num_hidden_layers=1)
    encoder, card = load_oct_encoder(tmp_path / "hf")
    assert isinstance(encoder, VJepa2) and card.size == (8, 32, 32) and encoder.width == 24
    assert any("of predictor" in line for line in card.told) and not any("inferred" in line for line in card.told)
    volumes = torch.randn(2, 1, 8, 32, 32)
    with torch.no_grad():
        video = volumes.transpose(1, 2).expand(-1, -1, channels, -1, -1)
        direct = model(video, skip_predictor=True).last_hidden_state
        assert torch.equal(encoder.tokens(volumes), direct) and torch.equal(encoder(volumes), direct.mean(1))


def test_a_folder_has_its_card_inside(tmp_path: Path) -> None:
    hugging_face(tmp_path / "hf", in_chans=1)
    write_card(EncoderCard(VJEPA2 | {"patch": [2, 16, 16]}, "zscore", frozenset({"1"})), tmp_path / "hf")
    _, card = load_oct_encoder(tmp_path / "hf")
    assert card.normalisation == "zscore" and card.people == {"1"} and not card.unknown


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "a folder without config.json"),
        ({"config.json": {"model_type": "vit"}}, "model_type 'vit'; vjepa2"),
        ({"config.json": {"model_type": "vjepa2", "hidden_size": "wide"}}, "config.json of a vjepa2"),
        ({"config.json": {"model_type": "vjepa2"}}, "no file .*model.safetensors"),
        (
            {"contract.json": {"architecture": {"kind": "unet_encoder"}}},
            "unet_encoder, no encoder of OCT volumes; known are bscan_vit",
        ),
    ],
)
def test_a_folder_that_holds_no_encoder(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    for name, values in content.items():
        (tmp_path / name).write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=message):
        load_oct_encoder(tmp_path)


def retfound(state: State) -> dict[str, Any]:
    """As the authors' masked autoencoder is saved, with its decoder."""
    decoder = {
        "decoder_embed.weight": torch.ones(2, 2),
        "decoder_blocks.0.norm1.weight": torch.ones(2),
        "mask_token": torch.ones(1),
    }
    return {"model": state | decoder, "optimizer": optimizer(), "epoch": 799, "scaler": {}, "args": argparse.Namespace(lr=1)}


def test_a_checkpoint_of_retfound_is_one_more_family(tmp_path: Path) -> None:
    encoder, card = load_oct_encoder(saved(tmp_path, retfound(weights(BSCAN))))
    assert isinstance(encoder, BscanTransformer) and encoder.pool == "norm" and card.size == (8, 32, 32)
    assert "inferred: 8 B-scans of a volume, chosen evenly" in card.told
    tuned = weights(BSCAN | {"pool": "fc_norm"})
    encoder, card = load_oct_encoder(saved(tmp_path, retfound(tuned | {"head.weight": torch.ones(4, 64)})))
    assert isinstance(encoder, BscanTransformer) and encoder.pool == "fc_norm"
    assert any("1 tensors of head" in line for line in card.told)


@torch.no_grad()
def test_bscans_are_chosen_evenly_and_averaged(tmp_path: Path) -> None:
    few = BSCAN | {"bscans": 3}
    torch.manual_seed(0)
    net = build(few).eval()
    assert isinstance(net, BscanTransformer)
    volume = torch.rand(1, 1, 8, 32, 32)
    unseen, seen = volume.clone(), volume.clone()
    unseen[0, 0, [1, 2, 3, 5, 6]] = 0
    seen[0, 0, 7] = 0
    assert torch.equal(net(volume), net(unseen)) and not torch.equal(net(volume), net(seen))
    torch.testing.assert_close(net(volume), net(volume[:, :, [7, 1, 2, 3, 4, 5, 6, 0]]))
    alone = build(few | {"size": [1, 32, 32], "bscans": 1}).eval()
    alone.load_state_dict(net.state_dict())
    each = torch.stack([alone(volume[:, :, at : at + 1]) for at in (0, 4, 7)])
    torch.testing.assert_close(net(volume), each.mean(0))


@torch.no_grad()
def test_fc_norm_is_of_the_mean_as_in_retfounds_own_fine_tuning() -> None:
    torch.manual_seed(0)
    net = build(BSCAN | {"pool": "fc_norm", "bscans": 1}).eval()
    assert isinstance(net, BscanTransformer)
    nn.init.normal_(net.fc_norm.weight)  # type: ignore[arg-type]
    volume = torch.rand(1, 1, 8, 32, 32)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])  # of ImageNet
    picture = (volume[:, :, 0].expand(-1, 3, -1, -1) - mean.view(3, 1, 1)) / deviation.view(3, 1, 1)
    tokens = torch.cat([net.cls_token, net.patch_embed(picture)], dim=1) + net.pos_embed
    for block in net.blocks:
        tokens = block(tokens)
    torch.testing.assert_close(net(volume), net.fc_norm(tokens[:, 1:].mean(1)))  # type: ignore[operator]


OCT = """
title: OCT classifier
task: Tells four groups apart
intended_use: tests
producing_phase: oct
consumers: []
required_checks: []
input: {shape: [B, 1, D, H, W], sizes: any, dtype: float32, channels: [oct], orientation: n, units: n, normalisation: n}
output: logits
promotion: null
"""


@pytest.mark.parametrize("normalisation", ["zscore", "unit"])
def test_the_encoder_of_a_registered_classifier_comes_with_what_its_contract_says(tmp_path: Path, normalisation: Any) -> None:
    (tmp_path / "oct_classifier.yaml").write_text(OCT)
    definition = read_definition(tmp_path / "oct_classifier.yaml")
    torch.manual_seed(0)
    architecture = {"kind": "oct_classifier", "encoder": VIT3D, "classes": 4, "pooling": "attentive"}
    net = build(architecture)
    cases = pd.DataFrame({"split": ["train", "val", "test"], "patient_sha256": ["aa", "bb", "cc"]})
    cases = cases.assign(voxels_sha256="x", perceptual_hash="0")
    steps = preprocessing((64, 32, 32), normalisation).as_record
    package = Package(
        "oct_classifier",
        architecture,
        {
            "input": definition.input_as_records | {"example_shape": [1, 1, 64, 32, 32]},
            "output": "logits",
            "preprocessing": steps,
        },
        net.state_dict(),
        cases=cases,
    )
    write_package(package, definition, tmp_path / "pulled")
    encoder, card = load_oct_encoder(tmp_path / "pulled")
    assert weights_digest(encoder.state_dict()) == weights_digest(net.encoder.state_dict())  # type: ignore[union-attr]
    assert card.normalisation == normalisation and card.people_sha256 == {"aa", "bb"} and card.unknown == card.told == ()
    assert card.architecture == VIT3D and card.source == "the registered model oct_classifier"
    volumes = torch.rand(1, 1, 64, 32, 32)
    with torch.no_grad():
        assert torch.equal(load_package(tmp_path / "pulled")(volumes), net.eval()(volumes)), "and is loaded as any package"
