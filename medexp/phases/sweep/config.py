"""Configuration of a sweep."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from medexp.phases import studied


@dataclass(frozen=True)
class SweepConfig:
    """Search the settings of a phase with Optuna; what is searched stands in the phase's profiles/sweep.yaml.

    Args:
        profile: demo (embedded phantoms) or full, of the sweep and of the phase.
        phase: The phase whose settings are searched; its keys can be given as they are, such as training.epochs=4.
        study: Name of the study; the same name joins in or goes on. Without it one is made of phase and space.
        storage: Where the study lives: a journal file or a database's URL; without it a journal file in output_dir/studies.
        space: A YAML file to search instead of the phase's profiles/sweep.yaml.
        trials: Trials of the study, those of earlier calls and of other workers included.
        workers: Processes of this call that run trials.
        confirm: Fresh seeds that the chosen configuration is trained with again, for the mean and spread that are reported.
        test: Whether the chosen configuration is scored on the test split, once, at the end.
        output_dir: Folder that gets one folder a run, named by its run id.
        cache_dir: Folder for what is computed once; without it $XDG_CACHE_HOME/medexp or ~/.cache/medexp.
        seed: Seed of the sampler, and of every trial's training.
        device: auto, cpu, cuda or mps; without it the phase's own.
        threads: Threads of torch a process; without it the phase's own.
    """

    apart: ClassVar[tuple[str, ...]] = ()

    profile: str
    phase: str
    study: str | None
    storage: str | None
    space: str | None
    trials: int
    workers: int
    confirm: int
    test: bool
    output_dir: str
    cache_dir: str | None
    seed: int
    device: Literal["auto", "cpu", "cuda", "mps"] | None
    threads: int | None

    def problems(self) -> Iterator[str]:
        for key in ("trials", "workers"):
            if getattr(self, key) < 1:
                yield f"{key}: found {getattr(self, key)}; at least 1"
        if self.phase not in studied():
            yield f"phase: found {self.phase!r}; {', '.join(studied())} can be searched"
        elif not hasattr(self, self.phase):
            yield f"phase: found {self.phase!r} in a file; which phase is searched is said as a flag, phase={self.phase}"
        else:
            settings = getattr(self, self.phase)
            if getattr(settings, "resume", None) is not None:
                yield f"resume: found {settings.resume}; leave it out: a sweep goes on by itself when it is run again"
            if getattr(settings, "recover", False):
                yield "recover: found true; leave it out: a trial that fails is one of the study's trials"
        if self.confirm < 0:
            yield f"confirm: found {self.confirm}; at least 0"
        if self.seed < 0:
            yield f"seed: found {self.seed}; at least 0"
