"""Vision-language networks of Hugging Face's transformers: an image and a text go in, a text comes out."""

from medexp.models.kinds import Kind

KINDS: dict[str, Kind] = {}
