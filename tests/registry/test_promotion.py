"""Who becomes the champion: real packages, a real store, scores whose outcome is known."""

import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from medexp import registry
from medexp.checks import Check, Severity, verdict
from medexp.errors import CheckpointError, RegistryError
from medexp.models.kinds import build
from medexp.registry import journal
from medexp.registry.audit import audit
from medexp.registry.definitions import Definition, load_definition
from medexp.registry.journal import Move
from medexp.registry.package import Learned
from medexp.registry.promotion import (
    CHAMPION,
    Judgement,
    Nominated,
    Scores,
    champion_of,
    confirm,
    crown,
    in_words,
    judge,
    nominate,
    rollback,
    scores_of,
    try_out,
)
from medexp.registry.registration import register
from medexp.registry.store import Pulled
from tests.forked import start
from tests.packages import ENCODER, EVALUATION, scores
from tests.registry.faults import at_call

NAME = "phase1_encoder_merged"
Publish = Callable[..., Nominated]


def aliases(store: MlflowClient) -> dict[str, str]:
    return {alias: str(version) for alias, version in store.get_registered_model(NAME).aliases.items()}


def pulled(version: str) -> Pulled:
    return registry.pull(f"models:/{NAME}/{version}")


def judged(version: str, champion: Scores | None, definition: Definition | None = None, **given: bool) -> Judgement:
    revision = int(EVALUATION["revision"])
    return judge(
        definition or load_definition(NAME), pulled(version), champion, revision=revision, samples=1000, seed=0, **given
    )


def failed(judgement: Judgement) -> list[str]:
    return [check.id for check in judgement.checks if check.blocks]


# ------------------------------------------------------------------------------------------------------------------ aliases


def test_the_first_version_that_passed_becomes_the_champion_and_later_ones_candidates(
    store: MlflowClient, publish: Publish
) -> None:
    assert publish("FAILED", seed=0).aliases == ()
    assert publish(seed=1).aliases == ("candidate", "champion")
    assert publish(seed=2).aliases == ("candidate",)
    assert aliases(store) == {"candidate": "3", "champion": "2"}
    kinds = [(entry.alias, entry.kind, entry.to) for entry in journal.read(NAME).entries]
    assert kinds == [("candidate", "nominate", "2"), ("champion", "promote", "2"), ("candidate", "nominate", "3")]


def test_a_policy_may_keep_the_first_version_from_becoming_the_champion_by_itself(
    store: MlflowClient, publish: Publish, written: Callable[..., Path]
) -> None:
    definition = load_definition(NAME)
    assert definition.promotion is not None
    strict = replace(definition, promotion=replace(definition.promotion, no_champion="refuse"))
    run = store.create_run("0").info.run_id
    assert nominate(register(run, written(), strict, "PASSED"), strict, "PASSED", run).aliases == ("candidate",)
    assert failed(judged("1", None, strict)) == ["PROMOTE_POLICY"]
    assert verdict(judged("1", None, strict, first=True).checks) == "PASSED"


PHANTOMS, DATA = Learned("meningioma phantoms", "d0", phantoms=True), Learned("a hospital's", "d9")


def test_a_champion_made_on_phantoms_stands_in_no_real_models_way(store: MlflowClient, publish: Publish) -> None:
    """However well phantoms are segmented: the two were judged on other cases. The journal says why."""
    publish(seed=0, learned=PHANTOMS, per_case=scores(dice=0.99))
    assert publish("FAILED", seed=1, learned=DATA).aliases == (), "its own BLOCKING checks are demanded"
    assert publish(seed=2, learned=PHANTOMS).aliases == ("candidate",)
    assert publish(seed=3, learned=DATA, per_case=scores(dice=0.5)).aliases == ("candidate", "champion")
    told = journal.read(NAME).entries[-1]
    assert (told.start, told.to) == ("1", "4")
    assert "the first version made on real data" in told.reason and "version 1, which it replaces, was made on" in told.reason
    assert publish(seed=4, learned=DATA).aliases == ("candidate",), "among real ones the policy decides"
    assert publish(seed=5, learned=PHANTOMS).aliases == ("candidate",), "a demo moves no champion made on real data"
    assert aliases(store)["champion"] == "4"


def test_a_champion_from_before_the_tag_is_known_by_its_card(store: MlflowClient, publish: Publish) -> None:
    publish(seed=0, learned=PHANTOMS)
    for tag in ("medexp.phantoms", "medexp.trained_on"):
        store.delete_model_version_tag(NAME, "1", tag)
    assert publish(seed=1, learned=DATA).aliases == ("candidate", "champion")
    store.delete_model_version_tag(NAME, "2", "medexp.phantoms")
    assert publish(seed=2, learned=DATA).aliases == ("candidate",), "its card names no phantoms"


def test_what_is_made_on_phantoms_is_promoted_over_phantoms_alone(publish: Publish) -> None:
    """Also where it does better on the same cases: a figure of drawings moves nothing that patients are given to."""
    for seed, learned in enumerate([DATA, PHANTOMS, PHANTOMS]):
        publish(seed=seed, learned=learned, per_case=scores(dice=0.8 + 0.05 * seed))
    assert failed(judged("2", scores_of(pulled("1")))) == ["PROMOTE_PHANTOMS"]
    assert failed(judged("3", scores_of(pulled("2")))) == []
    aside = judged("1", scores_of(pulled("2")))
    assert (failed(aside), aside.over_phantoms, aside.interval) == ([], True, None)


def test_promotion_says_which_diagnostics_a_version_failed_and_goes_by_the_blocking_ones(publish: Publish) -> None:
    demanded = [Check(check, "", Severity.BLOCKING, True, "") for check in load_definition(NAME).required_checks]
    publish(seed=0, checks=[*demanded, Check("TEST_2.4", "", Severity.DIAGNOSTIC, False, "")])
    check = judged("1", None).checks[0]
    assert (check.passed, check.measured["diagnostics_failed"]) == (True, "TEST_2.4")


def test_a_model_without_a_policy_has_no_aliases(store: MlflowClient, written: Callable[..., Path]) -> None:
    run = store.create_run("0").info.run_id
    definition = load_definition("bsf_base")
    architecture = {**ENCODER, "kind": "swin_unetr", "out_channels": 3}
    made = register(run, written(name="bsf_base", architecture=architecture), definition, "PASSED")
    assert nominate(made, definition, "PASSED", run).aliases == ()
    with pytest.raises(RegistryError, match=r"bsf_base: its definition has no promotion policy"):
        judge(definition, registry.pull("models:/bsf_base/1"), None, revision=1, samples=100, seed=0)


# ---------------------------------------------------------------------------------------------------------------- the policy


@pytest.mark.parametrize(
    ("dice", "outcome"),
    [(0.83, []), (0.77, ["PROMOTE_POLICY"]), (0.80, ["PROMOTE_POLICY"])],
    ids=["a better one", "a worse one", "the same scores"],
)
def test_a_better_version_is_promoted_and_a_worse_one_refused_with_its_interval(
    publish: Publish, dice: float, outcome: list[str]
) -> None:
    publish(seed=0)
    publish(seed=1, per_case=scores(dice=dice))
    judgement = judged("2", scores_of(pulled("1")))
    assert failed(judgement) == outcome
    assert judgement.interval is not None
    interval = judgement.interval
    assert interval.estimate == pytest.approx(dice - 0.80)
    if dice == 0.80:
        assert np.isnan([interval.low, interval.high]).all(), "the same in all cases is no interval without a width"
    else:
        assert interval.estimate - 0.002 < interval.low < interval.estimate < interval.high < interval.estimate + 0.002
    assert judgement.evidence["PROMOTE_POLICY.gain"] == pytest.approx(dice - 0.80)
    assert judgement.gains["gain"].to_numpy() == pytest.approx(dice - 0.80, abs=0.002)


@pytest.mark.parametrize(
    ("shift", "scatter", "outcome", "words"),
    [
        (0.05, 0.01, [], "better than the champion"),
        (1e-9, 1e-10, ["PROMOTE_POLICY"], "that could be measured: the figures are the same."),
        (-0.05, 0.01, ["PROMOTE_POLICY"], "worse than the champion"),
        (0.02, 0.05, ["PROMOTE_POLICY"], "patients would be needed for a difference of 0.02"),
    ],
    ids=["better", "equal up to noise", "worse", "too few to tell"],
)
def test_six_patients_tell_what_they_can(
    publish: Publish, shift: float, scatter: float, outcome: list[str], words: str
) -> None:
    champion, candidate = scores(12), scores(12)
    gains = np.repeat(np.random.default_rng(3).normal(0, 1, 6), 2)
    for table in (champion, candidate):
        table["patient"] = [f"p{i // 2}" for i in range(12)]
    for region in ("TC", "WT", "ET"):
        candidate[f"dice_{region}"] += shift + scatter * (gains - gains.mean()) / gains.std()
    publish(seed=0, per_case=candidate)
    judgement = judged("1", Scores(champion, "d1"))
    assert failed(judgement) == outcome
    assert judgement.interval is not None and words in in_words(judgement.interval, "dice, mean of TC, WT, ET")
    assert not outcome or words in next(check.advice for check in judgement.checks if check.blocks)


@pytest.mark.parametrize(("margin", "outcome"), [(0.001, ["PROMOTE_POLICY"]), (0.2, [])])
def test_the_margin_says_how_much_worse_it_may_be_at_the_lower_bound(
    publish: Publish, margin: float, outcome: list[str]
) -> None:
    """Gains of +0.03 in the mean that vary by 0.15: the interval reaches below 0."""
    champion, candidate = scores(), scores()
    gains = np.random.default_rng(3).normal(0, 0.15, 12)
    for region in ("TC", "WT", "ET"):
        candidate[f"dice_{region}"] += gains - gains.mean() + 0.03
    publish(seed=0, per_case=champion)
    publish(seed=1, per_case=candidate)
    definition = load_definition(NAME)
    assert definition.promotion is not None
    policy = replace(definition, promotion=replace(definition.promotion, margin=margin))
    judgement = judged("2", Scores(champion, "d1"), policy)
    assert judgement.interval is not None and -0.2 < judgement.interval.low < -0.001
    assert failed(judgement) == outcome


def test_a_metric_that_is_better_when_small_is_compared_the_other_way_round(publish: Publish) -> None:
    publish(seed=0)
    definition = load_definition(NAME)
    assert definition.promotion is not None
    distance = replace(definition, promotion=replace(definition.promotion, metric="hd95", direction="minimise", regions=()))
    near, far = (scores().assign(hd95=distance * scores()["dice_TC"]) for distance in (3.0, 5.0))
    publish(seed=1, per_case=near)
    assert failed(judged("2", Scores(far, "d1"), distance)) == []
    publish(seed=2, per_case=far)
    assert failed(judged("3", Scores(near, "d1"), distance)) == ["PROMOTE_POLICY"]


def test_scans_of_one_patient_are_resampled_together(publish: Publish) -> None:
    """The same gains, of 12 patients or of 6 with two scans each: fewer patients, a wider interval."""
    gains = np.repeat(np.random.default_rng(0).normal(0.02, 0.05, 6), 2)
    candidate = scores()
    for region in ("TC", "WT", "ET"):
        candidate[f"dice_{region}"] += gains
    widths = []
    for seed, patients in enumerate((candidate["patient"], [f"p{i // 2}" for i in range(12)])):
        version = publish(seed=seed, per_case=candidate.assign(patient=patients)).version
        interval = judged(version, Scores(scores(), "d1")).interval
        assert interval is not None
        widths.append(interval.high - interval.low)
    assert widths[1] > 1.2 * widths[0]


# ------------------------------------------------------------------------------------------------------ what must be there


def check(name: str, severity: Severity = Severity.BLOCKING, passed: bool = True) -> Check:
    return Check(name, "", severity, passed, "")


def test_a_region_that_no_case_holds_is_in_no_gain_whatever_was_predicted(publish: Publish) -> None:
    """Of 13 cases one holds no tumour and one no ET: the first is left out, the second counts by the regions that it holds."""
    champion, candidate = scores(13), scores(13, dice=0.9)
    for table in (champion, candidate):
        table.loc[4, ["dice_TC", "dice_WT", "dice_ET"]] = float("nan")
        table.loc[7, "dice_ET"] = float("nan")
    publish(seed=0, per_case=candidate)
    judgement = judged("1", Scores(champion, "d1"))
    assert failed(judgement) == []
    assert judgement.gains["gain"].to_numpy() == pytest.approx(0.1, abs=0.01) and len(judgement.gains) == 12
    assert "p4-0" not in set(judgement.gains["case"])


def test_a_champion_that_was_scored_where_nothing_is_must_be_scored_anew(publish: Publish) -> None:
    """Versions that were judged before had a Dice of 0 or 1 there."""
    candidate = scores(dice=0.9)
    candidate.loc[7, "dice_ET"] = float("nan")
    publish(seed=0, per_case=candidate)
    judgement = judged("1", Scores(scores(), "d1"))
    assert failed(judgement) == ["PROMOTE_POLICY"]
    (check,) = [one for one in judgement.checks if one.blocks]
    assert check.measured == {"comparable": False} and "-P reevaluate=true" in check.advice


@pytest.mark.parametrize(
    ("given", "outcome", "told"),
    [
        ({"data_digest": "d2"}, "PROMOTE_DATA", r"'champion': 'd2'"),
        ({"cases": 9}, "PROMOTE_CASES", "'cases': 9"),
        ({"cases": 11}, "PROMOTE_CASES", "'cases_of_one_alone': 1"),
        ({"patients": 5}, "PROMOTE_CASES", "'patients': 5"),
        ({"nan": True}, "PROMOTE_POLICY", "'comparable': False"),
    ],
)
def test_what_cannot_be_compared_is_refused_and_says_why(
    publish: Publish, given: dict[str, object], outcome: str, told: str
) -> None:
    patients = given.get("patients")
    mine = scores(dice=0.9)
    if patients:
        mine["patient"] = [f"p{i % int(str(patients))}" for i in range(len(mine))]
    if "nan" in given:
        mine.loc[3, "dice_WT"] = float("nan")
    publish(seed=0, per_case=mine)
    champion = Scores(scores(int(str(given.get("cases", 12)))), str(given.get("data_digest", "d1")))
    judgement = judged("1", champion)
    assert outcome in failed(judgement)
    (found,) = [one for one in judgement.checks if one.id == outcome]
    assert told in str(found.measured)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"evaluation": EVALUATION | {"revision": 0}}, "'revision': 0"),
        ({"failing": "TEST_2.5"}, "'failed': 'TEST_2.5'"),
    ],
)
def test_a_failed_or_stale_blocking_check_keeps_a_version_from_promotion(
    publish: Publish, given: dict[str, object], told: str
) -> None:
    failing = given.pop("failing", None)
    if failing:
        required = load_definition(NAME).required_checks
        given["checks"] = [check(name, passed=name != failing) for name in required]
    publish("FAILED", seed=0, per_case=scores(dice=0.9), **given)
    judgement = judged("1", Scores(scores(), "d1"))
    assert failed(judgement) == ["PROMOTE_CHECKS"]
    assert told in str(judgement.checks[0].measured)


def test_a_missing_check_keeps_a_version_from_promotion(publish: Publish) -> None:
    """As when a definition comes to require another check than it did when the version was registered."""
    publish(seed=0)
    definition = load_definition(NAME)
    stricter = replace(definition, required_checks=(*definition.required_checks, "ATTRIBUTION"))
    judgement = judged("1", None, stricter)
    assert failed(judgement) == ["PROMOTE_CHECKS"]
    assert judgement.checks[0].measured["missing"] == "ATTRIBUTION"


def test_a_failed_diagnostic_check_informs(publish: Publish) -> None:
    checks = [check(name) for name in load_definition(NAME).required_checks]
    publish(seed=0, checks=[*checks, check("ATTRIBUTION", Severity.DIAGNOSTIC, passed=False)])
    assert failed(judged("1", None)) == []


def test_scores_without_the_policys_column_are_named(publish: Publish) -> None:
    publish(seed=0)
    with pytest.raises(RegistryError, match="has no column dice_ET"):
        judged("1", Scores(scores().drop(columns="dice_ET"), "d1"))


def test_a_version_of_another_program_is_refused_with_the_reason(store: MlflowClient, publish: Publish) -> None:
    publish(seed=0)
    store.create_model_version(NAME, source="nowhere")
    with pytest.raises(RegistryError, match=r"version 2 .*made by another program"):
        pulled("2")


# ------------------------------------------------------------------------------------------------------- moves and their undo


def test_a_promotion_is_in_the_journal_with_its_evidence(store: MlflowClient, publish: Publish) -> None:
    publish(seed=0)
    publish(seed=1, per_case=scores(dice=0.9))
    judgement = judged("2", scores_of(pulled("1")))
    head, stands = champion_of(NAME)
    assert stands == "1"
    entry = crown(pulled("2"), "better", judgement.evidence, "run", head.head)
    assert aliases(store)["champion"] == "2"
    assert entry.evidence["PROMOTE_POLICY.gain"] == pytest.approx(0.1)
    assert (entry.start, entry.to, entry.digest) == ("1", "2", pulled("2").digest)


def test_of_two_promotions_at_once_one_wins_and_the_other_is_told(store: MlflowClient, publish: Publish) -> None:
    for seed in range(3):
        publish(seed=seed)
    head = champion_of(NAME)[0].head
    crown(pulled("2"), "better", {}, None, head)
    with pytest.raises(RegistryError, match=r"another process moved champion .* champion 1 -> 2"):
        crown(pulled("3"), "better still", {}, None, head)
    assert aliases(store)["champion"] == "2"


def test_a_model_that_does_not_load_is_moved_back_by_itself(store: MlflowClient, publish: Publish) -> None:
    publish(seed=0)
    torch.manual_seed(0)
    weights = {key: value * float("nan") if "qkv" in key else value for key, value in build(ENCODER).state_dict().items()}
    publish(weights=weights)
    with pytest.raises(RegistryError, match=r"version 2 does not load: .*not finite.* version 1 is the champion"):
        crown(pulled("2"), "better", {}, None, champion_of(NAME)[0].head)
    assert aliases(store)["champion"] == "1"
    last = journal.read(NAME).entries[-1]
    assert (last.kind, last.start, last.to, last.digest) == ("undo", "2", "1", pulled("1").digest)


def test_it_is_moved_back_also_when_other_aliases_were_moved_meanwhile(store: MlflowClient, publish: Publish) -> None:
    publish(seed=0)
    broken = publish(weights={key: value * float("nan") for key, value in build(ENCODER).state_dict().items()})
    entry = journal.move(NAME, Move(CHAMPION, "2", broken.digest, "promote", "better"))
    publish(seed=1)
    with pytest.raises(RegistryError, match="version 2 does not load: .* version 1 is the champion"):
        confirm(entry, None)
    assert aliases(store) == {"candidate": "3", "champion": "1"}


def test_one_that_was_replaced_meanwhile_is_told_and_its_successor_stays(store: MlflowClient, publish: Publish) -> None:
    publish(seed=0)
    broken = publish(weights={key: value * float("nan") for key, value in build(ENCODER).state_dict().items()})
    entry = journal.move(NAME, Move(CHAMPION, "2", broken.digest, "promote", "better"))
    successor = publish(seed=1)
    journal.move(NAME, Move(CHAMPION, "3", successor.digest, "promote", "better still"))
    with pytest.raises(RegistryError, match="version 2 does not load: .* version 3 is the champion"):
        confirm(entry, None)
    assert aliases(store)["champion"] == "3"


def test_a_version_that_is_whole_in_this_machines_cache_alone_is_not_promoted(store: MlflowClient, publish: Publish) -> None:
    publish(seed=0)
    publish(seed=1)
    cached = pulled("2")
    shutil.rmtree(store.get_model_version_download_uri(NAME, "2").removeprefix("file://"))
    with pytest.raises(RegistryError, match="the store holds no package of it any more"):
        crown(cached, "better", {}, None, champion_of(NAME)[0].head)
    assert aliases(store)["champion"] == "1"
    assert len(journal.read(NAME).entries) == 3


def test_a_first_champion_that_does_not_load_leaves_none(store: MlflowClient, publish: Publish) -> None:
    weights = {key: value * float("nan") for key, value in build(ENCODER).state_dict().items()}
    with pytest.raises(RegistryError, match="no version is the champion"):
        publish(weights=weights)
    assert aliases(store) == {"candidate": "1"}


def test_trying_out_runs_the_model_and_says_what_is_wrong(publish: Publish) -> None:
    publish(seed=0)
    try_out(f"models:/{NAME}@champion")
    weights = build(ENCODER).state_dict()
    publish("FAILED", weights={key: 3e38 * value.sign() if "encoder10" in key else value for key, value in weights.items()})
    with pytest.raises(RegistryError, match=f"models:/{NAME}/2: its output is no tensor of finite numbers"):
        try_out(f"models:/{NAME}/2")
    publish("FAILED", weights={key: value for key, value in weights.items() if "encoder10" not in key})
    with pytest.raises(CheckpointError, match="missing keys"):
        try_out(f"models:/{NAME}/3")


@pytest.mark.parametrize("step", ["create_experiment", "set_registered_model_alias", "set_registered_model_tag"])
def test_a_promotion_that_was_killed_is_finished_when_it_is_run_again(
    store: MlflowClient, publish: Publish, step: str
) -> None:
    publish(seed=0)
    publish(seed=1)
    killed = start(at_call, step, 1, signal.SIGKILL, promote_second)
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    _, stands = champion_of(NAME)
    assert stands == ("1" if step == "create_experiment" else "2")
    if stands == "1":
        promote_second()
    assert aliases(store)["champion"] == "2"
    registry.load(f"models:/{NAME}@champion")


@pytest.mark.parametrize("loads", [True, False])
def test_a_champion_whose_maker_was_killed_before_loading_it_is_tried_by_the_next(
    store: MlflowClient, publish: Publish, loads: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(seed=0)
    assert audit(NAME).drifts == ()
    publish(**({} if loads else {"weights": {name: value * torch.nan for name, value in build(ENCODER).state_dict().items()}}))
    killed = start(at_call, "get_model_version", 5, signal.SIGKILL, promote_second)  # both runs are marked: now tried out
    killed.join()
    assert (killed.exitcode, aliases(store)["champion"]) == (-signal.SIGKILL, "2")
    (drift,) = audit(NAME).drifts
    assert "nobody has loaded it since" in str(drift) and f"medexp promote --model {NAME} --version 2" in drift.advice
    if loads:
        assert champion_of(NAME)[1] == "2"
    else:
        with pytest.raises(RegistryError, match="version 2 does not load: .* version 1 is the champion"):
            champion_of(NAME)
    assert f"{NAME} version 2 became the champion and nobody has loaded it yet" in capsys.readouterr().err
    assert (aliases(store)["champion"], audit(NAME).drifts) == ("2" if loads else "1", ())
    champion_of(NAME)
    assert capsys.readouterr().err == "", "once is enough"


def promote_second() -> None:
    crown(pulled("2"), "better", {}, None, champion_of(NAME)[0].head)


def test_a_champion_that_no_journal_knows_is_not_replaced_in_silence(store: MlflowClient, publish: Publish) -> None:
    publish("FAILED", seed=0)
    store.set_registered_model_alias(NAME, "champion", "1")
    assert publish(seed=1).aliases == ("candidate",)
    assert aliases(store)["champion"] == "1"
    with pytest.raises(RegistryError, match="the journal says none: .*moved by hand. Delete the alias first"):
        champion_of(NAME)


def test_a_champion_moved_by_hand_is_put_back_before_anything_is_promoted(store: MlflowClient, publish: Publish) -> None:
    publish(seed=0)
    publish(seed=1)
    store.set_registered_model_alias(NAME, "champion", "2")
    with pytest.raises(RegistryError, match=rf"the journal says 1: .*moved by hand.*medexp rollback {NAME} --to 1"):
        champion_of(NAME)
    entry = rollback(NAME, "somebody moved it")
    assert (entry.kind, entry.start, entry.to, entry.reason) == ("rollback", "2", "1", "somebody moved it")
    assert champion_of(NAME)[1] == "1"


def marked(store: MlflowClient) -> list[str]:
    """The versions whose runs are marked as those of the champion."""
    versions = sorted(store.search_model_versions(f"name = '{NAME}'"), key=lambda version: version.version)
    return [str(one.version) for one in versions if store.get_run(one.run_id).data.tags.get("medexp.champion") == NAME]


def test_a_rollback_goes_to_the_champion_before_and_once_more_to_the_one_before_that(
    store: MlflowClient, publish: Publish
) -> None:
    for seed in range(3):
        publish(seed=seed)
    assert marked(store) == ["1"]
    for version in ("2", "3"):
        crown(pulled(version), "better", {}, None, champion_of(NAME)[0].head)
        assert marked(store) == [version]
    assert rollback(NAME, "disappoints").to == "2"
    assert marked(store) == ["2"]
    store.delete_run(store.get_model_version(NAME, "1").run_id)
    assert rollback(NAME, "this one too").to == "1"
    assert marked(store) == []
    with pytest.raises(RegistryError, match="has no champion before this one"):
        rollback(NAME, "and this")
    assert rollback(NAME, "on second thought", to="3").to == "3"


@pytest.mark.parametrize(
    ("reason", "to", "told"),
    [
        (" ", None, "--reason: is empty"),
        ("why", "2", "version 2 of phase1_encoder_merged was never the champion; versions that were: 1"),
        ("why", "9", "version 9 of phase1_encoder_merged was never the champion"),
        ("why", "1", "version 1 is the champion already"),
    ],
)
def test_a_rollback_that_makes_no_sense_is_refused(publish: Publish, reason: str, to: str | None, told: str) -> None:
    publish(seed=0)
    publish(seed=1)
    with pytest.raises(RegistryError, match=told):
        rollback(NAME, reason, to)


def test_unknown_models_are_answered_with_the_known_ones(store: MlflowClient) -> None:
    with pytest.raises(RegistryError, match=r"nothing: no model nothing .*registered are: none yet"):
        rollback("nothing", "why")
    with pytest.raises(RegistryError, match=r"nothing: no model nothing .*registered are: none yet"):
        champion_of("nothing")
