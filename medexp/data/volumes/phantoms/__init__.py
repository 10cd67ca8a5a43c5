"""The embedded volumes: brains with tumours, written as the BraTS folders that the readers of real data take."""

from medexp.data.volumes.phantoms.write import PATIENT_PATTERN, ensure_phantoms

__all__ = ["PATIENT_PATTERN", "ensure_phantoms"]
