"""Train the multi-task U-Net to segment slices: `mlflow run . -e phase2_1` or `python -m entry_points.phase2_1`."""

from medexp.cli import main

if __name__ == "__main__":
    raise SystemExit(main("phase2_1"))
