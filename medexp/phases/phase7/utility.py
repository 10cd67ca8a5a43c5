"""mode=utility: is a segmenter better for synthetic pairs?"""

from collections.abc import Callable
from typing import Any

from medexp.errors import ConfigError
from medexp.phases.phase7.config import Phase7Config
from medexp.phases.shared.context import Context


def utility(ctx: Context[Phase7Config], work: Any, train: Callable[..., Any]) -> None:
    """Not there yet."""
    raise ConfigError("mode=utility: is not there yet")
