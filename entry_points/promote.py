"""Make a version the champion: `mlflow run . -e promote`, `medexp promote` or `python -m entry_points.promote`."""

from medexp.cli import main

if __name__ == "__main__":
    raise SystemExit(main("promote"))
