"""What does a verified package cost? `python -m benchmarks.registry`

A SwinUNETR of BrainSegFounder's size (62 million parameters):

- write, log and register it through medexp.registry (safetensors, sha256 of every file, read back from the store before it is
  registered) against mlflow.pytorch.log_model with its pickle and registered_model_name; at most as long;
- medexp.registry.load of it, resolved, found in the cache and verified byte by byte, against building the network and reading
  the bare safetensors file; at most 1.3 times as long.

And by alias, on a package of a few kilobytes, so that hashing does not hide it:

- medexp.registry.store.resolve against MLflow's get_model_version_by_alias, at most twice as long; beside it, without a
  target, the whole warm pull against the same call.

The plain sides verify nothing; log_model is spared the search for its requirements.
"""

import io
import logging
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path

from benchmarks.sides import empty_home, in_turns, told, verdict

ROUNDS = 7
CALLS = 30  # of the registry, in a round


def seconds(work: Callable[[], object], calls: int = 1) -> float:
    started = time.perf_counter()
    for _ in range(calls):
        work()
    return (time.perf_counter() - started) / calls


def compare(folder: Path) -> None:
    from medexp import registry  # before mlflow: it turns the telemetry off

    # isort: split
    import mlflow
    import torch
    from mlflow import MlflowClient
    from safetensors.torch import load_file

    from medexp.models.kinds import build
    from medexp.registry.definitions import load_definition
    from medexp.registry.package import Package
    from medexp.registry.packages import WEIGHTS
    from medexp.registry.registration import register
    from medexp.registry.store import Registered, resolve
    from medexp.registry.writing import write_package

    torch.set_num_threads(1)
    shape = {"kind": "swin_unetr", "in_channels": 4, "out_channels": 3, "feature_size": 48, "window_size": 7}
    net, definition = build(shape), load_definition("bsf_base")
    parameter = next(net.parameters())
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    mlflow.set_experiment("registry")
    run = mlflow.start_run().info.run_id

    def published(weights: dict[str, torch.Tensor]) -> Registered:
        package = Package("bsf_base", shape, {"input": definition.input_as_records}, weights)
        with tempfile.TemporaryDirectory(dir=folder) as place:
            write_package(package, definition, Path(place) / "package")
            return register(run, Path(place) / "package", definition, "PASSED")

    def ours() -> None:
        with torch.no_grad():
            parameter.add_(1)  # the same package again would be no new version
        published(net.state_dict())

    def plain() -> None:
        with redirect_stderr(io.StringIO()):  # it says each time what it registered
            mlflow.pytorch.log_model(
                net, name="plain", registered_model_name="plain", serialization_format="pickle", pip_requirements=["torch"]
            )

    def bare_load() -> None:
        built = build(shape)
        built.load_state_dict(load_file(weights))
        built.eval()

    def ratio(question: str, sides: dict[str, Callable[[], object]], target: float | None, calls: int = 1) -> None:
        for work in sides.values():
            work()  # once unmeasured: imports, connections, caches
        timers = {name: lambda work=work: seconds(work, calls) for name, work in sides.items()}
        ours, plain = in_turns(timers, ROUNDS).values()
        holds = (
            f"target {target}: {verdict(sorted(ours)[ROUNDS // 2] <= target * sorted(plain)[ROUNDS // 2])}" if target else ""
        )
        print(f"registry, {question}: {told(ours, plain)}; {holds or 'no target'}", flush=True)

    parameters = sum(parameter.numel() for parameter in net.parameters())
    ratio(f"{parameters:,} parameters, write + log + register", {"ours": ours, "plain": plain}, 1.0)

    weights = registry.pull("models:/bsf_base/1").folder / WEIGHTS
    ratio("verified warm load", {"ours": lambda: registry.load("models:/bsf_base/1"), "plain": bare_load}, 1.3)

    small, client = published({"bias": torch.zeros(8)}), MlflowClient()
    client.set_registered_model_alias("bsf_base", "small", small.version)
    by_alias = "models:/bsf_base@small"

    def alias() -> None:
        client.get_model_version_by_alias("bsf_base", "small")

    ratio("resolution of an alias", {"ours": lambda: resolve(by_alias), "plain": alias}, 2.0, CALLS)
    ratio("whole warm pull of a small package", {"ours": lambda: registry.pull(by_alias), "plain": alias}, None, CALLS)
    mlflow.end_run()


if __name__ == "__main__":
    with empty_home() as home:
        compare(home)
