"""What does a trial cost that does nothing? `python -m benchmarks.studies`

Trials with an empty objective, one process, one MLflow store (SQLite): each draws 5 parameters, logs 10 metrics and is a run
nested in the sweep's. Four sides in turns:

- medexp: a study in its journal file, each trial a `medexp.tracking.runs.child_run`; at least 20 trials a second;
- RDB + callback: Optuna's RDBStorage on SQLite, and after each trial what Optuna's MLflowCallback does (a nested run with its
  parameters, metrics and tags through MLflow's fluent calls; the callback's own package is not a dependency);
- MlflowStorage: `mlflow.optuna.storage.MlflowStorage`, in which Optuna's own records are MLflow runs, with the metrics logged
  to the trial's run;
- bare: the fewest calls that write the same run (create_run, one log_batch, set_terminated) and no study: what MLflow takes.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import make_dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.sides import empty_home, in_turns, verdict

ROUNDS = 5
TRIALS = {"medexp": 40, "bare MLflow": 40, "RDB + callback": 10, "MlflowStorage": 5}
TARGET = 20.0  # trials a second
SPACE = """
goals: [{metric: val/m0, direction: maximize}]
sampler: {name: random}
pruner: {name: none}
parameters:
"""


def compare(folder: Path) -> None:
    from medexp.tracking.runs import child_run  # before mlflow: it turns the telemetry off

    # isort: split
    import mlflow
    import optuna
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param
    from mlflow.optuna.storage import MlflowStorage

    from medexp.studies.space import read_space, suggest
    from medexp.studies.study import ask, open_study

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    names = [f"p{index}" for index in range(5)]
    lines = "".join(f"  {name}: {{type: float, low: 0.0, high: 1.0}}\n" for name in names)
    (folder / "sweep.yaml").write_text(SPACE + lines)
    space = read_space(folder / "sweep.yaml", make_dataclass("Config", [(name, float) for name in names]))
    client = MlflowClient()
    experiment = client.create_experiment("studies")
    mlflow.set_experiment(experiment_id=experiment)
    parent = client.create_run(experiment, run_name="sweep").info.run_id
    for index in range(100):  # a parent as large as a sweep's
        client.log_param(parent, f"k{index}", index)

    def metrics(values: list[float]) -> dict[str, float]:
        return {f"val/m{index}": sum(values) + index for index in range(10)}

    study = open_study("ours", None, "phase1", space, 0, folder)

    def ours() -> None:
        trial = ask(study)
        values = suggest(trial, space)
        params, tags = {key: str(value) for key, value in values.items()}, {"medexp.trial": str(trial.number)}
        with child_run(parent, f"trial-{trial.number}", folder, params, tags) as run:
            trial.set_user_attr("run", run.id)
            run.reporter.metrics(metrics([*values.values()]), 1)
        study.tell(trial, sum(values.values()))

    def bare() -> None:
        now = time.time_ns() // 1_000_000
        run = client.create_run(experiment, tags={"mlflow.parentRunId": parent}).info.run_id
        logged = [Metric(key, value, now, 1) for key, value in metrics([0.5] * 5).items()]
        client.log_batch(run, metrics=logged, params=[Param(name, "0.5") for name in names])
        client.set_terminated(run, "FINISHED")

    def drawn(trial: optuna.Trial) -> list[float]:
        return [trial.suggest_float(name, 0, 1) for name in names]

    sampler = optuna.samplers.RandomSampler(seed=0)
    theirs = optuna.create_study(storage=f"sqlite:///{folder}/optuna.db", sampler=sampler)

    def callback() -> None:
        trial = theirs.ask()
        values = drawn(trial)
        done = theirs.tell(trial, sum(values))
        with mlflow.start_run(run_name=str(done.number), parent_run_id=parent, nested=True):
            mlflow.log_metrics(metrics(values))
            mlflow.log_params(done.params)
            mlflow.set_tags({"number": str(done.number), "state": done.state.name, "direction": "MINIMIZE"})

    in_mlflow: dict[str, Any] = {}

    def stored() -> None:
        if not in_mlflow:
            in_mlflow["study"] = optuna.create_study(storage=MlflowStorage(experiment), study_name="stored", sampler=sampler)
        trial = in_mlflow["study"].ask()
        values = drawn(trial)
        now = time.time_ns() // 1_000_000
        logged = [Metric(key, value, now, 1) for key, value in metrics(values).items()]
        client.log_batch(str(trial._trial_id), metrics=logged)  # a trial's id is its run's
        in_mlflow["study"].tell(trial, sum(values))

    works: dict[str, Callable[[], None]] = {
        "medexp": ours,
        "bare MLflow": bare,
        "RDB + callback": callback,
        "MlflowStorage": stored,
    }

    def rate(name: str) -> float:
        started = time.perf_counter()
        for _ in range(TRIALS[name]):
            works[name]()
        return TRIALS[name] / (time.perf_counter() - started)

    for work in works.values():
        work()  # once unmeasured: imports, connections, tables
    measured = in_turns({name: partial(rate, name) for name in works}, ROUNDS)
    for name, rates in measured.items():
        spread = f"{min(rates):.1f} to {max(rates):.1f} in {len(rates)} rounds"
        holds = f"; target {TARGET:g}: {verdict(median(rates) >= TARGET)}" if name == "medexp" else ""
        print(f"studies, {name}: {median(rates):.1f} trials a second ({spread}){holds}", flush=True)


if __name__ == "__main__":
    with empty_home() as home:
        compare(home)
