"""What a run printed is among its artifacts, as somebody reads it who was not at the terminal."""

import io
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from medexp.errors import DataError
from medexp.terminal import progress_bar, show_table, terminal
from medexp.tracking.printed import LOG, printed_to
from medexp.tracking.runs import tracked_run
from tests.configured import configured


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def logged(store: MlflowClient, run: str, folder: Path) -> str:
    return Path(store.download_artifacts(run, LOG, str(folder))).read_text()


def test_a_run_keeps_what_it_printed_and_another_run_in_it_its_own(
    store: MlflowClient, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = configured("prepare", output_dir=tmp_path / "outputs")
    print("before")
    with tracked_run("main", config) as outer:
        print("a line of", tmp_path)
        with tracked_run("prepare", config) as inner:
            print("told of", file=sys.stderr)
            print("s3://me:s3cret-w0rd@bucket")
        print("Zürich")
    print("after")
    (tmp_path / "fetched").mkdir()
    told = logged(store, outer.id, tmp_path / "fetched")
    assert told == "a line of ~\ntold of\ns3://***@bucket\nZürich\n"
    assert logged(store, inner.id, tmp_path / "fetched") == "told of\ns3://***@bucket\n"
    assert "s3cret" not in (outer.folder / LOG).read_text()
    seen = capsys.readouterr()
    assert "before\n" in seen.out and "after\n" in seen.out and "told of\n" in seen.err, "the terminal has all of it"


@pytest.mark.parametrize(
    ("error", "last", "traceback"),
    [(DataError("a.csv: is no table"), "error: a.csv: is no table", False), (ValueError("7"), "ValueError: 7", True)],
)
def test_the_error_that_ended_it_stands_at_the_end(
    store: MlflowClient, tmp_path: Path, error: Exception, last: str, traceback: bool
) -> None:
    with (
        pytest.raises(type(error)),
        tracked_run("prepare", configured("prepare", output_dir=tmp_path / "outputs")) as run,
    ):
        print("reading")
        raise error
    (tmp_path / "fetched").mkdir()
    first, *rest = logged(store, run.id, tmp_path / "fetched").splitlines()
    assert (first, rest[-1]) == ("reading", last)
    assert ("raise error" in "".join(rest)) == traceback


def test_of_a_bar_nothing_is_kept_and_of_colours_the_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", shown := Terminal())
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr("medexp.terminal._shared", terminal)  # the one of all bars was made for another test's terminal
    with printed_to(tmp_path / LOG):
        with progress_bar() as progress:
            bar = progress.add_task("training", total=3)
            for epoch in range(3):
                progress.console.print(f"epoch {epoch}")
                progress.advance(bar)
                progress.refresh()
        show_table(["arm"], [["lora"]], "Dice")
        terminal().print("done", style="bold red")
        print("no new line at the end", end="")
    table = ["Dice", "┏━━━━━━┓", "┃ arm  ┃", "┡━━━━━━┩", "│ lora │", "└──────┘"]
    lines = ["epoch 0", "epoch 1", "epoch 2", *table, "done", "no new line at the end"]
    assert [line.rstrip() for line in (tmp_path / LOG).read_text().splitlines()] == lines
    assert "training" in shown.getvalue() and "\x1b[1;31mdone" in shown.getvalue()


def test_a_file_that_cannot_be_written_stops_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with printed_to(Path("/dev/full")):
        print("still here")
    assert capsys.readouterr().out == "still here\n"
