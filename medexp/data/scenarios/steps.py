"""The step between a scenario and what a vision-language model takes (`medexp.data.scenarios.prompts` executes it)."""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, ConfigDict
from pydantic.dataclasses import dataclass

PLACES = ("{first}", "{second}")
"""Where a question names both answers."""
EXAMPLE = "Answer with {first} or {second}, a dash and the reason."


def _names_both(question: str) -> str:
    if lacking := [place for place in PLACES if place not in question]:
        raise ValueError(f"{' and '.join(lacking)} must stand in it, for the answers, as in {EXAMPLE!r}")
    return question


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Ask:
    """A scenario as the turn of a user: its image, then its instruction, its input where there is one, and a question, with
    line breaks between them.

    Attributes:
        question: What is asked of every scenario; {first} and {second} stand in it for the two answers.
        first: The answer that is named first.
    """

    NAME: ClassVar[str] = "ask"
    VERSION: ClassVar[int] = 1
    question: Annotated[str, AfterValidator(_names_both)]
    first: Literal["CORRECT", "ERROR"]

    @property
    def asked(self) -> str:
        """The question with both answers in it."""
        second = "ERROR" if self.first == "CORRECT" else "CORRECT"
        return self.question.replace(PLACES[0], self.first).replace(PLACES[1], second)


ScenarioStep = Ask
STEPS: Sequence[type[Any]] = (Ask,)
"""All that there are, of every version."""
