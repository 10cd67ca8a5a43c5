"""A registered model on new files: `mlflow run . -e predict` or `python -m entry_points.predict`."""

from medexp.cli import main

if __name__ == "__main__":
    raise SystemExit(main("predict"))
