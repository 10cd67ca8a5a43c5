"""Phase 2.2: a classification head on a frozen encoder."""

from medexp.phases import Phase, from_recipe
from medexp.phases.phase2_2.config import Phase2_2Config

PHASE = Phase(
    "phase2_2",
    Phase2_2Config,
    "medexp.phases.phase2_2.recipe",
    checks=("TWINS", "LEAK", "P2_2-FROZEN", "P2_2-CHECKPOINTS", "P2_2-ACCURACY", "P2_2-MAJORITY", "SHORTCUT", "CONTROLS"),
    revision=3,
    next={"phase2_2_classifier": "mlflow run . -e phase2_3   # trains all of it together"},
)
__getattr__ = from_recipe(PHASE)
