"""Registered models: packages that are verified on every pull and unpickle nothing.

`load` and `pull` are all that a user of a model needs; importing this package loads neither torch nor mlflow.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from medexp.config.networks import FeatureKind
    from medexp.registry.predictors import Predictor
    from medexp.registry.store import Pulled

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # before mlflow is imported, which reads it
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


def pull(uri: str) -> "Pulled":
    """Fetch a registered model's package and verify it, byte by byte.

    Packages are kept in a cache under their digest (`medexp.registry.cache`): fetched once, verified on every pull. A cached
    one that was altered goes to quarantine and is fetched again. The folder is for reading; do not change what is in it.

    The active MLflow run, where there is one, gets the tag `medexp.upstream.NAME` with version and digest: `medexp lineage`
    and `medexp impact` find it there. Of two versions of a model that a run pulls, it is the later pull's.

    An adapter's folder is peft's own: `peft.PeftModel.from_pretrained(base, pull(uri).folder / "adapter")` works, with any
    network as base; `load` also makes sure that it is the base that the adapter was trained on.

    Args:
        uri: `models:/NAME@alias` or `models:/NAME/VERSION`.

    Returns:
        The folder of the verified package, with the name, version and digest that it is registered under.

    Raises:
        RegistryError: There is no such model, alias or version, it holds no package, or what the store holds was altered.
        StorageError: The registry does not answer, or the cache cannot be written.
    """
    from medexp.registry.store import pin, pull

    pulled = pull(uri)
    pin(pulled)
    return pulled


def load(uri: str, base: "nn.Module | Path | str | None" = None) -> "nn.Module":
    """Load a registered model as the module that was trained, in eval mode, on the CPU.

    Args:
        uri: `models:/NAME@alias` or `models:/NAME/VERSION`.
        base: For an adapter whose base is not registered, or is a network that medexp does not build: the base, any nn.Module,
            which is adapted in place, or its checkpoint file; of a vision-language model the folder that transformers keeps it
            in, where it is not found by the name, or the folder, that it was trained on. Its weights must be those that the
            adapter was trained on.

    Returns:
        The network; for an adapter peft's view of the adapted base.

    Raises:
        RegistryError: As `pull`, or the base is missing or not the one that the adapter was trained on.
        CheckpointError: The base's checkpoint file cannot be used.
        StorageError: As `pull`.
    """
    from medexp.registry.loading import load_verified

    return load_verified(pull(uri).folder, base)


def predictor(
    uri: str, device: str = "auto", features: "FeatureKind | None" = None, base: "Path | str | None" = None
) -> "Predictor":
    """A registered model that takes files: each is prepared as the model's contract says, which nobody has to know.

        segment = registry.predictor("models:/phase1_segmenter@champion")
        nibabel.save(segment("CASE_FOLDER").mask, "mask.nii.gz")

    Args:
        uri: `models:/NAME@alias` or `models:/NAME/VERSION`.
        device: auto, cpu, cuda or mps.
        features: gap10, multiscale or tumour_weighted, of an encoder or a segmenter (`medexp.models.swin.features.KINDS`);
            without it an encoder gives what its network gives, gap10, and a segmenter none.
        base: As of `load`.

    Returns:
        Called with a path (a case's folder, a 4D NIfTI file, a picture, a .jsonl of one scenario) it gives a `Prediction`: a
        mask on the grid of the case's files, probabilities by class, or features, whichever the model gives.

    Raises:
        RegistryError: As `load`, or the contract names something that this version of medexp does not know.
        StorageError: As `pull`.
    """
    from medexp.registry.predictors import predictor as prepared

    return prepared(uri, device, features, base)
