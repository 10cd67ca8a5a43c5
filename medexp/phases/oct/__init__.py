"""OCT: several pretrained 3D encoders compared on one classification task, under one protocol."""

from medexp.phases import Phase, from_recipe
from medexp.phases.oct.config import OctConfig

PHASE = Phase(
    "oct",
    OctConfig,
    "medexp.phases.oct.recipe",
    checks=(
        "TWINS",
        "LEAK",
        "OCT-DATA",
        "OCT-VOLUMES",
        "OCT-EMBEDDING",
        "OCT-OVERFIT",
        "OCT-COLLAPSE",
        "OCT-MAJORITY",
        "SHORTCUT",
        "CONTROLS",
    ),
    revision=2,
    units=("participant", "participants"),
    next={
        "oct_classifier": "mlflow run . -e predict -P model=models:/oct_classifier@champion -P input=FOLDER",
    },
)
__getattr__ = from_recipe(PHASE)
