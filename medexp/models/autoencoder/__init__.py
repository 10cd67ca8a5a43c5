"""The variational autoencoder of MAISI: volumes to latents of a quarter of their size, and back."""

from medexp.models.kinds import ONLY, Architecture, Kind, Spec, Specs, noise


def _volumes(_: Architecture) -> Specs:
    return {ONLY: Spec("float32", (-1, 1, -1, -1, -1))}


KINDS = {
    "autoencoder_kl": Kind(
        network="medexp.models.autoencoder.network:Autoencoder",
        inputs=_volumes,
        outputs=_volumes,
        example=noise,
    ),
}
