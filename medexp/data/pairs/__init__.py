"""Pairs: a patient's FLAIR volume and the binary mask of its lesion."""
