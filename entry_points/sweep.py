"""Search the settings of a phase: `mlflow run . -e sweep -P phase=phase1` or `python -m entry_points.sweep`."""

from medexp.cli import main
from medexp.phases.sweep.config import SweepConfig

if __name__ == "__main__":
    raise SystemExit(main("sweep", SweepConfig, "medexp.studies.sweep:run"))
