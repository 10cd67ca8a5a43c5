"""The embedded pairs: heads with focal cortical dysplasia and without, written as the BIDS folders that readers of real data
take."""

from medexp.data.pairs.phantoms.write import ensure_pairs

__all__ = ["ensure_pairs"]
