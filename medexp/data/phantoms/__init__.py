"""The embedded demo data: brain volumes with tumours, written as the BraTS folders that the readers of real data take."""

from medexp.data.phantoms.write import ensure_phantoms

__all__ = ["ensure_phantoms"]
