"""Search the settings of a phase: `mlflow run . -e sweep -P phase=phase1` or `python -m entry_points.sweep`."""

from medexp.cli import main

if __name__ == "__main__":
    raise SystemExit(main("sweep"))
