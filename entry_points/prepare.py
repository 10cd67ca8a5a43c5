"""Check and describe a data folder: `mlflow run . -e prepare` or `python -m entry_points.prepare`."""

from medexp.cli import main

if __name__ == "__main__":
    raise SystemExit(main("prepare"))
