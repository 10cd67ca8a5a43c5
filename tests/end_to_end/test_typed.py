"""What README and docs tell a reader to type, typed in one home: each phase's commands in small, then those of `medexp`.

A command keeps its keys but for those that say how much there is of something; a reader's own files, such as FOLDER, are made
here. Commands that do the same with other settings are one run, which has all of them.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run

from medexp import console, phases, registry
from medexp.data.pairs.written import write_pairs
from medexp.data.volumes.phantoms import ensure_phantoms
from medexp.data.volumes.tables import COLUMNS, write_table
from medexp.models.autoencoder.network import Autoencoder
from tests.configured import run_phase
from tests.data.pairs.small_pairs import write_bids
from tests.data.pairs.test_written import DRAWN, drawn
from tests.data.scenarios.small_scenarios import write_images, write_lines
from tests.data.volumes.small_cases import save
from tests.gemma import tiny_gemma
from tests.phases.medgemma import small as medgemma
from tests.phases.oct.small import SMALL as OCT
from tests.phases.oct.small import participants, write_encoder, write_study
from tests.phases.phase7.small import LOW
from tests.phases.phase7.small import SMALL as PHASE7
from tests.phases.shared.image_runs import SMALL as IMAGES
from tests.phases.shared.image_runs import write_pictures, write_slices
from tests.runs import logged_table, store_in
from tests.small import ONE_EPOCH, PHASE1
from tests.typed import keys_of, run_console, typed

_FEW = {"bootstrap_samples": "100"}
_HEADS = {"phantoms.meningioma_patients": "8", "phantoms.glioma_patients": "8"}
_SLICES = IMAGES | {"phantoms.patients": "24", "phantoms.yes_images": "20", "phantoms.no_images": "20"}
_NETWORK = {"network.base_filters": "8"}
_UTILITY = {"utility.seeds": "2", "utility.steps": "2", "utility.channels": "[4,8]", "ablation.seeds": "0"}
_GIVEN = ("rank", "model", "scenarios", "image_dir")  # small settings of other tests that are no sizes
SMALL: dict[str, dict[str, object]] = {
    "prepare": {"data.jobs": "1", "pair_data.jobs": "1", **_HEADS},
    "phase1": PHASE1 | ONE_EPOCH,
    "probe": _FEW | _HEADS | {"jobs": "1", "folds": "2", "search.folds": "2"},
    "predict": _FEW | {"phantoms": "4", "data.jobs": "1"},
    "phase2_1": _SLICES | _NETWORK | {"training.epochs": "10", "training.lr_network": "0.01"},
    "phase2_2": _SLICES | _NETWORK | {"volumes.glioma_patients": "8", "volumes.meningioma_patients": "8"},
    "phase2_3": _SLICES | {"classifier": "models:/phase2_2_classifier/1"},
    "phase7": PHASE7 | LOW | _UTILITY | {"adapter": "models:/phase7_fcd_adapter/1"},
    "medgemma": medgemma.SMALL
    | {"adapter": "models:/medgemma_lora_adapter/1", "phantoms.training": "48", "phantoms.testing": "48"},
    "oct": OCT | {"phantoms.participants": "72", "seeds": "1", "train.epochs": "4"},
    "leaderboard": _FEW,
    "promote": _FEW,
    "recover": {"ladder": "ladder.yaml"},
    "sweep": {"trials": "1", "workers": "1", "confirm": "0"},
}
"""How much there is of something, by phase: people, networks, epochs, resamples; and version 1 of what is then no champion."""
SMALL = {phase: {key: value for key, value in keys.items() if key not in _GIVEN} for phase, keys in SMALL.items()}
FULL = {
    "phase1": {
        "network.feature_size": "12",
        "training.precision": "fp32",
        "training.workers": "0",
        "validation.min_dice_wt": "0.999",  # it fails, and is what is resumed and recovered
    },
    "phase7": {
        "data.spacing": "[5,5,5]",
        "data.input_size": "[32,40,24]",
        "network.num_channels": "[8,16]",
        "network.attention_levels": "[false,true]",
        "network.head_channels": "[0,8]",
        "network.norm_groups": "4",
    },
    "medgemma": {"training.precision": "fp32"},
}
"""The same of `profile=full`, whose networks and grids are those of a GPU."""
ALL_SMALL = {key for keys in SMALL.values() for key in keys}


LADDER = """
goal: val/final/dice_WT
mends: [TEST_2.5]
rungs: [{name: slower, why: half the rate, change: {training.lr_lora: {times: 0.5}}}]
remedies: {}
at_most: 0
"""
OF_ITS_OWN = (
    *("mode", "profile", "resume", "model", "phase"),
    *("data_dir", "kaggle_dir", "table", "scenarios", "pairs", "checkpoints"),
)
"""What makes a command another thing to do, and not another setting."""


def together(commands: list[str]) -> list[tuple[str, ...]]:
    """Commands of a phase that do one thing with other settings, which one run can have all of, typed as one."""
    groups: list[tuple[dict[str, str], list[str]]] = []
    for command in commands:
        _, given = keys_of(command) or ("", {})

        def takes(keys: dict[str, str], given: dict[str, str] = given) -> bool:
            same = all(keys.get(name) == given.get(name) for name in OF_ITS_OWN)
            return same and all(keys.get(name, value) == value for name, value in given.items() if name not in ALL_SMALL)

        for keys, group in groups:
            if takes(keys):
                keys.update(given)
                group.append(command)
                break
        else:
            groups.append((dict(given), [command]))
    return [tuple(group) for _, group in groups]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, empty_database: Path, small_base: Path) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(small_base, folder / "cache")
    with pytest.MonkeyPatch.context() as patch:
        store_in(folder, empty_database, patch)
        write_files(folder)
        yield folder


def write_files(home: Path) -> None:
    """What a reader has, under the names that the pages give it."""
    heads = sorted(ensure_phantoms("meningioma", 8, 3, home / "phantoms").iterdir())
    for head in heads:
        shutil.copytree(head, home / "data" / head.name)
    for head in ensure_phantoms("meningioma", 8, 4, home / "phantoms").iterdir():  # others than those of the table
        for file in head.iterdir():  # BraTS 2021 calls enhancing tumour 4
            image = nib.load(file)
            voxels = np.asarray(image.dataobj)
            voxels = np.where(voxels == 3, 4, voxels) if "seg" in file.name else voxels
            save(home / "brats_tcga" / head.name / file.name, voxels.astype(image.get_data_dtype()), image.affine)
    shutil.copytree(home / "data", home / "CASES", ignore=shutil.ignore_patterns("*-seg.nii.gz"))
    (base,) = home.glob("cache/medexp/bases/*/*.pt")
    shutil.copy(base, home / "finetuned_model_fold_0.pt")
    patients = sorted({head.name.rpartition("-")[0] for head in heads})
    split = dict(zip(patients, ("train", "test", "train", "train", "val", "val", "test", "test"), strict=True))
    rows = []
    for head in heads:
        patient = head.name.rpartition("-")[0]
        rows.append((head.name, f"data/{head.name}", "ab"[patients.index(patient) % 2], patient, split[patient]))
    write_table(pd.DataFrame(rows, columns=[*COLUMNS, "split"]), home / "TABLE.tsv")
    (home / "own.yaml").write_text("lora:\n  alpha: 32\n")

    write_slices(home / "slices")
    write_pictures(home / "pictures")
    shutil.copytree(home / "pictures" / "no", home / "PICTURES")
    for kind, tumour in {"no_tumor": "no", "glioma_tumor": "yes"}.items():
        shutil.copytree(home / "pictures" / tumour, home / "kinds" / kind)
    shutil.copytree(write_pictures(home / "more") / "yes", home / "kinds" / "meningioma_tumor")

    write_bids(home / "pairs", 12)
    write_bids(home / "HEALTHY", 12, roi=None)
    write_pairs(home / "SYNTHETIC", **drawn(2), synthetic=DRAWN)
    torch.save(Autoencoder((64, 128, 256), 4, 2, 32).vae.state_dict(), home / "autoencoder_v1.pt")

    tiny_gemma(home / "gemma")
    records = medgemma.scenarios(40)
    write_lines(home / "all.jsonl", records)
    write_lines(home / "new.jsonl", records[:4])
    write_images(home / "IMAGES", records)
    write_images(home / "images", records[:4])  # beside new.jsonl

    write_study(home / "volumes", participants(24))
    (home / "ladder.yaml").write_text(LADDER)
    for seed, name in enumerate("ABC"):
        write_encoder(home / f"{name}.pt", seed)
    (home / "cls_linear_probe.yaml").write_text("model:\n  freeze_encoder: true\n")


OWN = {
    "prepare": {
        "data_dir=FOLDER": "data",
        "pairs=FOLDER": "pairs",
        "scenarios=FILE.jsonl": "all.jsonl",
        "image_dir=FOLDER": "IMAGES",
    },
    "phase1": {"config=FILE": "own.yaml", "checkpoint=FILE": "finetuned_model_fold_0.pt"},
    "phase2_2": {"kaggle_dir=FOLDER": "kinds", "table=FILE.tsv": "TABLE.tsv"},
    "phase7": {
        "data_dir=FOLDER": "pairs",
        "data_dir=FOLDER,SYNTHETIC": "pairs,SYNTHETIC",
        "vae_scale=SCALE": "1.0",
        "augment_dir=SYNTHETIC": "drawn",
        "augment=64": "4",
    },
    "medgemma": {"model=google/medgemma-4b-it": "gemma", "model=FOLDER": "gemma"},
    "oct": {
        "data=FOLDER": "volumes",
        "labels=participants.tsv": "volumes/participants.tsv",
        "data=s3://BUCKET/PREFIX": "volumes",
    },
    "sweep": {"kaggle_dir=FOLDER": "pictures"},
}
"""A reader's own files, by phase and by what the pages put for them where they have no name of their own."""
TYPED = [(phase, group) for phase in SMALL for group in together(typed(phase))]


@pytest.fixture(scope="module")
def failed(home: Path) -> str:
    """A run of phase 1 whose checks failed: that of `profile=full`, where it has run, or one of its own."""
    if not failed_runs():
        assert run_phase("phase1", SMALL["phase1"], rank="2", validation__min_dice_wt="0.999") == 3
    return str(failed_runs()[0].info.run_id)


def test_every_phase_is_typed() -> None:
    """`main` is in test_main.py."""
    assert {*SMALL, "main"} == {name for name in phases.phases() if typed(name)}


@pytest.mark.parametrize(("phase", "commands"), TYPED, ids=[" and ".join(group) for _, group in TYPED])
def test_a_phase(
    home: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest, phase: str, commands: tuple[str, ...]
) -> None:
    given = {key: value for command in commands for key, value in (keys_of(command) or ("", {}))[1].items()}
    own, small = dict(OWN.get(phase, {})), dict(SMALL[phase])
    if given.get("profile") == "full":
        small |= FULL.get(phase, {})
    if phase == "sweep":
        small |= {key: value for key, value in SMALL[given["phase"]].items() if key not in ("bootstrap_samples", "shown")}
        small |= {"study": f"typed-{TYPED.index((phase, commands))}"}  # a study of its own: they search on other data
    if "RUN_ID" in given.values():
        own |= dict.fromkeys(("run=RUN_ID", "resume=RUN_ID"), request.getfixturevalue("failed"))
    if "runs" in given:
        own |= {"runs=[RUN1,RUN2]": f"[{','.join(two_of('oct'))}]"}
    keys = {key: own.get(f"{key}={value}", value) for key, value in given.items()}
    code = run_phase(phase, keys if "resume" in keys else keys | small)
    told = capsys.readouterr()
    assert code in (0, 3), told.err  # 3: it ran, and a bar is out of reach of what is so small


def ended(phase: str) -> list[Run]:
    """The runs of a phase that came to their end, also those whose checks failed, the newest first."""
    client = MlflowClient()
    found = client.get_experiment_by_name(phase)
    if found is None:
        return []
    runs = client.search_runs([found.experiment_id], order_by=["attributes.start_time DESC"])
    return [run for run in runs if "medexp.verdict" in run.data.tags]


def failed_runs() -> list[Run]:
    return [run for run in ended("phase1") if run.info.status == "FAILED"]


def two_of(phase: str) -> tuple[str, str]:
    """Two of them on the same data."""
    runs = ended(phase)
    digests = [run.data.tags["medexp.data_digest"] for run in runs]
    second, first, *_ = (run for run, digest in zip(runs, digests, strict=True) if digests.count(digest) > 1)
    return first.info.run_id, second.info.run_id


def console_commands() -> list[str]:
    """Those of `medexp`, but for the names of commands that take arguments and those of _ELSEWHERE."""
    takes = {name: any(param.required for param in command.params) for name, command in console.commands.commands.items()}
    whole = [one for one in typed("medexp") if len(words := one.split()) > 2 or not takes[words[1]]]
    return [one for one in whole if one.split()[1] not in _ELSEWHERE]


_ELSEWHERE = ("ui", "rollback")  # tests/browser looks at it; tests/test_console.py, where there was a champion before


@pytest.fixture(scope="module")
def names(home: Path) -> dict[str, str]:
    """What stands for a reader's own words, once the phases have run."""
    (first, second), run = two_of("phase1"), next(run for run in ended("phase1") if run.info.status == "FINISHED")
    versions = {
        one.tags["medexp.run"]: one.version for one in MlflowClient().search_model_versions("name = 'phase1_segmenter'")
    }
    ours, theirs = (f"phase1_segmenter/{versions[one]}" for one in (first, second))
    scores = pd.read_csv(registry.pull("models:/phase2_2_classifier/1").folder / "per_case.csv")
    scores.to_csv("theirs.csv", index=False)
    return {
        "RUN:lora_alone RUN:lora_alone": f"{first}:lora_alone {second}:lora_alone",
        "RUN": run.info.run_id,
        "CASE": logged_table(run, "per_case.csv")["case"][0],
        "MODEL": "phase1_segmenter@champion",
        **{f"{name}@champion": f"{name}/1" for name in ("phase2_2_classifier", "medgemma_lora_adapter")},
        "phase1_segmenter/1 phase1_segmenter/2": f"{ours} {theirs}",
        "A": ours,
        "B": theirs,
    }


@pytest.mark.parametrize("command", console_commands())
def test_the_console(home: Path, names: dict[str, str], capsys: pytest.CaptureFixture[str], command: str) -> None:
    code = run_console(command, names)
    told = capsys.readouterr()
    assert code in ((0, 3) if " promote " in command else (0,)), f"{command}\n{told.out[-2000:]}{told.err}"
