"""Configuration files: the templates of the specification as they stand, and how `defaults` are found."""

import shutil
from pathlib import Path

import pytest

from medexp.errors import ConfigError
from tests.configured import configured

TEMPLATES = Path(__file__).parent / "templates"


def test_the_template_of_the_linear_probe_loads_as_it_stands() -> None:
    config = configured("oct", config=TEMPLATES / "cls_linear_probe.yaml")
    assert config.project_name == "oct_cls_v1" and config.seed == 42
    assert config.paths.volumes == "s3://eye-dataset"
    assert config.paths.checkpoints == ["/data/checkpoints/best_checkpoint_multi_domain.pt"]
    assert config.paths.labels_tsv == "/data/3d_oct_fundation_model/fine-tuneing-data/participants.tsv"
    assert (config.data.num_workers, config.data.batch_size, config.data.val_batch_size) == (4, 2, 2)
    assert config.data.augment.resize == (64, 384, 384) and config.model.emb_dim == 768
    assert not config.model.trains_encoder and config.model.head.hidden == 0
    assert (config.train.epochs, config.train.lr_head, config.train.lr_encoder) == (50, 1e-3, 3e-5)
    assert (config.train.class_weights, config.train.precision) == ("auto", "fp32")
    assert config.log.ckpt_dir == "./runs/cls_lp_v1" and not config.log.wandb


def test_the_template_of_fine_tuning_lies_on_top_of_it() -> None:
    base, config = (configured("oct", config=TEMPLATES / f"{name}.yaml") for name in ("cls_linear_probe", "cls_finetune"))
    assert config.model.trains_encoder and config.model.unfreeze_at_epoch == 3
    assert (config.train.epochs, config.train.lr_head, config.train.lr_encoder) == (60, 5e-4, 1e-5)
    assert (config.paths, config.classes, config.data) == (base.paths, base.classes, base.data)


def test_several_checkpoints_and_other_keys_are_given_on_top_of_a_template() -> None:
    keys = {"config": TEMPLATES / "cls_finetune.yaml", "paths.checkpoint_path": "a.pt,b.pt,c.pt", "train.epochs": "9"}
    config = configured("oct", keys)
    assert config.paths.checkpoints == ["a.pt", "b.pt", "c.pt"] and config.train.epochs == 9


@pytest.mark.parametrize(
    ("defaults", "words"),
    [
        ("[nowhere]", "mine.yaml: defaults: no file .*nowhere.yaml; beside it are cls_linear_probe"),
        ("[mine]", "mine.yaml: defaults: mine names this file again; take it out"),
        ("cls_linear_probe", "mine.yaml: defaults: found cls_linear_probe; expected a list of names"),
        ("[{model: small}]", "mine.yaml: defaults: found .*; expected a list of names"),
    ],
)
def test_defaults_that_cannot_be_found_are_told(tmp_path: Path, defaults: str, words: str) -> None:
    shutil.copy(TEMPLATES / "cls_linear_probe.yaml", tmp_path)
    (tmp_path / "mine.yaml").write_text(f"defaults: {defaults}\nseed: 7\n")
    with pytest.raises(ConfigError, match=words):
        configured("oct", config=tmp_path / "mine.yaml")


def test_a_file_lies_where_self_stands_in_its_defaults(tmp_path: Path) -> None:
    shutil.copy(TEMPLATES / "cls_linear_probe.yaml", tmp_path)
    (tmp_path / "mine.yaml").write_text("defaults: [_self_, cls_linear_probe]\nseed: 7\nseeds: 2\n")
    config = configured("oct", config=tmp_path / "mine.yaml")
    assert (config.seed, config.seeds) == (42, 2), "what comes later wins"


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"log.wandb": "true"}, "log.wandb is read, and not used: runs go to MLflow alone"),
        ({"data.augment.flip": "true"}, "data.augment is not used: features of a frozen encoder are computed once"),
        ({"train.deterministic": "true"}, "train.deterministic: operations that differ from run to run are refused"),
    ],
)
def test_what_is_asked_for_and_not_seen_is_said(keys: dict[str, str], line: str) -> None:
    plain = {"data.augment.flip": "false", "data.augment.intensity_jitter": "false"}
    assert not [*configured("oct", plain).told]
    assert [told for told in configured("oct", plain | keys).told if told.startswith(line)]
    tuned = {"model.freeze_encoder": "false", "model.unfreeze_at_epoch": "1", "data.augment.flip": "true"}
    assert not [*configured("oct", tuned).told], "an encoder that trains is given changed volumes"
