"""Families: scenarios that share an image or a template, and so are no two observations. They stay in one split, and intervals
and tests draw them as one."""

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from medexp.data.scenarios.cases import Scenario
from medexp.data.scenarios.facts import ScenarioFacts
from medexp.data.splits import patient_groups

_NUMBER = re.compile(r"\d+(?:[.,:/]\d+)*")


def template_of(scenario: Scenario) -> str:
    """Instruction and input, lower case, numbers as #, blanks alike: what scenarios that were made of one form share."""
    text = unicodedata.normalize("NFKC", f"{scenario.instruction}\n{scenario.input}").casefold()
    return " ".join(_NUMBER.sub("#", text).split())


def questions(scenarios: Sequence[Scenario]) -> frozenset[str]:
    """Templates that more than two, and more than half, of the scenarios of a modality have: what is asked of that modality,
    whose scenarios differ by their images, and no form that a few were made of."""
    asked = Counter((scenario.modality, template_of(scenario)) for scenario in scenarios)
    of = Counter(scenario.modality for scenario in scenarios)
    return frozenset(text for (modality, text), count in asked.items() if count > max(2, of[modality] / 2))


def in_families(scenarios: Sequence[Scenario], facts: Sequence[ScenarioFacts]) -> tuple[Scenario, ...]:
    """The scenarios, each with its family; in any order they get the same.

    A family is what hangs together by equal pixels, by images that are copies of each other (`medexp.data.twins`), and by
    equal templates (`template_of`) that are no questions (`questions`). Where copies that are not equal would join more than
    a quarter, and more than two, of what hangs together otherwise, the images are just alike and join none
    (`medexp.data.splits.patient_groups`). It is called after its first scenario by id, and after what that shows and says:
    other scenarios of that name are another family.

    Args:
        scenarios: The scenarios.
        facts: Of each of them.
    """
    general = questions(scenarios)
    templates = {one.id: template_of(one) for one in scenarios}
    alike = [one if (text := templates[one.id]) in general else replace(one, family=f"template {text}") for one in scenarios]
    sha256 = {fact.case: fact.sha256 for fact in facts}
    family_of: dict[str, str] = {}
    for members in patient_groups(alike, facts):
        digest = hashlib.sha256(" ".join(sha256[name] for name in members).encode()).hexdigest()
        family_of |= dict.fromkeys(members, f"{members[0]} {digest[:8]}")
    return tuple(replace(one, family=family_of[one.id]) for one in scenarios)


def members_of(scenarios: Sequence[Scenario]) -> Mapping[str, Sequence[Scenario]]:
    """The scenarios of each family."""
    found: dict[str, list[Scenario]] = defaultdict(list)
    for scenario in scenarios:
        found[scenario.patient].append(scenario)
    return found
