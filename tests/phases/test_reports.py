"""What runs and versions of three phases say to a reader: whole tables, whole verdicts, and what was made on phantoms."""

from collections.abc import Iterator

import pytest
from mlflow import MlflowClient

from medexp import registry
from medexp.registry import journal
from medexp.registry.tags import MADE_ON_PHANTOMS
from tests.phases.shared.image_runs import MODELS, Pipeline, run
from tests.rendered import cells_as_written, rows_as_written, tables
from tests.runs import artifact, figures, last_run

ENCODER, CLASSIFIER = MODELS["phase2_1"], MODELS["phase2_2"]


def texts(client: MlflowClient) -> Iterator[tuple[str, str]]:
    """All that is written in Markdown, with where it stands: reports, summaries, descriptions, cards, journals."""
    for phase in MODELS:
        made = last_run(client, phase)
        yield f"{phase} description", made.data.tags["mlflow.note.content"]
        for name in ("verification_report.md", "summary.md"):
            yield f"{phase} {name}", artifact(made, name).read_text()
    for name in MODELS.values():
        yield f"{name} description", client.get_registered_model(name).description
        yield f"{name}/1 description", client.get_model_version(name, "1").description
        yield f"{name}/1 card", (registry.pull(f"models:/{name}/1").folder / "README.md").read_text()


def test_every_table_of_every_report_shows_all_of_its_cells(client: MlflowClient) -> None:
    """A `|` in a threshold ends its cell: the page drops the figures behind it."""
    for where, text in texts(client):
        shown, written = tables(text), rows_as_written(text)
        assert shown, where
        assert len(written) == sum(map(len, shown)), where
        assert [cells_as_written(line) for line in written] == [len(row) for table in shown for row in table], where


def test_no_headline_says_passed_alone_where_a_diagnostic_failed(client: MlflowClient) -> None:
    for phase, name in MODELS.items():
        made, version = last_run(client, phase), client.get_model_version(name, "1")
        checks = {key.removeprefix("checks/"): value for key, value in figures(made).items() if key.startswith("checks/")}
        failed = [check for check, value in checks.items() if not value]
        told = made.data.tags["mlflow.note.content"]
        assert made.data.tags["medexp.verdict"] == version.tags["medexp.verdict"] == "PASSED", "a value, for programs"
        assert ("**PASSED**: " in told) == (not failed)
        assert set(made.data.tags["medexp.failed_diagnostics"].split(", ")) == set(failed or ["none"])
        assert version.tags["medexp.failed_diagnostics"] == made.data.tags["medexp.failed_diagnostics"]
        assert ("PASSED (diagnostics that failed: " in told) == bool(failed)


def test_a_phase_says_that_what_real_cases_are_given_to_was_made_on_phantoms(
    client: MlflowClient, pipeline: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the terminal, in the run's description and on the card; what it makes counts as made on what that was trained on."""
    assert "made on phantoms" not in pipeline.told["phase2_2"], "its encoder was made on slices"
    client.set_model_version_tag(ENCODER, "1", "medexp.phantoms", "yes")
    assert run("phase2_2", pipeline.folder, training__epochs="2", seed="1") == 0
    printed, made = capsys.readouterr().out, last_run(client, "phase2_2")
    told = f"encoder: {ENCODER} version 1 was made on phantoms, and knows no patient."
    named = "Another is named by encoder=models:/NAME/VERSION"
    for text in (printed, made.data.tags["mlflow.note.content"]):
        assert told in text and named in text
    card = (registry.pull(f"models:/{CLASSIFIER}/2").folder / "README.md").read_text()
    assert told in card and MADE_ON_PHANTOMS not in card
    assert client.get_model_version(CLASSIFIER, "2").tags["medexp.phantoms"] == "no"


def test_a_model_of_real_slices_takes_the_place_of_the_phantoms_champion_and_the_next_phase_starts_from_it(
    client: MlflowClient, pipeline: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    client.set_model_version_tag(ENCODER, "1", "medexp.phantoms", "yes")
    assert run("phase2_1", pipeline.folder, seed="3") == 0
    assert f"{ENCODER} version 2 (candidate, champion)" in capsys.readouterr().out
    assert "version 1, which it replaces, was made on phantoms" in journal.read(ENCODER).entries[-1].reason
    assert run("phase2_3", pipeline.folder) == 2, "the head is of the other encoder"
    assert "Train a head on this one: mlflow run . -e phase2_2" in capsys.readouterr().err
