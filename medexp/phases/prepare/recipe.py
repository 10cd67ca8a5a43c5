"""Check a data folder, split it by patient, cache semantic features and write the manifest; with `slices_dir`, cut the volumes
into slices for the 2D phases; with `scenarios_dir`, scenarios instead (`medexp.phases.prepare.scenarios`), and with `pairs`
pairs (`medexp.phases.prepare.pairs`)."""

from pathlib import Path

from medexp.addresses import local_path
from medexp.config.flags import flags
from medexp.data.images.slices import cut_slices
from medexp.data.volumes.oddities import account
from medexp.data.volumes.prepared import prepare_volumes
from medexp.phases.prepare import PHASE
from medexp.phases.prepare.config import PrepareConfig
from medexp.phases.prepare.pairs import prepared_for_phase7
from medexp.phases.prepare.scenarios import prepared_for_medgemma
from medexp.phases.prepare.told import lead_on, tell
from medexp.phases.shared.again import changed
from medexp.phases.shared.reported import reported_run
from medexp.tracking.results import log_figures


def run(config: PrepareConfig) -> None:
    """The whole phase; `PrepareConfig` says what can be set.

    Raises:
        DataError: The folder, a case, the split file, `slices_dir`, a scenario, `scenarios_dir` or a pair cannot be used;
            nothing is written then.
    """
    with reported_run("prepare", config) as tracked:
        if config.scenarios_dir is not None:
            prepared_for_medgemma(config, tracked, local_path(config.scenarios_dir))
            return
        if config.folders:
            prepared_for_phase7(config, tracked)
            return
        data = prepare_volumes(config)
        slices = 0
        if config.slices_dir is not None:
            digests = {case: facts.sha256 for case, facts in data.facts.items()}
            folder, cases = Path(config.slices_dir), tuple(data.cases.values())
            slices = cut_slices(cases, digests, config.data.classes, config.slices, folder, config.data.jobs)
        file = tell(tracked, data, account(tuple(data.cases.values()), tuple(data.facts.values()), config.data), config.splits)
        read = {key: value for key, value in changed(PHASE, config).items() if key.startswith("data.")}
        settings = {"profile": config.profile, "data_dir": config.data_dir, "splits": file, **read}
        following = [f"mlflow run . -e phase1 {flags(settings)}"]
        if config.slices_dir is not None:
            log_figures(tracked, {"params/slices": slices})
            print(f"Slices: {slices} in {config.slices_dir}")
            given = {"profile": config.profile, "slices_dir": config.slices_dir}
            following.append(f"mlflow run . -e phase2_1 {flags(given)}")
        lead_on(tracked, data, *following)
