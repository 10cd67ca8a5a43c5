"""Phase 1: adapt a SwinUNETR encoder with LoRA."""

from medexp.phases import Diagnosis, Phase, from_recipe
from medexp.phases.phase1.config import Phase1Config

PHASE = Phase(
    "phase1",
    Phase1Config,
    "medexp.phases.phase1.recipe",
    checks=(
        "TWINS",
        "REACH",
        "TEST_2.1",
        "TEST_2.2",
        "TEST_2.3",
        "TEST_2.4",
        "TEST_2.5",
        "TEST_2.6",
        "CONTROLS",
        "ATTRIBUTION",
    ),
    revision=3,
    next={"phase1_segmenter": "mlflow run . -e predict -P model=models:/phase1_segmenter@champion -P input=FOLDER"},
    diagnosis=Diagnosis(
        curves=("train/loss", "train/grad_norm", "val/dice_WT"),
        scores="dice_",
        arm="lora",
        picture="overlays/lora/{case}/final.png",
        drawn_by="validation.overlays",
    ),
)
__getattr__ = from_recipe(PHASE)
