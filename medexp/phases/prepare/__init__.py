"""Check a data folder, split it by patient, cache semantic features and write the manifest; or check and split scenarios or
pairs."""

from medexp.phases import Phase, from_recipe
from medexp.phases.prepare.config import PrepareConfig

PHASE = Phase(
    "prepare",
    PrepareConfig,
    "medexp.phases.prepare.recipe",
)
__getattr__ = from_recipe(PHASE)
