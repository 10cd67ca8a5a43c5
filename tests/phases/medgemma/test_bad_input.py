"""What medgemma cannot use is said in words, before anything is trained; so is a base that has seen what is judged."""

from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from medexp.data.manifest import patient_sha256
from medexp.data.scenarios.prepared import prepare_scenarios
from tests.configured import run_phase
from tests.data.scenarios.small_scenarios import write_images, write_lines
from tests.gemma import tiny_gemma
from tests.phases.medgemma.small import SMALL, scenarios, write_splits
from tests.runs import figures, last_run, logged_table


@pytest.fixture
def here(store: MlflowClient, tmp_path: Path) -> Path:
    """An empty store's working directory with a base and scenarios."""
    tiny_gemma(tmp_path / "base")
    write_splits(tmp_path)
    return tmp_path


def too_long(folder: Path) -> dict[str, object]:
    line = scenarios(1, 200)[0] | {"input": "word " * 600}
    write_images(folder / "images", [line], 200)
    write_lines(folder / "more.jsonl", [*scenarios(8, 201), line])
    write_images(folder / "images", scenarios(8, 201), 201)
    return {"scenarios": "more.jsonl"}


def no_image(folder: Path) -> dict[str, object]:
    (folder / "images" / "xray_000.png").unlink()
    return {}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"model": "nowhere"}, ["model", "nowhere", "give", "folder"]),
        ({"model": "./nowhere"}, ["model=./nowhere: no such folder"]),
        ({"quantize": "8bit"}, ["quantize=8bit", "bitsandbytes"]),
        ({"judged": "test", "folds": "2"}, ["judged: found test with folds"]),
        ({"judged": "test", "scenarios": "train.jsonl,val.jsonl"}, ["judged=test", "no scenario in that split"]),
        ({"profile": "full", "scenarios": "", "model": ""}, ["scenarios: profile=full needs real data"]),
        ({"data.question": "Which?"}, ["name both answers, as {first} and {second}"]),
        ({"scenarios": "nowhere.jsonl"}, ["nowhere.jsonl"]),
        ({"mode": "benchmark"}, ["medgemma_lora_adapter"]),
        (too_long, ["xray_200", "512"]),
        (no_image, ["train.jsonl:1", "xray_000.png"]),
    ],
)
def test_input_that_cannot_be_used(
    here: Path,
    store: MlflowClient,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    given: dict[str, object] | Callable[[Path], dict[str, object]],
    words: list[str],
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert run_phase("medgemma", SMALL | (given(here) if callable(given) else given)) == 2
    told = capsys.readouterr().err
    assert all(word in told for word in ["medexp medgemma: error: ", *words]), told
    assert "Traceback" not in told and not store.search_registered_models()
    assert not [*here.glob("outputs/*/state/checkpoint*")]


def test_a_base_that_has_seen_a_judged_scenario_stops_it_before_anything_is_trained(
    here: Path, store: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [here / name for name in ("train.jsonl", "val.jsonl")]
    seen = prepare_scenarios(files, here / "images", cache=here / "cache").rows("val")["patient"][3]
    (here / "base" / "cases.csv").write_text(f"patient_sha256,split\n{patient_sha256(seen)},train\n")
    assert run_phase("medgemma", SMALL) == 3
    told = capsys.readouterr().err
    assert "BLOCKING check failed: LEAK" in told and seen in told and "leaked_patients = 1" in told
    made = last_run(store, "medgemma")
    assert made.info.status == "FAILED" and "train/loss" not in figures(made) and not store.search_registered_models()
    assert len(logged_table(made, "manifest.csv"))
