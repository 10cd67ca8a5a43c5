"""LoRA on a MeanFlow U-Net, drawing FLAIR with lesion masks: `mlflow run . -e phase7` or `python -m entry_points.phase7`."""

from medexp.cli import main

if __name__ == "__main__":
    raise SystemExit(main("phase7"))
