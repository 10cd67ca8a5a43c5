"""The encoders of oct: their names, what is the same one, and whom they have seen."""

from collections.abc import Callable
from pathlib import Path

import pytest

from medexp.data.manifest import patient_sha256
from medexp.errors import ConfigError
from medexp.phases.oct import PHASE
from medexp.phases.oct.encoders import Encoder, load_encoders
from medexp.phases.oct.recipe import guard, read
from medexp.phases.shared.context import context
from tests.configured import configured
from tests.phases.oct.small import SMALL, participants, write_encoder, write_study
from tests.s3 import Prefix


@pytest.fixture
def loaded(store: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Encoder]]:
    monkeypatch.chdir(tmp_path)

    def load(*given: str) -> list[Encoder]:
        config = configured("oct", **SMALL, checkpoints=",".join(given), cache_dir=str(tmp_path / "cache"))
        with context(PHASE, config) as ctx:
            return load_encoders(ctx)

    return load


def test_a_name_is_one_that_metrics_and_folders_can_have(loaded: Callable[..., list[Encoder]], tmp_path: Path) -> None:
    """Training libraries write epoch=3-step=100.ckpt: no name=file where there is such a file."""
    for name in ("epoch=3-step=100.ckpt", "vit (1).pt"):
        write_encoder(tmp_path / name)
    found = loaded("epoch=3-step=100.ckpt", str(tmp_path / "vit (1).pt"), "mine=vit (1).pt")
    assert [one.name for one in found] == ["epoch_3-step_100", "vit_1_", "mine"]
    for reserved in ("layers", "random_0"):
        with pytest.raises(ConfigError, match=f"{reserved} is the row of .*NAME=FILE"):
            loaded(f"{reserved}=vit (1).pt")


def test_the_same_weights_under_another_normalisation_are_another_encoder(
    loaded: Callable[..., list[Encoder]], tmp_path: Path
) -> None:
    write_encoder(tmp_path / "z.pt")
    write_encoder(tmp_path / "again.pt")
    write_encoder(tmp_path / "u.pt", normalisation="unit")
    z, again, unit = loaded("z.pt", "again.pt", "u.pt")
    assert z.digest == again.digest != unit.digest
    assert z.parent.weights_digest == unit.parent.weights_digest


def test_what_a_card_in_a_bucket_refers_to_comes_with_it(
    loaded: Callable[..., list[Encoder]], bucket: Prefix, tmp_path: Path
) -> None:
    file = write_encoder(tmp_path / "a.pt")
    card = tmp_path / "a.card.yaml"
    card.write_text(card.read_text().replace("pretrained_on: null", "pretrained_on: {file: seen_2025.tsv}"))
    bucket.put_all({"a.pt": file.read_bytes(), "a.card.yaml": card.read_bytes(), "seen_2025.tsv": b"person_id\r\n4004\r\n"})
    (encoder,) = loaded(f"{bucket.uri}/a.pt")
    assert encoder.seen is not None and [*encoder.seen["patient_sha256"]] == [patient_sha256("4004")]


@pytest.mark.parametrize("spelling", ["4004", " 4004", "4004.0", "AIREADI-4004"])
def test_whom_an_encoder_has_seen_is_found_however_it_is_spelled(
    store: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_study(tmp_path / "study", participants(16))
    write_encoder(tmp_path / "a.pt", people={"14004", "4004.5", spelling})
    config = configured("oct", **SMALL, checkpoints="a.pt", data="study", cache_dir=str(tmp_path / "cache"))
    with context(PHASE, config) as ctx:
        (check,) = guard(read(ctx), "test")
    assert not check.passed and check.measured["leaked_patients"] == 1 and "4004 by a" in str(check.measured["seen"])
