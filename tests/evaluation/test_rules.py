"""The rule by words."""

import pytest

from medexp.data.scenarios.cases import ANSWERS
from medexp.evaluation.rules import keyword_rule


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Normal chest radiograph. Antibiotics are proposed.", "ERROR"),
        ("A BENIGN lesion; chemotherapy is proposed.", "ERROR"),
        ("MRI shows no tumor. Surgery is planned.", "ERROR"),
        ("MRI shows no tumour. Surgery is planned.", "ERROR"),
        ("There is no evidence\nof disease.", "ERROR"),
        ("Is this an unnecessary biopsy?", "ERROR"),
        ("Abnormal opacity; antibiotics are proposed.", "CORRECT"),
        ("A malignant mass; a biopsy is proposed.", "CORRECT"),
        ("The tumor grows, no doubt.", "CORRECT"),
        ("", "CORRECT"),
    ],
)
def test_words_alone_decide(text: str, answer: str) -> None:
    assert ANSWERS[keyword_rule(text)] == answer
