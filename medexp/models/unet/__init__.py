"""The multi-task U-Net for images, and its encoder alone."""

from medexp.models.kinds import ONLY, Architecture, Kind, Spec, Specs, noise


def _images(architecture: Architecture) -> Specs:
    return {ONLY: Spec("float32", (-1, architecture["in_channels"], -1, -1))}


KINDS = {
    "unet_encoder": Kind(
        network="medexp.models.unet.network:UNetEncoder",
        inputs=_images,
        outputs=lambda given: {ONLY: Spec("float32", (-1, given["base_filters"] * 2 ** given["depth"]))},
        example=noise,
    ),
    "multitask": Kind(
        network="medexp.models.unet.network:MultiTaskModel",
        inputs=_images,
        outputs=lambda given: {
            "seg": Spec("float32", (-1, 1, -1, -1)),
            "cls": Spec("float32", (-1, given["classes"])),
        },
        example=noise,
    ),
}
