"""Volumes from a bucket: fetched for the first time against plain parallel boto3 downloads, and again against a local read.

python -m benchmarks.storage
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from medexp.data.storage import place
from tests import s3

VOLUMES, SIZE, THREADS, ROUNDS = 48, 4_000_000, 8, 5


def seconds(work: Callable[[], object]) -> float:
    before = time.perf_counter()
    work()
    return time.perf_counter() - before


def one_round(client: Any, there: s3.Prefix, folder: Path, pool: ThreadPoolExecutor) -> tuple[float, float]:
    """How fast fetching is against boto3, and how long reading fetched files takes against reading local ones."""
    (folder / "plain").mkdir(parents=True)
    asked = place(there.uri, folder / "cache")
    entries = asked.entries()
    files = [folder / "plain" / entry.key for entry in entries]

    def download(file: Path) -> None:
        client.download_file(s3.BUCKET, f"volumes/{file.name}", str(file))

    theirs = seconds(lambda: list(pool.map(download, files)))
    ours = seconds(lambda: list(pool.map(asked.fetch, entries)))

    def read_local() -> int:
        return sum(len(file.read_bytes()) for file in files)

    def read_cached() -> int:
        return sum(len(asked.fetch(entry).read_bytes()) for entry in entries)

    assert read_local() == read_cached() == VOLUMES * SIZE
    local, cached = zip(*((seconds(read_local), seconds(read_cached)) for _ in range(5)), strict=True)
    print(f"boto3 {theirs:.2f} s, ours {ours:.2f} s; local {min(local):.3f} s, cached {min(cached):.3f} s")
    return theirs / ours, statistics.median(cached) / statistics.median(local)


def main() -> None:
    with tempfile.TemporaryDirectory() as where, pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(THREADS) as pool:
        root = Path(where)
        server = s3.Server(root / "server")
        server.start()
        try:
            client = server.client()
            client.create_bucket(Bucket=s3.BUCKET)
            s3.environment(patch, server.endpoint)
            there = s3.Prefix(server, client, "volumes")
            there.put_all({f"{number:03}.npy": os.urandom(SIZE) for number in range(VOLUMES)})
            rounds = [one_round(client, there, root / str(turn), pool) for turn in range(ROUNDS)]
        finally:
            server.kill()
    cold, warm = zip(*rounds, strict=True)
    for called, ratios, target in (("speed, cold", cold, "at least 0.8"), ("time, warm", warm, "at most 1.1")):
        print(f"{called}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}); target {target}")


if __name__ == "__main__":
    main()
