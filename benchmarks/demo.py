"""How long does the demo take, and how much memory? `python -m benchmarks.demo`

`mlflow run . -e main` as a user starts it, from start to result, with an empty store and an empty cache: phantoms are made,
the base is shipped. Targets: at most 5 minutes of wall time and 3 GB. Memory is that of mlflow and all the processes
below it: their resident sets, added up five times a second; pages that processes share count in each of them, so it is an
upper bound. It has no plain alternative to be compared with. It uses two threads, as the demo's profile says; CPU time that
is well above half of the wall time on two cores, with a load average above zero before the start, says that others had the
cores.
"""

import resource
import subprocess
import sys
import time
from contextlib import suppress

import psutil

from benchmarks.sides import ROOT, empty_home, verdict


def resident(root: psutil.Process) -> int:
    """Bytes in the resident sets of a process and of all below it."""
    total = 0
    for process in [root, *root.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):  # it ended between the list and the look
            total += process.memory_info().rss
    return total


def main() -> None:
    with empty_home() as folder:
        output = folder / "output.txt"
        command = [sys.executable, "-m", "mlflow", "run", str(ROOT), "-e", "main", "-P", f"output_dir={folder / 'outputs'}"]
        peak, load = 0, psutil.getloadavg()[0]
        with output.open("wb") as file:
            started = time.perf_counter()
            with psutil.Popen(command, stdout=file, stderr=subprocess.STDOUT) as process:
                while process.poll() is None:
                    peak = max(peak, resident(process))
                    time.sleep(0.2)
            seconds = time.perf_counter() - started
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        if process.returncode:
            print(f"demo: not measured, it ended with exit code {process.returncode}:\n{output.read_text()[-3000:]}")
            return
    print(
        f"demo: {seconds:.0f} s, target 300 s: {verdict(seconds <= 300)}; {peak / 1e9:.2f} GB in all processes, target 3 GB: "
        f"{verdict(peak <= 3e9)}; {used.ru_utime + used.ru_stime:.0f} s of CPU time; load average before it {load:.1f}"
    )


if __name__ == "__main__":
    main()
