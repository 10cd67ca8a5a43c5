"""Climb a phase's recovery ladder."""

from medexp.phases import Phase, from_recipe
from medexp.phases.recover.config import RecoverConfig

PHASE = Phase(
    "recover",
    RecoverConfig,
    "medexp.studies.recovery",
    goes_on=True,
)
__getattr__ = from_recipe(PHASE)
