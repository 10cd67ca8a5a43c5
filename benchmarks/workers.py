"""Do two workers search twice as fast as one? `python -m benchmarks.workers`

`mlflow run . -e sweep` on phase 1's demo, from start to end, with one worker and with two: 4 trials that differ in their rates
alone, so that all cost the same, without pruning. The phantoms and the base are in the cache before the clock starts. At
least 1.7 times as fast, on two cores that nothing else uses: the load average before it is printed.
"""

import time
from functools import partial
from pathlib import Path

import psutil

from benchmarks.sides import empty_home, in_turns, mlflow_run, verdict

ROUNDS = 1
TRIALS = 4
SPACE = """
goals: [{metric: val/final/dice, direction: maximize}]
sampler: {name: random}
pruner: {name: none}
parameters:
  training.lr_lora: {type: float, low: 1.0e-3, high: 4.0e-3, log: true}
  training.lr_decoder: {type: float, low: 5.0e-3, high: 2.0e-2, log: true}
"""


def search(folder: Path, name: str, workers: int, trials: int) -> float:
    settings = {
        "phase": "phase1",
        "study": name,
        "space": folder / "sweep.yaml",
        "trials": trials,
        "workers": workers,
        "confirm": 0,
        "output_dir": folder / "outputs",
    }
    started = time.perf_counter()
    mlflow_run("sweep", settings)
    return time.perf_counter() - started


def main() -> None:
    with empty_home() as folder:
        (folder / "sweep.yaml").write_text(SPACE)
        search(folder, "unmeasured", 2, 2)
        load = psutil.getloadavg()[0]
        numbers = iter(range(ROUNDS * 2))

        def timed(workers: int) -> float:
            return search(folder, f"study-{next(numbers)}", workers, TRIALS)

        measured = in_turns({str(workers): partial(timed, workers) for workers in (1, 2)}, ROUNDS)
    ratios = [one / two for one, two in zip(measured["1"], measured["2"], strict=True)]
    each = "; ".join(
        f"{one:.0f} s against {two:.0f} s, {one / two:.2f}" for one, two in zip(measured["1"], measured["2"], strict=True)
    )
    print(
        f"workers: one against two, {TRIALS} trials: {each}; target 1.7: {verdict(min(ratios) >= 1.7)}; "
        f"load average before it {load:.1f}"
    )


if __name__ == "__main__":
    main()
