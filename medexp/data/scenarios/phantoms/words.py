"""The words of generated scenarios: patients, findings, and the treatments that each finding is an indication for.

Of a patient nothing hangs on what the image shows. `REPORTED` are other words for what it shows; which treatment goes with
which finding stands in `TREATMENTS` alone.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from medexp.data.scenarios.phantoms.draw import FINDINGS

VERSION = 1
"""Raise it when the words change."""

PICTURES: Mapping[str, str] = {
    "xray": "chest x-ray",
    "histopathology": "histopathology slide",
    "mri": "brain MRI",
    "ultrasound": "breast ultrasound",
}

SHOWN: Mapping[tuple[str, str], str] = {
    ("xray", "normal"): "clear lungs",
    ("xray", "effusion"): "a pleural effusion",
    ("xray", "mass"): "a lung mass",
    ("histopathology", "normal"): "benign glands",
    ("histopathology", "carcinoma"): "a carcinoma",
    ("histopathology", "inflammation"): "an inflammation",
    ("mri", "normal"): "a normal brain",
    ("mri", "glioma"): "a glioma",
    ("mri", "haemorrhage"): "a haemorrhage",
    ("ultrasound", "normal"): "a normal breast",
    ("ultrasound", "cyst"): "a simple cyst",
    ("ultrasound", "mass"): "a solid mass",
}
"""What an image shows, in the words of answers, by modality and finding."""

REPORTED: Mapping[tuple[str, str], Sequence[str]] = {
    ("xray", "normal"): ("both lungs are clear", "no finding in the lungs"),
    ("xray", "effusion"): ("fluid around the lung", "fluid in the pleural space"),
    ("xray", "mass"): ("a round tumour of the lung", "a large nodule in the lung"),
    ("histopathology", "normal"): ("normal tissue", "regular glands alone"),
    ("histopathology", "carcinoma"): ("large malignant cells", "a cluster of atypical nuclei"),
    ("histopathology", "inflammation"): ("many lymphocytes", "small inflammatory cells"),
    ("mri", "normal"): ("no lesion of the brain", "an unremarkable brain"),
    ("mri", "glioma"): ("a tumour with a bright rim", "a ring-enhancing tumour"),
    ("mri", "haemorrhage"): ("fresh blood in the brain", "an acute bleed"),
    ("ultrasound", "normal"): ("no lesion of the breast", "regular layers of tissue"),
    ("ultrasound", "cyst"): ("a fluid-filled lesion", "a black lesion with a bright band below"),
    ("ultrasound", "mass"): ("an irregular tumour of the breast", "a lesion with a dark shadow below"),
}
"""Other words for it, by modality and finding."""

_NOTHING = (("discharge without treatment", "going home without treatment"), ("a routine check in a year", "a yearly check"))

TREATMENTS: Mapping[tuple[str, str], Sequence[Sequence[str]]] = {
    **{(modality, "normal"): _NOTHING for modality in FINDINGS},
    ("xray", "effusion"): (("thoracentesis", "a thoracentesis today"), ("a chest drain", "placing a chest drain")),
    ("xray", "mass"): (("lobectomy", "an open lobectomy"), ("bronchoscopy", "a bronchoscopy under sedation")),
    ("histopathology", "carcinoma"): (
        ("chemotherapy", "six cycles of chemotherapy"),
        ("wide excision", "an early wide excision"),
    ),
    ("histopathology", "inflammation"): (("prednisolone", "a course of prednisolone"), ("mesalazine", "mesalazine by mouth")),
    ("mri", "glioma"): (("craniotomy", "an awake craniotomy"), ("temozolomide", "temozolomide with irradiation")),
    ("mri", "haemorrhage"): (("clot evacuation", "an urgent clot evacuation"), ("nicardipine", "nicardipine by infusion")),
    ("ultrasound", "cyst"): (("needle aspiration", "a fine needle aspiration"), ("analgesics", "analgesics as needed")),
    ("ultrasound", "mass"): (("mastectomy", "a simple mastectomy"), ("core biopsy", "a guided core biopsy")),
}
"""Treatments by modality and the finding that is their indication: of each its wordings, the first the one of answers."""

JUDGED = (
    "Look at the {picture} and judge whether the {what} fits it.",
    "Judge whether the {what} fits the {picture}.",
    "Say whether the {what} fits what the {picture} shows.",
    "Check the {what} against the {picture}.",
)
"""Instructions, of a {picture} and {what} is judged."""

PROPOSED = "Proposed {what}: {said}."
"""What is judged, in a patient's text."""

QUESTION = "Answer {first} or {second} and say why."

_PEOPLE: Mapping[str, Sequence[str]] = {
    **dict.fromkeys(("xray", "histopathology", "mri"), ("man", "woman", "male patient", "female patient")),
    "ultrasound": ("woman", "female patient"),
}
_HISTORIES = (
    "a smoker",
    "never a smoker",
    "with diabetes",
    "with hypertension",
    "with asthma",
    "without other illness",
    "on aspirin",
    "on no medication",
    "with a family history of cancer",
    "after a recent fall",
)
_COMPLAINTS: Mapping[str, Sequence[str]] = {
    "xray": ("cough", "breathlessness", "chest pain", "weight loss", "fever"),
    "histopathology": ("abdominal pain", "weight loss", "anaemia", "blood in the stool", "fatigue"),
    "mri": ("headache", "a seizure", "blurred vision", "weakness of an arm", "vomiting"),
    "ultrasound": ("a palpable lump", "breast pain", "nipple discharge", "a tender breast", "a swelling"),
}
_TIMES = ("days", "weeks", "months")


def patient(modality: str, rng: np.random.Generator) -> str:
    """Somebody of whom an image of a modality is taken, in a sentence."""
    who, history = rng.choice(_PEOPLE[modality]), rng.choice(_HISTORIES)
    complaint, count, unit = rng.choice(_COMPLAINTS[modality]), rng.integers(2, 10), rng.choice(_TIMES)
    age = rng.integers(28, 88)
    return (
        f"{age}-year-old {who}, {history}, {complaint} for {count} {unit}."
        if rng.random() < 0.5
        else f"{str(complaint).capitalize()} for {count} {unit}; {who}, {age}, {history}."
    )
