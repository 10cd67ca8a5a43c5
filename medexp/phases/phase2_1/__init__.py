"""Phase 2.1: segmentation warm-up of the multi-task U-Net."""

from medexp.phases import Phase, from_recipe
from medexp.phases.phase2_1.config import Phase2_1Config

PHASE = Phase(
    "phase2_1",
    Phase2_1Config,
    "medexp.phases.phase2_1.recipe",
    checks=("TWINS", "P2_1-PARAMETERS", "P2_1-DICE"),
    revision=4,
    next={"phase2_1_multitask": "mlflow run . -e phase2_2   # trains a classification head on it"},
)
__getattr__ = from_recipe(PHASE)
