"""The command line of every phase: profiles, flags, one-line errors and exit codes.

A configuration is made of layers, later ones win: the profile (or, with `--resume`, the configuration of the interrupted run),
then `--config FILE`, then flags. Everything wrong with it is told at once, before torch is imported or a file is written.

A pipeline's configuration has a block for each phase that it runs, filled from that phase's own profile. A key that is given
without the phase's name goes to each of them that has it: `seed` to all, `lora.rank` to phase1.
"""

import dataclasses
import difflib
import functools
import importlib
import math
import os
import sys
import traceback
import types
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml
from docstring_parser import parse as parse_docstring
from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter

from medexp import phases
from medexp.config.validate import problems_of
from medexp.errors import ConfigError, MedexpError, all_problems
from medexp.phases.recover.config import RecoverConfig
from medexp.phases.sweep.config import SweepConfig

_SHORT = {"rank": "lora.rank"}
_MAY_DIFFER_ON_RESUME = {"resume", "recover", "output_dir", "cache_dir", "device", "threads"}
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

_Value = tuple[Any, str]  # a value as it was given, and the file that gives it, "" for a flag


def main(phase: str, config_class: type, run: str, argv: Sequence[str] | None = None) -> int:
    """Resolve the configuration of a phase from the command line and run the phase.

    Args:
        phase: Name of the phase: of its entry point and of its folder in medexp/phases/.
        config_class: The frozen dataclass that describes the phase's configuration.
        run: `module:function`, imported when the configuration holds; called with it.
        argv: The command line; without it, the process's own.

    Returns:
        The exit code: 0; 2 for bad input; 3 for a failed BLOCKING check; 130 or 143 when interrupted. A defect keeps its
        traceback.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    config_class = _with_phase(phase, config_class, argv)
    run_id = os.environ.get("MLFLOW_RUN_ID", "RUN_ID")  # set by `mlflow run`

    def work() -> None:
        if config_class is SweepConfig:  # its own keys alone: the keys of an unknown phase would be what is told
            raise ConfigError(f"phase: found {_studied(phase, argv)!r}; {', '.join(phases.studied())} can be searched")
        flags = _flags(argv, config_class)
        if flags.pop("debug", None) == "true":
            os.environ["MEDEXP_DEBUG"] = "1"
        if "help" in flags:
            _print_help(phase, config_class, flags.get("profile", "demo"))
            return
        config = _resolve(phase, config_class, flags)
        _announce(phase, config)
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported, which the phase does
        module, _, function = run.partition(":")
        run_phase = getattr(importlib.import_module(module), function)
        if getattr(config, "recover", False):
            importlib.import_module("medexp.studies.recovery").run_or_recover(phase, config, run_phase)
        else:
            run_phase(config)

    go_on = f"; go on with -P resume={run_id} (--resume {run_id})" if _has(config_class, "resume") else ""
    return exit_code(phase, work, "; run it again, it goes on from there" if _goes_on(config_class) else go_on)


def _goes_on(config_class: type) -> bool:
    """Whether the same command again goes on with what was interrupted: pipelines and studies know what they did."""
    return bool(_steps(config_class)) or issubclass(config_class, RecoverConfig)


def _with_phase(entry: str, config_class: type, argv: Sequence[str]) -> type:
    """A study's configuration with the block of the phase that it studies, whose keys can then be given like its own."""
    if config_class is not SweepConfig:
        return config_class
    name = _studied(entry, argv)
    if name not in phases.studied():
        return config_class
    made = dataclasses.make_dataclass(
        config_class.__name__, [(name, phases.phase(name).config)], bases=(config_class,), frozen=True
    )
    made.__doc__ = f"{config_class.__doc__}    {name}: Configuration of {name}.\n"
    return made


def _studied(entry: str, argv: Sequence[str]) -> str:
    """The phase that a study is told to study."""
    words = [word.removeprefix("--").partition("=") for word in argv]
    given = [value or next(iter(argv[place + 1 :]), "") for place, (name, _, value) in enumerate(words) if name == "phase"]
    default = yaml.safe_load(phases.phase(entry).profile("demo").read_text(encoding="utf-8"))["phase"]
    return str(given[-1] if given else default)


def exit_code(command: str, work: Callable[[], int | None], go_on: str = "") -> int:
    """Do what a command does and tell in one line why it ended early: what entry points and the console have in common.

    Args:
        command: Its name, for the line.
        work: What it does; it may return an exit code of its own.
        go_on: What to do after an interruption; follows the word `interrupted`.

    Returns:
        The exit code, as of `main`. With MEDEXP_DEBUG=1 the traceback of an error stands above the line.
    """
    try:
        return work() or 0
    except MedexpError as error:
        if os.environ.get("MEDEXP_DEBUG") == "1":
            traceback.print_exc()
        print(f"medexp {command}: error: {error}", file=sys.stderr)
        return error.exit_code
    except (KeyboardInterrupt, SystemExit) as stop:
        # tracking/runs.py turns SIGTERM into SystemExit(143), so that the run ends KILLED and not RUNNING
        code = 130 if isinstance(stop, KeyboardInterrupt) else stop.code
        if code not in (130, 143):
            raise
        print(f"medexp {command}: interrupted{go_on}", file=sys.stderr)
        return code


def _resolve(phase: str, config_class: type, flags: Mapping[str, str]) -> Any:
    """The configuration of the layers.

    Raises:
        ConfigError: For all that is wrong with them: unknown keys, values of a wrong type, values out of range.
    """
    given = _from_file(Path(flags["config"]), config_class) if "config" in flags else {}
    if "profile" in given and _keys(config_class).keys() - given.keys():
        raise ConfigError(f"{flags['config']}: profile: a file with some of the keys cannot choose it; say --profile")
    given |= _spread({key: (value, "") for key, value in flags.items() if key not in ("config", "profile")}, config_class)
    profile = flags.get("profile", "demo")
    layer = _profile(phase, profile, config_class)
    run_id = given.get("resume", layer.get("resume", (None, "")))[0]
    if resumes := run_id not in (None, "null"):
        output_dir = given.get("output_dir", layer["output_dir"])
        layer = _saved(str(run_id), Path(str(output_dir[0])).expanduser(), config_class) | {"output_dir": output_dir}
        if profile != "demo":  # `mlflow run` always hands a profile on: the default says nothing
            given["profile"] = profile, ""
    values, problems = _typed(layer, config_class)
    changes, misfits = _typed(given, config_class)
    problems += misfits
    if not problems and resumes:
        changed = [
            f"{key}: the run has {values[key]!r}, given is {value!r}"
            for key, value in changes.items()
            if key not in _MAY_DIFFER_ON_RESUME and value != values[key]
        ]
        if changed:
            advice = "Leave them out, or start a new run without resume."
            raise ConfigError(all_problems(f"resume continues run {run_id} as it was started", changed, advice))
    if values.keys() == _keys(config_class).keys():
        config = _built(config_class, values | changes)  # a key that does not fit has its layer's value here
        problems += [f"{problem}{_in(given.get(problem.partition(':')[0]))}" for problem in problems_of(config)]
    if problems:
        raise ConfigError(_told(problems))
    return config


def _flags(argv: Sequence[str], config_class: type) -> dict[str, str]:
    """`--key value` and `--key=value` as key to value; `help` and `debug` stand without one.

    Raises:
        ConfigError: For unknown, repeated, valueless and stray words, all at once. No flag may be abbreviated.
    """
    known = [*_given_as(config_class), *_shorts(config_class), "config", "profile", "debug", "help"]
    flags: dict[str, str] = {}
    problems: list[str] = []
    words = list(argv)
    while words:
        word = words.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if word == "-h":
            name = "help"
        elif not word.startswith("--"):
            problems.append(f"{word}: found on its own; flags are --key value or --key=value")
            continue
        key = _shorts(config_class).get(name, name)
        follows = bool(words) and not words[0].startswith("--")
        if name in ("help", "debug") and not equals and not (follows and words[0] in ("true", "false")):
            value = "true"
        elif not equals and follows:
            value = words.pop(0)
        elif not equals:
            problems.append(f"--{name}: needs a value")
        if name not in known:
            problems.append(f"--{name}: no such flag{_nearest(name, known, '--')}")
        elif key in flags:
            problems.append(f"--{name}: given twice")
        flags[key] = value
    if problems:
        raise ConfigError(_told(problems, "All flags: --help"))
    return flags


def _profile(name: str, profile: str, config_class: type) -> dict[str, _Value]:
    record = phases.phase(name)
    file = record.profile(profile)
    if profile not in record.profiles:
        raise ConfigError(f"--profile: found {profile!r}; {name} has {', '.join(record.profiles)}")
    layer: dict[str, _Value] = {}
    for step, step_class in _steps(config_class).items():
        layer |= {f"{step}.{key}": value for key, value in _profile(step, profile, step_class).items()}
    layer |= _spread({"profile": (profile, "")}, config_class) | _from_file(file, config_class)
    return _whole(file, layer, config_class)


def _saved(run_id: str, output_dir: Path, config_class: type) -> dict[str, _Value]:
    """The configuration that a run was started with."""
    runs = sorted(path.parent.name for path in output_dir.glob("*/config.yaml"))
    if run_id not in runs:
        there = f"it has {', '.join(runs)}" if runs else "it has none"
        raise ConfigError(f"--resume: no run {run_id!r} in output_dir {output_dir}; {there}")
    file = output_dir / run_id / "config.yaml"
    return _whole(file, _from_file(file, config_class), config_class)


def _whole(file: Path, values: dict[str, _Value], config_class: type) -> dict[str, _Value]:
    if missing := sorted(_keys(config_class).keys() - values.keys()):
        raise ConfigError(all_problems(str(file), [f"{key}: missing" for key in missing]))
    return values


def _from_file(file: Path, config_class: type) -> dict[str, _Value]:
    """The keys that a YAML file gives, dotted, with the file as their source."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: is no text file") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(f"{file}: {where}is no valid YAML ({getattr(error, 'problem', None) or error})") from error
    known = _given_as(config_class)
    blocks = {".".join(key.split(".")[:depth]) for key in known for depth in range(1, key.count(".") + 1)}
    values: dict[str, _Value] = {}
    problems: list[str] = []

    def walk(block: Mapping[Any, Any], prefix: str) -> None:
        for name, value in block.items():
            key = _shorts(config_class).get(f"{prefix}{name}", f"{prefix}{name}")
            if key in known:
                values[key] = value, str(file)
            elif key in blocks and isinstance(value, Mapping):
                walk(value, f"{key}.")
            elif key in blocks:
                problems.append(f"{key}: found {_shown(value)}; expected a block of keys")
            else:
                problems.append(f"{key}: no such key{_nearest(key, [*known, *blocks])}")

    if not isinstance(content, Mapping):
        raise ConfigError(f"{file}: holds {'nothing' if content is None else _shown(content)}; expected keys with values")
    walk(content, "")
    if problems:
        raise ConfigError(all_problems(str(file), problems))
    return _spread(values, config_class)


def _spread(given: Mapping[str, _Value], config_class: type) -> dict[str, _Value]:
    """A layer in which what was given for all steps of a pipeline stands in each of them.

    Raises:
        ConfigError: A step was given something else by its own name.
    """
    keys, reached = _keys(config_class), _reached(config_class)
    values = {key: value for key, value in given.items() if key in keys}
    problems = []
    for key, (value, source) in given.items():
        if key in keys and value in (None, "null"):
            continue  # each step's own
        for target in reached.get(key, ()):
            if (other := values.setdefault(target, (value, source))[0]) != value:
                problems.append(f"{key} and {target}: found {_shown(value)} and {_shown(other)}; give one of them")
    if problems:
        raise ConfigError(_told(problems))
    return values


def _typed(given: Mapping[str, _Value], config_class: type) -> tuple[dict[str, Any], list[str]]:
    """The values that fit the types of their keys, in these types, and a problem for each that does not or is not finite."""
    parser = _parser(config_class)
    keys = _keys(config_class)
    values: dict[str, Any] = {}
    problems: list[str] = []
    for key, (value, source) in given.items():
        kind, _ = keys[key]
        try:
            if value is None and types.NoneType not in get_args(kind):
                raise ArgumentError(None, "null")  # jsonargparse takes null as "not given"
            values[key] = parser.parse_object({key: value}, defaults=False)[key]
            fits = all(math.isfinite(number) for number in _floats(values[key]))
        except ArgumentError:
            fits = False
        if not fits:
            values.pop(key, None)
            problems.append(f"{key}: found {_shown(value)}; expected {_described(kind)}{_in((value, source))}")
    return values, problems


def _built(config_class: Any, values: Mapping[str, Any], prefix: str = "") -> Any:
    hints = get_type_hints(config_class)
    return config_class(
        **{
            field.name: _built(hints[field.name], values, f"{prefix}{field.name}.")
            if dataclasses.is_dataclass(hints[field.name])
            else values[prefix + field.name]
            for field in dataclasses.fields(config_class)
        }
    )


def _announce(phase: str, config: Any) -> None:
    """Say what starts and set the threads, both before torch is imported."""
    configs = [config, *(getattr(config, step) for step in _steps(type(config)))]
    if threads := max((getattr(one, "threads", None) or 0 for one in configs), default=0):
        os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(threads)))
        # Threads that wait by spinning take the core from those that work, on a machine that has other things to do.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if os.environ.get("RANK", "0") == "0":  # the first process of a launch
        resumed = f", going on from run {config.resume}" if getattr(config, "resume", None) else ""
        print(f"medexp {phase}: profile {config.profile}, seed {config.seed}{resumed}", flush=True)


def _print_help(phase: str, config_class: type, profile: str) -> None:
    parser = _parser(config_class, {key: value for key, (value, _) in _profile(phase, profile, config_class).items()})
    parser.prog = f"python -m entry_points.{phase}"
    parser.usage = f"%(prog)s [--KEY VALUE ...]\n       mlflow run . -e {phase} [-P KEY=VALUE ...]"
    parser.print_help()


def _parser(config_class: type, defaults: Mapping[str, Any] | None = None) -> ArgumentParser:
    """The library's parser with a typed argument for each key; it shows `defaults` in its help."""
    parser = ArgumentParser(
        description=(parse_docstring(config_class.__doc__ or "").short_description or ""),
        exit_on_error=False,
        formatter_class=_HelpFormatter,
    )
    general = parser.add_argument_group("where values come from; later ones win")
    general.add_argument("--config", metavar="FILE", help="YAML file with some of the keys below, on top of the profile.")
    general.add_argument("--debug", metavar="", help="Show the traceback of an error. Also MEDEXP_DEBUG=1.")
    groups: dict[str, Any] = {}
    hints = get_type_hints(config_class)
    steps = _steps(config_class)
    if steps:
        parser.epilog = (
            f"Every key of a step can be set too, for one step ({next(iter(steps))}.KEY) or, as KEY, for all that have it. "
            f"What there is: python -m entry_points.STEP --help for {', '.join(steps)}."
        )
    for key, (kind, text) in _keys(config_class).items():
        block = key.rpartition(".")[0]
        if defaults and key.partition(".")[0] in steps:
            continue
        if block not in groups:
            about = parse_docstring(hints[block].__doc__ or "").short_description if block in hints else None
            groups[block] = parser.add_argument_group(block or "the run", about)
        names = [f"--{name}" for name, long in _SHORT.items() if long == key]
        default = f"; default: {_shown(defaults[key])}" if defaults else ""
        groups[block].add_argument(f"--{key}", *names, type=kind, metavar="", help=f"{text} ({_described(kind)}{default})")
    return parser


class _HelpFormatter(DefaultHelpFormatter):
    """The library's own, but each key's text is told as it stands."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)

    def _get_help_string(self, action: Any) -> str:
        return str(action.help)


@functools.cache
def _keys(config_class: type, prefix: str = "") -> dict[str, tuple[Any, str]]:
    """The dotted keys of a configuration, in order, each with its type and what its docstring says of it."""
    hints = get_type_hints(config_class)
    documented = [parse_docstring(cls.__doc__ or "").params for cls in reversed(config_class.__mro__)]
    texts = {param.arg_name: param.description or "" for params in documented for param in params}
    keys: dict[str, tuple[Any, str]] = {}
    for field in dataclasses.fields(config_class):
        kind = hints[field.name]
        if dataclasses.is_dataclass(kind):
            keys |= _keys(hints[field.name], f"{prefix}{field.name}.")
        else:
            keys[f"{prefix}{field.name}"] = kind, " ".join(texts.get(field.name, "").split())
    return keys


def _steps(config_class: Any) -> dict[str, type]:
    """The blocks of a pipeline that are a phase's configuration, by the name of the phase."""
    hints = get_type_hints(config_class)
    blocks: dict[str, Any] = {field.name: hints[field.name] for field in dataclasses.fields(config_class)}
    return {
        name: kind
        for name, kind in blocks.items()
        if isinstance(kind, type) and dataclasses.is_dataclass(kind) and _has(kind, "profile")
    }


@functools.cache
def _reached(config_class: Any) -> dict[str, list[str]]:
    """What a key that is given to a pipeline reaches: `seed` reaches prepare.seed, phase1.seed and so on."""
    reached: dict[str, list[str]] = defaultdict(list)
    for step, step_class in _steps(config_class).items():
        for key in _keys(step_class):
            if not f"{step}.{key}".startswith(config_class.apart):
                reached[key].append(f"{step}.{key}")
    return dict(reached)


def _given_as(config_class: type) -> list[str]:
    """All names of keys that may be given."""
    return list(dict.fromkeys([*_keys(config_class), *_reached(config_class)]))


def _shorts(config_class: type) -> dict[str, str]:
    return {short: key for short, key in _SHORT.items() if key in _given_as(config_class)}


def _has(config_class: type, key: str) -> bool:
    return key in _keys(config_class)


def _shown(value: Any) -> str:
    """A value as YAML writes it in one line."""
    return value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True, width=math.inf).split("\n")[0]


def _in(given: _Value | None) -> str:
    return f" (in {given[1]})" if given and given[1] else ""


def _floats(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, tuple):
        for part in value:
            yield from _floats(part)


def _described(kind: Any) -> str:
    """A type in words."""
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", types.NoneType: "null"}
    parts = get_args(kind)
    if kind in names:
        return names[kind]
    if get_origin(kind) is Literal:
        return f"one of {', '.join(parts)}"
    if get_origin(kind) is tuple:
        many = "any number of values" if parts[-1] is ... else f"{len(parts)} values"
        return f"a list [...] of {many}, each {_described(parts[0])}"
    if get_origin(kind) is dict:
        return f"a mapping {{...}} from {_described(parts[0])} to {_described(parts[1])}"
    return " or ".join(map(_described, parts))


def _nearest(name: str, known: Sequence[str], prefix: str = "") -> str:
    """The known name that a misspelt one may mean: by the whole of it, else by its last part."""
    ends = {key.rpartition(".")[2]: key for key in known}
    close = difflib.get_close_matches(name, known, n=1) or [ends[end] for end in difflib.get_close_matches(name, ends, n=1)]
    return f"; did you mean {prefix}{close[0]}?" if close else ""


def _told(problems: Sequence[str], advice: str = "") -> str:
    """One problem as its own line, several as a list."""
    if len(problems) == 1:
        return problems[0]
    return all_problems("configuration", problems, advice)
