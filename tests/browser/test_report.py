"""`report.html` in a real browser: it opens quietly, sorts, filters, and draws a case in 3D."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from mlflow import MlflowClient
from PIL import Image

from medexp.console import main
from tests.browsing import Visit
from tests.report.made import CASES, ODD, made_run


def opened(visit: Callable[..., Visit], file: Path, width: int = 1400) -> Visit:
    there = visit(width)
    there.open(file.as_uri())
    return there


def test_it_sorts_and_filters_and_fits_a_phone(store: MlflowClient, tmp_path: Path, visit: Callable[..., Visit]) -> None:
    file = tmp_path / "report.html"
    assert main(["report", made_run(), "--output", str(file)]) == 0
    there = opened(visit, file)
    there.shows("PASSED (diagnostics that failed: CONTROLS)", "Know this first", "Next")
    rows = there.page.locator("#case-table tbody tr:visible")
    assert ODD in rows.first.inner_text(), "the worst case"
    head = there.page.locator("#case-table th", has_text="hd95_WT")
    head.get_by_role("button").press("Enter")
    assert head.get_attribute("aria-sort") == "ascending" and CASES[0] in rows.first.inner_text()
    head.get_by_role("button").press("Enter")
    assert head.get_attribute("aria-sort") == "descending" and ODD in rows.first.inner_text()
    there.page.get_by_label("Filter").first.fill(f"{CASES[3]} lora")
    assert rows.count() == 1 and there.page.locator("#case-table-count").inner_text() == "1 of 24 rows"
    small = opened(visit, file, 400)
    assert small.page.evaluate("document.documentElement.scrollWidth") <= 400
    figures = "[...document.querySelectorAll('.dots .figure')].filter(one => one.scrollWidth > one.clientWidth).length"
    assert small.page.evaluate(figures) == 0, "bounds stand within the page"
    small.page.emulate_media(media="print")
    small.page.set_viewport_size({"width": 688, "height": 1000})  # 182 mm of A4 within its margins
    assert small.page.evaluate("document.documentElement.scrollWidth") <= 688
    name = "getComputedStyle(document.querySelector('#case-table td')).whiteSpace"
    assert small.page.evaluate(name) == "nowrap", "a case's name is in one line"
    small.shows("PASSED (diagnostics that failed: CONTROLS)", "Make it again")
    assert not small.page.locator("nav").is_visible() and not small.page.get_by_label("Filter").first.is_visible()
    assert small.page.pdf().startswith(b"%PDF")
    assert there.errors + small.errors == []


def test_a_case_is_drawn_in_3d(store: MlflowClient, tmp_path: Path, visit: Callable[..., Visit]) -> None:
    file = tmp_path / "report.html"
    assert main(["report", made_run(volumes=True), "--output", str(file)]) == 0
    there = opened(visit, file)
    assert there.page.locator("#stills img:visible").count() == 1, "three slices until somebody asks for more"
    there.page.get_by_role("button", name="Show in 3D").click()
    there.page.locator("canvas[data-shown='0']").wait_for()
    there.page.get_by_label("Case", exact=True).select_option(index=2)
    there.page.locator("canvas[data-shown='2']").wait_for()
    there.page.wait_for_timeout(500)  # a frame of the rendering
    with Image.open(io.BytesIO(there.page.locator("#viewer-canvas").screenshot())) as drawn:
        colours = np.asarray(drawn.convert("RGB")).reshape(-1, 3).astype(int)
    grey = np.abs(colours - colours.mean(axis=1, keepdims=True)).max(axis=1) < 6
    assert ((colours.mean(axis=1) > 40) & grey).mean() > 0.02, "the image"
    assert (colours[:, 1] > colours[:, 0] + 25).any(), "the truth, green"
    assert (colours[:, 0] > colours[:, 2] + 25).mean() > 0.001, "the prediction, orange"
    assert there.errors == []
