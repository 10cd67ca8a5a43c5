"""Where a registered model comes from, and what was built on it.

Both are read from tags: a version, and a run, says which versions it was built on. Nothing is downloaded, and what is asked of
the store are the runs and versions that are shown.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, ViewType
from mlflow.entities import Run as MlflowRun
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT
from rich.text import Text
from rich.tree import Tree

from medexp.errors import RegistryError
from medexp.registry.client import answering, pages

UPSTREAM = "medexp.upstream."
_DIGEST, _CHECKS = "medexp.digest", "checks/"
_MISSING = "RESOURCE_DOES_NOT_EXIST"
_SHOWN = 20  # runs of one model that a tree shows

State = Literal["registered", "foreign", "unregistered", "deleted", "replaced"]
_IN_WORDS: Mapping[State, str] = {
    "registered": "",
    "foreign": "made by another program: what it was made from is not known",
    "unregistered": "not registered",
    "deleted": "deleted",
    "replaced": "deleted; another model has its number now",
}


@dataclass(frozen=True)
class Model:
    """A version of a registered model, or what is known of one that there is not.

    Attributes:
        name: Name of the model.
        version: Its version; None where it was never registered.
        digest: Digest of its package, or of its weights where it was never registered; None: not known.
        aliases: Its aliases.
        verdict: Of the checks that it was judged by, PASSED or FAILED; None: not known.
        state: registered; foreign: registered by another program than medexp; unregistered; deleted; replaced: deleted, and
            another version has its number.
    """

    name: str
    version: str | None
    digest: str | None
    aliases: tuple[str, ...] = ()
    verdict: str | None = None
    state: State = "registered"

    def __str__(self) -> str:
        return f"{self.name} version {self.version}" if self.version else self.name


@dataclass(frozen=True)
class Data:
    """A dataset input of a run.

    Attributes:
        name: Name of the data set.
        split: What it was used as, such as train; None: not said.
        digest: Its digest.
    """

    name: str
    split: str | None
    digest: str


@dataclass(frozen=True)
class Run:
    """A run.

    Attributes:
        id: Its id.
        name: Its name; None where it is in this store no more.
        phase: Its phase; None for one of another program.
        status: FINISHED, FAILED, KILLED, RUNNING or SCHEDULED; LOST where it is in this store no more.
        deleted: Whether it was deleted; it can be restored until `mlflow gc`.
        verdict: Of its checks; None for one without.
        checks: Whether each passed.
        data: What it was given.
    """

    id: str
    name: str | None
    phase: str | None
    status: str
    deleted: bool
    verdict: str | None
    checks: Mapping[str, bool] = field(default_factory=dict)
    data: tuple[Data, ...] = ()


@dataclass(frozen=True)
class Origin:
    """A version, the run that made it, and what it was made from.

    Attributes:
        model: The version.
        run: The run that made it; None: not known.
        parents: What it was made from: base, adapter, encoder.
        again: Whether it stands elsewhere in the same answer, with its run and parents; here they are left out.
    """

    model: Model
    run: Run | None = None
    parents: tuple["Origin", ...] = ()
    again: bool = False


@dataclass(frozen=True)
class Impact:
    """A version and all that was built on it.

    Attributes:
        model: The version.
        runs: Runs that were given it, deleted ones among them, the latest first.
        models: Versions that were made from it, each with what was built on that.
        again: Whether it stands elsewhere in the same answer, with its runs and models; here they are left out.
    """

    model: Model
    runs: tuple[Run, ...] = ()
    models: tuple["Impact", ...] = ()
    again: bool = False


@dataclass(frozen=True)
class Lineage:
    """Where a version comes from, and what was built on it."""

    origin: Origin
    impact: Impact


def upstream_tag(name: str, version: str | None, digest: str) -> dict[str, str]:
    """The tag that says of a run, or of a version, which model it was built on.

    Args:
        name: Name of the model.
        version: Its version; None where it is not registered.
        digest: Digest of its package; of its weights where it is not registered.
    """
    return {f"{UPSTREAM}{name}": f"{version or 'unregistered'} {digest}"}


def lineage(uri: str) -> Lineage:
    """Where a registered model comes from, and what was built on it.

    Args:
        uri: `models:/NAME@alias` or `models:/NAME/VERSION`.

    Raises:
        RegistryError: There is no such model, alias or version.
        StorageError: The registry does not answer.
    """
    from medexp.registry.store import resolve  # which tags its versions with `upstream_tag`

    found, client = resolve(uri), MlflowClient()
    with answering():
        return Lineage(_origin(client, found, set()), _everything_built_on(client, _model(found)))


def impact(name: str, version: str | int) -> Impact:
    """All that was built on a version, over any number of steps. The version may have been deleted since.

    Args:
        name: Name of the model.
        version: Its version.

    Raises:
        RegistryError: There is no such version, and nothing says that it was built on it.
        StorageError: The registry does not answer.
    """
    from medexp.registry.store import resolve

    try:
        model = _model(resolve(f"models:/{name}/{version}"))
    except RegistryError:
        model = Model(name, str(version), None, state="deleted")
        with answering():
            found = _everything_built_on(MlflowClient(), model)
        if not (found.runs or found.models):
            raise
        return found
    with answering():
        return _everything_built_on(MlflowClient(), model)


def as_records(found: Lineage | Impact) -> dict[str, Any]:
    """All of it, for JSON."""
    return asdict(found)


def as_tree(found: Lineage | Impact) -> Tree:
    """The terminal's picture of it; of many runs the latest."""
    if isinstance(found, Impact):
        return _add_impact(Tree(_model_line(found.model, again=False)), found)
    tree = _add_origin(Tree(_model_line(found.origin.model, again=False)), found.origin)
    built = _add_impact(tree.add(Text("used by", "bold")), found.impact)
    if not built.children:
        built.add("nothing yet")
    return tree


# ------------------------------------------------------------------------------------------------------------------ upwards


def _origin(client: MlflowClient, found: ModelVersion | Model, seen: set[tuple[str, str]]) -> Origin:
    if isinstance(found, Model):
        return Origin(found)
    model, key = _model(found), (found.name, str(found.version))
    if key in seen:
        return Origin(model, again=True)
    seen.add(key)
    made_in = _get_run(client, found.run_id)
    # A base that was never registered is known to the run alone: the name of its file may be no tag of a version.
    tags = (made_in.data.tags if made_in else {}) | found.tags
    upstream = [(name, value) for name, value in _upstream(tags) if (name, value.partition(" ")[0]) != key]
    run = _run(made_in) if made_in else Run(found.run_id, None, None, "LOST", True, None) if found.run_id else None
    return Origin(model, run, tuple(_origin(client, _parent(client, name, value), seen) for name, value in upstream))


def _upstream(tags: Mapping[str, str]) -> list[tuple[str, str]]:
    return sorted((key.removeprefix(UPSTREAM), value) for key, value in tags.items() if key.startswith(UPSTREAM))


def _parent(client: MlflowClient, name: str, value: str) -> ModelVersion | Model:
    number, _, digest = value.partition(" ")
    if not number.isdecimal():
        return Model(name, None, digest or None, state="unregistered")
    try:
        found = client.get_model_version(name, number)
    except MlflowException as error:
        if error.error_code != _MISSING:
            raise
        return Model(name, number, digest, state="deleted")
    return found if found.tags.get(_DIGEST) == digest else Model(name, number, digest, state="replaced")


def _get_run(client: MlflowClient, run_id: str | None) -> MlflowRun | None:
    try:
        return client.get_run(run_id) if run_id else None
    except MlflowException as error:
        if error.error_code != _MISSING:
            raise
        return None


# ---------------------------------------------------------------------------------------------------------------- downwards


def _everything_built_on(client: MlflowClient, model: Model) -> Impact:
    everywhere = pages(client.search_experiments, view_type=ViewType.ALL, max_results=1000)
    return _impact(client, [experiment.experiment_id for experiment in everywhere], model, set())


def _impact(client: MlflowClient, experiments: Sequence[str], model: Model, seen: set[tuple[str, str | None]]) -> Impact:
    if (model.name, model.version) in seen:
        return Impact(model, again=True)
    seen.add((model.name, model.version))
    query = _built_on(model)
    if query is None:
        return Impact(model)
    latest = ["attributes.start_time DESC"]
    runs = pages(
        client.search_runs,
        experiment_ids=experiments,
        filter_string=query,
        run_view_type=ViewType.ALL,
        max_results=1000,
        order_by=latest,
    )
    versions = sorted(
        ((version.name, int(version.version)) for version in pages(client.search_model_versions, filter_string=query)),
    )
    models = [_model(client.get_model_version(name, str(number))) for name, number in versions]  # a search tells no aliases
    return Impact(model, tuple(map(_run, runs)), tuple(_impact(client, experiments, made, seen) for made in models))


def _built_on(model: Model) -> str | None:
    """What finds the runs and the versions that were built on a version; None where no tag can name it."""
    parts = (r"[\w\-. ]+", model.name), (r"\d+", model.version or ""), (r"\w*", model.digest or "")
    if not all(re.fullmatch(form, part, re.ASCII) for form, part in parts):
        return None
    value = f"= '{model.version} {model.digest}'" if model.digest else f"LIKE '{model.version} %'"
    return f"tags.`{UPSTREAM}{model.name}` {value}"


# ---------------------------------------------------------------------------------------------------------------- in our words


def _model(found: ModelVersion) -> Model:
    tags = found.tags
    return Model(
        found.name,
        str(found.version),
        tags.get(_DIGEST),
        tuple(sorted(found.aliases)),
        tags.get("medexp.verdict"),
        "registered" if _DIGEST in tags else "foreign",
    )


def _run(found: MlflowRun) -> Run:
    tags = found.data.tags
    given = found.inputs.dataset_inputs if found.inputs else []
    return Run(
        id=found.info.run_id,
        name=found.info.run_name,
        phase=tags.get("medexp.phase"),
        status=found.info.status,
        deleted=found.info.lifecycle_stage == LifecycleStage.DELETED,
        verdict=tags.get("medexp.verdict"),
        checks={
            name.removeprefix(_CHECKS): value == 1
            for name, value in sorted(found.data.metrics.items())
            if name.startswith(_CHECKS)
        },
        data=tuple(
            Data(
                item.dataset.name,
                next((tag.value for tag in item.tags if tag.key == MLFLOW_DATASET_CONTEXT), None),
                item.dataset.digest,
            )
            for item in given
        ),
    )


def _add_origin(tree: Tree, origin: Origin) -> Tree:
    if origin.again:
        return tree
    if origin.run:
        made = tree.add(_run_line(origin.run, "made by "))
        for data in origin.run.data:
            made.add(Text(f"data {data.name}{f' ({data.split})' if data.split else ''}, digest {data.digest}"))
    elif origin.model.state in ("registered", "foreign"):
        tree.add("made by: not known")
    for parent in origin.parents:
        _add_origin(tree.add(Text("made from ").append(_model_line(parent.model, parent.again))), parent)
    return tree


def _add_impact(tree: Tree, impact: Impact) -> Tree:
    if impact.again:
        return tree
    for run in impact.runs[:_SHOWN]:
        tree.add(_run_line(run))
    if len(impact.runs) > _SHOWN:
        tree.add(f"and {len(impact.runs) - _SHOWN} runs before these")
    for built in impact.models:
        _add_impact(tree.add(_model_line(built.model, built.again)), built)
    return tree


def _model_line(model: Model, again: bool) -> Text:
    line = Text(str(model), "bold")
    if model.aliases:
        line.append(f" ({', '.join(model.aliases)})", "cyan")
    if again:
        return line.append(", as shown above", "not bold dim")
    if model.verdict:
        line.append(f" {model.verdict}", "not bold green" if model.verdict == "PASSED" else "not bold red")
    if model.digest:
        line.append(f", digest {model.digest[:12]}", "not bold dim")
    if words := _IN_WORDS[model.state]:
        line.append(f", {words}", "not bold yellow")
    return line


def _run_line(run: Run, prefix: str = "") -> Text:
    line = Text(f"{prefix}run {run.id}")
    if run.status == "LOST":
        return line.append(", in this store no more", "yellow")
    line.append(f" ({run.phase or run.name}), {run.status}")
    if run.deleted:
        line.append(f", deleted: mlflow runs restore --run-id {run.id}", "yellow")
    if run.checks:
        failed = [check for check, passed in run.checks.items() if not passed]
        line.append(
            f", checks: {', '.join(failed)} failed, {len(run.checks) - len(failed)} passed"
            if failed
            else f", checks: all {len(run.checks)} passed"
        )
    return line
