"""The embedded base, which several processes may want at once."""

from pathlib import Path

from medexp.cli import main
from medexp.phases.phase1.config import Phase1Config
from tests.phases.phase1.pretraining import wants_the_base
from tests.studies.at_work import all_at_once

SMALL = {
    "phantoms.glioma_patients": "4",
    "data.spacing": "[6, 6, 9]",
    "network.window_size": "2",
    "base.epochs": "2",
    "threads": "1",
}
held: list[Phase1Config] = []


def hold(config: Phase1Config) -> None:
    held.append(config)


def test_of_two_processes_that_want_the_same_base_one_trains_it(tmp_path: Path) -> None:
    assert main("phase1", [f"--{key}={value}" for key, value in SMALL.items()], run=hold) == 0
    first, second = all_at_once(2, wants_the_base, held.pop(), tmp_path)
    assert first == second
    assert len(list((tmp_path / "bases").iterdir())) == 1
