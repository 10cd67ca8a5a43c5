"""What does computing an OCT encoder's features once save? `python -m benchmarks.oct_probe`

Linear probes of three encoders, 50 epochs on the same volumes: the phase's own (each volume is read and embedded once, that
time included) against the loop that one would write, with the encoder in every epoch, on volumes that are in memory already.
At least 30 times as fast, and the same logits on the test volumes. (With a fifth of the people tested, 40 is the most.)

Then, with the volumes at hand, what share of the embedding the encoder waits for a volume (less than 10 %), and the peak of
the memory with 4 times as many volumes.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.sides import empty_home, in_turns, told, verdict
from medexp.cli import main as medexp
from medexp.config.shared import cache_root
from medexp.phases.oct.config import OctConfig

ROUNDS, EPOCHS = 1, 50
SHAPE = (32, 128, 128)
ENCODER = {"kind": "vit3d", "size": SHAPE, "patch": (4, 16, 16), "dim": 384, "depth": 8, "heads": 6}
ENCODERS = ("one", "two", "three")
PEOPLE = 20
_MEMORY = "MEDEXP_BENCHMARK_MEMORY"


def write(folder: Path, people: int) -> None:
    """A study of as many people, three fifths of whom are trained on, with one volume each; labels mean nothing."""
    from medexp.data.oct.labels import STUDY_GROUPS

    rows = ["person_id\tclinical_site\tstudy_group\trecommended_split\tretinal_oct"]
    rng = np.random.default_rng(0)
    for number in range(people):
        who, split = f"1{number:04d}", ("train", "test", "train", "val", "train")[number // 4 % 5]
        rows.append(f"{who}\tUW\t{STUDY_GROUPS[number % 4]}\t{split}\tTRUE")
        place = folder / "retinal_oct" / "Maestro2" / who
        place.mkdir(parents=True)
        bands = np.sin(np.linspace(0, 12 + number % 7, SHAPE[1]))[None, :, None]
        np.save(place / f"{who}_R.npy", (100 + 60 * bands + rng.normal(0, 25, SHAPE)).clip(0, 255).astype(np.uint8))
    (folder / "participants.tsv").write_text("\r\n".join(rows) + "\r\n")


def write_encoders(folder: Path) -> list[str]:
    """Encoders of initial weights: neither time nor equality depends on what they were trained on."""
    import torch

    from medexp.models.encoders import EncoderCard, write_card
    from medexp.models.kinds import build

    paths = []
    for seed, name in enumerate(ENCODERS):
        torch.manual_seed(seed)
        path = folder / f"{name}.pt"
        torch.save({"model_state_dict": build(ENCODER).state_dict()}, path)
        write_card(EncoderCard(dict(ENCODER), "zscore"), path)
        paths.append(str(path))
    return paths


def compare(config: OctConfig) -> None:
    from medexp.phases.oct import PHASE
    from medexp.phases.oct.heads import logits_of
    from medexp.phases.oct.recipe import Work, read, train
    from medexp.phases.shared.context import Context, context

    logits: dict[str, dict[str, np.ndarray]] = {"ours": {}, "plain": {}}

    def ours(ctx: Context[OctConfig]) -> float:
        shutil.rmtree(cache_root(config.cache_dir) / "embeddings", ignore_errors=True)
        shutil.rmtree(ctx.run.folder / "state", ignore_errors=True)
        started = time.process_time()
        work = read(ctx)
        trained = train(ctx, work)
        taken = time.process_time() - started
        for encoder in work.encoders:
            head = trained.heads[encoder.name][config.seed]
            (logits["ours"][encoder.name],) = logits_of(ctx, head.classifier, encoder, work.data, work.features(), "test")
        return taken

    def plain(work: Work) -> float:

        volumes = _in_memory(work)
        started = time.process_time()
        for encoder in work.encoders:
            logits["plain"][encoder.name] = _loop(encoder.net, volumes, work, config)
        return time.process_time() - started

    with context(PHASE, config) as ctx:
        work = read(ctx)  # once unmeasured: what is known of the volumes, imports
        measured = in_turns({"plain": partial(plain, work), "ours": partial(ours, ctx)}, ROUNDS)
    slow, fast = measured["plain"], measured["ours"]
    ratio = min(a / b for a, b in zip(slow, fast, strict=True))
    apart = max(float(np.abs(logits["ours"][name] - logits["plain"][name]).max()) for name in ENCODERS)
    print(
        f"oct_probe, {len(ENCODERS)} encoders, {EPOCHS} epochs, {len(work.data.manifest)} volumes of {SHAPE}, the encoder in "
        f"every epoch against features computed once, CPU time: {told(slow, fast)}; target 30: {verdict(ratio >= 30)}; "
        f"logits of the test volumes at most {apart:.2g} apart: {verdict(apart < 1e-3)}"
    )


def _in_memory(work: Any) -> Any:
    """All volumes as the encoders take them, read beforehand."""
    import torch

    from medexp.data.oct.datasets import prepared_scan

    cases = [work.data.cases[case] for case in work.data.manifest["case"]]
    return torch.stack([prepared_scan(case, work.encoders[0].preprocessing) for case in cases])


def _loop(net: Any, volumes: Any, work: Any, config: OctConfig) -> np.ndarray:
    """The loop that one would write: a linear head, AdamW, cosine with warm-up, the frozen encoder in every step."""
    import torch
    from monai.optimizers import WarmupCosineSchedule
    from torch.nn import functional

    from medexp.models.heads import head_on
    from medexp.training.losses import class_weights

    manifest = work.data.manifest
    rows = {split: np.flatnonzero(manifest["case"].isin(work.data.ids(split))) for split in ("train", "val", "test")}
    labels = torch.from_numpy(manifest["target"].to_numpy())
    torch.manual_seed(config.seed)
    head: Any = head_on(net.width, 4, "mean", 0, 0.0)
    size, train = config.data.batch_size, config.train

    @torch.inference_mode()
    def encoded(places: np.ndarray) -> Any:
        return torch.cat([net(volumes[places[start : start + size]]) for start in range(0, len(places), size)])

    head.standardise(encoded(rows["train"]))
    weight = class_weights(labels[rows["train"]].numpy(), np.ones(len(rows["train"])), 4, "balanced")
    optimizer = torch.optim.AdamW(head.parameters(), lr=train.lr_head, weight_decay=train.weight_decay)
    steps = -(-len(rows["train"]) // size)
    schedule = WarmupCosineSchedule(optimizer, train.warmup_epochs * steps, train.epochs * steps)
    for epoch in range(train.epochs):
        order = np.random.default_rng([config.seed, epoch]).permutation(len(rows["train"]))
        for start in range(0, len(order), size):
            places = rows["train"][order[start : start + size]]
            with torch.no_grad():
                features = net(volumes[places])
            loss = functional.cross_entropy(head(features), labels[places], weight)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(head.parameters(), train.grad_clip)
            optimizer.step()
            schedule.step()
        encoded(rows["val"])  # the validation of each epoch
    with torch.inference_mode():
        return np.asarray(head(encoded(rows["test"])))


def wait(config: OctConfig) -> None:
    """What share of the embedding the encoder waits, with its volumes described and at hand."""
    from medexp.evaluation import embeddings
    from medexp.phases.oct import PHASE
    from medexp.phases.oct.recipe import read
    from medexp.phases.shared.context import context

    waited = [0.0]
    ahead = embeddings.ahead

    def watched(calls: Any, jobs: int) -> Any:
        for coming in ahead(calls, jobs):
            started = time.perf_counter()
            coming.result()
            waited[0] += time.perf_counter() - started
            yield coming

    with context(PHASE, config) as ctx:
        work = read(ctx)
        shutil.rmtree(cache_root(config.cache_dir) / "embeddings", ignore_errors=True)
        embeddings.ahead = watched
        started = time.perf_counter()
        work.features()
        taken = time.perf_counter() - started
        embeddings.ahead = ahead
    if os.environ.get(_MEMORY):
        print(json.dumps({"mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
        return
    share = waited[0] / taken
    print(
        f"oct_probe, embedding {len(work.data.manifest)} volumes with 3 encoders: {taken:.1f} s, of which the encoder waits "
        f"{share:.1%}; target 10 %: {verdict(share < 0.1)}"
    )


def memory(home: Path, flags: list[str]) -> None:
    """The peak of a process that embeds so many volumes, and four times as many."""
    found = []
    for people in (PEOPLE, 4 * PEOPLE):
        folder = home / f"of_{people}"
        write(folder, people)
        command = [sys.executable, "-m", "benchmarks.oct_probe", "--memory", *flags, "--paths.data", str(folder)]
        root = str(Path(__file__).parents[1])
        env = os.environ | {_MEMORY: "1", "PYTHONPATH": root}
        out = subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout  # noqa: S603  # ours
        found.append(json.loads(next(line for line in out.splitlines() if line.startswith("{")))["mib"])
    print(
        f"oct_probe, memory: {found[0]:.0f} MiB for {PEOPLE} volumes, {found[1]:.0f} for {4 * PEOPLE}: "
        f"{verdict(found[1] < 1.05 * found[0])}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--memory", action="store_true")
    asked, rest = parser.parse_known_args()
    if asked.memory:
        medexp("oct", rest, run=wait)
    else:
        with empty_home() as home:
            write(home / "data", PEOPLE)
            flags = ["--paths.checkpoint_path", ",".join(write_encoders(home)), "--threads", "1", "--seeds=1"]
            flags += ["--train.epochs", str(EPOCHS), "--train.patience=0", "--model.head.dropout=0", "--data.batch_size=2"]
            flags += ["--data.val_batch_size=2", "--data.jobs=2"]
            medexp("oct", [*flags, "--paths.data", str(home / "data")], run=compare)
            medexp("oct", [*flags, "--paths.data", str(home / "data")], run=wait)
            memory(home, flags)
