"""A registered model on new files: masks, probabilities or features, and, where a truth lies beside them, scores."""

from medexp.phases import Phase, from_recipe
from medexp.phases.predict.config import PredictConfig

PHASE = Phase(
    "predict",
    PredictConfig,
    "medexp.phases.predict.recipe",
    checks=("PREDICT_CASES", "LEAK"),
    goes_on=True,
)
__getattr__ = from_recipe(PHASE)
