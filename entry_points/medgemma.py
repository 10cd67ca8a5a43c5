"""LoRA on a medical vision-language model: `mlflow run . -e medgemma` or `python -m entry_points.medgemma`."""

from medexp.cli import main

if __name__ == "__main__":
    raise SystemExit(main("medgemma"))
