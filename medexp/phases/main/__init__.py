"""The pipeline: prepare, phase1, promote, probe."""

from medexp.phases import Phase, from_recipe
from medexp.phases.main.config import MainConfig

PHASE = Phase(
    "main",
    MainConfig,
    "medexp.studies.pipeline",
    goes_on=True,
)
__getattr__ = from_recipe(PHASE)
