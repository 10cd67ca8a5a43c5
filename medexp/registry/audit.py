"""Whether journal, aliases, packages and runs still agree, and where they do not. Nothing is changed here."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, ViewType
from mlflow.entities.model_registry import ModelVersion, RegisteredModel

from medexp.errors import RegistryError
from medexp.registry import journal
from medexp.registry.client import answering, pages
from medexp.registry.journal import CANDIDATE, CHAMPION, Journal
from medexp.registry.store import AROUND, read_back
from medexp.registry.tags import upstream

_PAGE = 500  # runs asked for by id in one query


@dataclass(frozen=True)
class Drift:
    """One thing that is not as it was left.

    Attributes:
        model: Name of the model.
        version: The version that it is about; None where it is about none.
        what: What was found.
        advice: What to do.
    """

    model: str
    version: str | None
    what: str
    advice: str

    def __str__(self) -> str:
        return f"{self.model}{f' version {self.version}' if self.version else ''}: {self.what}. {self.advice}"


@dataclass(frozen=True)
class Kept:
    """A run whose deletion would orphan a model that is in use.

    Attributes:
        run: Its id.
        why: The versions that it made and that are in use or that such a version was made from.
    """

    run: str
    why: tuple[str, ...]


@dataclass(frozen=True)
class Audit:
    """What was found.

    Attributes:
        models: Names of the models that were looked at.
        versions: Number of their versions.
        verified: Versions whose package was read back, every byte.
        drifts: What is not as it was left.
        foreign: Versions that another program registered: MLflow may load them, medexp promotes none.
        runs_to_keep: Runs whose deletion would orphan a model.
    """

    models: tuple[str, ...]
    versions: int
    verified: tuple[str, ...]
    drifts: tuple[Drift, ...]
    foreign: tuple[str, ...]
    runs_to_keep: tuple[Kept, ...]


def audit(name: str | None = None, *, every_byte: bool = False) -> Audit:
    """Compare journal, aliases, package digests and runs.

    Args:
        name: Name of a model; None: all.
        every_byte: Whether the packages of all versions are read back; without it those behind an alias are.

    Raises:
        RegistryError: There is no such model.
        StorageError: The registry does not answer.
    """
    client = MlflowClient()
    with answering():
        models = _models(client)
        if name is not None and name not in models:
            raise RegistryError(f"{name}: no such model; registered are: {', '.join(sorted(models)) or 'none yet'}")
        versions = _versions(client)
        names = sorted(models) if name is None else [name]
        journals = journal.read_all(names)
        looked_at = [versions[key] for key in sorted(versions) if key[0] in names]
        runs = _states_of_runs(client, {version.run_id for version in looked_at if version.run_id})
        stored = [version for version in looked_at if _medexps(version) and (every_byte or _aliases(models, version))]
        drifts: list[Drift] = []
        for model in names:
            drifts += _of_journal(journals[model])
            drifts += _of_aliases(journals[model], models[model])
            drifts += _of_digests(journals[model], versions)
        if name is None:
            drifts += _of_lost_models(journals, models)
        for version in looked_at:
            drifts += _of_parents(version, versions)
            drifts += _of_runs(version, runs, models)
        for version in stored:
            drifts += _of_package(version)
    return Audit(
        models=tuple(names),
        versions=len(looked_at),
        verified=tuple(_called(version) for version in stored),
        drifts=tuple(drifts),
        foreign=tuple(_called(version) for version in looked_at if not _medexps(version)),
        runs_to_keep=_runs_to_keep(looked_at, versions, models),
    )


def _of_journal(found: Journal) -> Iterator[Drift]:
    for damage in found.damaged:
        yield Drift(found.model, None, f"journal, {damage}", "Find out who edits it; the registry's backups have the original")
    for entry in found.entries:
        if entry.number not in found.finished:
            what = f"entry {entry.number} of the journal was written and {entry.alias} did not follow yet"
            yield Drift(found.model, entry.to, what, "A process was killed; the next move of an alias finishes it")
    if (made := found.untried) and made.number in found.finished:
        what = f"entry {made.number} of the journal made it the champion, and nobody has loaded it since"
        advice = f"Who moved it was killed, or is at it. Try it: medexp promote --model {found.model} --version {made.to}"
        yield Drift(found.model, made.to, what, advice)


def _of_aliases(found: Journal, model: RegisteredModel) -> Iterator[Drift]:
    """Aliases that somebody moved, made or removed by hand. Aliases that medexp never moved are their owners'."""
    standing = {alias: str(version) for alias, version in model.aliases.items()}
    unfinished = {entry.alias for entry in found.entries if entry.number not in found.finished}
    ours = {CHAMPION, CANDIDATE, *(entry.alias for entry in found.entries)} - unfinished
    for alias in sorted(ours):
        stands, wanted = standing.get(alias), found.aliases.get(alias)
        if stands == wanted:
            continue
        what = f"alias {alias} stands at version {stands or 'none'}, the journal says {wanted or 'none'}: moved by hand"
        if alias == CHAMPION and wanted:
            advice = f"Put it back: medexp rollback {model.name} --to {wanted} --reason TEXT"
        elif alias == CHAMPION:
            advice = f"Let it be judged: delete the alias, then medexp promote --model {model.name} --version {stands}"
        else:
            advice = "It follows the next version that passes its checks"
        yield Drift(model.name, stands, what, advice)


def _of_digests(found: Journal, versions: Mapping[tuple[str, str], ModelVersion]) -> Iterator[Drift]:
    """Versions that are no more, or whose digest was another when an alias was moved to them."""
    for entry in {entry.to: entry for entry in found.entries if entry.to}.values():
        version = versions.get((found.model, str(entry.to)))
        if version is None:
            what = f"was deleted; entry {entry.number} of the journal moved {entry.alias} to it"
            yield Drift(found.model, entry.to, what, "Restore it from a backup, or promote another version")
        elif version.tags.get("medexp.digest") != entry.digest:
            what = f"its tag medexp.digest is {version.tags.get('medexp.digest')}, the journal has {entry.digest}"
            yield Drift(found.model, entry.to, what, "The tag was edited: set it back")
        elif (around := entry.evidence.get(AROUND)) and version.tags.get(AROUND) != around:
            what = f"its tag {AROUND} is {version.tags.get(AROUND)}, the journal has {around}"
            yield Drift(found.model, entry.to, what, "The tag was edited: set it back")


def _of_lost_models(journals: Mapping[str, Journal], models: Mapping[str, RegisteredModel]) -> Iterator[Drift]:
    for model, found in journals.items():
        if model not in models and found.entries:
            what = f"was deleted; its journal has {len(found.entries)} entries, the last: {found.entries[-1]}"
            yield Drift(model, None, what, "Restore it from a backup, or leave it: the journal stays")


def _of_parents(version: ModelVersion, versions: Mapping[tuple[str, str], ModelVersion]) -> Iterator[Drift]:
    for (name, number), digest in _parents(version):
        parent = versions.get((name, number))
        if parent is None or parent.tags.get("medexp.digest") != digest:
            found = "is deleted" if parent is None else "is another model now"
            advice = "Restore it from a backup: adapters need it, and lineage and the leak guard end here"
            yield Drift(version.name, version.version, f"was made from {name} version {number}, which {found}", advice)


def _of_runs(version: ModelVersion, runs: Mapping[str, str], models: Mapping[str, RegisteredModel]) -> Iterator[Drift]:
    if not version.run_id or (state := runs.get(version.run_id)) == LifecycleStage.ACTIVE:
        return
    aliases = f" ({', '.join(_aliases(models, version))})" if _aliases(models, version) else ""
    if state == LifecycleStage.DELETED:
        what = f"its run {version.run_id} was deleted{aliases}; `mlflow gc` would remove what it logged"
        yield Drift(version.name, version.version, what, f"Restore it: mlflow runs restore --run-id {version.run_id}")
    else:
        what = f"its run {version.run_id} is in this store no more{aliases}: what it was trained with is lost"
        yield Drift(version.name, version.version, what, "Restore it from a backup, or train a version anew")


def _of_package(version: ModelVersion) -> Iterator[Drift]:
    advice = "Roll back to a version that is whole, or register it anew from its run"
    try:
        read_back(version)
    except RegistryError as error:
        told = str(error).removeprefix(f"version {version.version} of {version.name}: ")
        yield Drift(version.name, version.version, f"what its store holds is not what was registered ({told})", advice)


def _runs_to_keep(
    looked_at: Sequence[ModelVersion],
    versions: Mapping[tuple[str, str], ModelVersion],
    models: Mapping[str, RegisteredModel],
) -> tuple[Kept, ...]:
    """The runs of all versions behind an alias and of what these were made from."""
    why: dict[str, list[str]] = {}
    todo = [version for version in looked_at if _aliases(models, version)]
    seen: set[tuple[str, str]] = set()
    while todo:
        version = todo.pop(0)
        if (key := (version.name, str(version.version))) in seen:
            continue
        seen.add(key)
        if version.run_id:
            why.setdefault(version.run_id, []).append(_called(version, _aliases(models, version)))
        todo += [versions[parent] for parent, _ in _parents(version) if parent in versions]
    return tuple(Kept(run, tuple(names)) for run, names in why.items())


def _parents(version: ModelVersion) -> Iterator[tuple[tuple[str, str], str]]:
    """Name and version, and the digest, of each registered model that a version was made from."""
    for name, number, digest in upstream(version.tags):
        if number is not None:
            yield (name, number), digest


def _models(client: MlflowClient) -> dict[str, RegisteredModel]:
    return {model.name: model for model in pages(client.search_registered_models, max_results=1000)}


def _versions(client: MlflowClient) -> dict[tuple[str, str], ModelVersion]:
    found = pages(client.search_model_versions, max_results=1000)
    return {(version.name, str(version.version)): version for version in found}


def _states_of_runs(client: MlflowClient, runs: Iterable[str]) -> dict[str, str]:
    """Of each run that the store still has, whether it is active or deleted."""
    ids = sorted(runs)
    everywhere = [experiment.experiment_id for experiment in pages(client.search_experiments, view_type=ViewType.ALL)]
    states: dict[str, str] = {}
    for start in range(0, len(ids), _PAGE):
        listed = ", ".join(f"'{run}'" for run in ids[start : start + _PAGE])
        query = f"attributes.run_id IN ({listed})"
        found = client.search_runs(everywhere, query, run_view_type=ViewType.ALL, max_results=_PAGE)
        states |= {run.info.run_id: run.info.lifecycle_stage for run in found}
    return states


def _medexps(version: ModelVersion) -> bool:
    return "medexp.digest" in version.tags


def _aliases(models: Mapping[str, RegisteredModel], version: ModelVersion) -> list[str]:
    return sorted(alias for alias, number in models[version.name].aliases.items() if str(number) == str(version.version))


def _called(version: ModelVersion, aliases: Sequence[str] = ()) -> str:
    return f"{version.name} version {version.version}" + (f" ({', '.join(aliases)})" if aliases else "")
