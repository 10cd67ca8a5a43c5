"""What need not be trained twice, and what a summary says first."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medexp.data.volumes.prepared import PreparedVolumes, prepare_volumes
from medexp.data.volumes.regions import REGIONS
from medexp.evaluation.intervals import Interval
from medexp.phases.phase1 import PHASE
from medexp.phases.phase1.arms import ARMS, EFFECTS, trained_once
from medexp.phases.phase1.config import Phase1Config
from medexp.phases.phase1.features import Attribution
from medexp.phases.phase1.pretrained import Base
from medexp.phases.phase1.reach import Reach
from medexp.phases.phase1.report import Judged, figures_of, summary
from medexp.phases.shared.context import Context, context
from medexp.phases.shared.folds import Evidence
from medexp.reporting import NullReporter
from medexp.tracking.figures import reach_bars
from medexp.tracking.runs import TrackedRun
from medexp.training.loop import FitResult
from tests.configured import configured
from tests.data.volumes.small_cases import write_case

BASE = Base({}, "base.pt", "the base's digest")
BETTER, SAME = Interval(0.1, 0.05, 0.2, 9), Interval(0.01, -0.1, 0.1, 9)


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cases")
    for number in range(4):
        write_case(folder, f"BraTS-MEN-{number:05d}-000", seed=number)
    return folder


@contextmanager
def a_run(folder: Path, cases: Path, **changed: object) -> Iterator[tuple[Context[Phase1Config], PreparedVolumes]]:
    given = {"data_dir": cases, "cache_dir": cases.parent / "cache", "threads": 1, "data.jobs": 1}
    config = configured("phase1", given, **changed)
    with context(PHASE, config, TrackedRun("", folder, NullReporter())) as ctx:
        yield ctx, prepare_volumes(config)


def state_of(folder: Path, cases: Path, base: Base = BASE, **changed: object) -> str | None:
    """What a run finds of the decoder-only arm when it begins; it leaves its folder's name there."""
    with a_run(folder, cases, **changed) as (ctx, data), trained_once(ctx, data, base, "control"):
        state = folder / "state" / "control" / "last.pt"
        found = state.read_text() if state.is_file() else None
        state.parent.mkdir(parents=True, exist_ok=True)
        state.write_text(found or folder.name)
    return found


def test_the_control_is_trained_once_for_all_adapters_and_anew_for_all_else(cases: Path, tmp_path: Path) -> None:
    folders = (tmp_path / f"run_{number}" for number in range(20))
    first = next(folders)
    assert state_of(first, cases) is None
    same = [{"rank": 32}, {"lora__target_stages": "[1]"}, {"training__lr_lora": 1e-5}, {"aux_heads__enabled": "false"}]
    assert {state_of(next(folders), cases, **changed) for changed in same} == {first.name}
    other = [{"training__lr_decoder": 1e-5}, {"training__epochs": 9}, {"seed": 1}, {"data__val_fraction": 0.5}]
    assert {state_of(next(folders), cases, **changed) for changed in other} == {None}
    assert state_of(next(folders), cases, Base({}, "base.pt", "another digest")) is None


def test_an_interrupted_run_goes_on_with_its_own_state(cases: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    (folder / "state" / "control").mkdir(parents=True)
    (folder / "state" / "control" / "last.pt").write_text("half done")
    assert state_of(folder, cases, seed=7) == "half done"
    assert state_of(tmp_path / "other", cases, seed=7) == "half done"  # which in the end was trained


def judged(reach: Reach, over_mean_mask: Interval) -> Judged:
    rows = [{"arm": arm, "case": "c", "patient": "p"} | {f"dice_{region}": 0.5 for region in REGIONS} for arm in ARMS]
    fitted = FitResult(pd.DataFrame(), 1, 1, 0.5, np.full((1, 1), 0.5), ["p"], False, "dice", "maximize")
    measures = ("dice", *(f"dice_{region}" for region in REGIONS), "probe_r2")
    effects = {measure: dict.fromkeys(EFFECTS, BETTER) for measure in measures}
    means = {arm: {f"{grid}dice_{region}": 0.5 for grid in ("", "native_") for region in REGIONS} for arm in ARMS}
    gains = {"mean_mask": over_mean_mask, "baseline": BETTER}
    added = Attribution(effects, {}, {}, {}, pd.DataFrame())
    scores = {arm: {"dice_TC": BETTER, "dice_WT": BETTER} for arm in ARMS}  # no case holds ET
    return Judged(pd.DataFrame(rows), means, scores, {}, added, gains, reach, {"lora": fitted}, Evidence(()))


def carried(logits: float) -> Reach:
    row = {"stages": "3-4", "targeted": True, "logits": logits} | {f"dice_{region}": 0.0 for region in REGIONS}
    return Reach(pd.DataFrame([{**row, "stages": "1", "targeted": False, "logits": 0.2}, row]), (3, 4), 4)


def test_what_keeps_the_figures_from_meaning_anything_is_said_first_and_nothing_else_is(cases: Path, tmp_path: Path) -> None:
    with a_run(tmp_path, cases) as (ctx, _):
        assert summary(ctx, judged(carried(0.5), BETTER)).first == []
        (first,) = summary(ctx, judged(carried(0.001), BETTER)).first
        assert first.startswith("Adapters in stages 3, 4 cannot change the segmentation") and "target_stages=[1]" in first
        (first,) = summary(ctx, judged(carried(0.5), SAME)).first
        assert first.startswith("The trained network is no better in Dice than the mean mask") and "frozen base" not in first
        assert len(summary(ctx, judged(carried(0.0), SAME)).first) == 2


def test_a_card_has_the_own_dice_first_and_says_which_region_no_case_holds() -> None:
    figures = figures_of(judged(carried(0.5), BETTER))
    own = [f"validation Dice {region}, LoRA + decoder" for region in REGIONS]
    assert [*figures][: len(own) + 1] == [*own, "what LoRA added"]
    assert [figures[name] for name in own] == ["no case holds it" if region == "ET" else str(BETTER) for region in REGIONS]
    assert [*figures][-1].endswith("mean mask of the training cases")


def test_a_picture_of_the_reach_shows_every_set_of_stages() -> None:
    table = carried(0.1).table.assign(dice_ET=math.nan)
    figure = reach_bars(table)
    figure.canvas.draw()
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["1", "3-4*"]
