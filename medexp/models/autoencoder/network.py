"""MAISI's variational autoencoder, with the scale of its latents.

Guo et al., "MAISI: Medical AI for Synthetic Imaging" (2024); Rombach et al., "High-Resolution Image Synthesis with Latent
Diffusion Models" (2022).
"""

from collections.abc import Sequence
from pathlib import Path

from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi
from torch import Tensor, nn

from medexp.models.checkpoints import load_state, load_weights
from medexp.models.convolutions import by_onednn

FACTOR = 4
"""How many voxels of a volume lie along one of its latent."""

MAISI = {"channels": (64, 128, 256), "latent_channels": 4, "num_res_blocks": 2, "norm_groups": 32}


class Autoencoder(nn.Module):
    """A volume and its latent.

    Args:
        channels: Widths of the levels; three, so that a latent has a quarter of the size.
        latent_channels: Channels of a latent.
        num_res_blocks: Residual blocks a level.
        norm_groups: Groups of the group norms; divides each width.
        scale_factor: What latents are multiplied by: one over their standard deviation, as latent diffusion has it.
    """

    def __init__(
        self,
        channels: Sequence[int] = (8, 16, 32),
        latent_channels: int = 4,
        num_res_blocks: int = 1,
        norm_groups: int = 4,
        scale_factor: float = 1.0,
    ) -> None:
        super().__init__()
        if len(channels) != 3:
            raise TypeError(f"channels: found {len(channels)} levels; three give latents of a quarter of the size")
        self.latent_channels, self.scale_factor = latent_channels, scale_factor
        self.vae = AutoencoderKlMaisi(
            spatial_dims=3,
            in_channels=1,
            out_channels=1,
            num_res_blocks=[num_res_blocks] * len(channels),
            num_channels=list(channels),
            attention_levels=[False] * len(channels),
            latent_channels=latent_channels,
            norm_num_groups=norm_groups,
            num_splits=1,  # MAISI's cuts of large volumes; they change values at the cuts
            save_mem=False,
        )
        by_onednn(self)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the standard deviation of the latents of volumes, before scaling; what the autoencoder is
        trained by.

        Args:
            x: (B, 1, X, Y, Z) in [0, 1]; sizes are multiples of FACTOR.

        Returns:
            Both (B, C, X / FACTOR, Y / FACTOR, Z / FACTOR).
        """
        mean, sigma = self.vae.encode(x)
        return mean, sigma.log()

    def encode(self, x: Tensor) -> Tensor:
        """Latents (B, C, X / FACTOR, ...) of volumes (B, 1, X, Y, Z) in [0, 1]: the posterior's mean times the scale."""
        return self.posterior(x)[0] * self.scale_factor

    def decode(self, z: Tensor) -> Tensor:
        """Volumes (B, 1, X, Y, Z) of latents (B, C, X / FACTOR, ...); about [0, 1], not clipped."""
        return self.vae.decode(z / self.scale_factor)

    def forward(self, x: Tensor) -> Tensor:
        """Volumes (B, 1, X, Y, Z) as they come back from their latents."""
        return self.decode(self.encode(x))


def load_maisi(path: Path, scale_factor: float) -> Autoencoder:
    """MAISI's own autoencoder.

    Args:
        path: Its file, .pt or .safetensors.
        scale_factor: Of its latents; MAISI keeps it in the file of the diffusion network.

    Raises:
        CheckpointError: There is no such file, it would run code, or its keys are not those of MAISI's autoencoder.
    """
    autoencoder = Autoencoder(**MAISI, scale_factor=scale_factor)  # type: ignore[arg-type]
    load_weights(autoencoder.vae, load_state(path), str(path), "Give the autoencoder's file, not the diffusion network's.")
    return autoencoder.eval()
