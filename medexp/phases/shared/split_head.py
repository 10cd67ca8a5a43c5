"""The head that phase 2.3 goes on from: one that has not seen the validation cases.

What phase 2.2 registers after folds was trained on all cases of training and validation. Phase 2.3 trains on the training
split and is judged on validation cases, so beside it in the package lies a head of the training split alone (`split/`).
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from medexp.data.manifest import seen_cases
from medexp.data.prepared import Prepared
from medexp.models.checkpoints import load_state, load_weights
from medexp.registry.packages import SPLIT_CASES, SPLIT_HEAD
from medexp.registry.store import Pulled


def written(folder: Path, head: Mapping[str, Tensor], data: Prepared[Any, Any]) -> dict[str, Path]:
    """The files of such a head, by their path in the package.

    Args:
        folder: Where to.
        head: Its weights.
        data: The split that it was trained on.
    """
    files = {name: folder / name for name in (SPLIT_HEAD, SPLIT_CASES)}
    for file in files.values():
        file.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.detach().cpu().contiguous() for key, value in head.items()}, files[SPLIT_HEAD])
    seen_cases(data.manifest, data.facts.values()).to_csv(files[SPLIT_CASES], index=False)
    return files


def of_the_split(classifier: Pulled, head: nn.Module) -> Pulled:
    """A classifier as phase 2.3 takes it: where its package has a head of the training split alone, `head` gets the weights of
    that one, and LEAK asks what that one saw; else all stays as it is."""
    file = classifier.folder / SPLIT_HEAD
    if not file.is_file():
        return classifier
    load_weights(head, load_state(file), str(file))
    return replace(classifier, cases=SPLIT_CASES)
