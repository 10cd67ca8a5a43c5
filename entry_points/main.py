"""The pipeline: `mlflow run . -e main` or `python -m entry_points.main`."""

from medexp.cli import main

if __name__ == "__main__":
    raise SystemExit(main("main"))
