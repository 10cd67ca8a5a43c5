"""The embedded base: shipped for the demo's settings, else trained, by one of several processes that may want it at once."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from monai.networks.nets import SwinUNETR

from medexp.data.manifest import patient_sha256
from medexp.models.kinds import build
from medexp.models.swin.network import SwinSegmenter
from medexp.phases.phase1.pretrained import SHIPPED, architecture, drop_skips, key, load_base
from medexp.phases.shared.launch import start_accelerator
from tests.configured import configured
from tests.forked import all_at_once
from tests.phases.phase1.pretraining import wants_the_base
from tests.small import PHASE1

SMALL = PHASE1 | {"data.spacing": "[6, 6, 9]"}
DIGEST = "029ea7e7065bee023b7ace37c8b20ab5033568d6b81062c614497ef59750dd7c"


def test_of_two_processes_that_want_the_same_base_one_trains_it(tmp_path: Path) -> None:
    first, second = all_at_once([(wants_the_base, configured("phase1", SMALL), tmp_path)] * 2)
    assert first == second
    assert len(list((tmp_path / "bases").iterdir())) == 1


def test_the_demos_base_is_shipped(tmp_path: Path) -> None:
    config = configured("phase1")
    remedy = "settings or code of the base changed: python -m benchmarks.demo_base makes it anew"
    assert [folder.name for folder in SHIPPED.iterdir()] == [key(config)], remedy
    base = load_base(config, start_accelerator("cpu", 1), tmp_path)
    assert not list(tmp_path.iterdir()), "nothing was trained"
    assert base.digest == DIGEST
    assert isinstance(base.cases, pd.DataFrame), "the leak guard knows what it saw"
    assert base.cases["patient_sha256"].nunique() == 120
    assert patient_sha256("BraTS-GLI-00001") in set(base.cases["patient_sha256"])
    assert base.state.keys() == SwinUNETR(4, 3, feature_size=12, window_size=4).state_dict().keys()


OF_THE_RUN = [{"seed": 1}, {"data.val_fraction": 0.2}, {"rank": 1}, {"phantoms.seed": 5}]


@pytest.mark.parametrize("changed", OF_THE_RUN)
def test_a_setting_of_the_run_alone_needs_no_other_base(changed: dict[str, object]) -> None:
    assert key(configured("phase1", changed)) == key(configured("phase1"))


@pytest.mark.parametrize("changed", [{"base.seed": 1}, {"network.feature_size": 24}, {"base.epochs": 1}])
def test_what_the_base_follows_from_changes_it(changed: dict[str, object]) -> None:
    assert key(configured("phase1", changed)) != key(configured("phase1"))


def test_skips_are_dropped_from_the_finest_on_and_in_training_alone() -> None:
    net = build(architecture(configured("phase1", network__window_size=2)))
    assert isinstance(net, SwinSegmenter)
    image = torch.randn(1, 4, 64, 32, 32, generator=torch.Generator().manual_seed(0))
    whole = net.eval()(image)
    drop_skips(net)
    assert torch.equal(net(image), whole)
    skips = ("encoder1", "encoder2", "encoder3", "encoder4")
    seen: dict[str, list[bool]] = {name: [] for name in skips}
    for name in skips:
        net.get_submodule(name).register_forward_hook(
            lambda _, given, output, name=name: seen[name].append(bool(output.any()))
        )
    net.train()
    torch.manual_seed(0)
    with torch.no_grad():
        for _ in range(20):
            net.with_bottleneck(image)
    steps = set(zip(*seen.values(), strict=True))
    assert steps == {tuple(place >= dropped for place in range(4)) for dropped in range(5)}
