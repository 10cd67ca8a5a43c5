"""Phase 7: LoRA on a MeanFlow U-Net for joint synthesis of FLAIR volumes and masks of focal cortical dysplasia."""

from medexp.phases import Phase, from_recipe
from medexp.phases.phase7.config import Phase7Config

PHASE = Phase(
    "phase7",
    Phase7Config,
    "medexp.phases.phase7.recipe",
    checks=(
        "TWINS",
        "LEAK",
        "P7-T1",
        "P7-T2",
        "P7-T3",
        "P7-T4",
        "P7-T5",
        "P7-T6",
        "P7-T7",
        "P7-PULL",
        "P7-COPIES",
        "P7-COUPLING",
        "P7-MASKS",
        "P7-IMAGES",
        "P7-DRAWN",
        "P7-BASE",
        "P7-HALF",
        "P7-LEARNED",
    ),
    next={
        "phase7_fcd_adapter": "mlflow run . -e phase7 -P mode=sample -P adapter=models:/phase7_fcd_adapter@champion "
        "-P augment=64",
    },
)
__getattr__ = from_recipe(PHASE)
