"""The embedded OCT volumes: retinas of four groups, written as AI-READI's folders are."""

from medexp.data.oct.phantoms.write import ensure_oct_phantoms

__all__ = ["ensure_oct_phantoms"]
