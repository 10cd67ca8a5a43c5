"""The pipeline: what is reused, what is run again, and how it stops. Training is in tests/end_to_end/test_main.py."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from medexp.errors import DataError
from medexp.phases.main.config import MainConfig
from medexp.phases.shared.launch import start_accelerator
from medexp.studies.pipeline import Pipeline, inputs_of, take
from medexp.tracking.processes import this_process
from medexp.tracking.runs import tracked_run
from medexp.tracking.steps import find_interrupted, mark_done, tags_of_step
from tests.configured import configured, run_phase
from tests.data.volumes.small_cases import write_case


@pytest.fixture
def config(store: MlflowClient, tmp_path: Path) -> MainConfig:
    """The pipeline on three good cases of three patients."""
    for number in (1, 2, 3):
        write_case(tmp_path / "data", f"BraTS-MEN-0000{number}-000", seed=number)
    return configured("main", data_dir=tmp_path / "data", cache_dir=tmp_path / "cache", data__jobs=1)


def prepare(config: MainConfig, holds: bool = True) -> tuple[str, str, Run]:
    """Take the first step in a run of the pipeline: its outcome, its run and the pipeline's run."""
    with tracked_run("main", config) as tracked:
        pipeline = Pipeline(tracked, "main", ("prepare",))
        step = take(pipeline, "prepare", config.prepare, lambda: inputs_of("prepare", config.prepare), lambda: holds)
    ((_, outcome, _, _, run_id),) = pipeline.rows
    assert run_id == step.id
    return outcome, run_id, MlflowClient().get_run(tracked.id)


def test_an_unchanged_step_is_found_and_shown_as_such(config: MainConfig, store: MlflowClient, capsys) -> None:
    outcome, first, _ = prepare(config)
    assert outcome == "ran"
    elsewhere = replace(config.prepare, output_dir="elsewhere", data=replace(config.prepare.data, jobs=2))
    outcome, found, parent = prepare(replace(config, prepare=elsewhere))
    assert (outcome, found) == ("reused", first)
    assert f"reused: its inputs are those of run {first}" in capsys.readouterr().out
    assert parent.data.tags["medexp.reused.prepare"] == first
    assert "runs/" in parent.data.tags["mlflow.note.content"] and "| reused | - | " in parent.data.tags["mlflow.note.content"]
    experiment = store.get_experiment_by_name("main").experiment_id
    assert len(store.search_runs([experiment], "tags.`medexp.phase` = 'prepare'")) == 1


def change_a_voxel(config: MainConfig, run_id: str) -> MainConfig:
    case = sorted(Path(config.data_dir or "").iterdir())[0]
    shutil.rmtree(case)
    write_case(case.parent, case.name, seed=77)
    return config


def change_a_key(config: MainConfig, run_id: str) -> MainConfig:
    return replace(config, prepare=replace(config.prepare, seed=5))


def delete_its_run(config: MainConfig, run_id: str) -> MainConfig:
    MlflowClient().delete_run(run_id)
    return config


def lose_what_it_registered(config: MainConfig, run_id: str) -> MainConfig:
    mark_done(run_id, ("nobody/1",))
    return config


def judge_it_failed(config: MainConfig, run_id: str) -> MainConfig:
    MlflowClient().set_tag(run_id, "medexp.verdict", "FAILED")
    return config


def stop_it_before_its_end(config: MainConfig, run_id: str) -> MainConfig:
    MlflowClient().delete_tag(run_id, "medexp.registered")
    return config


CHANGES = [
    change_a_voxel,
    change_a_key,
    delete_its_run,
    lose_what_it_registered,
    judge_it_failed,
    stop_it_before_its_end,
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_step_that_is_not_as_it_was_runs_again(config: MainConfig, change: Callable[[MainConfig, str], MainConfig]) -> None:
    _, first, _ = prepare(config)
    changed = change(config, first)
    outcome, again, _ = prepare(changed)
    assert outcome == "ran"
    assert again != first
    assert prepare(changed)[:2] == ("reused", again)


def test_a_step_whose_deed_does_not_stand_any_more_runs_again(config: MainConfig) -> None:
    prepare(config)
    assert prepare(config, holds=False)[0] == "ran"


def test_the_next_step_may_have_another_device_and_precision(config: MainConfig) -> None:
    assert start_accelerator("cpu", 1, "bf16-mixed").mixed_precision == "bf16"
    prepare(config)
    assert start_accelerator("auto", 1, "fp32").mixed_precision == "no"


def test_a_step_of_other_code_runs_again(config: MainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import medexp

    prepare(config)
    shutil.copytree(Path(medexp.__file__).parent, tmp_path / "medexp", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(Path(medexp.__file__).parents[1] / "registry", tmp_path / "registry")
    monkeypatch.setattr(medexp, "__file__", str(tmp_path / "medexp" / "__init__.py"))
    assert prepare(config)[0] == "reused"  # the same code in another folder
    with (tmp_path / "medexp" / "data" / "splits.py").open("a") as file:
        file.write("# changed\n")
    assert prepare(config)[0] == "ran"


def test_a_table_is_its_content_and_its_volumes(config: MainConfig, tmp_path: Path, store: MlflowClient) -> None:
    store.create_registered_model("phase1_encoder_merged")
    store.create_model_version("phase1_encoder_merged", "file:///nowhere", tags={"medexp.digest": "d1"})
    rows = [f"c{i}\tdata/BraTS-MEN-0000{i}-000\t{label}\tp{i}" for i, label in ((1, "a"), (2, "a"), (3, "b"))]
    (tmp_path / "table.tsv").write_text(
        "id\tpath\tlabel\tpatient\n" + "\n".join([*rows, "c4\tdata/BraTS-MEN-00003-000\tb\tp4"])
    )
    probe = replace(config.probe, table=str(tmp_path / "table.tsv"), encoder="models:/phase1_encoder_merged/1")
    before = inputs_of("probe", probe)
    assert before["phase1_encoder_merged"] == "1 d1"
    assert inputs_of("probe", probe) == before
    change_a_voxel(config, "")
    after = inputs_of("probe", probe)
    assert {key for key in before if before[key] != after[key]} == {"volumes of c1"}
    (tmp_path / "table.tsv").write_text((tmp_path / "table.tsv").read_text().replace("p4", "p5"))
    assert {key for key in after if after[key] != inputs_of("probe", probe)[key]} == {"table"}


def interrupted(config: MainConfig, status: str, tags: dict[str, str]) -> tuple[str, list[str]]:
    """A run of a step that ended so, and what is found to go on from."""
    client = MlflowClient()
    with tracked_run("main", config) as tracked:
        experiment = client.get_run(tracked.id).info.experiment_id
        run_id = client.create_run(experiment, tags=tags).info.run_id
        client.update_run(run_id, status)
        return run_id, [run.id for run in find_interrupted(tracked, "k")]


@pytest.mark.parametrize(("status", "found"), [("KILLED", True), ("FAILED", True), ("FINISHED", False), ("RUNNING", False)])
def test_what_a_step_can_go_on_from(config: MainConfig, status: str, found: bool) -> None:
    run_id, runs = interrupted(config, status, tags_of_step("k"))
    assert (run_id in runs) == found


def test_a_run_whose_process_was_killed_can_be_gone_on_from(config: MainConfig) -> None:
    tags = tags_of_step("k")
    node, _, started = this_process().split()
    gone = f"{node} {2**22 + 1} {started}"  # larger than any process id
    run_id, runs = interrupted(config, "RUNNING", tags | {"medexp.process": gone})
    assert run_id in runs
    run_id, runs = interrupted(config, "RUNNING", tags | {"medexp.process": f"other{gone}"})
    assert run_id not in runs  # it may well be running there


def test_a_step_that_fails_stops_the_pipeline_in_its_own_run(
    config: MainConfig,
    store: MlflowClient,
    capsys: pytest.CaptureFixture[str],
) -> None:
    case = sorted(Path(config.data_dir or "").iterdir())[0]
    (case / f"{case.name}-t2w.nii.gz").unlink()
    assert run_phase("main", data_dir=config.data_dir, cache_dir=config.cache_dir) == 2
    told = capsys.readouterr()
    assert "medexp main: error:" in told.err
    assert "t2w" in told.err
    assert "Traceback" not in told.err
    assert "Stopped at prepare. Run it again when the cause is gone" in told.out
    runs = {
        run.data.tags["medexp.phase"]: run for run in store.search_runs([store.get_experiment_by_name("main").experiment_id])
    }
    child = runs.pop("prepare")
    (parent,) = runs.values()
    assert {child.info.status, parent.info.status} == {"FAILED"}
    assert child.data.tags["medexp.error"] == parent.data.tags["medexp.error"]
    assert "| FAILED | - |" in parent.data.tags["mlflow.note.content"]


def test_a_mended_step_goes_on(config: MainConfig) -> None:
    case = sorted(Path(config.data_dir or "").iterdir())[0]
    shutil.move(case / f"{case.name}-t2w.nii.gz", case.parent.parent / "t2w.nii.gz")
    with pytest.raises(DataError, match="t2w"):
        prepare(config)
    shutil.move(case.parent.parent / "t2w.nii.gz", case / f"{case.name}-t2w.nii.gz")
    assert prepare(config)[0] == "ran"


def test_several_processes_are_refused_before_a_run_starts(
    config: MainConfig,
    store: MlflowClient,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run_phase("main") == 2
    assert "medexp main: error: WORLD_SIZE=2: main runs in one process" in capsys.readouterr().err
    assert store.get_experiment_by_name("main") is None
