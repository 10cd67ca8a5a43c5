"""How long until something is seen? `python -m benchmarks.startup`

The help of an entry point against an interpreter that does nothing (target: at most 1 s), and the first lines of `mlflow run
. -e phase1` on a terminal, with an empty store and an empty cache (target: at most 10 s from the start of mlflow to the
first line of the phase). The run is ended as soon as its first progress bar has been drawn. And what the console asks the
registry against a program that does nothing but import mlflow and ask the same store (target: at most 1.3 times as long).
"""

import os
import pty
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.sides import ROOT, empty_home, in_turns, told, verdict

CONSOLE = (["models"], ["lineage", "m/1"], ["impact", "m", "1"], ["audit"])
MEDEXP = "import sys; from medexp.console import main; sys.exit(main())"
ASK = "from mlflow import MlflowClient; c = MlflowClient(); c.search_experiments(max_results=1); c.search_registered_models()"
LINES = {"line": rb"medexp phase1: profile", "progress bar": rb"Writing meningioma phantoms"}


def seconds_of(*arguments: str) -> float:
    """Wall time of one call of this Python."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)  # noqa: S603  fixed arguments
    return time.perf_counter() - started


def console_against_mlflow(rounds: int = 5) -> None:
    """Whole processes, in turns, on a store with one version."""
    from mlflow import MlflowClient

    with empty_home():
        client = MlflowClient()
        client.create_registered_model("m")
        client.create_model_version("m", "file:///nowhere")
        sides = {" ".join(words): partial(seconds_of, "-c", MEDEXP, *words) for words in CONSOLE}
        measured = in_turns({"plain": partial(seconds_of, "-c", ASK), **sides}, rounds)
    for name in sides:
        ratio = median(measured[name]) / median(measured["plain"])
        print(f"startup, medexp {name}: {verdict(ratio <= 1.3)}; {told(measured[name], measured['plain'])}")


def seconds_to_lines(folder: Path) -> dict[str, float]:
    """Seconds from the start of `mlflow run` until a terminal shows each of LINES; the run is ended then."""
    command = [sys.executable, "-m", "mlflow", "run", str(ROOT), "-e", "phase1", "-P", f"output_dir={folder / 'outputs'}"]
    screen, terminal = pty.openpty()
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=terminal, stderr=terminal, start_new_session=True)  # noqa: S603  fixed arguments
    os.close(terminal)
    seen = b""
    shown: dict[str, float] = {}
    try:
        while len(shown) < len(LINES):
            seen += os.read(screen, 65536)
            now = time.perf_counter() - started
            shown |= {name: now for name, line in LINES.items() if name not in shown and re.search(line, seen)}
    except OSError:  # the terminal's other end is closed: the run ended before it came so far
        print(f"startup, mlflow run: it ended early:\n{seen.decode(errors='replace')}")
        shown = dict.fromkeys(LINES, float("nan")) | shown
    finally:
        end_group(process, screen)
    return shown


def end_group(process: subprocess.Popen[bytes], screen: int) -> None:
    """End `mlflow run` with all that it started, and wait until none of it holds the terminal any more."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
    try:
        while os.read(screen, 65536):
            pass
    except OSError:
        pass  # closed: all have ended
    os.close(screen)
    process.wait()


def main() -> None:
    console_against_mlflow()
    helps = in_turns(
        {"help": lambda: seconds_of("-m", "entry_points.phase1", "--help"), "pass": lambda: seconds_of("-c", "pass")},
        rounds=11,
    )
    seconds = median(helps["help"])
    print(f"startup, --help: {seconds:.2f} s, target 1 s: {verdict(seconds <= 1)}; {told(helps['help'], helps['pass'])}")
    runs = []
    for _ in range(3):
        with empty_home() as folder:
            runs.append(seconds_to_lines(folder))
    first, bar = (median(run[name] for run in runs) for name in LINES)
    print(
        f"startup, mlflow run: {first:.1f} s to the first line, target 10 s: {verdict(first <= 10)}; {bar:.1f} s to the first "
        f"progress bar; empty store and cache, median of {len(runs)}"
    )


if __name__ == "__main__":
    main()
