"""A configuration of layers, later ones win: the profile (or, with `resume`, the configuration of the interrupted run), then
`--config FILE`, then flags. Everything wrong with it is told at once.

A pipeline's configuration has a block for each phase that it runs, filled from that phase's own profile. A key that is given
without the phase's name goes to each of them that has it: `seed` to all, `lora.rank` to phase1.
"""

import difflib
import functools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, get_origin

import yaml

from medexp.addresses import local_path
from medexp.config.bounds import bare
from medexp.config.keys import Key, Role, built, keys, marked, steps
from medexp.config.validate import Given, json_schema, problems_of, shown, typed
from medexp.errors import ConfigError, all_problems
from medexp.files import parse_yaml

_OF_THE_COMMAND = ("config", "profile", "debug", "help")  # flags that are no keys, or choose the first layer


class Profiled(Protocol):
    """A phase, as `medexp.phases.Phase` describes it."""

    @property
    def name(self) -> str: ...
    @property
    def profiles(self) -> list[str]: ...
    def profile(self, name: str) -> Path: ...


@dataclass(frozen=True)
class Layers:
    """What a configuration is made of.

    Attributes:
        phase: The phase.
        config: The class of its configuration.
        find: From the name of a step, where there are steps, to its phase.
    """

    phase: Profiled
    config: type
    find: Callable[[str], Profiled]

    def configuration(self, flags: Mapping[str, str]) -> Any:
        """The configuration of the layers.

        Args:
            flags: As `flags_of` reads them.

        Raises:
            ConfigError: For all that is wrong with them: unknown keys, values of a wrong type, values out of range.
        """
        given = self._from_file(Path(flags["config"])) if "config" in flags else {}
        if "profile" in given and keys(self.config).keys() - given.keys():
            raise ConfigError(f"{flags['config']}: profile: a file with some of the keys cannot choose it; say --profile")
        said = {key: Given(value, is_text=True) for key, value in flags.items() if key not in _OF_THE_COMMAND}
        given |= self._spread(said)
        profile = flags.get("profile", "demo")
        layer = self.of_profile(profile)
        run_id = given.get("resume", layer.get("resume", Given(None))).value
        if resumes := run_id not in (None, "null"):
            output_dir = given.get("output_dir", layer["output_dir"])
            layer = self._of_run(str(run_id), local_path(str(output_dir.value))) | {"output_dir": output_dir}
            if profile != "demo":  # `mlflow run` always hands a profile on: the default says nothing
                given["profile"] = Given(profile, is_text=True)
        values, problems = typed(self.config, layer)
        changes, misfits = typed(self.config, given)
        problems += misfits
        if not problems and resumes:
            may_differ = marked(self.config, Role.WHERE)
            changed = [
                f"{key}: the run has {values[key]!r}, given is {value!r}"
                for key, value in changes.items()
                if key not in may_differ and value != values[key]
            ]
            if changed:
                advice = "Leave them out, or start a new run without resume."
                raise ConfigError(all_problems(f"resume continues run {run_id} as it was started", changed, advice))
        if values.keys() == keys(self.config).keys():
            config: Any = built(self.config, values | changes)  # a key that does not fit has its layer's value here
            there = Given(None)
            problems += [f"{problem}{given.get(problem.partition(':')[0], there).where}" for problem in problems_of(config)]
        if problems:
            raise ConfigError(in_one(problems))
        return config

    def of_profile(self, profile: str, *, whole: bool = True) -> dict[str, Given]:
        """The values of a profile, those of the steps from their own; perhaps not all of what no phase has.

        Raises:
            ConfigError: There is no such profile, or it lacks keys though it has to be whole.
        """
        if profile not in self.phase.profiles:
            raise ConfigError(f"--profile: found {profile!r}; {self.phase.name} has {', '.join(self.phase.profiles)}")
        file = self.phase.profile(profile)
        layer: dict[str, Given] = {}
        for step, step_class in steps(self.config).items():
            of_step = Layers(self.find(step), step_class, self.find).of_profile(profile)
            layer |= {f"{step}.{key}": value for key, value in of_step.items()}
        layer |= self._spread({"profile": Given(profile, is_text=True)}) | self._from_file(file)
        return self._whole(file, layer) if whole else layer

    @property
    def names(self) -> list[str]:
        """All names of keys that may be given."""
        return list(dict.fromkeys([*keys(self.config), *_reached(self.config)]))

    @property
    def shorts(self) -> dict[str, str]:
        """The short names that may be given, with the keys that they stand for."""
        longest_first = sorted(self.names, key=len, reverse=True)  # given to a pipeline, it is meant for all steps
        return {short: name for name in longest_first for short in self.key(name).shorts}

    def key(self, name: str) -> Key:
        """What is known of a key that may be given; what is given for all steps is as in the first of them."""
        own = keys(self.config)
        return own[name] if name in own else own[_reached(self.config)[name][0]]

    @property
    def schema(self) -> dict[str, Any]:
        """A JSON Schema of the files that `--config` takes."""
        known = {name: self.key(name) for name in self.names}
        shorts = {short: name for short, name in self.shorts.items() if not any(key.startswith(f"{short}.") for key in known)}
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": f"Configuration of {self.phase.name}",
            **json_schema(known | {short: known[name] for short, name in shorts.items()}),
        }

    def _of_run(self, run_id: str, output_dir: Path) -> dict[str, Given]:
        """The configuration that a run was started with. A key that did not exist then, and by which the profile asks for
        nothing (an empty list or mapping, false), says what was done then."""
        runs = sorted(path.parent.name for path in output_dir.glob("*/config.yaml"))
        if run_id not in runs:
            there = f"it has {', '.join(runs)}" if runs else "it has none"
            raise ConfigError(f"--resume: no run {run_id!r} in output_dir {output_dir}; {there}")
        file = output_dir / run_id / "config.yaml"
        values = self._from_file(file)
        profile = values.get("profile", Given("demo")).value
        usual = self.of_profile(str(profile)) if profile in self.phase.profiles else {}
        return self._whole(
            file, {key: one for key, one in usual.items() if one.value is False or one.value in ([], {})} | values
        )

    def _whole(self, file: Path, values: dict[str, Given]) -> dict[str, Given]:
        if missing := sorted(keys(self.config).keys() - values.keys()):
            raise ConfigError(all_problems(str(file), [f"{key}: missing" for key in missing]))
        return values

    def _from_file(self, file: Path) -> dict[str, Given]:
        """The keys that a YAML file gives, dotted, with the file as their source; what its `defaults` name lies below."""
        values: dict[str, Given] = {}
        for source, content in _composed(file):
            found, problems = self.dotted(content, str(source))
            if problems:
                raise ConfigError(all_problems(str(source), problems))
            values |= self._spread(found)
        return values

    def dotted(self, content: Mapping[Any, Any], source: str) -> tuple[dict[str, Given], list[str]]:
        """The keys of nested blocks, dotted, and a problem for each that there is not."""
        known, shorts = self.names, self.shorts
        inside = {".".join(key.split(".")[:depth]) for key in known for depth in range(1, key.count(".") + 1)}
        values: dict[str, Given] = {}
        problems: list[str] = []

        def walk(block: Mapping[Any, Any], prefix: str) -> None:
            for name, value in block.items():
                key = f"{prefix}{name}"
                if not (key in inside and isinstance(value, Mapping)):  # a short name may be that of a block too
                    key = shorts.get(key, key)
                if key in values:
                    problems.append(f"{key}: given twice, as a block and dotted; give one of them")
                elif key in known:
                    values[key] = Given(value, source)
                elif key in inside and isinstance(value, Mapping):
                    walk(value, f"{key}.")
                elif key in inside:
                    problems.append(f"{key}: found {shown(value)}; expected a block of keys")
                else:
                    problems.append(f"{key}: no such key{nearest(key, [*known, *inside])}")

        walk(content, "")
        return values, problems

    def _spread(self, given: Mapping[str, Given]) -> dict[str, Given]:
        """A layer in which what was given for all steps of a pipeline stands in each of them.

        Raises:
            ConfigError: A step was given something else by its own name.
        """
        own, reached = keys(self.config), _reached(self.config)
        values = {key: value for key, value in given.items() if key in own}
        problems = []
        for key, one in given.items():
            if key in own and one.value in (None, "null"):
                continue  # each step's own
            for target in reached.get(key, ()):
                if (other := values.setdefault(target, one)).value != one.value:
                    found = f"found {shown(one.value)} and {shown(other.value)}"
                    problems.append(f"{key} and {target}: {found}; give one of them")
        if problems:
            raise ConfigError(in_one(problems))
        return values


def flags_of(argv: Sequence[str], layers: Layers) -> dict[str, str]:
    """`--key value` and `--key=value` as key to value; `help` and `debug` stand without one.

    Raises:
        ConfigError: For unknown, repeated, valueless and stray words, all at once. No flag may be abbreviated.
    """
    known, shorts = [*layers.names, *layers.shorts, *_OF_THE_COMMAND], layers.shorts
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
        key = shorts.get(name, name)
        follows = bool(words) and not words[0].startswith("--")
        if name in ("help", "debug") and not equals and not (follows and words[0] in ("true", "false")):
            value = "true"
        elif not equals and follows:
            value = words.pop(0)
        elif not equals:
            problems.append(f"--{name}: needs a value")
        if name not in known:
            problems.append(f"--{name}: no such flag{nearest(name, known, '--')}")
        elif key in flags:
            of_list = key in layers.names and get_origin(bare(layers.key(key).kind)) is tuple
            problems.append(f"--{name}: given twice" + ("; several values are one list, [A, B]" if of_list else ""))
        flags[key] = value
    if problems:
        raise ConfigError(in_one(problems, "All flags: --help"))
    return flags


def nearest(name: str, known: Sequence[str], prefix: str = "") -> str:
    """The known name that a misspelt one may mean: by the whole of it, else by its last part."""
    ends = {key.rpartition(".")[2]: key for key in known}
    close = difflib.get_close_matches(name, known, n=1) or [ends[end] for end in difflib.get_close_matches(name, ends, n=1)]
    return f"; did you mean {prefix}{close[0]}?" if close else ""


def in_one(problems: Sequence[str], advice: str = "") -> str:
    """One problem as its own line, several as a list."""
    if len(problems) == 1:
        return problems[0]
    return all_problems("configuration", problems, advice)


def _content(file: Path) -> Mapping[Any, Any]:
    try:
        content = parse_yaml(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: is no text file") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(f"{file}: {where}is no valid YAML ({getattr(error, 'problem', None) or error})") from error
    if not isinstance(content, Mapping):
        raise ConfigError(f"{file}: holds {'nothing' if content is None else shown(content)}; expected keys with values")
    return content


def _composed(file: Path, above: tuple[Path, ...] = ()) -> Iterator[tuple[Path, Mapping[Any, Any]]]:
    """The files that a YAML file is made of with their keys, later ones win: what its list `defaults` names, found beside it,
    and itself, last or where `_self_` stands, as Hydra has it."""
    content = dict(_content(file))
    names = content.pop("defaults", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{file}: defaults: found {shown(names)}; expected a list of names of files beside it")
    for name in [*names, *([] if "_self_" in names else ["_self_"])]:
        if name == "_self_":
            yield file, content
            continue
        other = file.with_name(name if name.endswith((".yaml", ".yml")) else f"{name}.yaml")
        if other in (*above, file):
            raise ConfigError(f"{file}: defaults: {name} names this file again; take it out")
        if not other.is_file():
            there = ", ".join(sorted(path.stem for path in file.parent.glob("*.yaml") if path != file)) or "none"
            raise ConfigError(f"{file}: defaults: no file {other}; beside it are {there}")
        yield from _composed(other, (*above, file))


@functools.cache
def _reached(config_class: Any) -> Mapping[str, Sequence[str]]:
    """What a key that is given to a pipeline reaches: `seed` reaches prepare.seed, phase1.seed and so on."""
    reached: dict[str, list[str]] = defaultdict(list)
    for step, step_class in steps(config_class).items():
        for key in keys(step_class):
            if not f"{step}.{key}".startswith(config_class.apart):
                reached[key].append(f"{step}.{key}")
    return dict(reached)
