"""Configuration of a recovery."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from medexp.config.bounds import Natural
from medexp.config.keys import Called
from medexp.config.shared import CacheDir, OutputDir, Profile, Seed
from medexp.phases import recovered


@dataclass(frozen=True)
class RecoverConfig:
    """Climb a phase's recovery ladder, its profiles/recovery.yaml, from a run that failed, until its BLOCKING checks pass.

    Args:
        profile: demo (embedded phantoms) or full, of the run that failed.
        phase: The phase that failed.
        run: Id of the run that failed; its configuration is where the ladder stands on.
        ladder: A YAML file to climb instead of the phase's profiles/recovery.yaml.
        search: Trials around the best rung when no rung passed; 0: none.
        study: Name of the study that the rungs are kept in; the same name goes on. Without it one is made of the run.
        storage: Where the study lives: a journal file or a database's URL, without a password; null: the URL in the variable
            MEDEXP_STORAGE_URL, else a journal file in output_dir/studies.
        output_dir: Folder that gets one folder a run, named by its run id; the failed run's folder is in it.
        seed: Seed of the sampler of the search.
    """

    profile: Profile
    phase: Annotated[str, Called("")]
    run: str | None
    ladder: str | None
    search: Natural
    study: str | None
    storage: str | None
    output_dir: OutputDir
    cache_dir: CacheDir
    seed: Seed

    def problems(self) -> Iterator[str]:
        if self.phase not in recovered():
            yield f"phase: found {self.phase!r}; {', '.join(recovered())} can recover"
        if self.run is None:
            yield "run: not given; give the id of the run that failed, run=RUN_ID"
