"""Packages into MLflow's model registry: nothing is registered that was not read back and verified."""

import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from importlib.metadata import version as installed
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelStatus
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.uri import is_local_uri

import medexp
from medexp.checks import DIAGNOSTICS, VERDICT, failed_diagnostics, from_records
from medexp.errors import RegistryError, all_problems
from medexp.models.kinds import ONLY, Specs, kind_of, kinds
from medexp.registry.cache import one_at_a_time
from medexp.registry.card import as_description
from medexp.registry.client import answering, pages, quoted
from medexp.registry.contracts import PATH, parameters_of, takes_paths
from medexp.registry.definitions import Definition
from medexp.registry.links import to_run, to_version
from medexp.registry.package import Learned, Parent
from medexp.registry.packages import LEARNED, MANIFEST, network_of, read_json
from medexp.registry.store import AROUND, PACKAGE, Registered, Stored, held, location_of, stored_at
from medexp.registry.tags import PHANTOMS, TRAINED_ON, upstream_tag

_LONGEST = 500  # of a tag: the folders that data came from may be many
_MODEL_FILE = Path(__file__).with_name("pyfunc_model.py")
_REQUIREMENTS = (
    "mlflow",
    "torch",
    "monai",
    "einops",
    "numpy",
    "pandas",
    "peft",
    "safetensors",
    "pyyaml",
    "accelerate",
    "filelock",
    "annotated-types",
    "docstring-parser",
    "joblib",
    "nibabel",
    "pillow",
    "pydantic",
    "rich",
    "scikit-image",
    "scipy",
)
_SOURCE = "artifacts/medexp"  # medexp itself, in the model that MLflow sees
# What stands on top of the registry, the weights that the demos begin with among it: no registered model needs it.
_ABOVE = ("phases", "studies", "report", "tracking", "cli.py", "compare.py", "console.py", "doctor.py")


def register(run_id: str, folder: Path, definition: Definition, verdict: str | None) -> Registered:
    """Log a package to a run and make a version of it: nothing is registered that was not read back and verified.

    The version is made last, from a model that is complete: whenever the process is killed, there is no version that does not
    load. The same package of the same run is one version, however often it is registered; what a killed process left of the
    run is used where it is whole, and deleted where it is not. The version has no alias yet:
    `medexp.registry.promotion.nominate` gives it those that it has earned.

    Args:
        run_id: The run that made the model.
        folder: Its package; a store on the same disk may share its files, so leave it alone or remove it afterwards.
        definition: What the model is for.
        verdict: `medexp.checks.verdict` of the checks that it was judged by, PASSED or FAILED; None where it was not
            judged.

    Raises:
        RegistryError: The package was altered, here or on its way, is another model's, lacks checks that the definition
            requires, or takes another input than the definition says.
        StorageError: The registry does not answer, or the cache, which holds the lock of a run, cannot be written.
    """
    manifest = read_json(folder, MANIFEST)
    _check_fits(folder, definition)
    name, client, digest, weights_digest = definition.name, MlflowClient(), manifest["digest"], manifest["weights_digest"]
    with answering(), one_at_a_time(f"run-{run_id}"):
        if made := _version_of(client, name, run_id, digest):
            return Registered(name, str(made.version), digest, weights_digest)
        logged, stored = _left_over(client, run_id, digest) or _log(client, run_id, folder, name, digest)
        checks = from_records(read_json(folder, "checks.json"))
        _ensure_model(client, definition)
        made = client.create_model_version(
            name,
            source=logged.model_uri,
            run_id=run_id,
            model_id=logged.model_id,
            description=as_description((folder / "README.md").read_text(), _made(client, run_id, folder)),
            tags={
                "medexp.digest": digest,
                AROUND: stored.around,
                "medexp.weights_digest": weights_digest,
                "medexp.run": run_id,
            }
            | ({VERDICT: verdict, DIAGNOSTICS: failed_diagnostics(checks)} if verdict else {})
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
    problems += _unlike(contract.get("input", {}), json.loads(json.dumps(definition.input_as_records)), "input")
    if problems:
        raise RegistryError(all_problems(f"package {folder}", problems))


def _unlike(found: Mapping[str, Any], wanted: Mapping[str, Any], where: str) -> Iterator[str]:
    """What an input, or each of several, has otherwise than the definition."""
    for key, value in wanted.items():
        place, there = f"{where}.{key}", found.get(key)
        if isinstance(value, dict) and isinstance(there, dict):
            yield from _unlike(there, value, place)
        elif there != value:
            yield f"contract.json: {place} is {there!r}, the definition says {value!r}"


def _tags(folder: Path) -> dict[str, str]:
    """What a version says of its package, so that it can be searched for."""
    tags: dict[str, str] = {}
    evaluation = read_json(folder, "evaluation.json")
    if evaluation:
        tags |= {"medexp.evaluation_digest": evaluation["data_digest"], "medexp.data_digest": evaluation["made_on"]}
    if (folder / LEARNED).is_file():
        learned = Learned(**read_json(folder, LEARNED))
        tags |= {TRAINED_ON: str(learned)[:_LONGEST], PHANTOMS: "yes" if learned.phantoms else "no"}
    for parent in read_json(folder, "parents.json").values():
        if parent["version"]:  # the name of a file may be no tag's
            tags |= upstream_tag(parent["name"], parent["version"], parent["digest"])
    return tags


def _made(client: MlflowClient, run_id: str, folder: Path) -> str:
    """By which run and from which versions it was made, with links."""
    parents = {role: Parent(**parent) for role, parent in read_json(folder, "parents.json").items()}
    told = [f"{role} {to_version(one.name, one.version) if one.version else one.name}" for role, one in parents.items()]
    return f"Made by run {to_run(client, run_id)}{', from ' if told else ''}{', '.join(told)}."


def _version_of(client: MlflowClient, name: str, run_id: str, digest: str) -> ModelVersion | None:
    """The version of a package of a run, where there is one whose package the store still holds."""
    which = f"name = {quoted(name)} and run_id = '{run_id}' and tags.`medexp.digest` = '{digest}'"
    for version in pages(client.search_model_versions, filter_string=which, max_results=100):
        if held(location_of(version), digest):
            return version
    return None


def _left_over(client: MlflowClient, run_id: str, digest: str) -> tuple[LoggedModel, Stored] | None:
    """A model that a killed process logged whole, read back; what it, or one that failed, did not complete is deleted."""
    experiment, found = client.get_run(run_id).info.experiment_id, None
    which = f"tags.`medexp.run` = '{run_id}'"
    for logged in list(pages(client.search_logged_models, experiment_ids=[experiment], filter_string=which)):
        if logged.status != LoggedModelStatus.READY:
            client.delete_logged_model(logged.model_id)
        elif logged.tags.get("medexp.digest") == digest and (stored := held(logged.artifact_location, digest)):
            found = logged, stored
    return found


def _log(client: MlflowClient, run_id: str, folder: Path, name: str, digest: str) -> tuple[LoggedModel, Stored]:
    """Log a package as MLflow logs a model, and read it back from the store.

    Raises:
        RegistryError: What the store holds is not the package; the logged model is deleted again.
    """
    run, tags = client.get_run(run_id), {"medexp.run": run_id, "medexp.digest": digest}
    logged = client.create_logged_model(run.info.experiment_id, name, run_id, tags, run.data.params)
    try:
        if is_local_uri(logged.artifact_location):
            place = Path(local_file_uri_to_path(logged.artifact_location)) / PACKAGE
            shutil.copytree(folder, place, copy_function=_link)
        else:
            client.log_model_artifacts(logged.model_id, str(folder), PACKAGE)
        given = {"package": folder, "validate_serving_input": False}
        Model.log(None, SimpleNamespace(save_model=_save), run_id=run_id, model_id=logged.model_id, **given)
        if (stored := stored_at(logged.artifact_location, name)).digest != digest:
            raise RegistryError(f"{name}: the store holds another package than was logged; log it again")
    except BaseException:
        client.delete_logged_model(logged.model_id)
        raise
    return logged, stored


def _link(source: str, target: str) -> None:
    """A store on the package's own disk shares its files: copying the weights takes longer than all else."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _save(path: str, mlflow_model: Model, package: Path, validate_serving_input: bool) -> None:
    """What MLflow knows of a model, around a package that is in the store already: MLflow itself would copy it three times."""
    assert not validate_serving_input, "MLflow would load the model and run it on its input example, a path that is nowhere"
    contract = read_json(package, "contract.json")
    architecture = network_of(contract)
    known = architecture["kind"] in kinds()  # an adapter's base may be none that medexp builds
    more = kind_of(architecture).requirements if known else ()
    logger = logging.getLogger("mlflow")
    before = logger.level
    with warnings.catch_warnings():
        # It asks for an input example where there is none: of a model whose inputs have names, or whose base is not known.
        warnings.simplefilter("ignore", UserWarning)
        logger.setLevel(logging.ERROR)
        try:
            mlflow.pyfunc.save_model(
                path=path,
                mlflow_model=mlflow_model,
                python_model=str(_MODEL_FILE),
                signature=_signature(contract) if known else None,
                input_example=_example(contract) if known else None,
                pip_requirements=[f"{name}=={installed(name)}" for name in (*_REQUIREMENTS, *more)],
            )
        finally:
            logger.setLevel(before)
    source = Path(path) / _SOURCE
    shutil.copytree(Path(medexp.__file__).parent, source, ignore=shutil.ignore_patterns("__pycache__", *_ABOVE))
    mlflow_model.flavors[mlflow.pyfunc.FLAVOR_NAME]["artifacts"] = {
        Path(place).name: {"path": place, "uri": place} for place in (PACKAGE, _SOURCE)
    }
    files = [file for folder in (Path(path), package) for file in folder.rglob("*") if file.is_file()]
    mlflow_model.model_size_bytes = sum(file.stat().st_size for file in files)
    mlflow_model.save(str(Path(path) / "MLmodel"))


def _signature(contract: Mapping[str, Any]) -> ModelSignature:
    """What goes in and comes out, as its kind says.

    MLflow holds what it is given against one description. A tensor of objects with a free axis lets any array pass, and a data
    frame with a column of its name; `medexp.registry.arrays` says more of arrays than their shape.
    """
    architecture = network_of(contract)
    kind = kind_of(architecture)

    def schema(specs: Specs) -> Schema:
        return Schema([TensorSpec(np.dtype(spec.dtype), spec.shape, name or None) for name, spec in specs.items()])

    given, outputs = kind.inputs(architecture), schema(kind.outputs(architecture))
    if not takes_paths(contract):
        return ModelSignature(schema(given), outputs)
    either = Schema([TensorSpec(np.dtype(object), (-1,), PATH)])
    if not (names := parameters_of(contract)):
        return ModelSignature(either, outputs)
    return ModelSignature(either, outputs, ParamSchema([ParamSpec(name, "string", None) for name in names]))


def _example(contract: Mapping[str, Any]) -> pd.DataFrame | None:
    """A path, as a client gives it; an array would be a volume written out as JSON."""
    if not takes_paths(contract):
        return None
    architecture = network_of(contract)
    spec = kind_of(architecture).inputs(architecture).get(ONLY)
    place = "SCENARIO.jsonl" if spec is None else "FOLDER_OF_A_CASE" if len(spec.shape) == 5 else "PICTURE.png"
    return pd.DataFrame({PATH: [place]})


def _ensure_model(client: MlflowClient, definition: Definition) -> None:
    about = f"{definition.title}. {definition.task}\n\n{definition.intended_use}"
    try:
        client.create_registered_model(definition.name, description=about)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
