"""What weights of sources and of classes do to the training of phases 2.2 and 2.3, and what phase 2.2 trains at all."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from medexp.data.images.prepared import SOURCES, PreparedImages, prepare_images
from medexp.data.images.sampling import expected_draws
from medexp.models.classifier.network import EncoderClassifier
from medexp.models.heads import head_parameters
from medexp.models.unet.network import MultiTaskModel
from medexp.phases import phase2_2, phase2_3
from medexp.phases.phase2_2 import checks
from medexp.phases.phase2_2 import recipe as of_head
from medexp.phases.phase2_2.frozen import FrozenEncoder
from medexp.phases.phase2_2.labelled import Labelled
from medexp.phases.phase2_2.recipe import Trained
from medexp.phases.phase2_2.report import shifted
from medexp.phases.phase2_3 import recipe as of_both
from medexp.phases.shared.context import context
from medexp.phases.shared.controls import Known
from medexp.phases.shared.images import CLASSES, Images
from medexp.phases.shared.launch import start_accelerator
from medexp.registry.package import Parent
from medexp.reporting import NullReporter
from medexp.tracking.runs import TrackedRun
from tests.configured import configured
from tests.phases.shared.image_runs import SMALL, write_pictures, write_slices

WIDTH = 16


BRIEF = SMALL | {"training.epochs": "1", "training.warmup_epochs": "0", "data.weights": "{brats: 1, kaggle: 1}"}


# ------------------------------------------------------------------------------------------------------------------ training


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedImages:
    """More pictures than slices, and more `no` than `yes`."""
    folder = tmp_path_factory.mktemp("weights")
    slices, pictures = write_slices(folder / "slices", 8), write_pictures(folder / "pictures", 20)
    for number in range(5, 20):
        (pictures / "yes" / f"yes{number}.png").unlink()
    config = configured("phase2_2", BRIEF)
    return prepare_images(str(slices), str(pictures), config.data, config.phantoms, folder / "cache", SOURCES)


def labelled(config: Any, data: PreparedImages) -> Labelled:
    """The images with features in which a tumour can be seen."""

    def features(_: Labelled, split: str) -> Tensor:
        labels = data.manifest.loc[data.manifest["split"] == split, "label"].to_numpy()
        noise = np.random.default_rng(len(labels)).normal(size=(len(labels), WIDTH))
        return torch.from_numpy((noise + labels[:, None]).astype(np.float32))

    images = Images(config, data, start_accelerator("cpu", 1))

    def known() -> Known:
        raise AssertionError("no controls are asked for")

    return Labelled(data, CLASSES, features, True, images, images.picture, images.preprocessing, {}, known, lambda known: [])


def small_encoder() -> FrozenEncoder:
    torch.manual_seed(0)
    whole = MultiTaskModel(1, 4, 2).eval().requires_grad_(False)
    return FrozenEncoder(whole.encoder, whole, {}, WIDTH, "a network", Parent("a network", None, None, ""), None)


def head_of(data: PreparedImages, folder: Path, encoder: FrozenEncoder | None = None, **flags: str) -> Trained:
    config = configured("phase2_2", BRIEF, **flags)
    with context(phase2_2.PHASE, config, TrackedRun("run", folder, NullReporter())) as ctx:
        return of_head.train(ctx, of_head.Work(encoder or small_encoder(), labelled(config, data)))


def joint(data: PreparedImages, folder: Path, **flags: str) -> MultiTaskModel:
    torch.manual_seed(0)
    net = MultiTaskModel(1, 4, 2)
    config, head = configured("phase2_3", BRIEF, **flags), EncoderClassifier(net.encoder, net.cls_head)
    with context(phase2_3.PHASE, config, TrackedRun("run", folder, NullReporter())) as ctx:
        return of_both.train(ctx, of_both.Work({}, net, head, Images(config, data, ctx.accelerator))).net


def weights_of(net: torch.nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in net.parameters()])


@pytest.mark.parametrize("phase", ["phase2_2", "phase2_3"])
def test_weights_of_sources_and_of_classes_change_what_is_trained(data: PreparedImages, tmp_path: Path, phase: str) -> None:
    """Each alone: those of sources without those of classes, and the other way about."""

    def trained(name: str, **flags: str) -> Tensor:
        if phase == "phase2_2":
            return weights_of(head_of(data, tmp_path / name, **flags).head)
        return weights_of(joint(data, tmp_path / name, **flags).cls_head)

    plain = trained("plain", training__class_weights="none")
    assert torch.equal(plain, trained("again", training__class_weights="none"))
    by_source = trained("by source", training__class_weights="none", data__weights="{brats: 1, kaggle: 99}")
    balanced = trained("balanced", training__class_weights="balanced")
    assert not torch.equal(plain, by_source) and not torch.equal(plain, balanced)


def test_what_weights_did_to_the_probabilities_is_said_where_they_did_it(data: PreparedImages) -> None:
    config = configured("phase2_2", BRIEF, data__weights="{brats: 1, kaggle: 99}")
    rows = data.manifest[data.manifest["split"] == "train"]
    (words,) = shifted(config, labelled(config, data))
    assert "made 'tumour' 50% of what the head was trained on" in words
    assert f"{rows['label'].mean():.0%} of the training cases" in words and rows["label"].mean() < 0.45
    natural: Mapping[str, Any] = rows["source"].value_counts().to_dict()
    as_they_are = "{" + ", ".join(f"{source}: {count}" for source, count in natural.items()) + "}"
    config = configured("phase2_2", BRIEF, training__class_weights="none", data__weights=as_they_are)
    assert shifted(config, labelled(config, data)) == []
    config = configured("phase2_2", BRIEF, training__class_weights="none", data__weights="{brats: 1, kaggle: 99}")
    share = float(expected_draws(list(rows["source"]), {"brats": 1, "kaggle": 99}) @ rows["label"] / len(rows))
    assert f"made 'tumour' {share:.0%} of" in shifted(config, labelled(config, data))[0], "the sources' weights alone"


# -------------------------------------------------------------------------------------------------------------- what trains


def frozen(before: Mapping[str, Tensor], encoder: FrozenEncoder, trained: Trained) -> bool:
    return checks.frozen(before, encoder.state(), trained.parameters, head_parameters(WIDTH)).passed


def test_the_head_alone_gets_gradients(data: PreparedImages, tmp_path: Path) -> None:
    encoder = small_encoder()
    before = encoder.state()
    assert frozen(before, encoder, head_of(data, tmp_path, encoder))


@pytest.mark.parametrize("name", ["encoder.blocks.0.0.weight", "seg_decoder.out.bias"])
def test_a_parameter_that_was_thawed_fails_the_check(data: PreparedImages, tmp_path: Path, name: str) -> None:
    """Though it did not change."""
    encoder = small_encoder()
    before = encoder.state()
    encoder.whole.get_parameter(name).requires_grad_(True)
    assert not frozen(before, encoder, head_of(data, tmp_path, encoder))
