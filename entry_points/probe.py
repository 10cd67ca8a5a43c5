"""Probe a registered encoder on a labelled table: `mlflow run . -e probe` or `python -m entry_points.probe`."""

from medexp.cli import main

if __name__ == "__main__":
    raise SystemExit(main("probe"))
