"""Bases: found by folder or name, loaded whole or not at all, and never by running what a checkpoint brings along."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from medexp.errors import CheckpointError, ConfigError, MedexpError
from medexp.models.vision_language.bases import Base, find_base, load_base
from tests.gemma import tiny_gemma

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gemma(tmp_path_factory.mktemp("gemma") / "base")


@pytest.fixture
def folder(gemma: Path, tmp_path: Path) -> Path:
    """A copy, to be damaged."""
    return Path(shutil.copytree(gemma, tmp_path / "base"))


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Hugging Face cache with nothing in it, and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.mark.skipif(os.geteuid() != 0, reason="files of another user take root to make")
def test_a_cache_of_another_user_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as made:  # pytest's own folders are closed to other users
        Path(made).chmod(0o755)
        (hub := Path(made, "hub")).mkdir(mode=0o700)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(hub))
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(hub / "token"))
        os.seteuid(65534)
        try:
            with pytest.raises(ConfigError, match="Face's cache cannot be used .*Permission denied.*HF_HOME"):
                find_base("a/b")
        finally:
            os.seteuid(0)


def loaded(found: Base, quantize: Any = "none", device: str = "cpu", dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    return load_base(found, quantize=quantize, dtype=dtype, device=torch.device(device))


def weights(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        held = load_file(folder / "model.safetensors")
        change(held)
        save_file(held, folder / "model.safetensors", metadata={"format": "pt"})

    return damage


def config(**changed: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))

    return damage


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-99])


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def sharded(folder: Path) -> list[str]:
    """Its weights in several files."""
    net = AutoModelForImageTextToText.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    net.save_pretrained(folder, max_shard_size="20KB")
    return sorted(path.name for path in folder.glob("model-*.safetensors"))


def without_a_shard(folder: Path) -> None:
    (folder / sharded(folder)[1]).unlink()


def an_adapter(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")


# As the files have them: transformers writes Gemma 3 under the names that its first release had.
NORM, HEAD, EMBEDDING = (
    "language_model.model.norm.weight",
    "language_model.lm_head.weight",
    "language_model.model.embed_tokens.weight",
)


def test_a_folder_is_found_with_the_digest_of_its_weights_and_loaded_in_the_type_that_was_asked_for(
    folder: Path, tmp_path: Path
) -> None:
    found = find_base(str(folder), None, tmp_path)
    assert found.digest == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert (found.revision, found.folder, found.architecture["kind"]) == (None, folder, "vision_language")
    assert find_base(str(folder), None, tmp_path) == found
    net = loaded(found, dtype=torch.bfloat16)
    assert not net.training
    assert {value.dtype for value in net.parameters()} == {torch.bfloat16}
    assert len(net.state_dict()) == len(load_file(folder / "model.safetensors"))
    weights(lambda held: held[NORM].add_(1))(folder)
    assert find_base(str(folder), None, tmp_path).digest != found.digest


def test_shards_are_one_base(folder: Path, tmp_path: Path) -> None:
    whole = loaded(find_base(str(folder), None, tmp_path)).state_dict()
    names = sharded(folder)
    found = find_base(str(folder), None, tmp_path)
    assert len(names) > 1
    assert [path.name for path in found.files] == names
    parts = loaded(found).state_dict()
    assert all(torch.equal(parts[key], value) for key, value in whole.items())
    weights_of_last = folder / names[-1]
    save_file({key: value + 1 for key, value in load_file(weights_of_last).items()}, weights_of_last, {"format": "pt"})
    assert find_base(str(folder), None, tmp_path).digest != found.digest


def test_a_name_is_found_in_the_cache_with_its_commit(gemma: Path, offline: Path, tmp_path: Path) -> None:
    held = offline / "models--someone--tiny"
    shutil.copytree(gemma, held / "snapshots" / COMMIT)
    (held / "refs").mkdir()
    (held / "refs" / "main").write_text(COMMIT)
    found = find_base("someone/tiny", None, tmp_path)
    assert (found.source, found.revision) == ("someone/tiny", COMMIT)
    assert find_base("someone/tiny", COMMIT, tmp_path) == found
    with pytest.raises(ConfigError, match="hf download someone/tiny --revision other --local-dir FOLDER"):
        find_base("someone/tiny", "other", tmp_path)


def test_a_name_that_cannot_be_fetched_says_how_to_give_a_folder(offline: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        find_base("google/medgemma-4b-it", None, tmp_path)
    told = str(error.value)
    assert "hf download google/medgemma-4b-it --local-dir FOLDER" in told
    assert "licence" in told and "HF_TOKEN" in told and told.endswith("model=FOLDER")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (pickled, "pickles (pytorch_model.bin)"),
        (without_a_shard, "names 1 files that are not there: model-00002-of"),
        (lambda folder: (folder / "model.safetensors").unlink(), "holds no weights"),
        (lambda folder: (folder / "config.json").unlink(), "holds no config.json"),
        (an_adapter, "It is an adapter"),
        (config(model_type="own", auto_map={"AutoModel": "code.Own"}), "code that a checkpoint brings along is never run"),
        (config(model_type="gemma3_text"), "a gemma3_text takes no image and text"),
        (config(vision_config="none"), "config.json of a gemma3"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be read"),
    ],
)
def test_a_folder_that_is_no_base_is_refused(
    folder: Path, tmp_path: Path, damage: Callable[[Path], object], told: str
) -> None:
    damage(folder)
    with pytest.raises(MedexpError) as error:
        find_base(str(folder), None, tmp_path)
    assert told in str(error.value)
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (
            weights(lambda held: held[NORM][1:3].fill_(float("nan"))),
            "model.language_model.norm.weight has 2 values that are not",
        ),
        (weights(lambda held: held.pop(NORM)), "1 missing keys: model.language_model.norm.weight"),
        (weights(lambda held: held.update(more=torch.ones(1))), "1 unexpected keys: more"),
        (weights(lambda held: held.update({NORM: torch.ones(3)})), "norm.weight is (3,), the network's is (16,)"),
        (
            weights(lambda held: held.update({HEAD: torch.ones_like(held[EMBEDDING])})),
            "ties the output layer to the embedding",
        ),
        (cut, "are its files complete?"),
    ],
)
def test_weights_that_do_not_fit_are_an_error_that_names_them(
    folder: Path, tmp_path: Path, damage: Callable[[Path], object], told: str
) -> None:
    damage(folder)
    with pytest.raises(CheckpointError) as error:
        loaded(find_base(str(folder), None, tmp_path))
    assert told in str(error.value)


def test_bits_are_for_who_has_bitsandbytes_and_a_device_for_it(gemma: Path, tmp_path: Path) -> None:
    found = find_base(str(gemma), None, tmp_path)
    with pytest.raises(ConfigError, match="pip install bitsandbytes"):
        loaded(found, "8bit", "cuda")
    with pytest.raises(ConfigError, match="bitsandbytes has no MPS"):
        loaded(found, "4bit", "mps")


@pytest.mark.parametrize("source", ["./nowhere", "/no/such/folder", "nowhere", "a/b/c"])
def test_a_path_that_is_not_there_is_not_looked_for_on_the_hub(source: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        find_base(source, None, tmp_path)


def test_a_folder_has_no_revision(gemma: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="revision=main"):
        find_base(str(gemma), "main", tmp_path)
