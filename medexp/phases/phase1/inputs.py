"""What phase 1 reads."""

from medexp.config.shared import cache_root
from medexp.data.storage import local_file
from medexp.data.volumes.prepared import prepare_volumes
from medexp.phases.phase1.config import Phase1Config
from medexp.phases.shared.steps import digest_of_file, digest_of_model


def inputs(config: Phase1Config) -> dict[str, str]:
    """Digests of the cases and of the base; the embedded base follows from configuration and code."""
    data = prepare_volumes(config)
    digests = {"data": data.digest, **data.digests}
    if config.checkpoint is None:
        return digests
    if config.checkpoint.startswith("models:/"):
        return digests | digest_of_model(config.checkpoint)
    return digests | {"checkpoint": digest_of_file(local_file(config.checkpoint, cache_root(config.cache_dir)))}
