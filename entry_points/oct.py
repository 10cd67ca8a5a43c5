"""Compare pretrained OCT encoders: `mlflow run . -e oct` or `python -m entry_points.oct`."""

from medexp.cli import main

if __name__ == "__main__":
    raise SystemExit(main("oct"))
