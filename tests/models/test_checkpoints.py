"""Loading weights: what real checkpoints hold, and each way in which one can be wrong."""

import math
import os
import resource
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from medexp.errors import CheckpointError
from medexp.models.checkpoints import _NESTS, load_state, load_weights, save_checkpoint, weights_digest


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3))


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("nest", ["state_dict", "model_state_dict", None])
def test_layouts_that_checkpoints_come_in(tmp_path: Path, nest: str | None, prefix: str) -> None:
    state = {prefix + key: value for key, value in network().state_dict().items()}
    content: dict[str, Any] = {"epoch": np.int64(3), "best_acc": np.float64(0.5), nest: state} if nest else state
    torch.save(content, tmp_path / "a.pt")
    net = network()
    nn.init.zeros_(net[0].weight)  # type: ignore[index]
    load_weights(net, load_state(tmp_path / "a.pt"), "a.pt")
    assert weights_digest(net.state_dict()) == weights_digest(network().state_dict())


def test_scalars_written_under_numpy_1_load(tmp_path: Path) -> None:
    torch.save({"best_acc": np.float64(0.5), "state_dict": network().state_dict()}, tmp_path / "new.pt", pickle_protocol=2)
    old = (tmp_path / "new.pt").read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    # The archive's stored (uncompressed) pickle got shorter: rebuild the zip around it.
    import io
    import zipfile

    source = zipfile.ZipFile(tmp_path / "new.pt")
    assert old != (tmp_path / "new.pt").read_bytes()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            target.writestr(
                name, data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray") if name.endswith(".pkl") else data
            )
    (tmp_path / "old.pt").write_bytes(buffer.getvalue())
    assert load_state(tmp_path / "old.pt").keys() == network().state_dict().keys()


def test_safetensors_load(tmp_path: Path) -> None:
    save_file(network().state_dict(), tmp_path / "a.safetensors")
    assert weights_digest(load_state(tmp_path / "a.safetensors")) == weights_digest(network().state_dict())


class Exploit:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.target}",)


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    torch.save({"state_dict": network().state_dict(), "extra": Exploit(tmp_path / "ran")}, tmp_path / "bad.pt")
    with pytest.raises(CheckpointError, match=r"bad\.pt: refused, it would run \S*system"):
        load_state(tmp_path / "bad.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.pt", None, "no file"),
        ("empty.pt", b"", "is empty"),
        ("text.pt", b"hello, this is no checkpoint", "cannot be read|refused"),
        ("broken.safetensors", b"\x08\x00\x00\x00\x00\x00\x00\x00{}", "cannot be read"),
        ("broken2.safetensors", b"garbage", "cannot be read"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_state(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_truncated_checkpoint(tmp_path: Path) -> None:
    torch.save(network().state_dict(), tmp_path / "a.pt")
    whole = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"a\.pt: cannot be read"):
        load_state(tmp_path / "a.pt")


def test_a_checkpoint_without_weights_says_what_it_holds(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "optimizer": {"lr": 0.1}}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="found epoch, optimizer, but no mapping of names to tensors"):
        load_state(tmp_path / "a.pt")


def test_every_key_is_accounted_for_in_one_error_and_the_network_is_unchanged() -> None:
    net = network()
    before = weights_digest(net.state_dict())
    state = net.state_dict()
    state["0.weight"] = torch.zeros(3, 5)
    state["extra"] = torch.zeros(1)
    del state["1.bias"]
    with pytest.raises(CheckpointError) as caught:
        load_weights(net, state, "file.pt")
    message = str(caught.value)
    for part in (
        "file.pt",
        "1 missing keys: 1.bias",
        "1 unexpected keys: extra",
        "0.weight is (3, 5), the network's is (3, 4)",
    ):
        assert part in message
    assert weights_digest(net.state_dict()) == before


@pytest.mark.parametrize("change", ["missing", "extra", "misshapen"])
def test_each_kind_of_misfit_alone(change: str) -> None:
    net, state = network(), network().state_dict()
    if change == "missing":
        del state["0.bias"]
    elif change == "extra":
        state["decoder.weight"] = torch.zeros(1)
    else:
        state["0.bias"] = torch.zeros(7)
    with pytest.raises(CheckpointError, match={"extra": "unexpected"}.get(change, change)) as caught:
        load_weights(net, state, "file.pt")
    assert "\n" not in str(caught.value)


OTHER_FILES: dict[str, tuple[bytes, str]] = {
    "a.pt": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 250000000\n", "a pointer of Git LFS"),
    "b.pt": (b"\n<!DOCTYPE html>\n<html><body>Sign in</body></html>", "a page of HTML"),
    "c.pth": (b"<html><head></head></html>", "a page of HTML"),
    "d.pt": (b"\x1f\x8b\x08\x00\x00\x00", "packed with gzip"),
    "e.safetensors": (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    "f.ckpt": (b'{"weights": []}', "it is JSON"),
    "g.safetensors": (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
}


@pytest.mark.parametrize("name", OTHER_FILES)
def test_what_is_no_checkpoint_is_told_by_its_first_bytes(tmp_path: Path, name: str) -> None:
    content, told = OTHER_FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=told) as caught:
        load_state(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_zip_of_files_is_to_be_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as packed:
        packed.writestr("fold_0/checkpoint_final.pth", b"weights")
    with pytest.raises(CheckpointError, match=r"a\.pt: cannot be read, it is a zip of other files; unpack it"):
        load_state(tmp_path / "a.pt")


@pytest.mark.parametrize("suffix", [".SAFETENSORS", ".safetensors", "", ".pt", ".bin"])
@pytest.mark.parametrize("write", [save_file, torch.save])
def test_what_a_file_is_its_content_says_and_no_suffix(tmp_path: Path, suffix: str, write: Any) -> None:
    if write is torch.save and suffix.lower() == ".safetensors":
        pytest.skip("a file that says safetensors and is none is damaged")
    write(network().state_dict(), tmp_path / f"a{suffix}")
    assert weights_digest(load_state(tmp_path / f"a{suffix}")) == weights_digest(network().state_dict())


def test_code_of_torchscript_is_refused_with_how_to_save_the_weights(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(network(), torch.zeros(1, 4)), str(tmp_path / "a.pt"))
    with pytest.raises(CheckpointError, match=r"a\.pt: refused, it is a TorchScript archive.*torch\.save\(net\.state_dict"):
        load_state(tmp_path / "a.pt")


def test_a_whole_pickled_network_is_refused_with_how_to_save_its_weights(tmp_path: Path) -> None:
    torch.save(network(), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"it would run torch\.nn\S+; .* torch\.save\(net\.state_dict\(\), FILE\)"):
        load_state(tmp_path / "a.pt")


WORDS = st.from_regex(r"[a-z_]{1,9}", fullmatch=True)


@given(
    st.lists(WORDS | st.sampled_from(["_orig_mod", "module", "model", "net"]), max_size=3), st.sampled_from([None, *_NESTS])
)
@example(["_orig_mod"], "state_dict")
@example(["module", "module"], "model_state_dict")
@example(["module", "_orig_mod", "model"], None)
def test_a_prefix_that_all_keys_have_changes_nothing(words: list[str], nest: str | None) -> None:
    prefix, own = "".join(f"{word}." for word in words), network().state_dict()
    state = {prefix + key: value for key, value in own.items()}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "a.pt"
        torch.save({nest: state, "epoch": 3} if nest else state, file)
        net = network()
        nn.init.zeros_(net[0].weight)  # type: ignore[index]
        load_weights(net, load_state(file), "a.pt")
    assert weights_digest(net.state_dict()) == weights_digest(own)


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda key: key.replace("0.", "0._orig_mod."),  # a part that was compiled
        lambda key: f"_fsdp_wrapped_module.{key.replace('1.', '1._checkpoint_wrapped_module.')}",
        lambda key: f"module._orig_mod.module.{key}",
        lambda key: f"_orig_mod.module.{key}",
    ],
)
def test_wrappers_inside_a_network_leave_no_trace(tmp_path: Path, wrapped: Any) -> None:
    own = network().state_dict()
    torch.save({"network_weights": {wrapped(key): value for key, value in own.items()}, "init_args": {}}, tmp_path / "a.pth")
    assert weights_digest(load_state(tmp_path / "a.pth")) == weights_digest(own)


def test_an_averaged_model_loads_without_its_count(tmp_path: Path) -> None:
    torch.save(torch.optim.swa_utils.AveragedModel(network()).state_dict(), tmp_path / "a.pt")
    assert weights_digest(load_state(tmp_path / "a.pt")) == weights_digest(network().state_dict())


def test_keys_that_stand_twice_are_no_mapping(tmp_path: Path) -> None:
    own = network().state_dict()
    torch.save(own | {f"module.{key}": value + 1 for key, value in own.items()}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="stand in it twice"):
        load_state(tmp_path / "a.pt")


def test_weights_that_a_file_has_twice_are_named_with_those_that_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = network().state_dict()
    average = {f"module.{key}": value + 1 for key, value in own.items()}
    torch.save({"epoch": 3, "model": own, "ema": average, "optimizer": {"state": {0: own}}}, tmp_path / "a.pt")
    assert weights_digest(load_state(tmp_path / "a.pt")) == weights_digest(own)
    told = "a.pt: the weights under 'model' are read, those under 'ema' are not; to have these, save them alone"
    assert told in capsys.readouterr().out
    torch.save({"model": own, "teacher": {"0.bias": own["0.bias"]}}, tmp_path / "a.pt")
    load_state(tmp_path / "a.pt")
    assert capsys.readouterr().out == "", "of another network"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda value: value.to_sparse(), "0.weight is sparse"),
        (lambda value: value.to("meta"), "0.weight has a shape and no values"),
        (lambda value: value.to(torch.float8_e4m3fn), "0.weight is float8_e4m3fn"),
        (lambda value: value * 0, "all its values are 0"),
    ],
)
def test_what_holds_no_weights_as_they_were_trained_is_refused(tmp_path: Path, change: Any, told: str) -> None:
    own = {key: value * ("all" not in told) for key, value in network().state_dict().items()}
    torch.save(own | {"0.weight": change(own["0.weight"])}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=told):
        load_weights(network(), load_state(tmp_path / "a.pt"), "a.pt")


def test_a_prefix_that_is_taken_off_is_said_and_one_of_some_keys_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    own = network().state_dict()
    load_weights(network(), {f"model.{key}": value for key, value in own.items()}, "a.pt")
    assert "checkpoint a.pt: its keys stand under 'model.', which is taken off" in capsys.readouterr().out
    load_weights(network(), own, "a.pt")
    assert capsys.readouterr().out == "", "nothing was taken off"
    some = {key if key == "0.bias" else f"model.{key}": value for key, value in own.items()}
    with pytest.raises(CheckpointError, match="3 unexpected keys: model"):
        load_weights(network(), some, "a.pt")


@given(
    st.sampled_from(["0.weight", "0.bias", "1.weight", "1.bias"]),
    st.integers(0, 2),
    st.sampled_from([math.nan, math.inf, -math.inf]),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]),
)
def test_any_value_that_is_not_finite_is_refused_with_its_key(key: str, place: int, value: float, dtype: torch.dtype) -> None:
    state = {name: one.clone().to(dtype) for name, one in network().state_dict().items()}
    load_weights(network(), state, "a.pt")
    net = network()
    before = weights_digest(net.state_dict())
    state[key].view(-1)[place] = value
    with pytest.raises(CheckpointError, match=f"checkpoint a.pt: {key} has 1 values that are not finite, of "):
        load_weights(net, state, "a.pt")
    assert weights_digest(net.state_dict()) == before


@pytest.mark.parametrize("value", [torch.full((3,), 1e300, dtype=torch.float64), torch.ones(3, dtype=torch.int8)])
def test_numbers_that_the_network_cannot_hold_are_refused(value: torch.Tensor) -> None:
    told = "0.bias is torch.int8, the network's is torch.float32" if value.dtype is torch.int8 else "0.bias has 3 values"
    with pytest.raises(CheckpointError, match=told):
        load_weights(network(), network().state_dict() | {"0.bias": value}, "a.pt")


def test_the_digest_sees_a_flipped_bit_a_name_and_a_type() -> None:
    state = {"a": torch.zeros(4), "b": torch.ones(2)}
    digest = weights_digest(state)
    assert weights_digest(dict(reversed(state.items()))) == digest
    flipped = {"a": torch.tensor([0.0, 0.0, 0.0, 1e-45]), "b": torch.ones(2)}
    assert (
        len(
            {
                digest,
                *(
                    weights_digest(s)
                    for s in (flipped, {"a": state["a"], "c": state["b"]}, {**state, "b": torch.ones(2).int()})
                ),
            }
        )
        == 4
    )


def test_a_file_that_cannot_be_written_whole_leaves_the_old_one(tmp_path: Path) -> None:
    """A limit on file sizes stands for the full disk: the same write fails half-way."""
    save_checkpoint({"weights": torch.zeros(10)}, tmp_path / "last.pt")
    script = f"""
import resource, signal, torch
from pathlib import Path
from medexp.errors import StorageError
from medexp.models.checkpoints import save_checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save_checkpoint({{"weights": torch.ones(1_000_000)}}, Path({str(tmp_path / "last.pt")!r}))
except StorageError as error:
    print(error)
"""
    assert resource.RLIMIT_FSIZE
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert str(tmp_path / "last.pt") in done.stdout
    assert "cannot be written (File too large)" in done.stdout  # torch says "unexpected pos"
    assert torch.equal(torch.load(tmp_path / "last.pt", weights_only=True)["weights"], torch.zeros(10))
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]
