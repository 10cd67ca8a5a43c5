"""transformers' V-JEPA 2 encoder, whose positions are rotary."""

from medexp.models.kinds import ONLY, Kind, Recognised, Spec, Tensors, noise


def _recognise(weights: Tensors) -> Recognised | None:
    """By its names. Rotary positions leave no trace in weights: the size stands in config.json or in a card."""
    from medexp.models.transformer import said_by

    key = "embeddings.patch_embeddings.proj.weight"
    if key not in weights or weights[key].ndim != 5:
        return None
    said, inferred = said_by(weights, key, "layer")
    said |= {"in_channels": weights[key].shape[1], "qkv_bias": "layer.0.attention.query.bias" in weights}
    if (first := weights.get("layer.0.mlp.fc1.weight")) is not None:
        said["mlp_ratio"] = len(first) / said["dim"]
    return Recognised({"kind": "vjepa2"} | said, inferred)


KINDS = {
    "vjepa2": Kind(
        network="medexp.models.vjepa2.network:VJepa2",
        inputs=lambda given: {ONLY: Spec("float32", (-1, 1, *given["size"]))},
        outputs=lambda given: {ONLY: Spec("float32", (-1, given["dim"]))},
        example=noise,
        requirements=("transformers",),
        recognise=_recognise,
    ),
}
