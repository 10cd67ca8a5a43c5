"""Do ranks of LoRA differ by more than seeds of training, and would another epoch have been the better one to keep?

Trains phase 1's arms on the demo's data from the shipped base, at several ranks with several seeds each, and judges the
validation cases after every epoch. All figures of all cases go to a table, after every training, and a second call trains only
what is missing there; `--only-tell` trains nothing. `docs/demo.md` and `docs/epochs.md` have what came out.

    python -m benchmarks.ranks ranks.csv --ranks 1 8 32 --seeds 0 1 2 3 4
    python -m benchmarks.ranks both.csv --ranks 8 --decoder training.epochs=6
"""

import argparse
import itertools
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.demo_reach import DICE, features, score, train
from benchmarks.epoch_rules import SEGMENTING, Training
from medexp.arrays import Array
from medexp.cli import configuration
from medexp.config.shared import Resampling, cache_root, resampling
from medexp.data.volumes.datasets import evaluation_dataset
from medexp.data.volumes.prepared import prepare_volumes
from medexp.evaluation.intervals import Band, Scatter, band_by_patient
from medexp.evaluation.regression import r2_gains, ridge
from medexp.phases.phase1.config import Phase1Config
from medexp.phases.phase1.pretrained import load_base, network
from medexp.phases.shared.launch import start_accelerator

TRAINING = ["decoder", "rank", "seed"]
FIGURES = [*DICE, "dice", "r2"]
RULES = ("best Dice", "best loss")
HALVINGS = 200


def fill(path: Path, config: Phase1Config, ranks: Sequence[int], seeds: Sequence[int], decoder: bool) -> None:
    """Train what is missing in the table: a row a training, epoch (from 1; 0 is the base) and case; R2 after the last one."""
    accelerator, cache = start_accelerator("cpu", 1), cache_root(config.cache_dir)
    base, data = load_base(config, accelerator, cache), prepare_volumes(config)
    held_out = evaluation_dataset(data, "val", config.data, cache)
    patients = {split: [data.cases[case].patient for case in data.ids(split)] for split in ("train", "val")}
    truth = {split: np.array([data.facts[case].semantic for case in data.ids(split)]) for split in ("train", "val")}

    def predicted(net: Any) -> Any:
        there, new = features(net, data, config, accelerator, cache)
        return ridge(there, truth["train"], patients["train"], new)

    frozen = network(config, base).eval()
    read_frozen = predicted(frozen)
    tables = [pd.read_csv(path, dtype={"case": str, "patient": str})] if path.is_file() else []
    if not tables:
        tables.append(
            score(config, frozen, held_out, accelerator).reset_index().assign(decoder=False, rank=0, seed=0, epoch=0)
        )
        tables[0]["patient"] = patients["val"]
    done = {tuple(row) for table in tables for row in table[TRAINING].drop_duplicates().to_numpy().tolist()}
    for seed in seeds:
        for rank in ranks:
            if (decoder, rank, seed) in done:
                continue
            of_arm = replace(config, seed=seed, lora=replace(config.lora, rank=rank, alpha=2 * rank))
            epochs: list[pd.DataFrame] = []

            def look(net: Any, epoch: int, of_arm: Phase1Config = of_arm, epochs: list[pd.DataFrame] = epochs) -> None:
                epochs.append(score(of_arm, net, held_out, accelerator).reset_index().assign(epoch=epoch + 1))

            start = time.process_time()
            net = train(of_arm, base, data, True, decoder, accelerator, cache, look)
            epochs[-1]["r2"] = r2_gains(truth["val"], predicted(net), read_frozen)
            rows = pd.concat(epochs).assign(decoder=decoder, rank=rank, seed=seed)
            rows["patient"] = patients["val"] * len(epochs)
            tables.append(rows)
            pd.concat(tables).to_csv(path, index=False)
            course = ", ".join("/".join(f"{value:.3f}" for value in rows[DICE].mean()) for rows in epochs)
            said = f"rank {rank}{' + decoder' if decoder else ''} seed {seed}: TC/WT/ET {course}; R2 {rows['r2'].mean():+.3f}"
            print(f"{said}; {time.process_time() - start:.0f} CPU-s", flush=True)


def read(path: Path) -> pd.DataFrame:
    """The table, with `dice`, the mean over the regions that a case holds."""
    table = pd.read_csv(path, dtype={"case": str, "patient": str})
    return table.assign(dice=table[DICE].mean(axis=1))


def band(values: Array, patients: Sequence[str], drawn: Resampling, *, at_once: bool = False) -> Band:
    """Intervals of means that hold patients and seeds: the patients' bootstrap of the means over seeds, and beside it how far
    the seeds' own means scatter.

    Args:
        values: (two seeds or more, cases, figures); NaN where a case lacks the figure, in all alike.
        patients: Patient of each case.
        drawn: How patients are resampled.
        at_once: Whether all figures' intervals are to hold at once.
    """
    held = np.isfinite(values).all(axis=0)
    means = np.where(held, values.mean(axis=0), 0)

    def statistic(weights: Array) -> Array:
        return weights @ means / (weights @ held)

    seeds, by_seed = len(values), np.nanmean(values, axis=1)
    error = by_seed.std(axis=0, ddof=1) / seeds**0.5
    beyond = Scatter(error, np.full(error.shape, seeds - 1))
    return band_by_patient(statistic, patients, drawn, at_once=at_once, beyond=beyond)


def tell_ranks(table: pd.DataFrame, drawn: Resampling) -> None:
    """What each rank gains over the base, and by what ranks differ from one another, seed by seed."""
    base = table[table["epoch"] == 0].set_index("case")
    last = table[table["epoch"] == table["epoch"].max()]
    patients = base["patient"].tolist()
    seeds = [seed for seed, rows in last.groupby("seed") if len(set(rows["rank"])) == len(set(last["rank"]))]
    if len(seeds) < 2 or len(set(last["rank"])) < 2:
        print("ranks are compared where there are several, with two seeds or more of each")
        return
    gains = {}
    for rank, rows in last[last["seed"].isin(seeds)].groupby("rank"):
        of_seeds = [one.set_index("case").loc[base.index, FIGURES] for _, one in rows.groupby("seed")]
        gains[rank] = np.stack(of_seeds) - base.assign(r2=0.0)[FIGURES].to_numpy()
    there = f"{len(base)} cases of {len(set(patients))} patients, seeds {', '.join(map(str, seeds))}"
    print(f"\nover the frozen base, {there}; SD of the seeds behind each")
    lines = []
    for rank, values in gains.items():
        found, scatter = band(values, patients, drawn), np.nanmean(values, axis=1).std(axis=0, ddof=1)
        figures = {name: f"{found.at(at).as_gain}; {scatter[at]:.3f}" for at, name in enumerate(FIGURES)}
        lines.append({"rank": rank} | figures)
    print(pd.DataFrame(lines).to_string(index=False))
    pairs = list(itertools.combinations(gains, 2))
    lines = [{"ranks": f"{more} less {less}"} for less, more in pairs]
    for at, name in enumerate(FIGURES):
        differences = np.stack([(gains[more] - gains[less])[..., at] for less, more in pairs], axis=-1)
        found = band(differences, patients, drawn, at_once=True)
        for place, line in enumerate(lines):
            one = found.at(place)
            told = (
                "differs" if one.above or one.below else f"not told apart, {one.seen_at(found.confidence):.3f} would be seen"
            )
            line[name] = f"{one.as_gain} {told}"
        means = np.stack([np.nanmean(values[..., at], axis=1) for values in gains.values()])
        ranks, within = means.mean(axis=1).std(ddof=1), np.sqrt(means.var(axis=1, ddof=1).mean())
        print(f"{name}: SD of the ranks' means {ranks:.4f}, of the seeds within a rank {within:.4f}")
    print("differences, paired by case and seed; the three of a figure hold at once")
    print(pd.DataFrame(lines).to_string(index=False), flush=True)


def tell_epochs(table: pd.DataFrame, drawn: Resampling) -> None:
    """What an epoch that half of the validation patients choose has on the other half, less the last epoch."""
    trained = table[table["epoch"] > 0]
    first = trained[trained["epoch"] == 1].drop_duplicates("case")
    cases, patients = first["case"].tolist(), first["patient"].to_numpy()
    names = np.unique(patients)
    rng = np.random.default_rng(drawn.seed)
    halves = [np.isin(patients, rng.permutation(names)[: len(names) // 2]) for _ in range(HALVINGS)]
    epochs = np.arange(trained["epoch"].max())
    by_training: list[Array] = []
    chosen: dict[str, list[int]] = {name: [] for name in RULES}
    for _, rows in trained.groupby(TRAINING):
        in_order = rows.sort_values("epoch").groupby("case", sort=False)
        dice, ce = (np.stack([in_order[name].get_group(case) for case in cases], axis=1) for name in ("dice", "ce"))
        gains = np.zeros((len(cases), len(RULES), 2))
        for half in halves:
            val = {"dice": dice[:, half].mean(axis=1), "loss": ce[:, half].mean(axis=1)}
            for place, name in enumerate(RULES):
                epoch = int(SEGMENTING[name](Training(val, {"epoch": epochs}, (), lambda _: {}))["epoch"])
                chosen[name].append(epoch + 1)
                for at, scores in enumerate((dice, ce)):
                    gains[~half, place, at] += (scores[epoch] - scores[-1])[~half]
        judged = sum((~half).astype(float) for half in halves)
        by_training.append(gains / np.reshape(judged, (-1, 1, 1)))
    values = np.stack(by_training)
    told = band(values.reshape(*values.shape[:2], -1), patients.tolist(), drawn)
    course = trained.groupby("epoch")[[*DICE, "dice", "ce"]].mean()
    print(f"\n{len(values)} trainings; mean course")
    print(course.round(4).to_string())
    print(f"chosen by half of the patients, judged by the others ({HALVINGS} halvings): less the last epoch")
    lines = []
    for place, name in enumerate(RULES):
        gained = [told.at(2 * place + at).as_gain for at in (0, 1)]
        counts = np.bincount(chosen[name], minlength=len(epochs) + 1)[1:] / len(chosen[name])
        shares = "/".join(f"{share:.2f}" for share in counts)
        lines.append({"rule": name, "Dice": gained[0], "cross-entropy": gained[1], "epochs chosen": shares})
    print(pd.DataFrame(lines).to_string(index=False), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="what was trained, as CSV; made where it is not there")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--decoder", action="store_true", help="train the decoder too")
    parser.add_argument("--only-tell", action="store_true")
    parser.add_argument("settings", nargs="*", help="keys of phase 1, as KEY=VALUE")
    given = parser.parse_args()
    config: Phase1Config = configuration("phase1", [f"--{setting}" for setting in given.settings])
    if not given.only_tell:
        fill(given.table, config, given.ranks, given.seeds, given.decoder)
    table = read(given.table)
    tell_ranks(table, resampling(config))
    tell_epochs(table, resampling(config))


if __name__ == "__main__":
    main()
