"""The embedded base, which several processes may want at once."""

from pathlib import Path

from tests.configured import configured
from tests.phases.phase1.pretraining import wants_the_base
from tests.small import PHASE1
from tests.studies.at_work import all_at_once

SMALL = PHASE1 | {"data.spacing": "[6, 6, 9]"}


def test_of_two_processes_that_want_the_same_base_one_trains_it(tmp_path: Path) -> None:
    first, second = all_at_once(2, wants_the_base, configured("phase1", SMALL), tmp_path)
    assert first == second
    assert len(list((tmp_path / "bases").iterdir())) == 1
