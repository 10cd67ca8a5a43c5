"""Configuration of a sweep."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

from medexp.config.bounds import Count, Natural
from medexp.config.keys import Called
from medexp.config.shared import CacheDir, Device, OutputDir, Profile, Recoverable, Resumable, Seed, Threads
from medexp.phases import studied


@dataclass(frozen=True)
class SweepConfig:
    """Search the settings of a phase with Optuna; what is searched stands in the phase's profiles/sweep.yaml.

    Args:
        profile: demo (embedded phantoms) or full, of the sweep and of the phase.
        phase: The phase whose settings are searched; its keys can be given as they are, such as training.epochs=4.
        study: Name of the study; the same name joins in or goes on. Without it one is made of phase and space.
        storage: Where the study lives: a journal file or a database's URL, without a password; null: the URL in the variable
            MEDEXP_STORAGE_URL, else a journal file in output_dir/studies.
        space: A YAML file to search instead of the phase's profiles/sweep.yaml.
        trials: Trials of the study, those of earlier calls and of other workers included.
        workers: Processes of this call that run trials.
        confirm: Fresh seeds that the chosen configuration is trained with again, for the mean and spread that are reported.
        test: Whether the chosen configuration is scored on the test split, once, at the end.
        seed: Seed of the sampler, and of every trial's training.
        device: auto, cpu, cuda or mps; without it the phase's own.
        threads: Threads of torch a process; without it the phase's own.
    """

    apart: ClassVar[tuple[str, ...]] = ()

    profile: Profile
    phase: Annotated[str, Called("")]
    study: str | None
    storage: str | None
    space: str | None
    trials: Count
    workers: Count
    confirm: Natural
    test: bool
    output_dir: OutputDir
    cache_dir: CacheDir
    seed: Seed
    device: Device | None
    threads: Threads

    def problems(self) -> Iterator[str]:
        if self.phase not in studied():
            yield f"phase: found {self.phase!r}; {', '.join(studied())} can be searched"
        elif not hasattr(self, self.phase):
            yield f"phase: found {self.phase!r} in a file; which phase is searched is said as a flag, phase={self.phase}"
        else:
            settings = getattr(self, self.phase)
            if isinstance(settings, Resumable) and settings.resume is not None:
                yield f"resume: found {settings.resume}; leave it out: a sweep goes on by itself when it is run again"
            if (training := getattr(settings, "training", None)) and training.patience:
                key = "train.patience" if hasattr(settings, "train") else "training.patience"
                yield (
                    f"{key}: found {training.patience}; give {key}=0: trials are compared at their last epoch, "
                    "and an epoch chosen on the same cases would be chosen for its luck too"
                )
            if isinstance(settings, Recoverable) and settings.recover:
                yield "recover: found true; leave it out: a trial that fails is one of the study's trials"
