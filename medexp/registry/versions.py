"""Which models and versions there are."""

from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities.model_registry import RegisteredModel

from medexp.checks import DIAGNOSTICS, VERDICT
from medexp.registry.client import answering, pages
from medexp.registry.links import to_version
from medexp.registry.tags import on_phantoms


@dataclass(frozen=True)
class Listed:
    """A registered model with its latest version.

    Attributes:
        name: Name of the model.
        aliases: Version by alias.
        version: The latest version; None where it has none.
        verdict: `PASSED` or `FAILED`; None for a version that another program made.
        failed_diagnostics: Those of its checks that failed, or `none`; None where that is not known.
        digest: Digest of the package; None as above.
        run: The run that made it.
        phantoms: Whether its weights were trained on embedded data; None for a version that another program made.
    """

    name: str
    aliases: dict[str, str]
    version: str | None
    verdict: str | None
    failed_diagnostics: str | None
    digest: str | None
    run: str | None
    phantoms: bool | None


def list_models() -> list[Listed]:
    """All registered models, by name.

    Raises:
        StorageError: The registry does not answer.
    """
    with answering():
        return [
            _listed(model) for model in pages(MlflowClient().search_registered_models, max_results=200, order_by=["name ASC"])
        ]


def versions_of_run(run_id: str) -> tuple[str, ...]:
    """The versions that a run registered and that are still there, as NAME/VERSION, sorted.

    Raises:
        StorageError: The registry does not answer.
    """
    with answering():
        found = list(pages(MlflowClient().search_model_versions, filter_string=f"run_id = '{run_id}'", max_results=200))
    return tuple(sorted(f"{version.name}/{version.version}" for version in found))


def _listed(model: RegisteredModel) -> Listed:
    aliases = {alias: str(version) for alias, version in sorted(model.aliases.items())}
    latest = max(model.latest_versions, key=lambda version: int(version.version), default=None)  # MLflow gives one a stage
    if latest is None:
        return Listed(model.name, aliases, None, None, None, None, None, None)
    tags, digest = latest.tags, latest.tags.get("medexp.digest")
    return Listed(
        model.name,
        aliases,
        str(latest.version),
        tags.get(VERDICT),
        tags.get(DIAGNOSTICS),
        digest,
        latest.run_id or None,
        None if digest is None else on_phantoms(tags, latest.description),
    )


def told_version(named: str, *, linked: bool = False) -> str:
    """A version, NAME/VERSION, with its aliases; as a link within the UI, in markdown, where it is to be one."""
    name, _, version = named.rpartition("/")
    with answering():
        aliases = sorted(MlflowClient().get_model_version(name, version).aliases)
    called = to_version(name, version) if linked else f"{name} version {version}"
    return called + (f" ({', '.join(aliases)})" if aliases else "")
