"""Runs on the same data in one leaderboard: `mlflow run . -e leaderboard` or `python -m entry_points.leaderboard`."""

from medexp.cli import main

if __name__ == "__main__":
    raise SystemExit(main("leaderboard"))
