"""Pairs for phase7: checked, split by patient, and the command that reads them."""

from medexp.config.keys import flat
from medexp.config.layers import Layers
from medexp.config.shared import cache_root
from medexp.config.validate import typed
from medexp.data.pairs.prepared import account, pairs_in
from medexp.files import dump_yaml
from medexp.phases.prepare import PHASE
from medexp.phases.prepare.config import PrepareConfig
from medexp.phases.prepare.told import flags, tell
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
    tracked.reporter.metrics({"params/synthetic": synthetic})
    settings = {"profile": config.profile, "data_dir": ",".join(config.folders), "splits": file, **_changed(config)}
    print(f"Next: mlflow run . -e phase7 {flags(settings)}")


def _changed(config: PrepareConfig) -> dict[str, str]:
    """What `pair_data` has otherwise than its profile, as phase7's key `data` takes it."""
    values, _ = typed(PrepareConfig, Layers(PHASE, PrepareConfig, lambda _: PHASE).of_profile(config.profile))
    given = {key: value for key, value in flat(config).items() if key.startswith(f"{_BLOCK}.") and value != values[key]}
    return {key.removeprefix("pair_"): _in_a_line(value) for key, value in given.items()}


def _in_a_line(value: object) -> str:
    return value if isinstance(value, str) else dump_yaml(list(value) if isinstance(value, tuple) else value, in_a_line=True)
