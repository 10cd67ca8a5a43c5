"""Phase 2.3: joint fine-tuning in alternating batches."""

from medexp.phases import Phase, from_recipe
from medexp.phases.phase2_3.config import Phase2_3Config

PHASE = Phase(
    "phase2_3",
    Phase2_3Config,
    "medexp.phases.phase2_3.recipe",
    checks=("TWINS", "LEAK", "P2_3-DICE", "P2_3-ACCURACY", "P2_3-GAIN", "SHORTCUT", "CONTROLS"),
    revision=4,
)
__getattr__ = from_recipe(PHASE)
