"""Which models and versions there are."""

from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities.model_registry import RegisteredModel

from medexp.registry.client import answering, pages


@dataclass(frozen=True)
class Listed:
    """A registered model with its latest version.

    Attributes:
        name: Name of the model.
        aliases: Version by alias.
        version: The latest version; None where it has none.
        verdict: `PASSED` or `FAILED`; None for a version that another program made.
        digest: Digest of the package; None as above.
        run: The run that made it.
    """

    name: str
    aliases: dict[str, str]
    version: str | None
    verdict: str | None
    digest: str | None
    run: str | None


def list_models() -> list[Listed]:
    """All registered models, by name.

    Raises:
        StorageError: The registry does not answer.
    """
    client = MlflowClient()
    with answering():
        models = pages(client.search_registered_models, max_results=200, order_by=["name ASC"])
        return [_listed(client, model) for model in models]


def versions_of_run(run_id: str) -> tuple[str, ...]:
    """The versions that a run registered and that are still there, as NAME/VERSION, sorted.

    Raises:
        StorageError: The registry does not answer.
    """
    with answering():
        found = list(pages(MlflowClient().search_model_versions, filter_string=f"run_id = '{run_id}'", max_results=200))
    return tuple(sorted(f"{version.name}/{version.version}" for version in found))


def _listed(client: MlflowClient, model: RegisteredModel) -> Listed:
    found = client.search_model_versions(f"name = '{model.name}'", max_results=1, order_by=["version_number DESC"])
    aliases = {alias: str(version) for alias, version in sorted(model.aliases.items())}
    if not found:
        return Listed(model.name, aliases, None, None, None, None)
    tags = found[0].tags
    return Listed(
        model.name,
        aliases,
        str(found[0].version),
        tags.get("medexp.verdict"),
        tags.get("medexp.digest"),
        found[0].run_id or None,
    )
