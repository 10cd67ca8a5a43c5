"""Pictures of a classifier: what stands in them."""

import warnings

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from medexp.config.shared import Resampling
from medexp.evaluation.classification import Predictions, confusion_band, reliability, roc_band, roc_points
from medexp.evaluation.intervals import Band, Interval
from medexp.tracking.figures import GALLERY, as_written, bars, calibration, confusion_matrix, differences, gains, gallery, roc

RESAMPLING = Resampling(samples=200, confidence=0.95, seed=0)


@pytest.fixture
def predictions() -> Predictions:
    """Of 60 cases, told apart fairly well; class 1 is never said to be between 0.4 and 0.5 probable."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 60)
    probability = np.clip(0.3 + 0.4 * truth + 0.2 * rng.normal(size=60), 0.01, 0.99)
    probability[(probability > 0.4) & (probability <= 0.5)] = 0.55
    return Predictions(truth, np.stack([1 - probability, probability], axis=1))


@pytest.fixture
def patients() -> list[str]:
    return [str(index) for index in range(60)]


def test_a_confusion_matrix_shows_counts_and_shares_of_the_true_class(tmp_path) -> None:
    figure = confusion_matrix(np.array([[3.0, 1.0], [0.0, 0.0]]), ["glioma", "meningioma"], "test cases")
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == ["3\n75%", "1\n25%", "0\n0%", "0\n0%"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["glioma", "meningioma"]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("predicted", "true", "test cases")
    figure.savefig(tmp_path / "figure.png")


def test_roc_has_a_panel_a_class_and_a_curve_an_arm(tmp_path) -> None:
    curve = np.array([0.0, 0.5, 1.0]), np.array([0.0, 0.8, 1.0])
    arms = {"the encoder": curve, "random weights": curve}
    figure = roc({"glioma": arms, "meningioma": arms}, "ROC")
    assert [axes.get_title() for axes in figure.axes] == ["glioma against the rest", "meningioma against the rest"]
    assert [text.get_text() for text in figure.axes[1].get_legend().get_texts()] == list(arms)
    assert np.array_equal(figure.axes[0].lines[0].get_ydata(), curve[1])
    figure.savefig(tmp_path / "figure.png")


def test_a_confusion_matrix_has_intervals_where_there_are_any(predictions, patients, tmp_path) -> None:
    low, high = np.array([[1.0, 0.0], [np.nan, 2.4]]), np.array([[5.0, 3.0], [np.nan, 9.0]])
    counts = np.array([[3.0, 1.0], [0.0, 5.0]])
    figure = confusion_matrix(counts, ["no", "yes"], "test cases", Band(counts, low, high, 9, high - low, 0 * low + 9))
    assert [text.get_text() for text in figure.axes[0].texts] == ["3 [1, 5]\n75%", "1 [0, 3]\n25%", "0\n0%", "5 [2, 9]\n100%"]
    band = confusion_band(predictions, patients, RESAMPLING)
    confusion_matrix(band.estimate, ["no", "yes"], "test cases", band).savefig(tmp_path / "figure.png")


def test_a_band_is_shaded_for_the_arm_that_has_one(predictions, patients, tmp_path) -> None:
    curve, band = roc_points(predictions, 1), roc_band(predictions, 1, patients, RESAMPLING)
    figure = roc({"tumour": {"head": curve, "random": curve}}, "ROC", {"tumour": {"head": band}})
    (shade,) = figure.axes[0].collections
    shaded = shade.get_paths()[0].vertices
    assert shaded[:, 1].min() == pytest.approx(min(band[1].low)) and len(shaded) > 2 * len(band[0])
    assert to_hex(shade.get_facecolor()[0]) == to_hex(figure.axes[0].lines[0].get_color())
    figure.savefig(tmp_path / "figure.png")


def test_a_reliability_diagram_has_a_point_and_a_bar_a_bin(predictions, patients, tmp_path) -> None:
    found = reliability(predictions, patients, RESAMPLING)
    figure = calibration({"all": found, "kaggle": found}, "tumour", "Calibration")
    upper, lower = figure.axes[0], figure.axes[2]
    assert [axes.get_title() for axes in figure.axes] == ["all", "kaggle", "", ""]
    bars, points = upper.collections
    drawn = points.get_offsets()
    assert np.array_equal(np.ma.getdata(drawn)[:, 0], found.probability, equal_nan=True)
    lengths = [np.ptp(path.vertices[:, 1]) for path in bars.get_paths()]
    assert np.nanmax(lengths) == pytest.approx(np.nanmax(found.share.high - found.share.low))
    hollow = [bool((face == 1).all()) for face in points.get_facecolors()]
    assert hollow == [bool(unknown) for unknown in np.isnan(found.share.low)] and any(hollow) and not all(hollow)
    assert [bar.get_height() for bar in lower.patches] == list(found.cases)
    assert lower.get_xlabel() == "predicted probability of tumour"
    figure.savefig(tmp_path / "figure.png")


def test_a_gallery_shows_captions_and_says_how_many_it_leaves_out(tmp_path) -> None:
    images = [np.random.default_rng(i).random((9, 7)) for i in range(GALLERY + 3)]
    figure = gallery(images, [f"case {i}\ntumour, said 0.1" for i in range(len(images))], "Misclassified")
    assert figure.get_suptitle() == f"Misclassified ({GALLERY} of {GALLERY + 3})"
    assert gallery(images[:12], ["a"] * 12, "Misclassified", of=14).get_suptitle() == "Misclassified (12 of 14)"
    assert gallery(images[:12], ["a"] * 12, "Misclassified", of=12).get_suptitle() == "Misclassified"
    assert [axes.texts[0].get_text() for axes in figure.axes] == [f"case {i}\ntumour, said 0.1" for i in range(GALLERY)]
    assert np.array_equal(figure.axes[5].images[0].get_array(), images[5])
    assert not figure.legends
    figure.savefig(tmp_path / "figure.png")


@pytest.mark.parametrize("count", [1, 2, 5, 6, 7, 13])
def test_a_gallery_has_room_for_each_image_once(count) -> None:
    figure = gallery([np.eye(4)] * count, ["caption"] * count, "Misclassified")
    assert sum(len(axes.images) for axes in figure.axes) == count
    assert figure.get_suptitle() == "Misclassified"


def test_a_gallery_of_nothing_says_so(tmp_path) -> None:
    figure = gallery([], [], "Misclassified")
    assert [text.get_text() for text in figure.axes[0].texts] == ["none"]
    figure.savefig(tmp_path / "figure.png")


def test_outlines_of_truth_are_solid_and_of_the_prediction_dashed(tmp_path) -> None:
    mask = np.zeros((8, 6), np.uint8)
    mask[2:5, 2:4] = 1
    figure = gallery([mask, mask], ["a", "b"], "Slices", truths=[mask, None], predictions=[np.roll(mask, 1, axis=0), mask])
    assert [len(axes.collections) for axes in figure.axes] == [2, 1]
    solid, dashed = figure.axes[0].collections
    assert solid.get_linestyle()[0][1] is None and dashed.get_linestyle()[0][1] is not None
    (box,) = (path.get_extents() for path in solid.get_paths())
    assert (box.x0, box.x1, box.y0, box.y1) == (1.5, 3.5, 1.5, 4.5), "the edges of the pixels"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["truth", "prediction"]
    figure.savefig(tmp_path / "figure.png")


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (40, 3)])
def test_any_image_can_be_shown(shape, tmp_path) -> None:
    image, full, empty = np.full(shape, 7.0), np.ones(shape, np.uint8), np.zeros(shape, np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = gallery([image, image], ["a-name-" * 9, "b"], "Slices", [full, empty], [None, None])
        figure.savefig(tmp_path / "figure.png")
    assert [len(axes.collections) for axes in figure.axes] == [1, 0]
    assert "\n" in figure.axes[0].texts[0].get_text(), "a long name is broken"


def drawn(name: str) -> dict[str, Figure]:
    """Every kind of picture in which names of a user stand."""
    curve, image = (np.array([0.0, 1.0]), np.array([0.0, 1.0])), np.eye(8)
    cases = pd.DataFrame({"case": [name, "b"], "gain": [0.1, -0.1], "metric": name})
    one = Interval(0.5, 0.4, 0.6, 9)
    return {
        "confusion": confusion_matrix(np.eye(2), [name, "b"], name),
        "roc": roc({name: {name: curve}}, name),
        "bars": bars({name: {name: one, "b": one}}, name),
        "gains": gains(cases),
        "differences": differences(cases, name),
        "gallery": gallery([image], [f"{name}\nis {name}"], name),
        "log axis": _log_axis(name),
    }


def _log_axis(name: str) -> Figure:
    figure = Figure()
    figure.subplots().set(xscale="log", xlim=(1e-3, 1), title=name)
    return figure


@pytest.mark.parametrize("name", ["grade $2_$", "IMG_$1_$2.png", "a $ b", "[/who 2]", r"\\ {", "_hidden"])
def test_names_are_drawn_as_they_stand(name: str, monkeypatch, tmp_path) -> None:
    """No formula is made of them, and none is left out of a legend."""
    (legend,) = drawn(name)["roc"].axes[0].get_legend().get_texts()
    assert legend.get_text() == name
    seen: list[str] = []
    monkeypatch.setattr(Text, "draw", _looking(seen, Text.draw))
    for kind, figure in drawn(name).items():
        seen.clear()
        as_written(figure).savefig(tmp_path / "figure.png")
        assert any(name in text for text in seen), kind


def _looking(seen: list[str], draw):
    """matplotlib's own drawing of a text, which also tells which texts were drawn letter by letter."""

    def look(self: Text, *args, **options):
        text, formula = self._preprocess_math(self.get_text())
        seen.extend([text] if not formula else [])
        draw(self, *args, **options)

    return look
