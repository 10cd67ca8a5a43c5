"""The command line of every phase: flags, help, one-line errors and exit codes. Bad input is told before torch is imported or
a file is written; what a configuration is made of is said in `medexp.config.layers`."""

import argparse
import dataclasses
import functools
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from docstring_parser import parse as parse_docstring

from medexp import phases
from medexp.config.keys import blocks, keys, steps
from medexp.config.layers import Layers, flags_of
from medexp.config.shared import Recoverable, Resumable
from medexp.config.validate import described, shown
from medexp.errors import ConfigError, MedexpError
from medexp.files import parse_yaml
from medexp.tracking.processes import PARENT, end_with
from medexp.tracking.signals import ENDING, on_signals, terminate

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def main(
    phase: str, argv: Sequence[str] | None = None, run: Callable[[Any], None] | None = None, called: str | None = None
) -> int:
    """Resolve the configuration of a phase from the command line and run the phase.

    Args:
        phase: Name of the phase.
        argv: The command line; without it, the process's own.
        run: Called with the configuration instead of the phase's own recipe.
        called: How else the phase is called, for its help.

    Returns:
        The exit code: 0; 2 for bad input; 3 for a failed BLOCKING check; 130, 143 or 129 when interrupted. A defect keeps its
        traceback.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    record = phases.phase(phase)
    run_id = os.environ.get("MLFLOW_RUN_ID", "RUN_ID")  # set by `mlflow run`

    def work() -> None:
        layers = _layers(record, argv)
        flags = flags_of(argv, layers)
        if flags.pop("debug", None) == "true":
            os.environ["MEDEXP_DEBUG"] = "1"
        if "help" in flags:
            _print_help(layers, flags.get("profile", "demo"), called)
            return
        config = layers.configuration(flags)
        _announce(phase, config)
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported, which the phase does
        run_phase = run or importlib.import_module(record.recipe).run
        if isinstance(config, Recoverable) and config.recover:
            importlib.import_module("medexp.studies.recovery").run_or_recover(phase, config, run_phase)
        else:
            run_phase(config)

    go_on = f"; go on with -P resume={run_id} (--resume {run_id})" if "resume" in keys(record.config) else ""
    return exit_code(phase, work, "; run it again, it goes on from there" if record.goes_on else go_on)


def configuration(phase: str, argv: Sequence[str] = ()) -> Any:
    """The configuration that a command line means.

    Args:
        phase: Name of the phase.
        argv: The command line.

    Raises:
        ConfigError: For all that is wrong with it.
    """
    layers = _layers(phases.phase(phase), argv)
    return layers.configuration(flags_of(argv, layers))


def schema(phase: str, of: str = "config") -> dict[str, Any]:
    """A JSON Schema of YAML files of a phase.

    Args:
        phase: Its name.
        of: `config`: its profiles, and what is given with `--config`; `sweep` and `recovery`: its space and its ladder, and
            what is given with `space` and `ladder` in their place.

    Raises:
        ConfigError: There is no such phase, or it has no such file.
    """
    if phase not in phases.names():
        raise ConfigError(f"phase: found {phase!r}; there are {', '.join(phases.names())}")
    record = phases.phase(phase)
    if of == "config":
        found = record.layers.schema
        return found | {"additionalProperties": True} if record.studies else found  # the keys of any phase go on to it
    if not record.profile(of).is_file():
        having = [name for name in phases.names() if phases.phase(name).profile(of).is_file()]
        raise ConfigError(f"--of: {phase} has no profiles/{of}.yaml; phases that have one: {', '.join(having)}")
    from medexp.studies.ladder import ladder_schema
    from medexp.studies.space import space_schema

    return space_schema(record.config) if of == "sweep" else ladder_schema(phase)


def _layers(record: phases.Phase, argv: Sequence[str]) -> Layers:
    """What a configuration is made of. One that studies a phase gets that phase's as a block, whose keys can then be given
    like its own.

    Raises:
        ConfigError: There is no such phase to study: the keys of an unknown phase would be what is told.
    """
    if not record.studies:
        return record.layers
    words = [word.removeprefix("--").partition("=") for word in argv]
    given = [value or next(iter(argv[place + 1 :]), "") for place, (name, _, value) in enumerate(words) if name == "phase"]
    name = given[-1] if given else parse_yaml(record.profile("demo").read_text(encoding="utf-8"))["phase"]
    if name not in phases.studied():
        raise ConfigError(f"phase: found {name!r}; {', '.join(phases.studied())} can be searched")
    block = [(name, phases.phase(name).config)]
    made = dataclasses.make_dataclass(record.config.__name__, block, bases=(record.config,), frozen=True)
    made.__doc__ = f"{record.config.__doc__}    {name}: Configuration of {name}.\n"
    return Layers(record, made, phases.phase)


def exit_code(command: str, work: Callable[[], int | None], go_on: str = "") -> int:
    """Do what a command does and tell in one line why it ended early: what entry points and the console have in common.

    Args:
        command: Its name, for the line.
        work: What it does; it may return an exit code of its own.
        go_on: What to do after an interruption; follows the word `interrupted`.

    Returns:
        The exit code, as of `main`. With MEDEXP_DEBUG=1 the traceback of an error stands above the line.
    """
    end_with(os.environ.pop(PARENT, ""))
    try:
        with on_signals(terminate):
            return work() or 0
    except MedexpError as error:
        if os.environ.get("MEDEXP_DEBUG") == "1":
            traceback.print_exc()
        print(f"medexp {command}: error: {error}", file=sys.stderr)
        return error.exit_code
    except (KeyboardInterrupt, SystemExit) as stop:
        code = 130 if isinstance(stop, KeyboardInterrupt) else stop.code
        if not (isinstance(code, int) and code - 128 in ENDING):
            raise
        try:
            print(f"medexp {command}: interrupted{go_on}", file=sys.stderr)
        except OSError:  # the terminal was closed: what Python still writes at its end would make another code of it
            for stream in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        return code


def _announce(phase: str, config: Any) -> None:
    """Say what starts and set the threads, both before torch is imported."""
    configs = [config, *(getattr(config, step) for step in steps(type(config)))]
    if threads := max((getattr(one, "threads", None) or 0 for one in configs), default=0):
        os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(threads)))
        # Threads that wait by spinning take the core from those that work, on a machine that has other things to do.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if os.environ.get("RANK", "0") == "0":  # the first process of a launch
        resumed = f", going on from run {config.resume}" if isinstance(config, Resumable) and config.resume else ""
        print(f"medexp {phase}: profile {config.profile}, seed {config.seed}{resumed}", flush=True)


def _print_help(layers: Layers, profile: str, called: str | None) -> None:
    """Each key with its text, its type and the profile's default, block by block."""
    name, config_class, defaults = layers.phase.name, layers.config, layers.of_profile(profile)
    parser = argparse.ArgumentParser(
        prog=f"python -m entry_points.{name}",
        usage=f"{called or '%(prog)s [--KEY VALUE ...]'}\n       mlflow run . -e {name} [-P KEY=VALUE ...]",
        description=_about(config_class),
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=28),
    )
    general = parser.add_argument_group("where values come from; later ones win")
    general.add_argument("--config", metavar="FILE", help="YAML file with some of the keys below, on top of the profile.")
    general.add_argument("--debug", metavar="", help="Show the traceback of an error. Also MEDEXP_DEBUG=1.")
    inside = steps(config_class)
    if inside:
        parser.epilog = (
            f"Every key of a step can be set too, for one step ({next(iter(inside))}.KEY) or, as KEY, for all that have it. "
            f"What there is: python -m entry_points.STEP --help for {', '.join(inside)}."
        )
    groups: dict[str, Any] = {}
    for key in keys(config_class).values():
        block = key.name.rpartition(".")[0]
        if key.name.partition(".")[0] in inside:
            continue
        if block not in groups:
            inner = functools.reduce(lambda outer, name: blocks(outer)[name], filter(None, block.split(".")), config_class)
            about = _about(inner) if block else None
            groups[block] = parser.add_argument_group(block or "the run", about)
        names = [f"--{short}" for short in key.shorts]
        told = f"{key.text} ({described(key.kind)}; default: {shown(defaults[key.name].value)})".replace("%", "%%")
        groups[block].add_argument(f"--{key.name}", *names, metavar="", help=told)
    parser.print_help()


def _about(config_class: type) -> str | None:
    return parse_docstring(config_class.__doc__ or "").short_description
