"""The embedded demo data: brain volumes with tumours, written as the BraTS folders that the readers of real data take;
slices of them; and pictures with and without a tumour, as a Kaggle folder has them."""

from medexp.data.phantoms.images import ensure_kaggle, ensure_slices
from medexp.data.phantoms.write import ensure_phantoms

PATIENT_PATTERN = r"^(BraTS-[A-Za-z]+-\d+)-\d+$"  # of the folders' names: collection and patient, then the time point

__all__ = ["PATIENT_PATTERN", "ensure_kaggle", "ensure_phantoms", "ensure_slices"]
