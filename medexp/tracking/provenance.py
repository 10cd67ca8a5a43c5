"""What a run was made with: the configuration, the environment and the state of the code."""

import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

import medexp
from medexp.config.keys import flat, nested
from medexp.files import dump_yaml


def config_yaml(config: Any) -> str:
    """A configuration (a dataclass) as YAML that `--config` reads back."""
    return dump_yaml(nested(config))


def flat_params(config: Any) -> dict[str, str]:
    """A configuration as MLflow params: dotted keys, each value at most 500 characters (config.yaml holds all of it)."""
    return {key: str(list(value) if isinstance(value, tuple) else value)[:500] for key, value in flat(config).items()}


def environment(config: Any) -> dict[str, Any]:
    """The machine and what runs on it, as `environment.json` holds it."""
    accelerators = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        accelerators.append("Apple MPS")
    return {
        "medexp": medexp.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cpu_count": os.cpu_count(),
        "accelerators": accelerators,
        "device": _device(getattr(config, "device", "cpu")),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "seed": config.seed,
    }


def _device(asked: str) -> str:
    """What `auto` comes to, as Accelerate takes it."""
    if asked != "auto":
        return asked
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


@functools.cache
def installed_packages() -> str:
    """All installed distributions with their versions, as a requirements file."""
    found = {dist.name: dist.version for dist in importlib.metadata.distributions() if dist.name}
    return "".join(f"{name}=={found[name]}\n" for name in sorted(found, key=str.lower))


def git_state() -> tuple[str, str] | None:
    """Commit of the checkout that medexp runs from and what is not committed in it; None where there is no such checkout.

    Returns:
        The commit's hash, and `git status --short` followed by the difference to the commit, empty when all is committed.
    """
    package = Path(medexp.__file__).parent
    # An environment inside somebody else's checkout is not that checkout's code: the package itself has to be tracked.
    if (
        _git(package, "ls-files", "--error-unmatch", "__init__.py") is None
        or (commit := _git(package, "rev-parse", "HEAD")) is None
    ):
        return None
    status, changes = _git(package, "status", "--short"), _git(package, "diff", "HEAD")
    return commit.strip(), f"{status}\n{changes}" if status else ""


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=True)  # noqa: S603  fixed arguments
    except (OSError, subprocess.CalledProcessError):
        return None  # no git on this machine, or no checkout
    return done.stdout
