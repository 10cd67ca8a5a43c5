"""What a promotion reads."""

from medexp.phases.promote.config import PromoteConfig
from medexp.phases.shared.steps import digest_of_model


def inputs(config: PromoteConfig) -> dict[str, str]:
    """Digest of the version; against whom it is judged follows from what holds when it is."""
    return digest_of_model(f"models:/{config.model}" + (f"/{config.version}" if config.version else "@candidate"))
