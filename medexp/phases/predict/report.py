"""What predict leaves behind in its run, and what it says."""

from collections.abc import Mapping, Sequence
from textwrap import shorten

import numpy as np
import pandas as pd
from nibabel.affines import voxel_sizes

from medexp.data.images.transforms import onto_own_pixels
from medexp.data.pictures import read_rgb
from medexp.data.scenarios.cases import Scenario
from medexp.data.splits import unnamed
from medexp.data.volumes.cases import CHANNELS
from medexp.data.volumes.regions import volumes_in_mm3 as in_mm3
from medexp.data.volumes.steps import ReadChannels
from medexp.evaluation.intervals import Interval
from medexp.phases.predict.config import PredictConfig
from medexp.phases.predict.work import Done, Work
from medexp.phases.shared.context import Context
from medexp.phases.shared.publishing import Summary
from medexp.registry.predictors import Prediction, Predictor, Ready
from medexp.tracking.figures import gallery, overlay

_T1C = CHANNELS.index("t1c")  # the channel that a volume is shown by
_SHOWN = 12  # cases in the terminal
_SAID = 3
_LONGEST = 400  # characters of a scenario's text in a picture
_NAMES = {"ece": "ECE", "auroc": "AUROC", "brier": "Brier score"}


def volumes_in_mm3(found: Prediction, ready: Ready, painted: Mapping[str, int | None]) -> dict[str, float]:
    """Of a mask of a volume, by region."""
    if found.mask is None or ready.own is None:
        return {}
    return in_mm3(np.asarray(found.mask.dataobj), ready.own, painted)


def picture(ctx: Context[PredictConfig], predictor: Predictor, ready: Ready, found: Prediction) -> None:
    """A case as the network saw it, with what it said."""
    case = ready.case.id
    if found.logits is not None:
        label = None if ready.label is None else ready.label.numpy()
        assert ready.affine is not None
        spacing = voxel_sizes(ready.affine.numpy()).tolist()
        drawn = overlay(_channels(predictor, ready), label, (found.logits > 0).numpy(), f"{case}, {predictor.called}", spacing)
    else:
        shares = (found.probabilities or {}).items()
        texts = (ready.case.instruction, ready.case.input) if isinstance(ready.case, Scenario) else ()
        said = [shorten(text, _LONGEST, placeholder=" …") for text in texts]
        caption = "\n".join([case, *said, *(f"{name} {share:.2f}" for name, share in shares)])
        mask = found.mask if ready.own is None else None
        drawn = gallery([_plane(predictor, ready)], [caption], predictor.called, predictions=[mask])
    ctx.run.reporter.figure(drawn, f"predictions/{case.replace('/', '_')}.png")


def _plane(predictor: Predictor, ready: Ready) -> np.ndarray:
    """What a case is told by: (H, W), of a scenario in colours (H, W, 3)."""
    match predictor.preprocessing.data:
        case "scenarios":
            return np.asarray(read_rgb(ready.case.image))
        case "oct":  # the B-scan in the middle
            return ready.image[0, ready.image.shape[1] // 2].numpy()
        case "images":
            return onto_own_pixels(ready.image, (ready.shape[0], ready.shape[1]))[0].numpy()
        case _:  # anterior up, the patient's right on the left
            image = _channels(predictor, ready)
            return image[_T1C, :, :, image.shape[3] // 2].T[::-1, ::-1]


def _channels(predictor: Predictor, ready: Ready) -> np.ndarray:
    """A volume's channels in the order that pictures have them; those that it lacks are zero."""
    image = ready.image.numpy()
    named = dict(zip(predictor.preprocessing.get(ReadChannels).channels, image, strict=True))
    return np.stack([named.get(channel, np.zeros_like(image[0])) for channel in CHANNELS])


def log_predicted(
    ctx: Context[PredictConfig], work: Work, rows: pd.DataFrame, scores: pd.DataFrame, found: Mapping[str, Interval]
) -> None:
    """Tables and figures of the run."""
    reporter = ctx.run.reporter
    reporter.table(rows, "predictions.csv")
    outside = int((rows["outside"] != "").sum())
    ctx.figures({"predict/cases": len(rows), "predict/outside": outside})
    for name in ("errors.csv", "predictions.json"):
        if (work.folder / name).is_file():
            reporter.file(work.folder / name)
    if len(scores):
        reporter.table(scores, "per_case.csv")
    if found:
        ctx.intervals("external/", found)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _headline(found: Mapping[str, Interval]) -> tuple[str, str]:
    """The figure that runs with a truth are compared by: of a segmentation the whole tumour's, else the first."""
    name = next((name for name in found if name.endswith("dice_WT")), next(iter(found), ""))
    return (f"external/{name}", _NAMES.get(name, name).replace("_", " ")) if name else ("", "")


def summary(
    ctx: Context[PredictConfig],
    work: Work,
    done: Done,
    rows: pd.DataFrame,
    found: Mapping[str, Interval],
    first: Sequence[str],
) -> Summary:
    """What was predicted, what lies outside what the model saw, what failed, and scores where a truth is there."""
    before = f", of which an earlier run predicted {done.before}" if done.before else ""
    words = [f"Cases predicted of {work.source}: {len(rows)}{before}."]
    outside = rows[rows["outside"] != ""]
    if len(outside):
        named = "; ".join(
            f"{case}: {'; '.join(told[:_SAID])}" + (f" and {len(told) - _SAID} more" if len(told) > _SAID else "")
            for case, told in zip(outside["case"][:_SAID], outside["outside"][:_SAID].str.split("; "), strict=True)
        )
        first_of = f"The first {_SAID} of them: " if len(outside) > _SAID else ""
        words.append(f"Outside what the model saw (predictions.csv, column outside): {len(outside)}. {first_of}{named}.")
    if 0 < ctx.config.shown < len(rows):
        words.append(f"Pictures are of {ctx.config.shown} of {len(rows)} cases; shown={len(rows)} draws all.")
    if wide := next((len(record["features"]) for record in done.records if "features" in record), 0):
        kind = work.predictor.features or "as the network gives them"
        words.append(f"Features, {kind}: {wide} a case, in features.parquet and features.safetensors.")
    if done.problems:
        kept = " The scores of the others are not written to the version." if ctx.config.evaluate else ""
        words.append(f"Cases that failed, each with its reason in {work.folder / 'errors.csv'}: {len(done.problems)}.{kept}")
    if unfit := [record["truth_not_read"] for record in done.records if record["truth_not_read"]]:
        words.append(f"Cases without scores, since the segmentation beside them is not read: {len(unfit)}. {unfit[0]}")
    if copies := len(done.scored) - len({record["identity"]["voxels_sha256"] for record in done.scored}):
        words.append(f"Cases with the voxels of another one, which the intervals count as one patient's: {copies}.")
    if len(done.scored) > 1 and all(record["patient"] == record["case"] for record in done.scored):
        words.append(unnamed(work.source, [record["case"] for record in done.scored], ctx.config.data.patient_pattern))
    states = {meaning["calibration"] for meaning in work.predictor.outputs.values() if "calibration" in meaning}
    words += [f"Calibration of the probabilities: {state}" for state in sorted(states)]
    about = f"{work.predictor.called} on {work.source}"
    if found:
        head = ["metric", f"estimate [{ctx.config.confidence:.0%} interval, by patient]", "patients"]
        table = [[_NAMES.get(name, name), str(interval), str(interval.patients)] for name, interval in found.items()]
        words.append(
            "native_dice is of the masks as they were written, on the grid of each case's files; dice, on the network's grid, "
            "is what phase 1's tables have."
            if any(name.startswith("native") for name in found)
            else ""
        )
    else:
        shown = [str(column) for column in rows if column not in ("patient", "mask", "calibration", "outside")]
        head = [*shown, "outside"]
        table = [
            [*(_figure(row[column]) if isinstance(row[column], float) else str(row[column]) for column in shown)]
            + ["yes" if row["outside"] else ""]
            for row in rows.head(_SHOWN).to_dict("records")
        ]
        if len(rows) > _SHOWN:
            words.append(f"The first {_SHOWN} of {len(rows)} are shown; predictions.csv has all.")
    return Summary(
        headline=f"predict, {about}",
        title=about,
        head=head,
        rows=table,
        words=[word for word in words if word],
        first=first,
        following=[f"Predictions: {work.folder}"],
        compared_by=_headline(found),
    )
