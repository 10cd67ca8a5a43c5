"""Which version stands behind an alias, and why."""

from dataclasses import dataclass

from mlflow import MlflowClient

from medexp.registry.definitions import Definition
from medexp.registry.store import Registered


@dataclass(frozen=True)
class Nominated(Registered):
    """A registered version with the aliases that it was given.

    Attributes:
        aliases: `candidate` when its checks passed; `champion` too when there was none and the policy lets the first one in.
    """

    aliases: tuple[str, ...]


def nominate(made: Registered, definition: Definition, verdict: str, run_id: str) -> Nominated:
    """Give a new version the aliases that it has earned."""
    client = MlflowClient()
    aliases: tuple[str, ...] = ()
    if verdict == "PASSED" and definition.promotion is not None:
        present = client.get_registered_model(made.name).aliases
        aliases = ("candidate",) if "champion" in present else ("candidate", "champion")
    for alias in aliases:
        client.set_registered_model_alias(made.name, alias, made.version)
    return Nominated(made.name, made.version, made.digest, made.weights_digest, aliases)
