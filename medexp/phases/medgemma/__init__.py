"""MedGemma: LoRA on the decoder of a medical vision-language model, judged beside what needs no image."""

from medexp.phases import Phase, from_recipe
from medexp.phases.medgemma.config import MedgemmaConfig

PHASE = Phase(
    "medgemma",
    MedgemmaConfig,
    "medexp.phases.medgemma.recipe",
    checks=(
        "TWINS",
        "LEAK",
        "MEDGEMMA-DATA",
        "MEDGEMMA-PARAMETERS",
        "MEDGEMMA-IMAGES",
        "MEDGEMMA-FROZEN",
        "MEDGEMMA-LOSS",
        "MEDGEMMA-MERGE",
        "MEDGEMMA-ACCURACY",
        "MEDGEMMA-POSITIVE",
        "MEDGEMMA-NEGATIVE",
        "MEDGEMMA-MODALITIES",
        "MEDGEMMA-BASE",
        "MEDGEMMA-IMAGE-USED",
        "SHORTCUT",
        "CONTROLS",
    ),
    revision=2,
    units=("family", "families"),
    next={
        "medgemma_lora_adapter": "mlflow run . -e predict -P model=models:/medgemma_lora_adapter@champion -P input=NEW.jsonl",
    },
)
__getattr__ = from_recipe(PHASE)
