"""Make a version the champion of its model, when the model's policy supports it; the run records why, or why not."""

from dataclasses import replace

from medexp import phases, registry
from medexp.checks import as_lines, in_a_line, verdict
from medexp.errors import CheckFailed, all_problems
from medexp.phases.promote.config import PromoteConfig
from medexp.phases.promote.rescore import rescore
from medexp.phases.shared.reported import reported_run
from medexp.registry.definitions import load_definition
from medexp.registry.journal import CHAMPION, read
from medexp.registry.promotion import Judgement, champion_of, confirm, crown, judge, over_phantoms, scores_of
from medexp.registry.store import Pulled, pull, resolve
from medexp.report.summary import Summary, log_record
from medexp.terminal import terminal
from medexp.tracking.figures import gains
from medexp.tracking.results import log_checks, log_headline, log_intervals, log_summary
from medexp.tracking.runs import TrackedRun
from medexp.tracking.stores import find_store
from medexp.tracking.ui import next_line


def run(config: PromoteConfig) -> None:
    """The whole phase; `PromoteConfig` says what can be set.

    Raises:
        RegistryError: There is no such model or version, it was made by another program, the champion was moved by hand, or
            another process moved it meanwhile.
        CheckFailed: The policy does not support the move; nothing was moved.
    """
    definition = load_definition(config.model, phases.checks())
    uri = f"models:/{config.model}" + (f"/{config.version}" if config.version else "@candidate")
    find_store()
    resolve(uri)  # looked for before there is a run, or a store, of nothing
    with reported_run("promote", config) as tracked:
        journal, stands = champion_of(config.model)
        candidate = registry.pull(uri)
        if candidate.version == stands:
            moved = next(entry for entry in reversed(journal.entries) if entry.alias == CHAMPION)
            confirm(moved, tracked.id)  # who moved it may have been killed before loading it
            log_summary(tracked, f"Version {stands} of {config.model} is the champion already; nothing was moved.\n")
            lead_on(tracked, f"{config.model} version {stands} is the champion already", config.model)
            return
        champion = pull(f"models:/{config.model}/{stands}") if stands else None
        scores = scores_of(champion) if champion else None
        if champion and scores and config.reevaluate and not (scores.phantoms and not scores_of(candidate).phantoms):
            scores = replace(rescore(champion, candidate, config), phantoms=scores.phantoms)
            tracked.reporter.table(scores.per_case, "champion_on_the_candidates_cases.csv")
        judgement = judge(
            definition,
            candidate,
            scores,
            revision=phases.phase(definition.producing_phase).revision,
            samples=config.bootstrap_samples,
            seed=config.seed,
            first=config.first,
        )
        assert definition.promotion is not None  # what `judge` would have refused
        report(tracked, judgement, definition.promotion.confidence)
        if verdict(judgement.checks) == "FAILED":
            refuse(tracked, candidate, champion, judgement)
        evidence = judgement.evidence | {"bootstrap_samples": config.bootstrap_samples, "seed": config.seed}
        entry = crown(
            candidate,
            over_phantoms(stands) if judgement.over_phantoms else reason(judgement),
            evidence,
            tracked.id,
            journal.head,
        )
        tracked.reporter.text("\n".join(str(entry) for entry in read(config.model).entries) + "\n", "journal.txt")
        failed = judgement.checks[0].measured["diagnostics_failed"]
        told = f"; diagnostics that it failed: {failed}" if failed != "none" else ""
        log_summary(tracked, f"**Promoted**: {entry}{told}\n")
        before = f"{config.model} version {candidate.version} is the champion; before it: {entry.start or 'none'}"
        lead_on(tracked, f"Promoted: {before}{told}", config.model, undo=True)


def lead_on(tracked: TrackedRun, told: str, model: str, *, undo: bool = False) -> None:
    """Say, in the terminal and in the run's report, what came of it, and what can be done next."""
    following = [f"Next, what it is made of:  medexp lineage models:/{model}@champion"]
    following += [f"Next, should it disappoint: medexp rollback {model} --reason TEXT"] if undo else []
    log_record(tracked.reporter, Summary(told, "", (), (), ()), following)
    print(told, f"Next, browse it:           {next_line(tracked)}", *following, sep="\n")


def report(tracked: TrackedRun, judgement: Judgement, confidence: float) -> None:
    """The checks and what they rest on, in the run and in the terminal."""
    log_checks(tracked, judgement.checks)
    if len(judgement.gains):
        tracked.reporter.table(judgement.gains, "gains.csv")
        tracked.reporter.figure(gains(judgement.gains), "figures/gains.png")
    if judgement.interval:
        log_intervals(tracked, {"gain": judgement.interval}, confidence)
        log_headline(tracked, "gain", "gain over the champion", sorted_by=False)
    console = terminal()
    for line in as_lines(judgement.checks):
        console.print(line)


def reason(judgement: Judgement) -> str:
    """Why a version is promoted, in words."""
    return f"gain {judgement.interval.as_gain}" if judgement.interval else "the first champion"


def refuse(tracked: TrackedRun, candidate: Pulled, champion: Pulled | None, judgement: Judgement) -> None:
    """Say which demands did not hold, with the numbers, and that the champion stays."""
    failed = [f"{in_a_line(check)}; demanded: {check.threshold}; {check.advice}" for check in judgement.checks if check.blocks]
    stays = f"version {champion.version} stays the champion" if champion else "there is no champion"
    told = all_problems(f"{candidate.name} version {candidate.version} is not promoted", failed, f"{stays}; run {tracked.id}.")
    log_summary(tracked, f"**Refused**: {told}\n")
    raise CheckFailed(told)
