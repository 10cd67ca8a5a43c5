"""Types that carry their range. Bounds are those of annotated-types, which pydantic and hypothesis read too.

A key's type says what a value may be, its text (`doc`) what it is, its markers (`medexp.config.keys`) what it is for.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MultipleOf


@dataclass(frozen=True)
class Told:
    """What is allowed, in words, where bounds alone would not say it.

    Attributes:
        allowed: Follows the value that was found.
        shown: How the value is written.
    """

    allowed: str
    shown: Callable[[Any], object] = str


Count = Annotated[int, Ge(1)]
Natural = Annotated[int, Ge(0)]
Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Share = Annotated[float, Gt(0), Lt(1)]
"""Above 0 and below 1."""
Fraction = Annotated[float, Ge(0), Lt(1), Told("0 to below 1")]
"""0 to below 1."""


def allowed(kind: Any) -> Told:
    """What a type's bounds allow, in words."""
    found = list(metadata(kind))
    if told := [part for part in found if isinstance(part, Told)]:
        return told[0]
    return Told(" and ".join(_in_words(part) for part in found if isinstance(part, Ge | Gt | Le | Lt | MultipleOf)))


def bare(kind: Any) -> Any:
    """A type without its bounds and markers."""
    if get_origin(kind) is Annotated:
        return bare(get_args(kind)[0])
    if isinstance(kind, UnionType) or get_origin(kind) is Union:
        return Union[tuple(bare(part) for part in get_args(kind))]  # noqa: UP007  made of a tuple
    if get_origin(kind) in (tuple, dict):
        return get_origin(kind)[tuple(part if part is ... else bare(part) for part in get_args(kind))]
    return kind


def is_finite(value: Any) -> bool:
    """Whether all numbers in a value are."""
    if isinstance(value, dict):
        return all(map(is_finite, value.values()))
    if isinstance(value, tuple | list):
        return all(map(is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def metadata(kind: Any) -> Iterator[Any]:
    """The bounds and markers of a type; of one that may be null, those of the other."""
    if get_origin(kind) is Annotated:
        yield from get_args(kind)[1:]
        yield from metadata(get_args(kind)[0])
    elif isinstance(kind, UnionType) or get_origin(kind) is Union:
        for part in get_args(kind):
            yield from metadata(part)


def _in_words(bound: Ge | Gt | Le | Lt | MultipleOf) -> str:
    match bound:
        case Ge():
            return f"at least {bound.ge}"
        case Gt():
            return f"above {bound.gt}"
        case Le():
            return f"at most {bound.le}"
        case Lt():
            return f"below {bound.lt}"
        case MultipleOf():
            return f"a multiple of {bound.multiple_of}"
