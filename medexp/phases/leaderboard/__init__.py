"""Any set of runs that were judged on the same data, in one leaderboard."""

from medexp.phases import Phase, from_recipe
from medexp.phases.leaderboard.config import LeaderboardConfig

PHASE = Phase(
    "leaderboard",
    LeaderboardConfig,
    "medexp.phases.leaderboard.recipe",
    checks=("LEADERBOARD-DATA",),
    units=("participant", "participants"),
)
__getattr__ = from_recipe(PHASE)
