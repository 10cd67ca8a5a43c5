"""Scoring a registered version on other cases than it was judged on, so that it can be compared there."""

from dataclasses import replace

import pandas as pd
from accelerate import Accelerator

from medexp.config.shared import cache_root
from medexp.data.splits import SPLITS
from medexp.data.volumes.datasets import evaluation_dataset
from medexp.data.volumes.prepared import PreparedVolumes, prepare_volumes
from medexp.errors import DataError, RegistryError
from medexp.evaluation.segmentation import evaluate_segmentation, on_own_grids, sliding_window
from medexp.models.kinds import ONLY
from medexp.phases.promote.config import PromoteConfig
from medexp.phases.shared.launch import start_accelerator
from medexp.registry.contracts import outputs_said
from medexp.registry.loading import whole_network
from medexp.registry.packages import DECODER, read_json
from medexp.registry.promotion import Scores, scores_of
from medexp.registry.store import Pulled


def rescore(champion: Pulled, candidate: Pulled, config: PromoteConfig) -> Scores:
    """The champion's scores on the cases that the data keys of the configuration name.

    Args:
        champion: What to score.
        candidate: The version that was judged on them.
        config: Where the cases are.

    Raises:
        RegistryError: The model cannot be scored anew.
        DataError: The cases are not those that the candidate was judged on.
    """
    for version in (candidate, champion):
        if (split := read_json(version.folder, "evaluation.json")["split"]) not in SPLITS:
            raise RegistryError(
                f"reevaluate=true: {version.name} version {version.version} was judged by {split}, each case by a training "
                "that had not seen it: no one network can be scored on them; train the version on the champion's data and "
                "with the champion's `folds` instead, and promote it without reevaluate"
            )
    contract = read_json(champion.folder, "contract.json")
    if not ((champion.folder / DECODER).is_file() or "regions" in (said["what"] for said in outputs_said(contract).values())):
        raise RegistryError(
            f"reevaluate=true: {champion.name} cannot be scored anew, only what segments volumes can; train the version on "
            f"the champion's data instead. What the champion says of other cases: mlflow run . -e predict -P "
            f"model=models:/{champion.name}@champion -P input=PATH"
        )
    wanted = scores_of(candidate).data_digest
    data = prepare_volumes(config)
    found = data.digests.get(split)
    if found != wanted:
        raise DataError(
            f"{data.source}: its {split} cases have data digest {found}, the version was judged on {wanted}. "
            "Give data_dir, splits, seed, data.* and phantoms.* as in the run that made it (its config.yaml has them)"
        )
    accelerator = start_accelerator(config.device, config.threads)
    return Scores(_segmentation(champion, data, split, config, accelerator), wanted)


def _segmentation(
    champion: Pulled, data: PreparedVolumes, split: str, config: PromoteConfig, accelerator: Accelerator
) -> pd.DataFrame:
    """A segmenter, or an encoder with the decoder that it was judged with, on whole volumes in the champion's own spacing; of
    a segmenter also its masks, on the cases' own grids."""
    contract, evaluation = read_json(champion.folder, "contract.json"), read_json(champion.folder, "evaluation.json")
    native, masks = None, contract.get("outputs", {}).get(ONLY, {})
    if masks.get("what") == "regions":
        classes = {int(value): network for value, network in masks["classes"].items()}
        native = on_own_grids(data.cases, config.data, masks["painted"], classes)
    window, spacing = evaluation["window"], contract["input"]["spacing_mm"]
    settings = replace(config.data, spacing=tuple(spacing), input_size=tuple(window))
    scores = evaluate_segmentation(
        sliding_window(whole_network(champion.folder).to(accelerator.device), window, evaluation["overlap"], accelerator),
        evaluation_dataset(data, split, settings, cache_root(config.cache_dir)),
        spacing=spacing,
        accelerator=accelerator,
        hd95=False,
        native=native,
    )
    return scores.assign(patient=data.owners(scores["case"]))
