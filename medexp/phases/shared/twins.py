"""What a phase says of copies among its cases."""

from typing import Any

from medexp.checks import Check, Severity
from medexp.data.prepared import Prepared
from medexp.data.twins import LEAST
from medexp.words import some


def twins_check(data: Prepared[Any, Any], unit: str = "patients") -> Check:
    """TWINS: no copy of a case is in another split, where the user's own splits put it, or has another label."""
    twins = data.twins
    apart = twins[twins["split"] != twins["other_split"]]
    unlike = twins[twins["label"] != twins["other_label"]] if "label" in twins else twins[:0]
    measured: dict[str, float | int | str | bool | None] = {
        "pairs": len(twins),
        "in_two_splits": len(apart),
        "under_two_labels": len(unlike),
    }
    for name, rows, column in (("apart", apart, "split"), ("unlike", unlike, "label")):
        if len(rows):
            pairs = zip(rows["case"], rows[column], rows["other"], rows[f"other_{column}"], strict=True)
            measured[name] = some([f"{one} ({of_one}) and {two} ({of_two})" for one, of_one, two, of_two in pairs], 4)
    alike = " (pictures) or ".join(f"{least:.2f}" for least in LEAST.values())
    return Check(
        "TWINS",
        "Copies of a case lie in one split and have one label",
        Severity.DIAGNOSTIC,
        passed=apart.empty and unlike.empty,
        threshold=f"no two {unit} with equal voxels, or with perceptual hashes of a correlation above {alike} (volumes), in "
        "two splits or under two labels",
        measured=measured,
        advice="twins.csv of the run lists the pairs: look at them. Leave one of each out, correct its label, or put both in "
        "one split, as a split that medexp draws does.",
    )
