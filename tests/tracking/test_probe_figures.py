"""Pictures of a classifier: what stands in them."""

import numpy as np

from medexp.tracking.figures import confusion_matrix, roc


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
