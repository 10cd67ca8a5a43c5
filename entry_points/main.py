"""The pipeline: `mlflow run . -e main` or `python -m entry_points.main`."""

from medexp.cli import main
from medexp.phases.main.config import MainConfig

if __name__ == "__main__":
    raise SystemExit(main("main", MainConfig, "medexp.studies.pipeline:run"))
