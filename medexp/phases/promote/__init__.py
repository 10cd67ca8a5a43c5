"""Move the champion of a registered model, when its policy supports it."""

from medexp.phases import Phase, from_recipe
from medexp.phases.promote.config import PromoteConfig

PHASE = Phase(
    "promote",
    PromoteConfig,
    "medexp.phases.promote.recipe",
    checks=("PROMOTE_CHECKS", "PROMOTE_DATA", "PROMOTE_CASES", "PROMOTE_POLICY"),
)
__getattr__ = from_recipe(PHASE)
