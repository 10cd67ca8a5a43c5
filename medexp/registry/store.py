"""Packages out of MLflow's model registry, verified. Nothing here imports torch: consoles are to answer at once."""

import re
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.utils.uri import is_local_uri

from medexp.errors import RegistryError, StorageError
from medexp.registry.cache import kept
from medexp.registry.client import MISSING, answering, pages, quoted, registered_model
from medexp.registry.packages import CASES, digest_of, files_in, verify_package
from medexp.registry.tags import on_phantoms, upstream_tag

_FORMS = "models:/NAME@alias or models:/NAME/VERSION"
PACKAGE = "artifacts/package"  # in the model that MLflow sees
AROUND = "medexp.around_digest"
"""Tag of a version: `Stored.around` as it was registered; older versions have none."""
_OF_MLFLOW = "registered_model_meta"  # name and version, which MLflow writes beside a model that it loads


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
class Stored:
    """What the store holds of a version, read back.

    Attributes:
        digest: Digest of the package, every file of which is whole.
        around: sha256 over all other files of the model as MLflow sees it, which `mlflow.pyfunc.load_model` runs: MLmodel, the
            loader, medexp's own source, lists of requirements.
    """

    digest: str
    around: str


@dataclass(frozen=True)
class Pulled:
    """A package that was fetched and verified.

    Attributes:
        folder: Where it is.
        name: Name of the model.
        version: Its version.
        digest: Digest of the package.
        cases: Its file of what the weights that are asked for were trained and selected on.
    """

    folder: Path
    name: str
    version: str
    digest: str
    cases: str = CASES


def pull(uri: str) -> Pulled:
    """`medexp.registry.pull` without the tag: one call to the registry, and no other when the cache holds the package."""
    version = resolve(uri)
    digest = version.tags.get("medexp.digest", "")
    if not re.fullmatch("[0-9a-f]{64}", digest):  # it becomes the name of a folder
        raise RegistryError(
            f"{uri}: version {version.version} of {version.name} holds no package; it was made by another program. "
            "mlflow.pyfunc.load_model may load it, unverified"
        )
    with answering():
        return Pulled(kept(digest, uri, partial(_download, uri, version)), version.name, str(version.version), digest)


def pin(pulled: Pulled) -> None:
    """Say of the active MLflow run, where there is one, that it was given this version.

    Raises:
        StorageError: The registry does not answer.
    """
    if active := mlflow.active_run():
        ((key, value),) = upstream_tag(pulled.name, pulled.version, pulled.digest).items()
        with answering():
            MlflowClient().set_tag(active.info.run_id, key, value)


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


def read_back(version: ModelVersion) -> Stored:
    """What the store, not the cache, holds of a version, once it was found to be what was registered.

    Raises:
        RegistryError: It holds none, files are missing, altered or extra, or it is another model than the version's tags say.
        StorageError: The store does not answer.
    """
    what = f"version {version.version} of {version.name}"
    with answering():
        found = stored_at(location_of(version), what)
    if found.digest != (registered := version.tags.get("medexp.digest")):
        raise RegistryError(f"{what}: the store holds a package of digest {found.digest}, it was registered with {registered}")
    if found.around != (registered := version.tags.get(AROUND, found.around)):
        raise RegistryError(
            f"{what}: what mlflow.pyfunc.load_model runs was altered: MLmodel, pyfunc_model.py or medexp's source beside the "
            f"package have digest {found.around[:12]}, they were registered with {registered[:12]}"
        )
    return found


def find_by_weights(name: str, weights_digest: str) -> Registered | None:
    """The latest version of a model with these weights, None where there is none.

    Args:
        name: Name of the model.
        weights_digest: `medexp.models.checkpoints.weights_digest` of its weights.
    """
    with answering():
        found = MlflowClient().search_model_versions(
            f"name = {quoted(name)} and tags.`medexp.weights_digest` = '{weights_digest}'"
        )
    latest = max(found, key=lambda version: int(version.version), default=None)
    return Registered(name, str(latest.version), latest.tags["medexp.digest"], weights_digest) if latest else None


def made_on_phantoms(name: str, version: str) -> bool:
    """Whether a version's own weights were trained on embedded data, whatever its parents were.

    Raises:
        RegistryError: There is no such version.
        StorageError: The registry does not answer.
    """
    found = resolve(f"models:/{name}/{version}")
    return on_phantoms(found.tags, found.description)


def location_of(version: ModelVersion) -> str:
    """Where the store keeps the model that a version stands for."""
    return MlflowClient().get_model_version_download_uri(version.name, version.version)


def _download(uri: str, version: ModelVersion, into: Path | None) -> Path:
    """The package of a version, as the store holds it, in a folder.

    Raises:
        RegistryError: The store holds none.
        StorageError: It could not be fetched whole.
    """
    return _fetch(location_of(version), f"{uri}, version {version.version} of {version.name}", into, PACKAGE)


def _fetch(location: str, what: str, into: Path | None, part: str = "") -> Path:
    uri = f"{location}/{part}" if part else location
    try:
        if not mlflow.artifacts.list_artifacts(artifact_uri=f"{location}/{PACKAGE}"):
            raise RegistryError(f"{what}: the store holds no package of it any more. Register it anew from its run")
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(into) if into else None))
    except (MlflowException, OSError) as error:
        told = re.sub(r"//[^/@\s]*@", "//", " ".join(str(error).split()))[:500]  # a URL may hold a password
        raise StorageError(f"{what}: cannot be fetched ({told}). Is the store up, and has the disk free space?") from error


def stored_at(location: str, what: str) -> Stored:
    """What the store holds, once the package was verified: in place where the store is a local folder.

    Raises:
        RegistryError: Files of the package are missing, altered or extra, or MLflow finds no model around it.
        StorageError: It could not be fetched whole.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = _fetch(location, what, None if is_local_uri(location) else Path(temporary))
        digest = verify_package(folder / PACKAGE)
        around = digest_of({name: file for name, file in files_in(folder, PACKAGE).items() if name != _OF_MLFLOW})
    try:
        Model.load(f"{location}/MLmodel")
    except Exception as error:  # of a file that may hold anything
        told = " ".join(str(error).split())[:300]
        raise RegistryError(f"{what}: MLflow cannot load it, its MLmodel is missing or was altered ({told})") from error
    return Stored(digest, around)


def held(location: str, digest: str) -> Stored | None:
    """What the store holds, where that is this package, whole, with a model of MLflow's around it."""
    try:
        found = stored_at(location, "")
    except RegistryError:
        return None
    return found if found.digest == digest else None


def _resolve(client: MlflowClient, uri: str) -> ModelVersion:
    match = re.fullmatch(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d{1,9}))", uri)
    if match is None:  # nine digits are what every database holds
        raise RegistryError(f"{uri}: is no reference to a registered model; write {_FORMS}")
    name, alias, version = match["name"], match["alias"], match["version"]
    try:
        return client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, version)
    except MlflowException as error:
        if error.error_code not in (MISSING, "INVALID_PARAMETER_VALUE"):  # the second is of an alias that is not there
            raise
    model = registered_model(name, uri)
    if alias:
        known = ", ".join(f"{alias} (version {number})" for alias, number in sorted(model.aliases.items())) or "none"
        raise RegistryError(
            f"{uri}: {name} has no alias {alias}; it has: {known}. A version is named as models:/{name}/VERSION"
        )
    versions = pages(client.search_model_versions, filter_string=f"name = {quoted(name)}", max_results=100)
    known = ", ".join(sorted((str(item.version) for item in versions), key=int)) or "none"
    raise RegistryError(f"{uri}: {name} has no version {version}; it has: {known}")
