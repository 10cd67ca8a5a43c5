"""What does pruning save, and what does it cost? `python -m benchmarks.pruning`

Phase 1's own space (profiles/sweep.yaml) on a smaller demo (16 patients, 8 epochs), searched without pruning, with the median
pruner and with Hyperband. The sampler is random with one seed, so all three try the same settings in the same order, and the
best value differs only where pruning stopped the best. Training steps count, not seconds: at most half of them, with a best
value that is not worse by more than the noise, which is the SD of the best settings' value over 3 fresh seeds.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import stdev
from typing import Any

import yaml

from benchmarks.sides import ROOT, empty_home, mlflow_run, verdict

TRIALS, EPOCHS, SEEDS, PATIENTS = 12, 8, 3, 16
PRUNERS: dict[str, dict[str, Any]] = {
    "none": {"name": "none"},
    "median": {"name": "median", "arguments": {"n_startup_trials": 4}},
    "hyperband": {"name": "hyperband", "arguments": {"min_resource": 1, "max_resource": EPOCHS, "reduction_factor": 2}},
}


def search(folder: Path, name: str) -> None:
    settings = {
        "phase": "phase1",
        "study": name,
        "space": folder / f"{name}.yaml",
        "trials": TRIALS,
        "workers": 1,
        "confirm": SEEDS if name == "none" else 0,
        "output_dir": folder / "outputs",
        "training.epochs": EPOCHS,
        "phantoms.meningioma_patients": PATIENTS,
    }
    mlflow_run("sweep", settings)


def main() -> None:
    with empty_home() as folder:
        from mlflow import MlflowClient
        from optuna.trial import FrozenTrial, TrialState

        from medexp.phases.phase1.config import Phase1Config
        from medexp.studies.space import read_space
        from medexp.studies.study import open_study
        from medexp.studies.trials import counted

        shipped = yaml.safe_load((ROOT / "medexp/phases/phase1/profiles/sweep.yaml").read_text())
        for name, pruner in PRUNERS.items():
            (folder / f"{name}.yaml").write_text(yaml.safe_dump({**shipped, "sampler": {"name": "random"}, "pruner": pruner}))
        MlflowClient().search_experiments()  # makes the store, which two processes at once cannot
        with ThreadPoolExecutor(2) as threads:  # steps are counted, so the sides may share the cores
            list(threads.map(partial(search, folder), PRUNERS))

        def trials_of(study: str, pruner: str) -> list[FrozenTrial]:
            space = read_space(folder / f"{pruner}.yaml", Phase1Config)
            return counted(open_study(study, None, "phase1", space, 0, folder / "outputs"))

        best: dict[str, float] = {}
        epochs: dict[str, int] = {}
        for name in PRUNERS:
            trials = trials_of(name, name)
            chosen = max((one for one in trials if one.state is TrialState.COMPLETE), key=lambda one: one.values[0])
            best[name] = chosen.values[0]
            epochs[name] = sum(len(one.intermediate_values) for one in trials)
            if name == "none":
                noise = stdev(one.values[0] for one in trials_of(f"none-confirm-{chosen.number}", name))
    print(f"pruning: SD of the best settings over {SEEDS} fresh seeds: {noise:.4f}")
    for name in PRUNERS:
        share = epochs[name] / epochs["none"]
        holds = share <= 0.5 and best[name] >= best["none"] - noise
        told = "" if name == "none" else f", {share:.2f} of the steps; target 0.5 and the same best: {verdict(holds)}"
        print(f"pruning: {name}: best of {TRIALS} trials {best[name]:.4f}, {epochs[name]} epochs{told}")


if __name__ == "__main__":
    main()
