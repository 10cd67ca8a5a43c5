"""What the values in a segmentation file mean: every edition of BraTS numbers its tissues in its own way.

A network here has four classes: 0 background, 1 necrotic or non-enhancing core, 2 edema, 3 enhancing tumour. Each edition's
tissues go where its own regions put them: TC is 1 and 3, WT 1, 2 and 3, ET 3.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Edition:
    """How an edition numbers its tissues.

    Attributes:
        tissues: By value in the files, what it is.
        classes: By value in the files, the network's class.
        source: Where the edition says so.
    """

    tissues: Mapping[int, str]
    classes: Mapping[int, int]
    source: str

    @property
    def in_words(self) -> str:
        """The table in a line."""
        return ", ".join(f"{value} {what}" for value, what in self.tissues.items())


EDITIONS: Mapping[str, Edition] = {
    "brats2021": Edition(
        {1: "necrotic core", 2: "edema", 4: "enhancing tumour"},
        {1: 1, 2: 2, 4: 3},
        "BraTS 2021 and older: Baid et al., arXiv 2107.02314",
    ),
    "brats2023": Edition(
        {1: "necrotic or non-enhancing core", 2: "edema", 3: "enhancing tumour"},
        {1: 1, 2: 2, 3: 3},
        "BraTS 2023 of all tumours, paediatric ones too; meningiomas: LaBella et al., arXiv 2305.07642",
    ),
    # TC is ET and NETC, WT these and SNFH: the cavity is in no region, so it is background
    "brats-gli-2024": Edition(
        {1: "non-enhancing core", 2: "surrounding FLAIR hyperintensity", 3: "enhancing tissue", 4: "resection cavity"},
        {1: 1, 2: 2, 3: 3, 4: 0},
        "BraTS 2024, gliomas after treatment: de Verdier et al., arXiv 2405.18368",
    ),
    "brats-ped": Edition(
        {1: "enhancing tumour", 2: "non-enhancing tumour", 3: "cystic component", 4: "edema"},
        {1: 3, 2: 1, 3: 1, 4: 2},
        "BraTS 2024, paediatric: Kazerooni et al., arXiv 2404.15009",
    ),
}
"""By the name that `data.labels` gives them."""


def fitting(values: Iterable[int]) -> list[str]:
    """The editions that have all of some values, each with the flag to type and what it takes the values above 2 for."""
    found = set(values) - {0}
    told = []
    for name, edition in EDITIONS.items():
        if found <= set(edition.tissues):
            taken = ", ".join(f"{value} is {edition.tissues[value]}" for value in sorted(found) if value in edition.tissues)
            told.append(f"-P data.labels={name} ({taken})")
    return told
