"""What the pipeline's steps are, what one passes to the next, and what is said at the end."""

import os
from dataclasses import replace

from medexp.config.shared import Configuration
from medexp.errors import ConfigError
from medexp.phases.main.config import MainConfig
from medexp.phases.shared.steps import Made, Step
from medexp.registry.promotion import champion_of

ENCODER = "phase1_encoder_merged"


def steps(config: MainConfig) -> list[Step]:
    """Prepare, phase1, promote and probe: what phase1 registers is promoted, and the champion is probed.

    Raises:
        ConfigError: Several processes were started.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise ConfigError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']}: main runs in one process. Leave the launcher out, or start phase1 "
            "alone with it"
        )

    def promotion(made: Made) -> Configuration:
        return replace(config.promote, version=int(version_of(made)))

    return [
        Step("prepare", lambda made: config.prepare),
        Step("phase1", lambda made: config.phase1),
        Step("promote", promotion, holds=lambda made: champion_of(ENCODER)[1] == version_of(made)),
        Step("probe", lambda made: config.probe),
    ]


def version_of(made: Made) -> str:
    """The version of the encoder that phase1 registered."""
    names = (one.partition("/") for one in made["phase1"].registered or ())
    return next(version for name, _, version in names if name == ENCODER)


def last_lines(made: Made) -> list[str]:
    """What came out, and what to do next besides looking at the run."""
    return [
        f"Champion: {ENCODER} version {version_of(made)}",
        "Next, what is registered:    medexp models",
        f"Next, where it comes from:   medexp lineage models:/{ENCODER}@champion",
    ]
