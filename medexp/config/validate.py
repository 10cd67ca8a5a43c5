"""What is wrong with a configuration."""

import dataclasses
from typing import Any


def problems_of(config: Any, prefix: str = "") -> list[str]:
    """All problems of a configuration and of the blocks in it, each with its dotted key first."""
    found = [f"{prefix}{problem}" for problem in config.problems()]
    for field in dataclasses.fields(config):
        block = getattr(config, field.name)
        if dataclasses.is_dataclass(block):
            found += problems_of(block, f"{prefix}{field.name}.")
    return found
