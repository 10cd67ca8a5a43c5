"""Train a classification head on a frozen encoder: `mlflow run . -e phase2_2` or `python -m entry_points.phase2_2`."""

from medexp.cli import main

if __name__ == "__main__":
    raise SystemExit(main("phase2_2"))
