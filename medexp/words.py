"""Names and counts in a sentence."""

from collections.abc import Sequence

PATIENTS = ("patient", "patients")
"""What is resampled where a phase does not call it otherwise, one and several."""


def counted(count: int, what: str) -> str:
    """`1 case`, `2 cases`."""
    return f"{count} {what}" + ("" if count == 1 else "s")


def some(names: Sequence[str], most: int = 8) -> str:
    """The first names and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def listed(names: Sequence[str]) -> str:
    """All names: `a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
