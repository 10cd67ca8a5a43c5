"""What runs from end to end have in common."""

from pathlib import Path

import pytest

from medexp.phases.phase1.pretrained import pretrained
from medexp.phases.shared.launch import start_accelerator
from tests.configured import configured
from tests.small import PHASE1


@pytest.fixture(scope="session")
def small_base(for_all_workers: Path) -> Path:
    """A user's cache that holds the small phase 1's base: pretrained once, by the first worker that asks. To be copied."""
    cache = for_all_workers / "small_base"
    pretrained(configured("phase1", PHASE1), start_accelerator("cpu", 1), cache / "medexp")
    return cache
