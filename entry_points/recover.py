"""Recover from a failed run: `mlflow run . -e recover` or `python -m entry_points.recover`."""

from medexp.cli import main

if __name__ == "__main__":
    raise SystemExit(main("recover"))
