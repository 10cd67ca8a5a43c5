"""What does a verified package cost? `python -m benchmarks.registry`

A SwinUNETR of BrainSegFounder's size (62 million parameters): writing, logging and registering it through medexp.registry
(weights as safetensors, sha256 of every file, read back before it is registered) against mlflow.pytorch.log_model with its
pickle and registered_model_name; and medexp.registry.load against building the network and reading the bare safetensors
file. There is no target but to know the price. The plain sides verify nothing; log_model is spared the search for its
requirements.
"""

import io
import logging
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from itertools import count
from pathlib import Path

from benchmarks.sides import empty_home, in_turns, told

ROUNDS = 4


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def compare(folder: Path) -> None:
    from medexp import registry  # before mlflow: it turns the telemetry off

    # isort: split
    import mlflow
    import pandas as pd
    import torch
    from safetensors.torch import load_file

    from medexp.models.builders import build
    from medexp.registry.definitions import load_definition
    from medexp.registry.packages import WEIGHTS, Package, write_package
    from medexp.registry.store import register

    torch.set_num_threads(1)
    shape = {"kind": "swin_unetr", "in_channels": 4, "out_channels": 3, "feature_size": 48, "window_size": 7}
    net = build(shape)
    numbers = count(1)
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    mlflow.set_experiment("registry")
    run = mlflow.start_run().info.run_id

    def ours() -> None:
        package = Package("bsf_base", shape, {}, net.state_dict(), {}, (), pd.DataFrame({"case": []}), "# bsf_base\n")
        written = folder / f"package_{next(numbers)}"
        write_package(package, written)
        register(run, written, load_definition("bsf_base"), "PASSED")

    def plain() -> None:
        with redirect_stderr(io.StringIO()):  # it says each time what it registered
            mlflow.pytorch.log_model(
                net, name="plain", registered_model_name="plain", serialization_format="pickle", pip_requirements=["torch"]
            )

    def bare_load() -> None:
        built = build(shape)
        built.load_state_dict(load_file(folder / "package_1" / WEIGHTS))
        built.eval()

    saved = in_turns({"ours": lambda: seconds(ours), "plain": lambda: seconds(plain)}, ROUNDS)
    loaded = in_turns(
        {"ours": lambda: seconds(lambda: registry.load("models:/bsf_base@champion")), "plain": lambda: seconds(bare_load)},
        ROUNDS,
    )
    mlflow.end_run()
    parameters = sum(parameter.numel() for parameter in net.parameters())
    print(f"registry, {parameters:,} parameters: log and register {told(saved['ours'], saved['plain'])}; no target")
    print(f"registry, load: {told(loaded['ours'], loaded['plain'])}; no target")


if __name__ == "__main__":
    with empty_home() as home:
        compare(home)
