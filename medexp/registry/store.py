"""Packages in MLflow's model registry: in, and out again verified."""

import json
import logging
import re
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature, get_model_info
from mlflow.types import Schema, TensorSpec

import medexp
from medexp.errors import RegistryError, all_problems
from medexp.registry.client import answering
from medexp.registry.definitions import Definition
from medexp.registry.lineage import upstream_tag
from medexp.registry.packages import MANIFEST, read_json, verify_package

_MODEL_FILE = Path(__file__).with_name("pyfunc_model.py")
_REQUIREMENTS = ("mlflow", "torch", "monai", "einops", "numpy", "pandas", "peft", "safetensors", "pyyaml")
_FORMS = "models:/NAME@alias or models:/NAME/VERSION"
_MISSING = "RESOURCE_DOES_NOT_EXIST"


@dataclass(frozen=True)
class Registered:
    """A registered version, as its children's `parents` name it.

    Attributes:
        name: Name of the model.
        version: Its version.
        digest: Digest of its package.
        weights_digest: Digest of its weights.
    """

    name: str
    version: str
    digest: str
    weights_digest: str


@dataclass(frozen=True)
class Pulled:
    """A package that was fetched and verified.

    Attributes:
        folder: Where it is.
        name: Name of the model.
        version: Its version.
        digest: Digest of the package.
    """

    folder: Path
    name: str
    version: str
    digest: str


def register(run_id: str, folder: Path, definition: Definition, verdict: str) -> Registered:
    """Log a package to a run and make a version of it: nothing is registered that was not read back and verified.

    The version has no alias yet: `medexp.registry.promotion.nominate` gives it those that it has earned.

    Args:
        run_id: The run that made the model.
        folder: Its package.
        definition: What the model is for.
        verdict: `medexp.checks.verdict` of the checks that it was judged by, PASSED or FAILED.

    Raises:
        RegistryError: The package was altered, here or on its way, is another model's, lacks checks that the definition
            requires, or takes another input than the definition says.
        StorageError: The registry does not answer.
    """
    digest = verify_package(folder)
    _check_fits(folder, definition)
    contract, weights_digest = read_json(folder, "contract.json"), read_json(folder, MANIFEST)["weights_digest"]
    name, client = definition.name, MlflowClient()
    with answering():
        logged = _log(run_id, folder, name, contract["architecture"])
        kept = _package_in(logged.artifact_path)
        if kept is None or verify_package(kept) != digest:
            raise RegistryError(
                f"{name}: what the store holds of run {run_id} is not the package that was logged; log it again"
            )
        _ensure_model(client, definition)
        made = client.create_model_version(
            name,
            source=logged.model_uri,
            run_id=run_id,
            model_id=logged.model_id,
            description=(folder / "README.md").read_text(),
            tags={"medexp.digest": digest, "medexp.weights_digest": weights_digest, "medexp.verdict": verdict}
            | {"medexp.run": run_id}
            | _tags(folder),
        )
    return Registered(name, str(made.version), digest, weights_digest)


def _check_fits(folder: Path, definition: Definition) -> None:
    contract = read_json(folder, "contract.json")
    if contract["name"] != definition.name:
        raise RegistryError(f"package {folder}: is of {contract['name']}, not of {definition.name}")
    problems = []
    if lacking := set(definition.required_checks) - {check["id"] for check in read_json(folder, "checks.json")}:
        problems.append(f"{definition.name} requires the checks {', '.join(sorted(lacking))}; they were not run")
    found, wanted = contract.get("input", {}), json.loads(json.dumps(asdict(definition.input)))
    problems += [
        f"contract.json: input.{key} is {found.get(key)!r}, the definition says {value!r}"
        for key, value in wanted.items()
        if found.get(key) != value
    ]
    if problems:
        raise RegistryError(all_problems(f"package {folder}", problems))


def _tags(folder: Path) -> dict[str, str]:
    """What a version says of its package, so that it can be searched for."""
    tags: dict[str, str] = {}
    evaluation = read_json(folder, "evaluation.json")
    if evaluation:
        tags |= {"medexp.evaluation_digest": evaluation["data_digest"], "medexp.data_digest": evaluation["made_on"]}
    for parent in read_json(folder, "parents.json").values():
        if parent["version"]:  # the name of a file may be no tag's
            tags |= upstream_tag(parent["name"], parent["version"], parent["digest"])
    return tags


def pull(uri: str) -> Pulled:
    """`medexp.registry.pull`."""
    client = MlflowClient()
    with answering():
        found = _resolve(client, uri)
        folder = _package_in(f"models:/{found.name}/{found.version}")
    if folder is None:
        raise RegistryError(
            f"{uri}: version {found.version} of {found.name} holds no package; it was made by another program. "
            "mlflow.pyfunc.load_model may load it, unverified"
        )
    digest = verify_package(folder)
    if digest != found.tags.get("medexp.digest"):
        raise RegistryError(
            f"{uri}: version {found.version} of {found.name} was registered with digest {found.tags.get('medexp.digest')}, "
            f"the store now holds {digest}. Register the model anew from its run"
        )
    return Pulled(folder, found.name, str(found.version), digest)


def resolve(uri: str) -> ModelVersion:
    """The version that a reference stands for, as MLflow has it: tags, aliases and run, and nothing of the package.

    Args:
        uri: `models:/NAME@alias` or `models:/NAME/VERSION`.

    Raises:
        RegistryError: There is no such model, alias or version; the message lists those that there are.
        StorageError: The registry does not answer.
    """
    with answering():
        return _resolve(MlflowClient(), uri)


def stored_digest(version: ModelVersion) -> str:
    """The digest of the package that the store holds of a version, once every file in it was found whole.

    Raises:
        RegistryError: It holds none, or files are missing, altered or extra.
    """
    folder = _package_in(f"models:/{version.name}/{version.version}")
    if folder is None:
        raise RegistryError(f"version {version.version} of {version.name}: the store holds no package of it any more")
    return verify_package(folder)


def find_by_weights(name: str, weights_digest: str) -> Registered | None:
    """The latest version of a model with these weights, None where there is none.

    Args:
        name: Name of the model.
        weights_digest: `medexp.models.checkpoints.weights_digest` of its weights.
    """
    with answering():
        found = MlflowClient().search_model_versions(f"name = '{name}' and tags.`medexp.weights_digest` = '{weights_digest}'")
    latest = max(found, key=lambda version: int(version.version), default=None)
    return Registered(name, str(latest.version), latest.tags["medexp.digest"], weights_digest) if latest else None


def _log(run_id: str, folder: Path, name: str, architecture: Mapping[str, Any]) -> Any:
    logger = logging.getLogger("mlflow.models.model")
    before = logger.level
    with warnings.catch_warnings():
        # It asks for an input example, which would be a volume written out as JSON, and loaded and run here to try it.
        warnings.simplefilter("ignore", UserWarning)
        logger.setLevel(logging.ERROR)
        try:
            return Model.log(
                artifact_path=None,
                name=name,
                flavor=mlflow.pyfunc,
                run_id=run_id,
                python_model=str(_MODEL_FILE),
                artifacts={"package": str(folder), "medexp": str(Path(medexp.__file__).parent)},
                signature=_signature(architecture),
                pip_requirements=[f"{package}=={installed(package)}" for package in _REQUIREMENTS],
            )
        finally:
            logger.setLevel(before)


def _signature(architecture: Mapping[str, Any]) -> ModelSignature:
    shape = architecture.get("base", architecture)
    if architecture["kind"] == "swin_encoder":
        output: tuple[int, ...] = (-1, 16 * shape["feature_size"])
    else:
        output = (-1, shape["out_channels"], -1, -1, -1)
    real = np.dtype(np.float32)
    return ModelSignature(
        Schema([TensorSpec(real, (-1, shape["in_channels"], -1, -1, -1))]), Schema([TensorSpec(real, output)])
    )


def _package_in(uri: str) -> Path | None:
    try:
        artifacts = get_model_info(uri).flavors["python_function"]["artifacts"]
        inside = artifacts["package"]["path"]
    except (KeyError, TypeError, OSError):
        return None
    except MlflowException as error:
        if error.error_code == _MISSING:
            return None
        raise
    return Path(mlflow.artifacts.download_artifacts(artifact_uri=f"{uri}/{inside}"))


def _ensure_model(client: MlflowClient, definition: Definition) -> None:
    about = f"{definition.title}. {definition.task}\n\n{definition.intended_use}"
    try:
        client.create_registered_model(definition.name, description=about)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _resolve(client: MlflowClient, uri: str) -> ModelVersion:
    match = re.fullmatch(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))", uri)
    if match is None:
        raise RegistryError(f"{uri}: is no reference to a registered model; write {_FORMS}")
    name, alias, version = match["name"], match["alias"], match["version"]
    try:
        model = client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != _MISSING:
            raise
        known = ", ".join(sorted(model.name for model in client.search_registered_models(max_results=50))) or "none yet"
        raise RegistryError(f"{uri}: no model {name} in {mlflow.get_registry_uri()}; registered are: {known}") from None
    if alias is not None and alias not in model.aliases:
        known = ", ".join(f"{alias} (version {number})" for alias, number in sorted(model.aliases.items())) or "none"
        raise RegistryError(
            f"{uri}: {name} has no alias {alias}; it has: {known}. A version is named as models:/{name}/VERSION"
        )
    try:
        return client.get_model_version(name, version or model.aliases[alias])
    except MlflowException as error:
        if error.error_code != _MISSING:
            raise
        known = (
            ", ".join(sorted((str(item.version) for item in client.search_model_versions(f"name = '{name}'")), key=int))
            or "none"
        )
        raise RegistryError(f"{uri}: {name} has no version {version}; it has: {known}") from None
