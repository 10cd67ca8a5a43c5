"""Configuration of the pipeline."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

from medexp.config.keys import Role, flat
from medexp.config.shared import CacheDir, DataDir, Device, OutputDir, Profile, Seed, SplitsFile, Threads
from medexp.phases.phase1.config import Phase1Config
from medexp.phases.prepare.config import PrepareConfig
from medexp.phases.probe.config import ProbeConfig
from medexp.phases.promote.config import PromoteConfig


@dataclass(frozen=True)
class MainConfig:
    """The pipeline: prepare, phase1, promote and probe, one after another; a step whose inputs are unchanged is not run again.

    Args:
        profile: demo (embedded phantoms, minutes on two cores) or full (the numbers of docs/requirements/), of all steps.
        checkpoint: The base of phase1: a BrainSegFounder checkpoint file or models:/NAME@alias; without it a small one,
            pretrained on glioma phantoms (demo only).
        table: The labelled table of probe; without it meningioma is told from glioma on phantoms (demo only).
        seed: Seed of all steps.
        device: auto, cpu, cuda or mps; without it each step's own.
        threads: Threads of torch a process; without it each step's own.
        prepare: Configuration of prepare.
        phase1: Configuration of phase1.
        promote: Configuration of promote; the version is the one that phase1 registers.
        probe: Configuration of probe.
    """

    apart: ClassVar[tuple[str, ...]] = ("probe.phantoms.",)
    """Keys of a step that are given by its own name alone: no encoder may be probed on what it was trained on."""

    profile: Profile
    data_dir: DataDir
    splits: SplitsFile
    checkpoint: str | None
    table: Annotated[str | None, Role.CASES]
    output_dir: OutputDir
    cache_dir: CacheDir
    seed: Seed
    device: Device | None
    threads: Threads
    prepare: PrepareConfig
    phase1: Phase1Config
    promote: PromoteConfig
    probe: ProbeConfig

    def problems(self) -> Iterator[str]:
        steps = {name: getattr(self, name) for name in ("prepare", "phase1", "promote", "probe")}
        for key in (field.name for field in dataclasses.fields(self) if field.name not in steps):
            for step, block in steps.items():
                value, own = getattr(self, key), getattr(block, key, None)
                if value is not None and hasattr(block, key) and own != value:
                    yield f"{key} and {step}.{key}: found {value!r} and {own!r}; give {key} alone, it is for all steps"
        theirs = flat(self.phase1)
        for step in ("prepare", "promote"):
            for key, own in flat(steps[step]).items():
                if key.startswith(("data_dir", "splits", "data.", "phantoms.")) and own != theirs[key]:
                    yield f"{step}.{key} and phase1.{key}: found {own!r} and {theirs[key]!r}; give {key}, it is one data set"
        if self.prepare.files or self.prepare.scenarios_dir is not None:
            yield "prepare.scenarios and prepare.scenarios_dir: leave them out; main is of volumes"
        if self.phase1.resume is not None:
            yield f"phase1.resume: found {self.phase1.resume}; leave it out: main goes on by itself when it is run again"
        if self.promote.model != "phase1_encoder_merged" or self.promote.version is not None:
            yield "promote.model and promote.version: leave them out; main promotes the phase1_encoder_merged that it made"
        if self.probe.encoder != "models:/phase1_encoder_merged@champion":
            yield f"probe.encoder: found {self.probe.encoder}; leave it out: main probes the champion that it made"
