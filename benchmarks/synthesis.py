"""How often fresh pairs in the place of generated ones are said to differ, and faulty ones: `python -m benchmarks.synthesis`.

Heads of known origin (`tests/evaluation/heads.py`); nominal: 5 % of the sets differ in anything, 0.56 % in any one thing. With
each fault the share of sets in which it is found, by number of samples.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import binary_dilation, gaussian_filter

from medexp.arrays import Array
from medexp.config.shared import Resampling
from medexp.evaluation.proportions import proportion
from medexp.evaluation.synthesis import Judgement, Masks, Pairs, judge
from tests.evaluation.heads import heads

Fault = Callable[[Pairs, Pairs], Pairs]


def _with(pairs: Pairs, change: Callable[[Pairs], tuple[ArrayLike, ArrayLike]]) -> Pairs:
    images, masks = change(pairs)
    return Pairs.generated(np.asarray(images, np.float32).clip(0, 1), np.asarray(masks, bool))


FAULTS: dict[str, tuple[str, Fault]] = {
    "masks of other samples": ("coupling", lambda f, _: _with(f, lambda p: (p.images, np.roll(p.masks, 1, 0)))),
    "a tenth brighter lesions": ("contrast", lambda f, _: _with(f, lambda p: (p.images + 0.1 * p.masks, p.masks))),
    "lesions one voxel wider": (
        "volume",
        lambda f, _: _with(f, lambda p: (p.images, np.stack([binary_dilation(one) for one in p.masks]))),
    ),
    "lesions two voxels aside": (
        "position",
        lambda f, _: _with(f, lambda p: (np.roll(p.images, 2, 1), np.roll(p.masks, 2, 1))),
    ),
    "a blur of half a voxel": (
        "features",
        lambda f, _: _with(f, lambda p: (np.stack([gaussian_filter(one, 0.5) for one in p.images]), p.masks)),
    ),
    "half of them one sample": ("likeness", lambda f, _: _with(f, lambda p: (_half(p.images), _half(p.masks)))),
    "noisy copies": ("memory", lambda f, t: _with(t, lambda p: _noisy(p.images[: len(f.images)], p.masks[: len(f.images)]))),
}


def _noisy(images: Array, masks: Masks) -> tuple[ArrayLike, ArrayLike]:
    return images + np.random.default_rng(0).normal(0, 0.05, images.shape), masks


def _half(part: NDArray[Any]) -> NDArray[Any]:
    """Every second one is the first."""
    return np.where((np.arange(len(part)) % 2 == 0)[:, None, None, None], part[:1], part)


def judged(samples: int, number: int, fault: Fault | None = None) -> Judgement:
    """One set of samples beside 48 training and 24 held-out heads, all of their own."""
    train, held, fresh = (heads(count, 3 * number + part) for part, count in enumerate((48, 24, samples)))
    drawn = Pairs.generated(fresh.images, fresh.masks)
    held = Pairs(held.images, held.masks, [f"held {name}" for name in held.patients])
    drawn = fault(drawn, train) if fault else drawn
    resampling = Resampling(1000, 0.95, number)
    return judge(drawn, train, held, spacing=(3, 3, 3), encode=lambda images: images[:, None], resampling=resampling)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=400, help="of fresh samples")
    parser.add_argument("--faults", type=int, default=20, help="sets with each fault; 0 leaves them out")
    parser.add_argument("--samples", type=int, nargs="+", default=[16, 48])
    args = parser.parse_args()
    for samples in args.samples:
        began, found = time.perf_counter(), Counter[str]()
        for number in range(args.sets):
            made = judged(samples, number)
            unlike = [one.name for one in made.statements if one.found == "unlike"]
            found.update([*unlike, *(["anything"] if unlike else []), *(["copies"] if made.memory.copies else [])])
        hits = np.arange(args.sets) < found["anything"]
        share = proportion(hits, [str(number) for number in range(args.sets)], 0.95)
        each = (time.perf_counter() - began) / args.sets
        print(f"{samples} fresh samples, {args.sets} sets: anything {share}, {each:.2f} s a set")
        print("  ", ", ".join(f"{name} {count / args.sets:.2%}" for name, count in found.most_common() if name != "anything"))
        for name, (statement, fault) in FAULTS.items():
            seen = [judged(samples, 10_000 + number, fault).of(statement).found == "unlike" for number in range(args.faults)]
            if seen:
                print(f"   {name}: {statement} differs in {np.mean(seen):.0%}")


if __name__ == "__main__":
    main()
