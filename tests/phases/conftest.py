"""The three phases on images, run once; and a table of volumes with a registered encoder of them."""

import contextlib
import io
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import save_file

from medexp.data.volumes.cases import CHANNELS
from medexp.data.volumes.tables import COLUMNS, write_table
from medexp.files import alone
from medexp.models.kinds import build
from medexp.models.swin.network import decoder_state
from medexp.registry.definitions import load_definition
from medexp.registry.package import Parent
from medexp.registry.packages import DECODER
from medexp.registry.registration import register
from medexp.registry.store import Registered
from tests.data.volumes.small_cases import SHAPE, write_case
from tests.packages import SEGMENTER
from tests.phases.shared.image_runs import MODELS, Pipeline, run, write_pictures, write_slices
from tests.runs import store_in


@pytest.fixture(scope="session")
def pipeline(empty_database: Path, for_all_workers: Path) -> Pipeline:
    """Phases 2.1, 2.2 and 2.3, run once, pulling from one another by alias. Of what is in there the cache alone changes."""
    folder = for_all_workers / "pipeline"
    outcome = folder / "outcome.json"
    with alone(folder / "lock"):
        if not outcome.exists():
            write_slices(folder / "slices")
            write_pictures(folder / "pictures")
            told, codes = {}, {}
            with pytest.MonkeyPatch.context() as patch:
                store_in(folder, empty_database, patch)
                for phase in MODELS:
                    printed = io.StringIO()
                    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                        codes[phase] = run(phase, folder)
                    told[phase] = printed.getvalue()
            outcome.write_text(json.dumps({"told": told, "codes": codes}))
    return Pipeline(folder, **json.loads(outcome.read_text()))


@pytest.fixture
def client(pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """A client of a copy of the pipeline's database: what a test adds or moves, no other test sees."""
    assert set(pipeline.codes.values()) == {0}, pipeline.told
    copy = store_in(tmp_path, pipeline.folder / "mlflow.db", monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(pipeline.folder / "cache"))
    return copy


@pytest.fixture
def make_table(tmp_path: Path) -> Callable[..., Path]:
    """A table of volumes of so many patients, two scans of every other; in one class one half of the brain is darker, but for
    those who have the other's label."""

    def make(patients: int, mislabelled: Collection[int] = ()) -> Path:
        rows = []
        for number in range(patients):
            for scan in range(1 + number % 2):
                case, rng = f"p{number}-{scan}", np.random.default_rng((number, scan))
                brain = np.zeros(SHAPE)
                brain[1:-1, 1:-1, 1:-1] = 1
                darker = number < patients / 2
                if darker:
                    brain[SHAPE[0] // 2 :] *= 0.3
                channels = {name: (rng.integers(200, 900, SHAPE) * brain).astype(np.int16) for name in CHANNELS}
                write_case(tmp_path / "data", case, seg=None, **channels)
                split = ("train", "train", "val", "test", "test")[number % 5]
                label = "glioma" if darker ^ (number in mislabelled) else "meningioma"
                rows.append([case, f"data/{case}", label, f"p{number}", split])
        write_table(pd.DataFrame(rows, columns=[*COLUMNS, "split"]), tmp_path / "table.tsv")
        return tmp_path / "table.tsv"

    return make


@pytest.fixture
def table(make_table: Callable[..., Path]) -> Path:
    """The same of 16 patients, all with their own label."""
    return make_table(16)


@pytest.fixture
def registered(store: MlflowClient, written: Callable[..., Path]) -> Callable[..., Registered]:
    """A version of `phase1_encoder_merged` with the alias champion; with `base`, made from a registered one, of the weights
    that are given in its place; with `decoder`, a folder, a decoder for its judge."""

    def make(*, base: bool | Mapping[str, torch.Tensor] = False, decoder: Path | None = None, **given: Any) -> Registered:
        parents: dict[str, Any] = {}
        if decoder:
            torch.manual_seed(13)
            save_file(decoder_state(build(SEGMENTER)), decoder / "decoder.safetensors")
            given |= {"extra": {DECODER: decoder / "decoder.safetensors"}}
        if base:
            own = {} if base is True else {"weights": base}
            made = register_package("bsf_base", architecture=SEGMENTER, seed=11, checks=[], **own)
            parents = {"base": Parent(**asdict(made))}
        made = register_package("phase1_encoder_merged", **{"parents": parents, "seed": 12, **given})
        store.set_registered_model_alias(made.name, "champion", made.version)
        return made

    def register_package(name: str, **given: Any) -> Registered:
        run = store.create_run(store.create_experiment(f"{name}-{len(store.search_experiments())}"))
        return register(run.info.run_id, written(name=name, **given), load_definition(name), "PASSED")

    return make
