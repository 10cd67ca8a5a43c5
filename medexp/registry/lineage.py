"""Where a registered model comes from, and what was built on it.

Both are read from tags: a version, and a run, says which versions it was built on. Nothing is downloaded, and what is asked of
the store are the runs and versions that are shown.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from itertools import groupby, islice
from typing import Any, Literal, TypeVar

from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, ViewType
from mlflow.entities import Run as MlflowRun
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT
from rich.text import Text
from rich.tree import Tree

from medexp.checks import CHECKS, DIAGNOSTICS, VERDICT, from_list, told
from medexp.errors import RegistryError
from medexp.registry.client import MISSING, answering, pages
from medexp.registry.store import resolve
from medexp.registry.tags import TRAINED_ON, UPSTREAM, Upstream, on_phantoms, upstream

_DIGEST, _JUDGED_ON, _CHECKS = "medexp.digest", "medexp.data_digest", "checks/"
_PAGE = 1000
_EACH = 3  # uses of a version, on average, up to which those of all versions of its model are asked for at once
SHOWN = 20  # runs of one version that a tree shows
T = TypeVar("T")

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
        failed_diagnostics: Those of its checks that failed, or `none`; None: not known.
        trained_on: The data that its own weights were trained on; None: not known.
        phantoms: Whether these are embedded ones, of nobody; None: not known.
        state: registered; foreign: registered by another program than medexp; unregistered; deleted; replaced: deleted, and
            another version has its number.
    """

    name: str
    version: str | None
    digest: str | None
    aliases: tuple[str, ...] = ()
    verdict: str | None = None
    failed_diagnostics: str | None = None
    trained_on: str | None = None
    phantoms: bool | None = None
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
        more: Whether there are further runs, which were not asked for.
        models: Versions that were made from it, each with what was built on that.
        again: Whether it stands elsewhere in the same answer, with its runs and models; here they are left out.
    """

    model: Model
    runs: tuple[Run, ...] = ()
    more: bool = False
    models: tuple["Impact", ...] = ()
    again: bool = False


@dataclass(frozen=True)
class Lineage:
    """Where a version comes from, and what was built on it."""

    origin: Origin
    impact: Impact


def lineage(uri: str, runs: int | None = None) -> Lineage:
    """Where a registered model comes from, and what was built on it.

    Args:
        uri: `models:/NAME@alias` or `models:/NAME/VERSION`.
        runs: Only the latest so many runs that used a version, such as SHOWN for a tree; None: all. A run takes a millisecond.

    Raises:
        RegistryError: There is no such model, alias or version.
        StorageError: The registry does not answer.
    """
    found, client = resolve(uri), MlflowClient()
    with answering():
        return Lineage(_origin(client, found, set()), _everything_built_on(client, _model(found), runs))


def impact(uri: str, runs: int | None = None) -> Impact:
    """All that was built on a version, over any number of steps. The version may have been deleted since.

    Args:
        uri: As for `lineage`.
        runs: Likewise.

    Raises:
        RegistryError: There is no such version, and nothing says that it was built on it.
        StorageError: The registry does not answer.
    """
    try:
        model = _model(resolve(uri))
    except RegistryError:
        name, _, version = uri.removeprefix("models:/").rpartition("/")
        if not version.isdecimal():
            raise
        model = Model(name, version, None, state="deleted")
        with answering():
            found = _everything_built_on(MlflowClient(), model, runs)
        if not (found.runs or found.models):
            raise
        return found
    with answering():
        return _everything_built_on(MlflowClient(), model, runs)


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
    parents = [_parent(client, parent) for parent in upstream(tags) if (parent.name, parent.version) != key]
    made = _run(made_in) if made_in else None
    if made and model.state == "registered" and _JUDGED_ON not in found.tags:
        made = replace(made, data=())  # a base that the run registered beside its own models: that data is none of its
    run = made if made else Run(found.run_id, None, None, "LOST", True, None) if found.run_id else None
    return Origin(model, run, tuple(_origin(client, parent, seen) for parent in parents))


def _parent(client: MlflowClient, said: Upstream) -> ModelVersion | Model:
    if said.version is None:
        return Model(said.name, None, said.digest or None, state="unregistered")
    try:
        found = client.get_model_version(said.name, said.version)
    except MlflowException as error:
        if error.error_code != MISSING:
            raise
        return Model(said.name, said.version, said.digest, state="deleted")
    return found if found.tags.get(_DIGEST) == said.digest else Model(said.name, said.version, said.digest, state="replaced")


def _get_run(client: MlflowClient, run_id: str | None) -> MlflowRun | None:
    try:
        return client.get_run(run_id) if run_id else None
    except MlflowException as error:
        if error.error_code != MISSING:
            raise
        return None


# ---------------------------------------------------------------------------------------------------------------- downwards


def _everything_built_on(client: MlflowClient, root: Model, most: int | None) -> Impact:
    """Step by step, all models of a step at once: a model that nobody uses costs no question of its own."""
    everywhere = pages(client.search_experiments, view_type=ViewType.ALL, max_results=_PAGE)
    experiments = [experiment.experiment_id for experiment in everywhere]

    def runs(query: str, page: int) -> Iterator[MlflowRun]:
        order = ["attributes.start_time DESC"]
        where = {"experiment_ids": experiments, "filter_string": query, "run_view_type": ViewType.ALL}
        return pages(client.search_runs, **where, max_results=page, order_by=order)

    def versions(query: str, page: int) -> Iterator[ModelVersion]:
        return pages(client.search_model_versions, filter_string=query, max_results=page)

    aliases = cache(lambda name: client.get_registered_model(name).aliases)  # a search for versions does not tell them
    used: dict[Model, tuple[list[MlflowRun], list[Model]]] = {}
    step = {root}
    while step:
        for _, group in groupby(sorted(step, key=str), key=lambda model: model.name):
            models = list(group)
            given = _built_on(models, runs, lambda run: run.data.tags, None if most is None else most + 1)
            made = _built_on(models, versions, lambda version: version.tags)
            for model in models:
                children = [_model(version, aliases(version.name)) for version in made[model]]
                used[model] = given[model], sorted(children, key=lambda child: (child.name, int(child.version or 0)))
        step = {child for model in step for child in used[model][1]} - set(used)

    def assembled(model: Model, seen: set[Model]) -> Impact:
        if model in seen:
            return Impact(model, again=True)
        seen.add(model)
        found, children = used[model]
        shown = tuple(map(_run, found[:most]))
        return Impact(model, shown, len(found) > len(shown), tuple(assembled(child, seen) for child in children))

    return assembled(root, set())


def _built_on(
    models: Sequence[Model],
    search: Callable[[str, int], Iterator[T]],
    tags: Callable[[T], Mapping[str, str]],
    most: int | None = None,
) -> dict[Model, list[T]]:
    """The runs, or versions, that were built on each of several versions of one model, at most so many of each."""
    key = f"{UPSTREAM}{models[0].name}"
    if not re.fullmatch(r"[\w\-./ ]+", key, re.ASCII):  # no tag can name it
        return {model: [] for model in models}
    if len(models) > 1 and all(model.digest for model in models):
        few = _EACH * len(models)
        rows = list(islice(search(f"tags.`{key}` LIKE '%'", few + 1), few + 1))
        if len(rows) <= few:  # else versions that nobody asked about may be used a lot
            by_value: dict[str, list[T]] = defaultdict(list)
            for row in rows:
                by_value[tags(row)[key]].append(row)
            return {model: by_value[f"{model.version} {model.digest}"] for model in models}
    page = _PAGE if most is None else most
    return {model: list(islice(search(f"tags.`{key}` {_names(model)}", page), most)) for model in models}


def _names(model: Model) -> str:
    digest = model.digest if re.fullmatch(r"\w+", model.digest or "", re.ASCII) else None
    return f"= '{model.version} {digest}'" if digest else f"LIKE '{model.version} %'"


# ---------------------------------------------------------------------------------------------------------------- in our words


def _model(found: ModelVersion, aliases: Mapping[str, str] | None = None) -> Model:
    """A version as its tags describe it; `aliases` are those of the model, where the version does not bring its own."""
    tags = found.tags
    own = found.aliases if aliases is None else [one for one, number in aliases.items() if str(number) == str(found.version)]
    return Model(
        found.name,
        str(found.version),
        tags.get(_DIGEST),
        tuple(sorted(own)),
        tags.get(VERDICT),
        tags.get(DIAGNOSTICS),
        tags.get(TRAINED_ON),
        on_phantoms(tags, found.description) if _DIGEST in tags else None,
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
        verdict=tags.get(VERDICT),
        checks=dict(sorted((from_list(tags.get(CHECKS, "")) or _checks_in_metrics(found)).items())),
        data=tuple(
            Data(
                item.dataset.name,
                next((tag.value for tag in item.tags if tag.key == MLFLOW_DATASET_CONTEXT), None),
                item.dataset.digest,
            )
            for item in given
        ),
    )


def _checks_in_metrics(found: MlflowRun) -> dict[str, bool]:
    """Where runs of earlier versions have them."""
    metrics = found.data.metrics.items()
    return {name.removeprefix(_CHECKS): value == 1 for name, value in metrics if name.startswith(_CHECKS)}


def _add_origin(tree: Tree, origin: Origin) -> Tree:
    if origin.again:
        return tree
    if origin.model.trained_on or (origin.model.state == "registered" and not (origin.run and origin.run.data)):
        tree.add(Text(f"trained on {origin.model.trained_on or 'data that is not known here'}"))
    if origin.run:
        alone = origin.model.state == "registered" and origin.model.verdict is None  # such as a base that a phase starts from
        made = tree.add(
            _run_line(replace(origin.run, checks={}), "registered by ") if alone else _run_line(origin.run, "made by ")
        )
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
    for run in impact.runs[:SHOWN]:
        tree.add(_run_line(run))
    if impact.more or len(impact.runs) > SHOWN:
        tree.add("and runs before these" if impact.more else f"and {len(impact.runs) - SHOWN} runs before these")
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
        said = told(model.verdict, model.failed_diagnostics)
        colour = "green" if said == "PASSED" else "red" if model.verdict == "FAILED" else "yellow"
        line.append(f" {said}", f"not bold {colour}")
    if model.phantoms:
        line.append(", made on phantoms", "not bold yellow")
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
