"""A real browser (Chromium, headless) before MLflow's own UI."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_ARGUMENTS = ("--enable-unsafe-swiftshader", "--use-gl=angle", "--use-angle=swiftshader")  # WebGL without a graphics card
_READY_MS = 300_000  # on a busy machine
# Of MLflow's UI: it asks for the user that is logged in, where nobody logs in, and its charts are measured as they grow.
_OF_MLFLOW = ("users/current", "ResizeObserver loop")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, as it is installed on this machine; ended with the module, for its event loop is in the way of others."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip(f"no Chromium is installed; looked for {', '.join(_NAMES)}: apt install chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=[*_ARGUMENTS, "--no-sandbox"])
        yield started
        started.close()


@dataclass
class Visit:
    """A page that is looked at, and what its console said.

    Attributes:
        page: Playwright's page.
        errors: Errors of its console, of its scripts, and pictures and files that did not come.
    """

    page: Page
    errors: list[str] = field(default_factory=list)

    def note(self, said: ConsoleMessage) -> None:
        """Keep an error of the console, with the address that it is about."""
        told = f"{said.text} ({said.location['url']})"
        if said.type == "error" and not any(words in told for words in _OF_MLFLOW):
            self.errors.append(told)

    def open(self, address: str) -> None:
        """Load an address anew: MLflow's UI takes a change behind `#` for a click."""
        self.page.goto("about:blank")
        self.page.goto(address)

    def shows(self, *texts: str) -> None:
        """Wait until each of the texts is to be seen."""
        for text in texts:
            self.page.get_by_text(text).locator("visible=true").first.wait_for(timeout=_READY_MS)

    def charts(self) -> tuple[int, int]:
        """Lines and bars of the charts that are to be seen, once there is one."""
        self.page.locator(".js-plotly-plot .scatterlayer .trace, .js-plotly-plot .barlayer .point").first.wait_for()
        kinds = (".scatterlayer .trace", ".barlayer .point")
        lines, bars = (self.page.locator(f".js-plotly-plot {kind}").count() for kind in kinds)
        return lines, bars

    def missing(self) -> list[str]:
        """Pictures that did not come."""
        script = "[...document.images].filter(one => one.complete && !one.naturalWidth).map(one => one.src)"
        found: list[str] = self.page.evaluate(script)
        return found


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Visit]]:
    """Pages of 1400 x 1000 pixels, or of another size."""
    with contextlib.ExitStack() as opened:

        def new(width: int = 1400, height: int = 1000) -> Visit:
            page = opened.enter_context(contextlib.closing(browser.new_page(viewport={"width": width, "height": height})))
            page.set_default_timeout(_READY_MS)
            visited = Visit(page)
            page.on("console", visited.note)
            page.on("pageerror", lambda error: visited.errors.append(str(error)))
            return visited

        yield new


@contextlib.contextmanager
def ui_on(store_uri: str, folder: Path) -> Iterator[tuple[str, str]]:
    """`medexp ui` on a store: what it printed first, and the address of the server.

    Args:
        store_uri: The store.
        folder: The working directory.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", "from medexp.console import main; main(['ui'])"],
        cwd=folder,
        env=os.environ | {"MLFLOW_TRACKING_URI": store_uri, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        first = process.stdout.readline().strip()
        seen = [first]
        for line in process.stdout:
            seen.append(line)
            if found := re.search(r"Uvicorn running on (http://\S+)", line):
                break
        else:
            raise AssertionError("".join(seen))
        yield first, found[1]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
