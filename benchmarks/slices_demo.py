"""How long does the demo of phases 2.1, 2.2 and 2.3 take? `python -m benchmarks.slices_demo`

`mlflow run . -e phase2_1`, `phase2_2` (of one split) and `phase2_3` one after another, as a user starts them, with an empty
store and an empty cache. Target: at most 4 minutes together. It has no plain alternative to be compared with; the load average
before it says whether others had the cores.
"""

import time

import psutil

from benchmarks.sides import empty_home, mlflow_run, verdict


def main() -> None:
    with empty_home() as folder:
        load, seconds = psutil.getloadavg()[0], {}
        for phase in ("phase2_1", "phase2_2", "phase2_3"):
            started = time.perf_counter()
            mlflow_run(phase, {"output_dir": folder / "outputs"} | ({"folds": 0} if phase == "phase2_2" else {}))
            seconds[phase] = time.perf_counter() - started
    each = ", ".join(f"{phase} {taken:.0f} s" for phase, taken in seconds.items())
    total = sum(seconds.values())
    print(f"slices_demo: {total:.0f} s ({each}); target 240 s: {verdict(total <= 240)}; load average before it {load:.1f}")


if __name__ == "__main__":
    main()
