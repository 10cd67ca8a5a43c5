"""The embedded demo data: brain volumes with tumours, written as the BraTS folders that the readers of real data take;
slices of them; and pictures with and without a tumour, as a Kaggle folder has them."""

from medexp.data.phantoms.images import ensure_kaggle, ensure_slices
from medexp.data.phantoms.write import PATIENT_PATTERN, ensure_phantoms

__all__ = ["PATIENT_PATTERN", "ensure_kaggle", "ensure_phantoms", "ensure_slices"]
