"""Pairs for phase7: checked, split by patient, and the command that reads them."""

from medexp.config.flags import flags
from medexp.config.shared import cache_root
from medexp.data.pairs.prepared import account, pairs_in
from medexp.phases.prepare import PHASE
from medexp.phases.prepare.config import PrepareConfig
from medexp.phases.prepare.told import lead_on, tell
from medexp.phases.shared.again import changed
from medexp.tracking.results import log_figures
from medexp.tracking.runs import TrackedRun

_BLOCK = "pair_data"


def prepared_for_phase7(config: PrepareConfig, tracked: TrackedRun) -> None:
    """Reads, checks and splits pairs, and says what was found and what reads them.

    Args:
        config: `pairs`, `splits`, `seed`, `pair_data`.
        tracked: The run.

    Raises:
        DataError: The folders, a pair or the splits cannot be used; nothing is written then.
    """
    data = pairs_in(config.folders, config.pair_data, config.splits, config.seed, cache_root(config.cache_dir), block=_BLOCK)
    synthetic = int(data.manifest["synthetic"].sum())
    file = tell(tracked, data, account(data, config.pair_data), config.splits)
    log_figures(tracked, {"params/synthetic": synthetic})
    read = {key.removeprefix("pair_"): value for key, value in changed(PHASE, config).items() if key.startswith(f"{_BLOCK}.")}
    settings = {"profile": config.profile, "data_dir": ",".join(config.folders), "splits": file, **read}
    lead_on(tracked, data, f"mlflow run . -e phase7 {flags(settings)}")
