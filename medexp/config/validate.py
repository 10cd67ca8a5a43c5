"""The one validator: types, ranges, what contradicts, all problems at once, each with its key and its source.

The command line, files, spaces, ladders, resumed runs and pipelines ask it, and it answers all of them in the same words.
"""

import dataclasses
import functools
import json
import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin

import yaml
from pydantic import ConfigDict, Tag, TypeAdapter, ValidationError

from medexp.addresses import local_path
from medexp.config.bounds import Told, allowed, bare, is_finite, metadata
from medexp.config.keys import Key, blocks, built, hints, keys
from medexp.errors import ConfigError, DataError, all_problems
from medexp.files import dump_yaml, parse_yaml
from medexp.secrets import masked

C = TypeVar("C")
_RANGE = {"greater_than", "greater_than_equal", "less_than", "less_than_equal", "multiple_of"}
_RANGE |= {"too_short", "predicate_failed", "finite_number"}
_LONG = 500  # characters: what a user can read of a value that was found
_HOME = re.compile(r"~[A-Za-z_][\w.-]*(?:/|$)")
_KEYS_IN_URI = re.compile(r"(?i)\bs3[an]?://[^/\s'\",]*[@:]")
_IN_URI = "holds credentials; give s3://bucket/prefix, and keys as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
_OF_DATABASE = re.compile(r"(?i)\b(postgres|mysql|mssql|oracle|mariadb|sqlite)")
_IN_DATABASE = (
    "holds a password, and all of a configuration is logged; leave it out of the URL, or leave the key out and set "
    "MEDEXP_STORAGE_URL to all of the URL. A password of PostgreSQL can also stand in the file that PGPASSFILE names"
)
_SECRET = "holds {}, and all of a configuration is logged; secrets come from the environment, or a file"  # noqa: S105


@dataclass(frozen=True)
class Given:
    """A value as it was given.

    Attributes:
        value: As YAML reads it; of a flag, its text.
        source: The file that gives it; empty for a flag and for a value of this process.
        is_text: Whether it is a flag's.
    """

    value: Any
    source: str = ""
    is_text: bool = False

    @property
    def where(self) -> str:
        return f" (in {self.source})" if self.source else ""


def problems_of(config: Any, prefix: str = "") -> list[str]:
    """All problems of a configuration and of the blocks in it, each with its dotted key first: values of a wrong type, out of
    range, or that contradict each other (a class says in `problems()` what no single key tells)."""
    inner = blocks(type(config))
    found = [
        f"{prefix}{name}: {told}"
        for name, kind in hints(type(config)).items()
        if name not in inner and (told := _wrong(kind, getattr(config, name)))
    ]
    if contradictions := getattr(config, "problems", None):
        found += [f"{prefix}{problem}" for problem in contradictions()]
    for name in inner:
        found += problems_of(getattr(config, name), f"{prefix}{name}.")
    return found


def secret_in(text: str) -> str | None:
    """Why a value may not be given, since it would be logged, and how else to give it; None where it may."""
    if _KEYS_IN_URI.search(text):
        return _IN_URI
    if not (found := masked(text, home=False).found):
        return None
    return _IN_DATABASE if _OF_DATABASE.match(text) else _SECRET.format(" and ".join(found))


def _wrong(kind: Any, value: Any) -> str | None:
    """What is wrong with a value: a secret in it, text that may be left out and says nothing, the home of a user whom this
    machine does not know, or what does not fit."""
    listed = isinstance(value, list | tuple)
    texts = [text for text in (value if listed else [value]) if isinstance(text, str)]
    blank = any(not text.strip() for text in texts) and (listed or types.NoneType in _parts(bare(kind)))
    empty = "found no text (is a variable of the shell unset?); give some, or leave the key out" if blank else None
    return secret_in(str(value)) or empty or next(filter(None, map(_of_nobody, texts)), None) or misfit(kind, value)


def _of_nobody(text: str) -> str | None:
    if _HOME.match(text):
        try:
            local_path(text)
        except DataError as error:
            return str(error)
    return None


def misfit(kind: Any, value: Any) -> str | None:
    """What is wrong with a value of a type with bounds, None where nothing is."""
    try:
        _adapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        told = allowed(kind)
        if told.allowed and all(found["type"] in _RANGE for found in error.errors()):
            return f"found {told.shown(value)}; {told.allowed}"
        return f"found {shown(value)}; expected {described(kind)}"
    return None


def read(key: Key, given: Given) -> Any:
    """A value in its key's type; whether it is in range is not looked at.

    Raises:
        ValueError: It is of another type, or not finite: says what was found and what is expected.
    """
    kind = bare(key.kind)
    try:
        value = _of_text(given.value, kind) if given.is_text else _of_file(given.value, kind)
        value = _adapter(kind).validate_json(json.dumps(value), strict=True)
        if is_finite(value):
            return value
    except (ValidationError, TypeError, ValueError, yaml.YAMLError):
        pass  # told below
    # of a file, text that looks like a number is shown in the quotes that make it text
    found = shown(given.value) if given.is_text else _cut(dump_yaml(given.value, in_a_line=True))
    raise ValueError(f"{key.name}: found {found}; expected {described(kind)}{given.where}")


def typed(config_class: type, values: Mapping[str, Given]) -> tuple[dict[str, Any], list[str]]:
    """The values that fit the types of their keys, in these types, and a problem for each that does not."""
    fit: dict[str, Any] = {}
    problems = []
    for name, given in values.items():
        try:
            fit[name] = read(keys(config_class)[name], given)
        except ValueError as error:
            problems.append(str(error))
    return fit, problems


def made(
    config_class: type[C], values: Mapping[str, Any], source: str, failure: type[ConfigError] = ConfigError, advice: str = ""
) -> C:
    """A configuration from the values of all of its keys.

    Args:
        config_class: Its class.
        values: By dotted key, as YAML gives them or in their types.
        source: What they are, for the message.
        failure: What is raised when they do not hold.
        advice: What to do then, for the message.

    Raises:
        ConfigError: `failure`: a key is missing or unknown, a value is of a wrong type or out of range, or values contradict
            each other; all problems at once.
    """
    known = keys(config_class)
    problems = [f"{name}: no such key" for name in values if name not in known]
    problems += [f"{name}: missing" for name in known if name not in values]
    fit, misfits = typed(config_class, {name: Given(value) for name, value in values.items() if name in known})
    problems += misfits
    if not problems:
        config = built(config_class, fit)
        problems = problems_of(config)
    if problems:
        raise failure(all_problems(source, problems, advice))
    return config


def shown(value: Any) -> str:
    """A value as YAML writes it in one line, for a message: a long one is cut."""
    return _cut(value if isinstance(value, str) else dump_yaml(value, in_a_line=True))


def _cut(text: str) -> str:
    return text if len(text) <= _LONG else f"{text[:_LONG]}... ({len(text)} characters)"


def described(kind: Any) -> str:
    """A type in words."""
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", types.NoneType: "null"}
    kind = bare(kind)
    parts = get_args(kind)
    if kind in names:
        return names[kind]
    if get_origin(kind) is Literal:
        return f"one of {', '.join(parts)}"
    if get_origin(kind) is tuple:
        many = "any number of values" if parts[-1] is ... else f"{len(parts)} values"
        return f"a list [...] of {many}, each {described(parts[0])}"
    if get_origin(kind) is dict:
        return f"a mapping {{...}} from {described(parts[0])} to {described(parts[1])}"
    return " or ".join(map(described, parts))


def json_schema(known: Mapping[str, Key]) -> dict[str, Any]:
    """What a YAML file with some of the keys may hold, as a JSON Schema: editors complete and check by it.

    Args:
        known: The keys by their dotted names.
    """
    root: dict[str, Any] = {"type": "object", "additionalProperties": False, "properties": {}}
    for name, key in known.items():
        *path, last = name.split(".")
        block = root
        for part in path:
            empty: dict[str, Any] = {"type": "object", "additionalProperties": False, "properties": {}}
            block = block["properties"].setdefault(part, empty)
        block["properties"][last] = key_schema(key)
    return root


def key_schema(key: Key) -> dict[str, Any]:
    """The values of a key as a JSON Schema, with what it is for."""
    made = _adapter(key.kind).json_schema()
    alone = _lists_text(bare(key.kind)) and "anyOf" not in made
    return {"description": key.text} | ({"anyOf": [made, {"type": "string"}]} if alone else made)


def schema_problems(error: ValidationError, root: Any, hidden: Sequence[str] = ()) -> list[str]:
    """What pydantic found in a file that is no configuration (a space, a ladder, a definition), in the house's words.

    Args:
        error: What it found.
        root: The class that the file was read as.
        hidden: Keys of it that no file gives.
    """
    return list(dict.fromkeys(_schema_problem(found, root, hidden) for found in error.errors()))


def _schema_problem(found: Any, root: Any, hidden: Sequence[str]) -> str:
    kind = found["type"]
    unknown = kind in ("unexpected_keyword_argument", "extra_forbidden")
    path, inside, told = _place(root, found["loc"][:-1] if unknown else found["loc"])
    where = ".".join(path)
    if kind == "missing":
        return f"{where} is missing"
    if unknown:
        known = [name for name in hints(_without_null(inside)) if name not in hidden]
        return f"unknown key {'.'.join([*path, str(found['loc'][-1])])}; known are {', '.join(known)}"
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        key = f"{where}.{found['ctx']['discriminator'].strip(chr(39))}"
        given = f"{key}: found {found['ctx']['tag']!r}" if kind == "union_tag_invalid" else f"{key} is missing"
        return f"{given}; known are {', '.join(_tags(inside))}"
    return f"{where}: found {found['input']!r}; {told or found['msg'][0].lower() + found['msg'][1:]}"


def _place(root: Any, loc: Sequence[int | str]) -> tuple[list[str], Any, str]:
    """Where an error is: the path as a user writes it, without the names of types that pydantic tried; the type there; and
    what is allowed there, where its type says it."""
    path: list[str] = []
    kind, told = root, ""
    for part in loc:
        told = next((one.allowed for one in metadata(kind) if isinstance(one, Told)), "")
        kind = _without_null(kind)
        if dataclasses.is_dataclass(kind):
            path.append(str(part))
            kind = hints(cast(type, kind)).get(str(part), Any)
        elif get_origin(kind) in (tuple, list, dict):
            path.append(str(part))
            kind = get_args(kind)[1 if get_origin(kind) is dict else 0]
        elif tagged := _tags(kind):
            kind = tagged.get(str(part), Any)
        else:
            break
    told = told or next((one.allowed for one in metadata(kind) if isinstance(one, Told)), "")
    return path, kind, told


def _without_null(kind: Any) -> Any:
    """A type without its outer markers and without null."""
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    parts = [part for part in get_args(kind) if part is not types.NoneType]
    is_optional = get_origin(kind) in (Union, types.UnionType) and len(parts) == 1
    return _without_null(parts[0]) if is_optional else kind


def _tags(kind: Any) -> dict[str, Any]:
    """The members of a union by the tag that tells them apart; none where nothing does."""
    kind = _without_null(kind)
    if get_origin(kind) not in (Union, types.UnionType):
        return {}
    tagged: dict[str, Any] = {}
    for member in get_args(kind):
        tags = [one.tag for one in metadata(member) if isinstance(one, Tag)]
        if dataclasses.is_dataclass(member) and (of_type := hints(cast(type, member)).get("type")):
            tags = list(get_args(of_type))
        tagged |= dict.fromkeys(tags, member)
    return tagged


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False))


def _parts(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _lists_text(kind: Any) -> bool:
    """Whether it is a list of any texts."""
    return any(bare(item) is str for part in _parts(kind) if get_origin(part) is tuple for item in get_args(part))


def _maps_to_texts(kind: Any) -> bool:
    """Whether it is a mapping of names to lists of any texts."""
    return get_origin(kind) is dict and get_args(kind)[0] is str and _lists_text(get_args(kind)[1])


def _of_file(value: Any, kind: Any) -> Any:
    """A file's value; a text alone where a list of texts is wanted is a list of one, as of a flag. The names yes and no of a
    mapping are no truth values."""
    if _maps_to_texts(kind) and isinstance(value, Mapping):
        return {("no", "yes")[name] if isinstance(name, bool) else name: texts for name, texts in value.items()}
    return [value] if isinstance(value, str) and _lists_text(kind) and str not in _parts(kind) else value


def _of_text(text: str, kind: Any) -> Any:
    """A flag's text as its key's type reads it: text stays as it is, all else is YAML."""
    parts = _parts(kind)
    if text == "null" and types.NoneType in parts:
        return None
    inner = [part for part in parts if get_origin(part) is tuple]
    is_list = bool(inner) and text.lstrip().startswith("[")
    if any(part is str or get_origin(part) is Literal for part in parts) and not is_list:
        return text
    if not text.strip():
        raise ValueError(text)  # to YAML nothing is null; a flag whose value went missing says nothing
    only_text = _lists_text(kind)
    if only_text and not is_list:
        return [text]  # one alone needs no brackets
    return parse_yaml(text, only_text=only_text or _maps_to_texts(kind))
