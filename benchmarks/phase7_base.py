"""Makes the base that is shipped for phase7's demo anew: `python -m benchmarks.phase7_base`

Where the phantoms, the networks or the recipe change, the shipped one is no longer of the demo's key
(tests/phases/phase7/test_pretrained.py says so); this trains VAE and U-Net and puts them in the place of the old ones, in ten
minutes of an idle core, and says what both reach on heads that they did not see. Other hardware takes sums in another order:
there the weights come out close to these, not the same.
"""

import shutil
import time
from pathlib import Path

from benchmarks.sides import empty_home


def main() -> None:
    with empty_home() as folder:
        from medexp.phases.phase7.pretrained import SHIPPED, key, pretrain

        start = time.process_time()
        pretrain(folder / "new" / key(), folder / "cache", jobs=2)
        spent = time.process_time() - start
        shutil.rmtree(SHIPPED, ignore_errors=True)
        shutil.copytree(folder / "new" / key(), SHIPPED / key())
        print(f"phase7_base: {spent:.0f} CPU-s beside the drawing, in {SHIPPED / key()}")
        print(_reached(folder / "cache"))


def _reached(cache: Path) -> str:
    """Of the shipped base: what pairs keep through the VAE, and how far samples lie from heads that were not seen."""
    import numpy as np
    import torch
    from torch import Tensor

    from medexp.data.pairs.find import find_pairs
    from medexp.data.pairs.phantoms import ensure_pairs
    from medexp.data.pairs.read import load_pair
    from medexp.evaluation.synthesis import contrast
    from medexp.models.meanflow.joint import Joint
    from medexp.models.meanflow.sampling import noise, sample
    from medexp.phases.phase7.pretrained import GRID, RECIPE, demo_base, healthy

    def apart(one: Tensor, other: Tensor) -> float:
        """Unbiased energy distance between volumes, as a root mean square of voxels."""
        a, b = one.flatten(1), other.flatten(1)
        within = sum(float(torch.cdist(part, part).sum()) / (len(part) * (len(part) - 1)) for part in (a, b))
        return (2 * float(torch.cdist(a, b).mean()) - within) / a.shape[1] ** 0.5

    base = demo_base()
    found = find_pairs([ensure_pairs("fcd", 64, RECIPE.seed, cache)], GRID)
    pairs = [load_pair(case, GRID) for case in found.cases]
    images = torch.from_numpy(np.stack([pair.image for pair in pairs]))
    masks = torch.from_numpy(np.stack([pair.mask for pair in pairs])).float()
    half = len(images) // 2
    joint = Joint.fit(base.joint.vae, images[:half], masks[:half], "vae")
    seen, soft = joint.decode(joint.encode(images[half:], masks[half:]))
    back, real = joint.masks(soft), masks[half:] > 0.5
    dice = 2 * (back & real).flatten(1).sum(1) / (back.flatten(1).sum(1) + real.flatten(1).sum(1))
    ceiling = np.nanmedian(contrast(seen[:, 0].numpy(), back[:, 0].numpy()))
    whole = np.nanmedian(contrast(images[half:, 0].numpy(), real[:, 0].numpy()))
    lines = [
        f"masks through the VAE: mean Dice {dice.mean():.3f}, least {dice.min():.3f}, threshold {joint.threshold}",
        f"contrast of lesions: {whole:.3f}, through the VAE {ceiling:.3f}",
    ]
    held = torch.from_numpy(healthy("held", cache, 2))
    held = torch.cat([base.joint.decode(base.joint.encode(part))[0] for part in held.split(8)])
    for steps in (1, 4):
        z = sample(base.net, noise(len(held), (base.joint.channels, *(edge // 4 for edge in base.size)), 0), steps)
        drawn = torch.cat([base.joint.decode(part)[0] for part in z.split(8)])
        told = (
            f"{apart(drawn, held):.4f} from unseen heads, halves of these {apart(held[::2], held[1::2]):.4f} from each other"
        )
        lines.append(f"samples in {steps} steps: energy distance {told}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
