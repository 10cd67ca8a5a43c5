"""The failures that medexp names. Each message says what was found, what is allowed and what to do next.

Anything else that is raised is a defect of medexp and keeps its traceback.
"""

from collections.abc import Sequence


class MedexpError(Exception):
    """A failure with a message for the person at the terminal; `exit_code` is the process's.

    Attributes:
        run: Id of the run that it ended; None where it ended none.
    """

    exit_code = 2
    run: str | None = None


class ConfigError(MedexpError):
    """A flag, a key or a configuration file that cannot be used."""


class UnfitValues(ConfigError):
    """Values that a search proposed and that make no configuration: that trial fails, others may fit."""

    exit_code = 3


class DataError(MedexpError):
    """A data folder, case, split file or label table that cannot be used."""


class CheckpointError(MedexpError):
    """A weights file that is unsafe, unreadable or does not fit the network, key by key."""


class RegistryError(MedexpError):
    """A registered model, alias, version or package that cannot be used."""


class StorageError(MedexpError):
    """A folder that cannot be written, a full disk, or a tracking store that does not answer."""


class TrainingDiverged(MedexpError):
    """A loss, or what a network makes of a case, that is not finite: the settings, not the input, are at fault."""

    exit_code = 3


class OutOfMemory(MedexpError):
    """The device, or the machine, has less memory than the settings ask for."""

    exit_code = 3


class CheckFailed(MedexpError):
    """A BLOCKING check failed: the run is kept with all it logged, and nothing is promoted."""

    exit_code = 3


class Pruned(MedexpError):
    """A trial that is not worth going on with; its run is kept as far as it came."""

    exit_code = 3


def all_problems(subject: str, problems: Sequence[str], advice: str = "") -> str:
    """One message for all problems of an input: one line for one problem, a list for several.

    Args:
        subject: What was read, such as the path of a folder or of a file.
        problems: At least one problem; each names the file, flag or key.
        advice: What to do next.
    """
    if not problems:
        raise ValueError("all_problems needs at least one problem")
    if len(problems) == 1:
        stop = "" if problems[0].endswith((".", "?", "!")) else "."
        return f"{subject}: {problems[0]}" + (f"{stop} {advice}" if advice else "")
    lines = "".join(f"\n  - {problem}" for problem in problems)
    return f"{subject}: {len(problems)} problems{lines}{chr(10) + advice if advice else ''}"
