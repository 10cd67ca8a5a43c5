"""What is left of a leaderboard: tables, a page that asks for nothing, and all that it is redrawn from."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from medexp.config.shared import Resampling
from medexp.evaluation.collapse import spread_of
from medexp.evaluation.leaderboard import Entry, leaderboard, predictions_table
from medexp.phases.shared.leaderboard import Judging, count_classes, log_leaderboard
from medexp.tracking.reporter import FolderReporter
from tests.evaluation.boards import CLASSES, board_entries, people
from tests.evaluation.test_collapse import NOISE

PEOPLE = 60
EVIL = '<script>alert("x")</script>'


def judging(**given: object) -> Judging:
    rows = pd.DataFrame({"patient": people(PEOPLE), "label": [CLASSES[index % 4] for index in range(PEOPLE)], "split": "test"})
    more = pd.DataFrame({"patient": ["q", "q"], "label": "oral", "split": "train"})
    counts = count_classes(pd.concat([rows, more]), CLASSES)
    return replace(Judging("Encoders", "phantoms", "test", counts, Resampling(200, 0.95, 0)), **given)  # type: ignore[arg-type]


def written(folder: Path, entries: list[Entry], of: Judging) -> Path:
    board = leaderboard(entries, people(PEOPLE), CLASSES, of.resampling)
    log_leaderboard(
        FolderReporter(folder), board, of, predictions_table(entries, people(PEOPLE), people(PEOPLE), CLASSES, "test")
    )
    return folder


class Page(HTMLParser):
    """Which elements a page has, and what they point to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "action", "data")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    entries = [replace(one, spread=spread_of(NOISE)) if one.kind != "control" else one for one in board_entries(PEOPLE)]
    entries[3] = replace(entries[3], name=EVIL, spread=spread_of(0 * NOISE))
    return written(tmp_path_factory.mktemp("out"), entries, judging(title=f"Encoders of {EVIL}", notes=[f"A note: {EVIL}"]))


def test_all_that_a_leaderboard_is_made_of_is_written(folder: Path) -> None:
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    pictures = {name for name in files if name.startswith("figures/")}
    assert files - pictures == {
        *("leaderboard.csv", "leaderboard.md", "leaderboard.html", "differences.csv", "leaderboard.json"),
        *("predictions.parquet", "spread.csv", "class_to_idx.json", "class_counts.csv"),
    }
    assert {"figures/leaderboard.png", "figures/spread.png", "figures/roc_1_pre-diabetes.png"} <= pictures
    assert len([name for name in pictures if "confusion_" in name]) == 7
    assert json.loads((folder / "class_to_idx.json").read_text())["oral"] == 2
    counts = pd.read_csv(folder / "class_counts.csv")
    assert counts.to_dict("list") == {"class": list(CLASSES), "train": [0, 0, 1, 0], "test": [15] * 4}, "of people, not rows"
    assert (folder / "leaderboard.md").read_text().startswith("# Encoders of <script>")


def test_the_page_holds_everything_asks_for_nothing_and_runs_nothing(folder: Path) -> None:
    text = (folder / "leaderboard.html").read_text()
    page = Page(text)
    assert "script" not in page.tags and text.count("&lt;script&gt;") >= 8
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert len(page.links) == 7 + 4, "confusion matrices and ROC curves"
    assert not re.search(r"url\(|@import|https?://", text)
    assert "default-src 'none'" in text
    shown = re.sub(r"<[^>]*>", "", text)
    for words in (
        "The data support: layers_supervised above all others",
        "has collapsed",
        "How to read this",
        "Before any figure",
    ):
        assert words in shown


def test_the_page_of_one_entry(tmp_path: Path) -> None:
    text = (written(tmp_path, board_entries(PEOPLE)[:1], judging()) / "leaderboard.html").read_text()
    assert "There is nothing to be ranked." in text and "<h2>Differences</h2>" not in text and "<h2>Collapse</h2>" not in text
