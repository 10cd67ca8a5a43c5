"""Adapt a SwinUNETR encoder with LoRA: `mlflow run . -e phase1` or `python -m entry_points.phase1`."""

from medexp.cli import main

if __name__ == "__main__":
    raise SystemExit(main("phase1"))
