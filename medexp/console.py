"""The command `medexp`: the registry from a terminal, by the functions that the entry points use, imported when called."""

import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from medexp.addresses import local_path, model_uri
from medexp.cli import exit_code
from medexp.cli import main as phase_main
from medexp.cli import schema as phase_schema

_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
_PASS_ON = {"ignore_unknown_options": True, "help_option_names": []}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: The command line; without it, the process's own.

    Returns:
        The exit code: 0; 2 for bad input and for what doctor finds wrong; 3 for a refused promotion and for drift that audit
        finds; 130 or 143 when interrupted.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported, which the commands do
    try:
        return commands.main(args=argv, prog_name="medexp", standalone_mode=False) or 0
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        print(f"{context.command_path if context else 'medexp'}: error: {error.format_message()}", file=sys.stderr)
        return error.exit_code
    except click.Abort:
        print("medexp: interrupted", file=sys.stderr)
        return 130


@click.group("medexp", invoke_without_command=True)
@click.pass_context
def commands(context: click.Context) -> None:
    """Registered models: fetch them verified, promote them, see where they come from; and the runs that made them.

    A MODEL is NAME@alias or NAME/VERSION, with or without models:/ before it. The store is MLflow's: MLFLOW_TRACKING_URI, else
    mlflow.db in this folder. MEDEXP_DEBUG=1 shows the traceback of an error.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@commands.command()
@click.argument("uri", metavar="MODEL")
def pull(uri: str) -> int:
    """Fetch a model's package, every byte verified."""

    def work() -> None:
        from medexp import registry

        _find_store()
        pulled = registry.pull(model_uri(uri))
        for key, value in (
            ("folder", pulled.folder),
            ("model", pulled.name),
            ("version", pulled.version),
            ("digest", pulled.digest),
        ):
            print(f"{key + ':':<9}{value}")

    return exit_code("pull", work)


@commands.command("export-bundle")
@click.argument("uri", metavar="MODEL")
@click.argument("folder")
def export_bundle(uri: str, folder: str) -> int:
    """Write a segmenter as a MONAI bundle, which MONAI runs without medexp."""

    def work() -> None:

        from medexp.registry.bundle import export_bundle

        _find_store()
        made = export_bundle(model_uri(uri), local_path(folder))
        print(f"{folder}: {made.pulled.name} version {made.pulled.version}, digest {made.pulled.digest}")
        print(f"It needs: {made.install}")
        print(f"Run it:   {made.command}")
        print("CASES holds one folder a case; MASKS gets <case>_seg.nii.gz, on the case's own grid.")

    return exit_code("export-bundle", work)


@commands.command("export-hf")
@click.argument("uri", metavar="MODEL")
@click.argument("folder")
def export_hf(uri: str, folder: str) -> int:
    """Write an adapter of a vision-language model for peft and the Hugging Face Hub."""

    def work() -> None:

        from medexp.registry.huggingface import export_huggingface

        _find_store()
        made = export_huggingface(model_uri(uri), local_path(folder))
        print(f"{folder}: {made.pulled.name} version {made.pulled.version}, digest {made.pulled.digest}")
        print(f"Its base: {made.base}")
        print("README.md, the model card, says how to load both, and how to ask.")
        print(f"Upload:   hf upload OWNER/NAME {shlex.quote(folder)}")

    return exit_code("export-hf", work)


@commands.command(context_settings=_PASS_ON)
@click.argument("flags", nargs=-1, type=click.UNPROCESSED)
def promote(flags: tuple[str, ...]) -> int:
    """Make a version the champion, if its policy holds.

    As `mlflow run . -e promote`: --model NAME --version VERSION; all flags: medexp promote --help.
    """
    return phase_main("promote", flags)


@commands.command(context_settings=_PASS_ON)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def predict(words: tuple[str, ...]) -> int:
    """Predict new files with a registered model.

    As `mlflow run . -e predict -P model=MODEL -P input=PATH`; all flags: medexp predict --help.
    """
    named: list[str] = []
    flags: list[str] = []
    for word in words:
        before = flags[-1] if flags else ""
        is_value = before.startswith("--") and "=" not in before and before not in ("--help", "--debug")
        (flags if word.startswith("-") or is_value else named).append(word)
    if named:
        model, *paths = named
        flags += ["--model", model_uri(model), *(["--input", json.dumps(paths)] if paths else [])]
    return phase_main("predict", flags, called="medexp predict MODEL PATH... [--output FOLDER] [--KEY VALUE ...]")


@commands.command()
@click.argument("phase")
@click.option(
    "--of",
    type=click.Choice(["config", "sweep", "recovery"]),
    default="config",
    help="Which files: profiles, spaces, ladders.",
)
def schema(phase: str, of: str) -> int:
    """Print a JSON Schema of a phase's YAML files, for editors."""

    def work() -> None:
        _print_json(phase_schema(phase, of))

    return exit_code("schema", work)


@commands.command()
@click.argument("name")
@click.option("--reason", required=True, help="Why, for whoever reads the journal.")
@click.option("--to", metavar="VERSION", help="An earlier champion; without it the one before.")
def rollback(name: str, reason: str, to: str | None) -> int:
    """Move the champion back, with a reason."""

    def work() -> None:
        from medexp.registry.promotion import rollback

        _find_store()
        print(rollback(name, reason, to))

    return exit_code("rollback", work)


@commands.command()
@click.argument("name", required=False)
@click.option("--every-byte", is_flag=True, help="Read back every version's package, not only those behind an alias.")
@_as_json
def audit(name: str | None, every_byte: bool, as_json: bool) -> int:
    """Compare journal, aliases, packages and runs."""

    def work() -> int:
        from dataclasses import asdict

        from medexp.registry.audit import audit

        _find_store()
        found = audit(name, every_byte=every_byte)
        if as_json:
            _print_json(asdict(found))
            return 3 if found.drifts else 0
        for drift in found.drifts:
            print(f"DRIFT {drift}")
        for version in found.foreign:
            print(f"note: {version} was made by another program; MLflow may load it, medexp promotes it not")
        for kept in found.runs_to_keep:
            print(f"keep run {kept.run}: it made {', '.join(kept.why)}")
        read = f"{found.versions} versions of {len(found.models)} models, packages of {len(found.verified)} read back"
        print(f"{read}: {len(found.drifts) or 'no'} drift{'s' if len(found.drifts) > 1 else ''}")
        return 3 if found.drifts else 0

    return exit_code("audit", work)


@commands.command()
@click.argument("uri", metavar="MODEL")
@_as_json
def lineage(uri: str, as_json: bool) -> int:
    """Show what a model was made from, and what was built on it."""

    def work() -> None:
        from medexp.registry.lineage import SHOWN, as_records, as_tree, lineage

        _show(lambda: lineage(model_uri(uri), None if as_json else SHOWN), as_tree, as_records, as_json)

    return exit_code("lineage", work)


@commands.command()
@click.argument("uri", metavar="MODEL")
@_as_json
def impact(uri: str, as_json: bool) -> int:
    """Show what was built on a version."""

    def work() -> None:
        from medexp.registry.lineage import SHOWN, as_records, as_tree, impact

        _show(lambda: impact(model_uri(uri), None if as_json else SHOWN), as_tree, as_records, as_json)

    return exit_code("impact", work)


@commands.command()
@click.argument("uri", metavar="MODEL")
@click.option("--gain", type=click.FloatRange(0, min_open=True), required=True, help="The difference to be seen, as 0.02.")
@click.option("--metric", help="Of its per-case scores, as dice; without it the promotion policy's.")
@_as_json
def power(uri: str, gain: float, metric: str | None, as_json: bool) -> int:
    """Say how many patients a comparison with a version takes."""

    def work() -> None:
        from dataclasses import asdict

        from medexp.registry.planning import plan

        _find_store()
        found = plan(model_uri(uri), gain, metric)
        if as_json:
            _print_json(asdict(found))
        else:
            print(found.in_words)

    return exit_code("power", work)


@commands.command()
@_as_json
def models(as_json: bool) -> int:
    """List the registered models."""

    def work() -> None:
        from dataclasses import asdict

        from medexp.checks import told
        from medexp.registry.versions import list_models
        from medexp.terminal import show_table

        store = _find_store()
        found = list_models()
        if as_json:
            _print_json([asdict(model) for model in found])
            return
        if not found:
            print(f"No model is registered in {store}. Next: mlflow run . -e main")
            return
        rows = [
            [
                model.name,
                ", ".join(f"{alias} {version}" for alias, version in model.aliases.items()) or "-",
                model.version or "-",
                told(model.verdict, model.failed_diagnostics) or "-",
                {True: "phantoms", False: "own", None: "-"}[model.phantoms],
                model.digest[:12] if model.digest else "-",
                model.run or "-",
            ]
            for model in found
        ]
        show_table(["model", "aliases", "latest", "verdict", "data", "digest", "run"], rows, store)

    return exit_code("models", work)


@commands.command()
@click.option("--fix", is_flag=True, help="End the runs that count as running and whose process is gone.")
@_as_json
def doctor(fix: bool, as_json: bool) -> int:
    """Say what is in use, and what is wrong with it; changes nothing without --fix."""

    def work() -> int:
        from dataclasses import asdict

        from medexp.doctor import examine

        found = examine(fix=fix)
        if as_json:
            _print_json(asdict(found))
        else:
            for topic, fact in found.facts.items():
                print(f"{topic + ':':<18}{fact}")
            for problem in found.problems:
                print(f"WRONG  {problem}")
            if not found.problems:
                print("Nothing is wrong.")
        return 2 if found.problems else 0

    return exit_code("doctor", work)


@commands.command()
@click.argument("one", metavar="A")
@click.argument("other", metavar="B")
@click.option("--output", metavar="FOLDER", help="Write the tables and a picture of the differences there.")
@click.option("--samples", default=2000, show_default=True, type=click.IntRange(100), help="Resamples of an interval.")
@click.option(
    "--confidence", default=0.95, show_default=True, type=click.FloatRange(0.5, 0.999), help="Coverage of an interval."
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Seed of the resamples.")
@_as_json
def compare(one: str, other: str, output: str | None, samples: int, confidence: float, seed: int, as_json: bool) -> int:
    """Say what B gains over A, case by case on the same data.

    A and B are runs (id or name; RUN:ARM of a run with several arms), MODELs, or a CSV or TSV file from elsewhere with the
    columns case and, where they are known, patient, and metrics such as dice_WT, hd95_WT or cross_entropy; of a classifier
    label and probability, which is that of the second label in alphabetical order, or probability_LABEL each.
    """

    def work() -> None:
        from medexp.compare import as_json as records
        from medexp.compare import compare, is_table, show, write

        if not (is_table(one) and is_table(other)):
            _find_store()
        found = compare(one, other, samples=samples, confidence=confidence, seed=seed)
        if as_json:
            _print_json(records(found))
        else:
            show(found, one, other)
        if output:
            write(found, output, f"{other} over {one}")

    return exit_code("compare", work)


@commands.command()
@click.argument("given", metavar="RUN|MODEL")
@click.option("--output", metavar="FOLDER", help="Write methods.md, results.md, results.tex and CLAIM's checklists there.")
def methods(given: str, output: str | None) -> int:
    """Print what a paper needs: a methods paragraph, results in Markdown and LaTeX, CLAIM's checklist.

    Each figure names its run; nothing is said that the store does not hold.
    """

    def work() -> None:

        from medexp.report.methods import methods_of_model, methods_of_run, write
        from medexp.report.written import is_version
        from medexp.tracking.past import run_in

        _find_store()
        found = methods_of_model(model_uri(given)) if is_version(given) else methods_of_run(run_in(given).id)
        if output is None:
            print(found.whole)
        else:
            print(f"Written: {', '.join(write(found, local_path(output)))} in {output}")

    return exit_code("methods", work)


@commands.command()
@click.argument("what", metavar="RUN|MODEL")
@click.argument("other", metavar="[RUN|MODEL]", required=False)
@click.option("--output", metavar="PLACE", default="report", show_default=True, help="A folder, or a file that ends in .html.")
@click.option("--case", "cases", metavar="ID", multiple=True, help="Show this case in 3D; several times for several.")
def report(what: str, other: str | None, output: str, cases: tuple[str, ...]) -> int:
    """Write what a run, a sweep or a model comes to as one page, which needs no network; of two, what B gains over A.

    RUN is one by id or name, or a file in its folder. Of a run of oct or of leaderboard all tables and pictures are drawn anew
    beside the page, where PLACE is a folder.
    """

    def work() -> None:
        from rich import filesize

        from medexp.report import written

        _find_store()
        place = local_path(output)
        file = place if place.suffix == ".html" else place / "report.html"
        if other is not None:
            from medexp.compare import compare
            from medexp.report.comparison import as_comparison

            names = (what, other)
            runs = (written.run_with_volumes(what), written.run_with_volumes(other))
            again = f"medexp report {shlex.quote(what)} {shlex.quote(other)}"
            page = as_comparison(compare(what, other), names, runs, again)
        elif written.is_version(what):
            page = written.page_of_version(model_uri(what), cases)
        else:
            from medexp.phases.shared.leaderboard import has_leaderboard, redraw
            from medexp.tracking.past import run_in
            from medexp.tracking.reporter import FolderReporter

            run = run_in(what).id
            page = written.page_of(run, cases)
            if file != place and has_leaderboard(run):
                print(redraw(run, what, FolderReporter(place)).sentence)
                print(f"Written: leaderboard.html, leaderboard.csv and what belongs to them in {output}")
        written.write_page(page, file)
        print(f"Written: {file}, {filesize.decimal(len(page.encode()))}")

    return exit_code("report", work)


@commands.command()
def ui() -> int:
    """Browse runs and models: MLflow's UI on the store, and the address of the last run."""

    def work() -> int:
        from medexp.tracking.ui import serve

        return serve()

    return exit_code("ui", work)


def _find_store() -> str:
    from medexp.tracking.stores import find_store

    return find_store()


def _show(find: Callable[[], Any], as_tree: Callable[[Any], Any], as_records: Callable[[Any], Any], as_json: bool) -> None:
    _find_store()
    found = find()
    if as_json:
        _print_json(as_records(found))
    else:
        _print(as_tree(found))


def _print(picture: Any) -> None:
    from medexp.terminal import terminal

    terminal(soft_wrap=False, width=None if sys.stdout.isatty() else 1000).print(picture)  # what goes to a file is not cut


def _print_json(content: Any) -> None:
    print(json.dumps(content, indent=2))
