"""Configuration of leaderboard."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from medexp.config.keys import Role
from medexp.config.shared import CacheDir, Confidence, Device, OutputDir, Profile, Samples, Seed, Threads


@dataclass(frozen=True)
class LeaderboardConfig:
    """Compare all that was judged in a set of runs on the same data: the encoders of oct, and any other phase's classifiers.

    Args:
        profile: demo or full; both read runs alone.
        runs: The runs, by id or name: [RUN1,RUN2], or with commas between them; a name that holds a comma by its id. Without
            any the latest run of oct that ended well, and all earlier ones on the same data.
        seed: Seed of the resamples.
    """

    profile: Profile
    runs: Annotated[tuple[str, ...], Role.CASES]
    bootstrap_samples: Samples
    confidence: Confidence
    output_dir: OutputDir
    cache_dir: CacheDir
    seed: Seed
    device: Device
    threads: Threads

    @property
    def named(self) -> list[str]:
        """The runs, one by one, each once."""
        return list(dict.fromkeys(one.strip() for given in self.runs for one in given.split(",") if one.strip()))

    def problems(self) -> Iterator[str]:
        if self.runs and not self.named:
            yield f"runs: found {list(self.runs)}; give ids or names of runs, or leave it out"
