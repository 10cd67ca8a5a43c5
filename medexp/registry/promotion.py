"""Which version stands behind an alias, and on what evidence."""

import math
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from medexp.checks import Check, Severity, failed_diagnostics, from_records
from medexp.config.shared import Resampling
from medexp.data.folds import folds_of
from medexp.errors import RegistryError
from medexp.evaluation.comparison import mean_gain, paired
from medexp.evaluation.intervals import MIN_PATIENTS, NOISE, Interval
from medexp.files import read_csv
from medexp.models.kinds import kind_of, outputs_of
from medexp.registry import journal
from medexp.registry.definitions import Definition, PromotionPolicy, known_models, load_definition
from medexp.registry.journal import CANDIDATE, CHAMPION, TO_BE_TRIED, Entry, Journal, Move, Outrun
from medexp.registry.loading import load_verified
from medexp.registry.packages import network_of, read_json
from medexp.registry.store import AROUND, Pulled, Registered, made_on_phantoms, pull, read_back, resolve


@dataclass(frozen=True)
class Nominated(Registered):
    """A registered version with the aliases that it was given.

    Attributes:
        aliases: `candidate` when its checks passed; `champion` too when there was none and the policy lets the first one in.
    """

    aliases: tuple[str, ...]


@dataclass(frozen=True)
class Scores:
    """What a version was measured to do, case by case.

    Attributes:
        per_case: Columns `case`, `patient` and the metrics.
        data_digest: Of the cases.
        phantoms: Whether its own weights were trained on embedded data.
    """

    per_case: pd.DataFrame
    data_digest: str | None
    phantoms: bool = False


@dataclass(frozen=True)
class Judgement:
    """Whether a version may take the champion's place.

    Attributes:
        checks: PROMOTE_CHECKS, PROMOTE_PHANTOMS, PROMOTE_DATA, PROMOTE_CASES and PROMOTE_POLICY.
        gains: A row a case that both were measured on: `case`, `patient`, `champion`, `candidate` and `gain`, positive where
            the candidate is better, NaN where one has scores of regions that the other lacks; empty without a champion. A
            case without a score of either, which holds none of the regions, is left out.
        interval: Of the mean gain; None without a champion, and where there is nothing to compare.
        over_phantoms: Whether there is a champion that counts as none: it was made on phantoms, and the version was not.
    """

    checks: tuple[Check, ...]
    gains: pd.DataFrame
    interval: Interval | None
    over_phantoms: bool = False

    @property
    def evidence(self) -> dict[str, Any]:
        """The figures for the journal."""
        figures = {f"{check.id}.{name}": value for check in self.checks for name, value in check.measured.items()}
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in figures.items()
        }


def nominate(made: Registered, definition: Definition, verdict: str | None, run_id: str) -> Nominated:
    """Give a new version the aliases that it has earned.

    A champion that was made on phantoms stands in nobody's way who was not: it counts as none.

    Args:
        made: The version.
        definition: What the model is for.
        verdict: Of the checks that it was judged by, PASSED or FAILED; None where it was not judged.
        run_id: The run that made it.

    Raises:
        RegistryError: It became the champion, as the first one, and does not load; it is the champion no more.
    """
    aliases: tuple[str, ...] = ()
    if verdict == "PASSED" and definition.promotion is not None:
        reason = "all BLOCKING checks passed"
        around = {AROUND: resolve(f"models:/{made.name}/{made.version}").tags[AROUND]}
        journal.move(made.name, Move(CANDIDATE, made.version, made.digest, "nominate", reason, around, run_id))
        aliases = (CANDIDATE,)
        present, standing = journal.read(made.name), journal.standing(made.name)  # the second: one that was set by hand
        stands = present.aliases.get(CHAMPION)
        none = CHAMPION not in {*present.aliases, *standing}
        aside = stands is not None and standing.get(CHAMPION) == stands and _stands_aside(made.name, stands, made.version)
        if (none or aside) and definition.promotion.no_champion == "promote":
            try:
                crown(
                    made, over_phantoms(stands) if aside else "the first version to pass its checks", {}, run_id, present.head
                )
                aliases = (CANDIDATE, CHAMPION)
            except Outrun:
                pass  # another version was the first
    return Nominated(made.name, made.version, made.digest, made.weights_digest, aliases)


def over_phantoms(champion: str | None) -> str:
    """Why a version takes the place of a champion without a comparison, for the journal and for whoever promotes it."""
    return (
        f"the first version made on real data to pass its checks; version {champion}, which it replaces, was made on phantoms"
    )


def _stands_aside(name: str, champion: str, version: str) -> bool:
    return made_on_phantoms(name, champion) and not made_on_phantoms(name, version)


def champion_of(name: str) -> tuple[Journal, str | None]:
    """The journal and the version that is the champion, None where there is none. Finishes what a killed process left: a move
    that its alias did not follow, and a champion that nobody has tried out.

    Raises:
        RegistryError: The alias stands elsewhere than the journal says: somebody moved it by hand. Or the champion was never
            tried out and does not load; it is moved back.
    """
    present = journal.settle(name)
    standing, wanted = journal.standing(name).get(CHAMPION), present.aliases.get(CHAMPION)
    if standing != wanted:
        put_back = f"Put it back first: medexp rollback {name} --to {wanted} --reason TEXT"
        raise RegistryError(
            f"{name}@{CHAMPION}: stands at version {standing or 'none'}, the journal says {wanted or 'none'}: it was moved by "
            f"hand. {put_back if wanted else 'Delete the alias first, in the UI, and run the same again'}"
        )
    if entry := present.untried:
        told = (
            f"{name} version {wanted} became the champion and nobody has loaded it yet (who moved it was killed, or is at it)"
        )
        print(f"medexp: {told}; loading it now", file=sys.stderr)
        confirm(entry, None)
    return present, wanted


def judge(
    definition: Definition,
    candidate: Pulled,
    champion: Scores | None,
    *,
    revision: int,
    samples: int,
    seed: int,
    first: bool = False,
) -> Judgement:
    """Hold a version against the policy of its model.

    Args:
        definition: The model's definition.
        candidate: The version's package.
        champion: What the champion does on its cases, or on the candidate's when it was scored anew; None: there is none.
        revision: Of the producing phase's checks, as they are today: what an earlier one judged is stale.
        samples: Resamples of the interval.
        seed: Seed of the resamples.
        first: Whether the user asked for the first champion where the policy does not give it by itself.

    Raises:
        RegistryError: The model has no policy, or the scores lack what it compares.
    """
    policy = definition.promotion
    if policy is None:
        raise RegistryError(f"{definition.name}: its definition has no promotion policy; its versions are named by number")
    scores = scores_of(candidate)
    aside = champion is not None and champion.phantoms and not scores.phantoms
    if champion is None or aside:
        allowed = first or policy.no_champion == "promote"
        first_of_all = (_checks_check(definition, candidate, revision), _first_check(policy, allowed, aside))
        return Judgement(first_of_all, pd.DataFrame(), None, aside)
    tables = champion.per_case, scores.per_case
    if absent := [column for column in policy.columns if not all(column in table for table in tables)]:
        raise RegistryError(f"per_case.csv: has no column {', '.join(absent)}, which the promotion policy compares")
    gains = paired(*tables, policy.columns, 1 if policy.direction == "maximise" else -1)
    comparable = len(gains) > 0 and bool(gains["gain"].notna().all())
    interval = None
    if comparable:
        interval = mean_gain(gains, Resampling(samples, policy.confidence, seed, folds_of(scores.per_case)))
    checks = (
        _checks_check(definition, candidate, revision),
        _phantoms_check(scores, champion),
        _data_check(policy, scores.data_digest, champion.data_digest),
        _cases_check(policy, gains, champion, scores),
        _policy_check(policy, interval, comparable),
    )
    return Judgement(checks, gains.rename(columns={"one": "champion", "other": "candidate"}), interval)


def scores_of(pulled: Pulled) -> Scores:
    """The scores that a version was registered with."""
    per_case = read_csv(pulled.folder / "per_case.csv")
    digest = read_json(pulled.folder, "evaluation.json").get("data_digest")
    return Scores(per_case, digest, made_on_phantoms(pulled.name, pulled.version))


def crown(
    version: Registered | Pulled, reason: str, evidence: Mapping[str, Any], run: str | None, after: int, kind: str = "promote"
) -> Entry:
    """Make a version the champion, load it as a user would, and move back when it does not load.

    Args:
        version: The version.
        reason: Why, for the journal.
        evidence: The figures, for the journal.
        run: The run that holds the evidence.
        after: Number of the journal's last entry when the decision was taken.
        kind: promote or rollback.

    Raises:
        Outrun: Another process moved the champion since.
        RegistryError: What the store holds is not the version, or it does not load or run; the alias stands where it stood.
    """
    uri = f"models:/{version.name}/{version.version}"
    found = read_back(resolve(uri))  # a whole copy in this machine's cache helps nobody else
    evidence = {**evidence, AROUND: found.around, TO_BE_TRIED: True}
    entry = journal.move(version.name, Move(CHAMPION, version.version, version.digest, kind, reason, evidence, run), after)
    confirm(entry, run)
    return entry


def confirm(entry: Entry, run: str | None) -> None:
    """Load the champion as a user would, and move back when it does not load.

    Args:
        entry: The move that made it the champion.
        run: The run that asks.

    Raises:
        RegistryError: It does not load or run.
    """
    try:
        try_out(f"models:/{entry.model}/{entry.to}")
    except Exception as error:
        told = f"version {entry.to} does not load: {' '.join(str(error).split())[:500]}"
        past = [earlier for earlier in journal.read(entry.model).entries if earlier.alias == CHAMPION]
        back = _before(past) if entry.kind == "undo" else entry.start  # what an undo left is what did not load before
        digest = next((earlier.digest for earlier in reversed(past) if earlier.to == back), None)
        with suppress(Outrun):  # another process has replaced it already
            journal.move(entry.model, Move(CHAMPION, back, digest, "undo", told, run=run), entry.number)
        stands = journal.standing(entry.model).get(CHAMPION)
        stays = f"version {stands}" if stands else "no version"
        raise RegistryError(f"{entry.model}: {told}. {stays} is the champion; register it anew") from error
    journal.note_tried(entry)


@torch.inference_mode()
def try_out(uri: str) -> None:
    """Load a registered model as a user would, and run it once on the example of its kind.

    An adapter whose base is not registered is verified byte by byte and not run.

    Raises:
        RegistryError: It does not load, or gives something else than finite numbers.
    """
    pulled = pull(uri)
    contract, parents = read_json(pulled.folder, "contract.json"), read_json(pulled.folder, "parents.json")
    architecture = network_of(contract)
    if architecture is not contract["architecture"] and parents["base"]["version"] is None:
        return
    net = load_verified(pulled.folder)
    given = kind_of(architecture).example(architecture, contract["input"], torch.Generator().manual_seed(0))
    cases = {len(tensor) for tensor in given.values()}
    output = outputs_of(net, architecture, given)
    if not all({len(tensor)} == cases and bool(tensor.isfinite().all()) for tensor in output.values()):
        raise RegistryError(f"{uri}: its output is no tensor of finite numbers, one row a case")


def rollback(name: str, reason: str, to: str | None = None) -> Entry:
    """Move the champion back to a version that it stood at before; a move like any other, with its reason in the journal.

    Args:
        name: Name of the model.
        reason: Why, for whoever reads the journal.
        to: The version; without it the one before, or, when the alias was moved by hand, the one that the journal says.

    Raises:
        RegistryError: There is no such version before, no reason is given, or the version does not load.
    """
    if not reason.strip():
        raise RegistryError("--reason: is empty; say why, for whoever reads the journal")
    present = journal.settle(name)
    past = [entry for entry in present.entries if entry.alias == CHAMPION]
    known = sorted({entry.to for entry in past if entry.to}, key=int)
    standing = journal.standing(name).get(CHAMPION)
    if to is None:
        wanted = present.aliases.get(CHAMPION)
        to = wanted if standing != wanted else _before(past)
    if name in known_models() and load_definition(name).promotion is None:
        raise RegistryError(f"{name}: its definition has no promotion policy; its versions are named by number")
    if to is None or to not in known:
        was = f"versions that were: {', '.join(known)}" if known else "it has had none"
        what = f"version {to} of {name} was never the champion" if to else f"{name} has no champion before this one"
        raise RegistryError(f"{what}; {was}. A version becomes it with: medexp promote --model {name} --version VERSION")
    if to == standing:
        raise RegistryError(f"{name}: version {to} is the champion already; versions that were: {', '.join(known)}")
    return crown(pull(f"models:/{name}/{to}"), reason, {}, None, present.head, "rollback")


def _before(past: list[Entry]) -> str | None:
    """The champion before the present one: what a rollback or an undo left behind does not count."""
    stack: list[str | None] = []
    for entry in past:
        if entry.kind != "promote" and entry.to in stack:
            while stack[-1] != entry.to:
                stack.pop()
        else:
            stack.append(entry.to)
    return stack[-2] if len(stack) > 1 else None


def _checks_check(definition: Definition, candidate: Pulled, demanded: int) -> Check:
    """The BLOCKING checks are there, passed, and are what the phase demands today."""
    records = {record["id"]: record for record in read_json(candidate.folder, "checks.json")}
    revision = read_json(candidate.folder, "evaluation.json").get("revision")
    missing = sorted(set(definition.required_checks) - set(records))
    failed = sorted(check for check, record in records.items() if record["severity"] == "BLOCKING" and not record["passed"])
    stale = revision != demanded
    diagnostics = failed_diagnostics(from_records(records.values()))
    return Check(
        "PROMOTE_CHECKS",
        "BLOCKING checks of the version",
        Severity.BLOCKING,
        not (missing or failed or stale),
        f"none missing, none failed, judged by revision {demanded} of {definition.producing_phase}'s checks",
        {
            "missing": ", ".join(missing) or "none",
            "failed": ", ".join(failed) or "none",
            "revision": revision,
            "diagnostics_failed": diagnostics,
        },
        f"train and judge it anew: mlflow run . -e {definition.producing_phase}",
    )


def _phantoms_check(candidate: Scores, champion: Scores) -> Check:
    return Check(
        "PROMOTE_PHANTOMS",
        "nothing made on phantoms takes the place of a model made on real data",
        Severity.BLOCKING,
        champion.phantoms or not candidate.phantoms,
        "the version was made on real data, or the champion was made on phantoms too",
        {"version": _made_on(candidate), "champion": _made_on(champion)},
        "train a version on real data; the one made on phantoms is used by its number, models:/NAME/VERSION",
    )


def _made_on(scores: Scores) -> str:
    return "phantoms" if scores.phantoms else "real data"


def _first_check(policy: PromotionPolicy, allowed: bool, aside: bool) -> Check:
    return Check(
        "PROMOTE_POLICY",
        "the champion was made on phantoms, the version on real data: nothing to compare with"
        if aside
        else "there is no champion to compare with",
        Severity.BLOCKING,
        allowed,
        "the policy lets the first version in, or first=true" if policy.no_champion == "refuse" else "the policy lets it in",
        {"no_champion": policy.no_champion},
        "make it the first champion with -P first=true",
    )


def _data_check(policy: PromotionPolicy, candidate: str | None, champion: str | None) -> Check:
    return Check(
        "PROMOTE_DATA",
        "both were judged on the same cases",
        Severity.BLOCKING,
        candidate is not None and candidate == champion,
        "the data digests are equal",
        {"candidate": candidate, "champion": champion},
        "judge both beside the same real pairs, on the same grid and in the same number of steps"
        if policy.unit == "samples"
        else "score the champion on the candidate's cases first: -P reevaluate=true, with that run's data_dir, splits and "
        "seed",
    )


def _cases_check(policy: PromotionPolicy, gains: pd.DataFrame, champion: Scores, candidate: Scores) -> Check:
    lost = len(set(champion.per_case["case"]) ^ set(candidate.per_case["case"]))
    patients, drawn = int(gains["patient"].nunique()) if len(gains) else 0, policy.unit == "samples"
    return Check(
        "PROMOTE_CASES",
        "enough cases to compare",
        Severity.BLOCKING,
        len(gains) >= policy.min_cases and patients >= MIN_PATIENTS and lost == 0,
        f"at least {policy.min_cases} " + ("samples" if drawn else f"cases of {MIN_PATIENTS} {policy.unit}") + ", each with "
        "scores of both",
        {**({} if drawn else {"cases": len(gains)}), policy.unit: patients, "cases_of_one_alone": lost},
        "judge both by more samples, from the same seeds" if drawn else "judge both on a larger validation split",
    )


def _policy_check(policy: PromotionPolicy, interval: Interval | None, comparable: bool) -> Check:
    supported = interval is not None and interval.low > -policy.margin and interval.estimate >= NOISE
    what = f"{policy.metric}, mean of {', '.join(policy.regions)}" if policy.regions else policy.metric
    measured: dict[str, float | int | str | bool | None] = {}
    if interval is not None:
        measured = {"gain": interval.estimate, "low": interval.low, "high": interval.high, policy.unit: interval.patients}
    elif not comparable:
        measured = {"comparable": False}
    return Check(
        "PROMOTE_POLICY",
        f"better than the champion in {what}",
        Severity.BLOCKING,
        supported,
        f"gain above 0, and the lower bound of its {policy.confidence:.0%} interval above {-policy.margin:g}",
        measured,
        f"{in_words(interval, what, policy.unit)} The champion stays; train a better version, or judge both on more "
        f"{policy.unit}"
        if interval is not None
        else "one of them has scores of regions that the other lacks: score the champion anew with -P reevaluate=true, and "
        "the data_dir, splits and seed of the version's run",
    )


def in_words(gain: Interval, metric: str, unit: str = "patients") -> str:
    """What a version's gain over the champion says, plainly."""
    return gain.told(
        few=f"too few {unit} to tell it from the champion in {metric}",
        better=f"it does better than the champion in {metric}",
        worse=f"it does worse than the champion in {metric}",
        same=f"no difference from the champion in {metric} that could be measured",
        unit=unit,
    )
