"""The demo's encoders: shipped for the code's own recipe, of people whom the demo does not judge, one of them twice."""

from pathlib import Path

import torch

from medexp.data.manifest import patient_sha256
from medexp.models.encoders import load_oct_encoder
from medexp.phases.oct.pretrained import COPY, KINDS, RECIPE, SHIPPED, blocks_hidden, demo_checkpoints, key


def test_the_demos_checkpoints_are_shipped_with_their_cards(tmp_path: Path) -> None:
    remedy = "phantoms or recipe changed: python -m benchmarks.oct_checkpoints makes them anew"
    assert [folder.name for folder in SHIPPED.iterdir()] == [key()], remedy
    files = demo_checkpoints(tmp_path)
    assert [file.stem for file in files] == [*KINDS, COPY]
    for file in files:
        net, card = load_oct_encoder(file)
        assert card.architecture == card.architecture | RECIPE.architecture
        assert card.normalisation == "zscore"
        assert card.people_sha256 is not None
        assert len(card.people_sha256) == RECIPE.people
        assert patient_sha256("oct-phantom-00000") in card.people_sha256
        assert all(value.isfinite().all() for value in net.state_dict().values())


def test_the_copy_is_the_same_and_the_others_are_not(tmp_path: Path) -> None:
    volumes = torch.randn(2, 1, *RECIPE.size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features = {file.stem: load_oct_encoder(file)[0](volumes) for file in demo_checkpoints(tmp_path)}
    assert torch.equal(features[COPY], features["multi_domain"])
    for name in KINDS:
        assert name == "multi_domain" or not torch.allclose(features[name], features["multi_domain"], atol=1e-3)


def test_what_is_predicted_is_not_seen() -> None:
    torch.manual_seed(0)
    seen, hidden = blocks_hidden(16, (4, 8, 8), 8, 0.15)
    for one, other in zip(seen.tolist(), hidden.tolist(), strict=True):
        assert len({*one, *other}) == len(one) + len(other)
    assert 0 < seen.shape[1] < hidden.shape[1]
