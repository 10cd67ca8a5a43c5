"""Adapt a SwinUNETR encoder with LoRA: `mlflow run . -e phase1` or `python -m entry_points.phase1`."""

from medexp.cli import main
from medexp.phases.phase1.config import Phase1Config

if __name__ == "__main__":
    raise SystemExit(main("phase1", Phase1Config, "medexp.phases.phase1.recipe:run"))
