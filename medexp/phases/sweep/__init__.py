"""Search the settings of a phase with Optuna."""

from medexp.phases import Phase, from_recipe
from medexp.phases.sweep.config import SweepConfig

PHASE = Phase(
    "sweep",
    SweepConfig,
    "medexp.studies.sweep",
    studies=True,
    goes_on=True,
)
__getattr__ = from_recipe(PHASE)
