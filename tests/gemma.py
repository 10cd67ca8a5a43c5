"""A Gemma 3 of a few thousand parameters, made in a moment, for whoever tests what is built on such a folder."""

from pathlib import Path

from medexp.models.vision_language.tiny import Sizes, write_tiny

MICRO = Sizes(
    image=16, patch=4, image_tokens=4, vision_dim=8, vision_layers=1, vision_heads=2, dim=16, layers=2, heads=2, vocabulary=300
)


def tiny_gemma(folder: Path, seed: int = 0) -> Path:
    """The folder of one: random weights, and a tokenizer to which nothing is unknown."""
    return write_tiny(folder, ["ERROR - CORRECT - The picture shows a nodule; a biopsy is proposed."] * 2, seed, MICRO)
