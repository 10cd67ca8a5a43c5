"""The embedded demo data: brain volumes with tumours, written as the BraTS folders that the readers of real data take."""

from medexp.data.phantoms.write import ensure_phantoms

PATIENT_PATTERN = r"^(BraTS-[A-Za-z]+-\d+)-\d+$"  # of the folders' names: collection and patient, then the time point

__all__ = ["PATIENT_PATTERN", "ensure_phantoms"]
