"""Loading weights: what real checkpoints hold, and each way in which one can be wrong."""

import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from medexp.errors import CheckpointError
from medexp.models.checkpoints import load_state, load_weights, save_checkpoint, weights_digest


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
        ("empty.pt", b"", "cannot be read|refused"),
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
    assert "cannot be written" in done.stdout
    assert torch.equal(torch.load(tmp_path / "last.pt", weights_only=True)["weights"], torch.zeros(10))
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]
