"""All that was judged in a set of runs on the same data, in one leaderboard: runs of oct, and of any phase that classifies."""

from medexp.config.shared import resampling
from medexp.evaluation.leaderboard import PRIMARY, leaderboard, read_predictions
from medexp.phases.leaderboard import PHASE
from medexp.phases.leaderboard.checks import same_data
from medexp.phases.leaderboard.config import LeaderboardConfig
from medexp.phases.leaderboard.runs import JUDGED, put_together, read_runs
from medexp.phases.shared.context import context
from medexp.phases.shared.leaderboard import CALLED, Judging, count_classes, figures_of, log_leaderboard, summary_of
from medexp.tracking.results import log_headline


def run(config: LeaderboardConfig) -> None:
    """The whole phase; `LeaderboardConfig` says what can be set.

    Raises:
        ConfigError: There is no such run.
        DataError: A run judged nothing, or they were judged on different data.
    """
    with context(PHASE, config) as ctx:
        given = read_runs(config.named)
        ctx.demand(same_data(given))
        ctx.run.tag({"medexp.data_digest": given[0].digest, "medexp.compared": " ".join(one.run.id for one in given)})
        rows, spread = put_together(given)
        known = next((one.judging for one in given if one.judging), None)
        order = list(known.counts["class"]) if known else ()
        saved = read_predictions(rows, "runs", JUDGED, order, spread)
        drawn = resampling(config, max(one.folds for one in given))
        board = leaderboard(saved.entries, saved.patients, saved.classes, drawn)
        source = known.source if known else "the data of the runs"
        counts = known.counts if known else count_classes(rows, saved.classes)
        notes = [f"From run {one.called}: {', '.join(one.rows['arm'].unique())}." for one in given]
        title = f"Leaderboard of {len(given)} run{'s' if len(given) > 1 else ''}"
        judging = Judging(title, source, JUDGED, counts, drawn, notes)
        log_leaderboard(ctx.run.reporter, board, judging, rows)
        ctx.intervals("judged/", figures := figures_of(board))
        best = next((row for row in board.rows if row.entry.kind == "checkpoint"), board.rows[0])
        name = next(name for name, one in figures.items() if one is best.scores[PRIMARY])
        log_headline(ctx.run, f"judged/{name}", f"the largest {CALLED[PRIMARY]}, {best.entry.label}:", sorted_by=False)
        again = f"medexp report {ctx.run.id} --output FOLDER"
        ctx.finish(summary_of(board, title, judging, [f"Next, redraw it:  {again}"]))
