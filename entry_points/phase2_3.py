"""Train segmentation and classification together: `mlflow run . -e phase2_3` or `python -m entry_points.phase2_3`."""

from medexp.cli import main
from medexp.phases.phase2_3.config import Phase2_3Config

if __name__ == "__main__":
    raise SystemExit(main("phase2_3", Phase2_3Config, "medexp.phases.phase2_3.recipe:run"))
