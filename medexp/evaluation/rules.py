"""The rule that a model has to beat: an answer by words of the text, with no image and no network."""

import re

from medexp.data.scenarios.cases import ANSWERS

_NOTHING_TO_TREAT = re.compile(
    r"\b(normal|healthy|benign|unnecessary|no (evidence|signs?|tumou?rs?|malignancy|findings?))\b", re.IGNORECASE
)


def keyword_rule(text: str) -> int:
    """ERROR where the text says that there is nothing to treat, else CORRECT.

    Words that say so: normal, healthy, benign, unnecessary, and "no" before evidence, sign, tumour, malignancy or finding.

    Such a rule is the baseline of the specification's project: 79.17 %, which is 19 of its 24 scenarios, 8 of 12 CORRECT and
    11 of 12 ERROR. Its words are not known one by one; this is the rule as far as it is described, and that share is not to be
    expected of it.

    Args:
        text: Of a scenario, without its output.

    Returns:
        Place in `medexp.data.scenarios.cases.ANSWERS`.
    """
    return ANSWERS.index("ERROR" if _NOTHING_TO_TREAT.search(text) else "CORRECT")
