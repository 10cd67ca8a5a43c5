"""What the probe reads."""

from medexp.config.data import known_by
from medexp.config.shared import cache_root
from medexp.data.storage import local
from medexp.data.volumes.facts import describe_cases
from medexp.data.volumes.tables import read_table
from medexp.phases.probe.config import ProbeConfig
from medexp.phases.shared.labelled_volumes import reading
from medexp.phases.shared.steps import digest_of_file, digest_of_model


def inputs(config: ProbeConfig) -> dict[str, str]:
    """Digests of the encoder, and of the table with its volumes; phantoms follow from configuration and code."""
    digests = digest_of_model(config.encoder)
    if config.table is None:
        return digests
    cache = cache_root(config.cache_dir)
    table = local(config.table, cache)
    cases = read_table(table, suffixes=known_by(config.data.suffixes)).cases
    facts = describe_cases(cases, reading(config.jobs), cache)  # read once, also for the probe
    return digests | {"table": digest_of_file(table)} | {f"volumes of {fact.case}": fact.sha256 for fact in facts}
