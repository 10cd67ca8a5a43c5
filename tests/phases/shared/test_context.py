"""What a phase's run goes on from, and how it ends when there is less memory than its settings ask for."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import torch
from mlflow import MlflowClient

from medexp.data.prepared import Prepared
from medexp.data.splits import Splits
from medexp.errors import OutOfMemory
from medexp.phases.phase1 import PHASE
from medexp.phases.shared.context import context
from tests.configured import configured


def more_than_any_machine_has() -> None:
    torch.empty(2**50)


def what_cuda_raises() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def what_a_driver_raises() -> None:
    raise RuntimeError("CUDA error: out of memory")


def what_python_raises() -> None:
    bytearray(2**62)


@pytest.mark.parametrize("ask", [more_than_any_machine_has, what_cuda_raises, what_a_driver_raises, what_python_raises])
def test_too_little_memory_is_told_in_a_line_with_what_to_do(
    store: MlflowClient,
    ask: Callable[[], None],
) -> None:
    config = configured("phase1", output_dir="outputs")
    told = "batches of 2 inputs of 64 x 64 x 32: lower training.batch_size"
    with pytest.raises(OutOfMemory, match=told) as raised, context(PHASE, config) as ctx:
        ask()
    assert raised.value.run == ctx.run.id
    run = store.get_run(ctx.run.id)
    assert run.info.status == "FAILED"
    assert run.data.tags["medexp.error_type"] == "OutOfMemory"
    assert run.data.tags["medexp.error"] == str(raised.value)


def shapes_that_do_not_fit() -> None:
    torch.cat([torch.zeros(1), torch.zeros(1, 1)])


def what_is_not_built() -> None:
    torch.nn.Module()(torch.zeros(1))


@pytest.mark.parametrize(
    ("fail", "name"), [(shapes_that_do_not_fit, "RuntimeError"), (what_is_not_built, "NotImplementedError")]
)
def test_any_other_error_keeps_its_name(store: MlflowClient, fail: Callable[[], None], name: str) -> None:
    config = configured("phase1", output_dir="outputs")
    with pytest.raises(RuntimeError) as raised, context(PHASE, config) as ctx:
        fail()
    assert type(raised.value).__name__ == name
    assert store.get_run(ctx.run.id).data.tags["medexp.error_type"] == name


def test_a_run_that_is_stopped_while_it_takes_over_a_state_says_what_it_was_begun_with(
    store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a run that goes on from it would not be held to the same cases."""
    config, begun = configured("phase1", output_dir="outputs"), {"cases": "12ab"}
    manifest = pd.DataFrame({"case": ["a"], "patient": ["a"], "split": ["train"], "sha256": ["12ab"]})
    data: Prepared[Any, Any] = Prepared({}, {}, Splits(("a",), (), ()), manifest, "one case")
    with pytest.raises(KeyboardInterrupt), context(PHASE, config) as interrupted:
        interrupted.given(data, begun)
        (interrupted.run.folder / "state").mkdir()
        raise KeyboardInterrupt

    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "copytree", stopped)
    with pytest.raises(KeyboardInterrupt), context(PHASE, replace(config, resume=interrupted.run.id)) as ctx:
        ctx.given(data, begun)
    assert json.loads((ctx.run.folder / "begun.json").read_text()) == begun
