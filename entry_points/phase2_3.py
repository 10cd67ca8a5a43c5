"""Train segmentation and classification together: `mlflow run . -e phase2_3` or `python -m entry_points.phase2_3`."""

from medexp.cli import main

if __name__ == "__main__":
    raise SystemExit(main("phase2_3"))
