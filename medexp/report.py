"""A saved run's leaderboard, drawn anew: `medexp report RUN`."""

import re
from pathlib import Path

from medexp.errors import ConfigError
from medexp.evaluation.leaderboard import Leaderboard
from medexp.phases.shared.leaderboard import redraw
from medexp.tracking.past import find_run
from medexp.tracking.reporter import FolderReporter


def report(given: str, output: Path) -> Leaderboard:
    """Write all tables, pictures and the page of a run's leaderboard, from what the run kept.

    Args:
        given: A run by id or name, or a file or folder in a run's folder, such as `outputs/RUN/encoders/NAME/best.ckpt`.
        output: Folder that they are written to.

    Raises:
        ConfigError: There is no such run.
        DataError: The run kept no leaderboard, or what it kept is damaged.
        StorageError: The folder cannot be written, or the store does not answer.
    """
    return redraw(find_run(_run_of(given)).id, given, FolderReporter(output.expanduser()))


def _run_of(given: str) -> str:
    """The run that a file was made in: one of its folders has the run's id for a name."""
    if "/" not in given and not given.endswith(".ckpt"):
        return given
    path = Path(given).expanduser().absolute()
    for folder in (path, *path.parents):
        if re.fullmatch("[0-9a-f]{32}", folder.name):
            return folder.name
    if path.exists():
        raise ConfigError(f"{given}: lies in no run's folder; give OUTPUT_DIR/RUN/encoders/NAME/best.ckpt, or the run's id")
    return given
