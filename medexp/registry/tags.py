"""The tag by which a run, or a version, says which models it was built on."""

from collections.abc import Mapping
from typing import NamedTuple

UPSTREAM = "medexp.upstream."
TRAINED_ON, PHANTOMS = "medexp.trained_on", "medexp.phantoms"
"""Tags of a version: the data that its weights were trained on, and whether these are embedded ones, yes or no."""
CHAMPION_OF = "medexp.champion"
"""Tag of a run: the models whose champion is a version that it made."""
MADE_ON_PHANTOMS = "Made on phantoms: it says nothing about patients."
"""What the card of a model says whose weights were trained on embedded data."""


class Upstream(NamedTuple):
    """What a tag says.

    Attributes:
        name: Name of the model.
        version: Its version; None where it is not registered.
        digest: Digest of its package; of its weights where it is not registered.
    """

    name: str
    version: str | None
    digest: str


def upstream_tag(name: str, version: str | None, digest: str) -> dict[str, str]:
    """The tag that says of a run, or of a version, which model it was built on.

    Args:
        name: Name of the model.
        version: Its version; None where it is not registered.
        digest: Digest of its package; of its weights where it is not registered.
    """
    return {f"{UPSTREAM}{name}": f"{version or 'unregistered'} {digest}"}


def upstream(tags: Mapping[str, str]) -> list[Upstream]:
    """What all tags of a run, or of a version, say that it was built on, by name."""
    found = []
    for key, value in sorted(tags.items()):
        if key.startswith(UPSTREAM):
            version, _, digest = value.partition(" ")
            found.append(Upstream(key.removeprefix(UPSTREAM), version if version.isdecimal() else None, digest))
    return found


def on_phantoms(tags: Mapping[str, str], description: str | None) -> bool:
    """Whether a version's own weights were trained on embedded data. Of one without the tag its card tells, as far as it does.

    Args:
        tags: Of the version.
        description: Of the version, which holds its card.
    """
    told = tags.get(PHANTOMS)
    return told == "yes" if told else MADE_ON_PHANTOMS in (description or "")
