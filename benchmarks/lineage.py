"""What do lineage, impact and audit cost in a store of 1,000 versions and 10,000 runs? `python -m benchmarks.lineage`

A base, encoders made from it, and probes made from the encoders, each version by a run of its own; the other runs were given
an encoder. Encoder 1 is much used: 400 runs and 80 probes, whatever the size of the store. The same questions are asked of a
store of a tenth of the size, for the cost should grow with what is shown. Rows are written through MLflow's own tables: its
client would take minutes. Packages are not stored, so audit finds them missing.
"""

import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from benchmarks.sides import empty_home, verdict

SECONDS = 5.0  # the target: seconds, not minutes
USED_RUNS, USED_MODELS = 400, 80
PARAMS, METRICS = 40, 30  # of a run of phase 1, about
BASE, ENCODER, PROBE = "bsf_base", "phase1_encoder_merged", "glioma_probe"


def digest(name: str, version: int) -> str:
    return f"{name}{version}".encode().hex().rjust(64, "0")[-64:]


def models(versions: int) -> Iterator[tuple[str, int, dict[str, str]]]:
    """Name, version and upstream tag of each version."""
    from medexp.registry.tags import upstream_tag

    encoders = versions // 10
    yield BASE, 1, {}
    for number in range(1, encoders + 1):
        yield ENCODER, number, upstream_tag(BASE, "1", digest(BASE, 1))
    for number in range(1, versions - encoders):
        used = 1 if number <= USED_MODELS else 2 + number % (encoders - 1)
        yield PROBE, number, upstream_tag(ENCODER, str(used), digest(ENCODER, used))


def fill(uri: str, versions: int, runs: int) -> None:
    """Write the versions and the runs."""
    from mlflow.store.model_registry.dbmodels.models import (
        SqlModelVersion,
        SqlModelVersionTag,
        SqlRegisteredModel,
        SqlRegisteredModelAlias,
    )
    from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlParam, SqlRun, SqlTag
    from sqlalchemy import create_engine, insert

    from medexp.registry.tags import upstream_tag

    rows: dict[Any, list[dict[str, Any]]] = {SqlRun: [], SqlTag: [], SqlParam: [], SqlLatestMetric: []}
    registry: dict[Any, list[dict[str, Any]]] = {SqlModelVersion: [], SqlModelVersionTag: []}

    def add_run(number: int, upstream: dict[str, str]) -> str:
        run = f"{number:032x}"
        stamp = {"start_time": number, "end_time": number + 1, "status": "FINISHED", "lifecycle_stage": "active"}
        rows[SqlRun].append({"run_uuid": run, "name": f"run{number}", "experiment_id": 0, "user_id": "benchmark", **stamp})
        tags = {"medexp.phase": "phase1", "medexp.verdict": "PASSED", "mlflow.note.content": "word " * 200} | upstream
        rows[SqlTag] += [{"key": key, "value": value, "run_uuid": run} for key, value in tags.items()]
        rows[SqlParam] += [{"key": f"p{i}", "value": str(i), "run_uuid": run} for i in range(PARAMS)]
        names = [*(f"checks/TEST_2.{i}" for i in range(6)), *(f"val/m{i}" for i in range(METRICS - 6))]
        metric = {"value": 1.0, "timestamp": number, "step": 0, "is_nan": False, "run_uuid": run}
        rows[SqlLatestMetric] += [{"key": name, **metric} for name in names]
        return run

    for number, (name, version, upstream) in enumerate(models(versions)):
        of = {"name": name, "version": version}
        stamp = {"creation_time": number, "last_updated_time": number, "current_stage": "None", "status": "READY"}
        made = {"source": "/nowhere", "run_id": add_run(number, upstream), "description": "card " * 1000}
        registry[SqlModelVersion].append(of | stamp | made)
        tags = {"medexp.digest": digest(name, version), "medexp.verdict": "PASSED"} | upstream
        registry[SqlModelVersionTag] += [of | {"key": key, "value": value} for key, value in tags.items()]
    encoders = versions // 10
    for number in range(versions, runs):
        used = 1 if number < versions + USED_RUNS else 2 + number % (encoders - 1)
        add_run(number, upstream_tag(ENCODER, str(used), digest(ENCODER, used)))

    names = (BASE, ENCODER, PROBE)
    with create_engine(uri).begin() as connection:
        connection.execute(insert(SqlRegisteredModel), [{"name": name, "creation_time": 0} for name in names])
        for table, content in (registry | rows).items():
            left = iter(content)
            while batch := list(islice(left, 10_000)):
                connection.execute(insert(table), batch)
        aliases = [{"name": name, "alias": "champion", "version": 1} for name in names]
        connection.execute(insert(SqlRegisteredModelAlias), aliases)


def ask(versions: int, runs: int) -> dict[str, float]:
    """Seconds of each question, in a store of this size."""
    from medexp.registry.audit import audit
    from medexp.registry.lineage import SHOWN, impact, lineage

    def questions() -> Iterator[tuple[str, Callable[[], object]]]:
        yield f"lineage of a leaf, {PROBE} 1", lambda: lineage(f"models:/{PROBE}@champion", SHOWN)
        yield f"lineage of a much-used {ENCODER}", lambda: lineage(f"models:/{ENCODER}@champion", SHOWN)
        yield f"impact of a leaf, {PROBE} 1", lambda: impact(f"models:/{PROBE}/1", SHOWN)
        yield f"impact of a much-used {ENCODER}", lambda: impact(f"models:/{ENCODER}/1", SHOWN)
        yield f"impact of a much-used {ENCODER}, all {USED_RUNS} runs", lambda: impact(f"models:/{ENCODER}/1")
        yield f"impact of {BASE}, which all were made from", lambda: impact(f"models:/{BASE}/1", SHOWN)
        yield "audit", audit

    with empty_home() as home:
        from mlflow import MlflowClient

        uri = f"sqlite:///{home / 'mlflow.db'}"
        MlflowClient(uri).search_experiments(max_results=1)  # creates the tables
        fill(uri, versions, runs)
        found = {}
        for name, question in questions():
            started = time.perf_counter()
            question()
            found[name] = time.perf_counter() - started
        return found


if __name__ == "__main__":
    small, large = ask(100 + USED_MODELS, 1_000), ask(1_000, 10_000)
    for name, seconds in large.items():
        print(f"lineage, {name}: {seconds:.2f} s, {small[name]:.2f} s in a store of a tenth; {verdict(seconds <= SECONDS)}")
