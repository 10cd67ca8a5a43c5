"""Configuration: what its values may be."""

import dataclasses
from pathlib import Path

import pytest

from medexp.cli import configuration
from medexp.config.data import ImageDataConfig, ImagePhantomConfig
from medexp.config.shared import cache_root
from medexp.config.validate import problems_of
from medexp.errors import ConfigError
from medexp.phases.phase1.config import Phase1Config


@pytest.fixture(scope="module")
def demo() -> Phase1Config:
    return configuration("phase1")


def changed(config, key: str, value):
    name, _, rest = key.partition(".")
    return dataclasses.replace(config, **{name: changed(getattr(config, name), rest, value) if rest else value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("threads", 0),
        ("phantoms.glioma_patients", 3),
        ("phantoms.meningioma_patients", 0),
        ("data.label_map", {1: 4}),
        ("data.spacing", (1.0, 0.0, 1.0)),
        ("data.spacing", (1.0, -1.0, 1.0)),
        ("data.input_size", (64, 64, 48)),
        ("data.input_size", (0, 64, 64)),
        ("data.input_size", (32, 32, 32)),
        ("data.jobs", 0),
        ("network.feature_size", 20),
        ("network.feature_size", 0),
        ("network.window_size", 1),
        ("base.epochs", 0),
        ("base.batch_size", 0),
        ("base.lr", 0.0),
        ("lora.rank", 0),
        ("lora.rank", -1),
        ("lora.alpha", 0.0),
        ("lora.target_stages", ()),
        ("lora.target_stages", (0, 1)),
        ("lora.target_stages", (5,)),
        ("lora.target_modules", ()),
        ("lora.lora_dropout", 1.0),
        ("lora.lora_dropout", -0.1),
        ("training.epochs", 0),
        ("training.batch_size", 0),
        ("training.accumulate", 0),
        ("training.validate_every", 0),
        ("training.weight_decay", -0.1),
        ("training.warmup_epochs", -1),
        ("training.warmup_epochs", 10_000),
        ("training.patience", -1),
        ("training.workers", -1),
        ("training.lr_lora", 0.0),
        ("training.lr_decoder", float("nan")),
        ("training.lr_aux", -1.0),
        ("training.grad_clip", 0.0),
        ("aux_heads.lambda_aux", -0.1),
        ("aux_heads.warmup_start_epoch", -1),
        ("aux_heads.warmup_duration", -1),
        ("validation.overlap", 1.0),
        ("validation.overlays", -1),
        ("validation.bootstrap_samples", 99),
        ("validation.confidence", 0.0),
        ("validation.confidence", 1.0),
    ],
)
def test_a_value_out_of_range_is_named_by_its_key_with_what_is_allowed(demo, key, value):
    assert problems_of(demo) == []
    problems = problems_of(changed(demo, key, value))
    assert any(problem.startswith(f"{key}: ") for problem in problems), problems


@pytest.mark.parametrize(("labels", "label_map", "found"), [("map", None, "nothing"), ("brats-ped", {1: 1}, "{1: 1}")])
def test_a_label_map_is_for_labels_that_are_mapped_and_for_no_other(demo, labels, label_map, found):
    problems = problems_of(changed(changed(demo, "data.labels", labels), "data.label_map", label_map))
    told = f"data.label_map: found {found} with labels={labels}; it is for labels=map, which needs it, and for no other"
    assert problems == [told]


def test_labels_that_are_mapped_to_none_of_the_regions_are_named(demo):
    mapped = changed(demo, "data.labels", "map")
    problems = problems_of(changed(mapped, "data.label_map", {1: 7, 2: 2, 4: 9}))
    assert problems == ["data.label_map: maps to [7, 9]; allowed are 0, 1, 2 and 3"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("test_fraction", 0.0),
        ("test_fraction", 1.0),
        ("confidence", 1.0),
        ("bootstrap_samples", 99),
        ("seed", -1),
        ("threads", 0),
        ("jobs", 0),
        ("search.folds", 1),
        ("search.c", ()),
        ("search.c", (1.0, 0.0)),
        ("search.hidden_size", (0,)),
        ("search.weight_decay", -0.1),
        ("search.iterations", 0),
        ("phantoms.seed", -1),
    ],
)
def test_a_value_of_the_probe_out_of_range_is_named(key, value):
    problems = problems_of(changed(configuration("probe"), key, value))
    assert any(problem.startswith(f"{key}: ") for problem in problems), problems


def test_the_full_profile_of_the_probe_needs_a_table():
    with pytest.raises(ConfigError, match="table: profile=full needs real data"):
        configuration("probe", ["--profile", "full"])
    assert configuration("probe", ["--profile", "full", "--table", "t.tsv"]).table == "t.tsv"


@pytest.mark.parametrize(("val", "test"), [(0.0, 0.2), (0.5, 0.5), (0.9, 0.2), (0.3, -0.1)])
def test_the_shares_of_the_splits(demo, val, test):
    (problem,) = problems_of(changed(changed(demo, "data.val_fraction", val), "data.test_fraction", test))
    assert problem.startswith("data.val_fraction and test_fraction: ")


def test_the_full_profile_needs_real_data_and_a_base(demo):
    full = dataclasses.replace(demo, profile="full")
    assert [problem.partition(":")[0] for problem in problems_of(full)] == ["data_dir", "checkpoint"]
    assert problems_of(dataclasses.replace(full, data_dir="d", checkpoint="c")) == []


def test_prepare_of_the_full_profile_needs_real_data():
    with pytest.raises(ConfigError, match="data_dir: profile=full needs real data"):
        configuration("prepare", ["--profile", "full"])
    assert configuration("prepare", ["--profile", "full", "--data_dir", "d"]).data_dir == "d"


def test_where_the_cache_is(monkeypatch):
    monkeypatch.setenv("HOME", "/home/user")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_root(None) == Path("/home/user/.cache/medexp")
    assert cache_root("~/elsewhere") == Path("/home/user/elsewhere")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert cache_root(None) == Path("/cache/medexp")
    assert cache_root("here") == Path.cwd() / "here"


IMAGES = ImageDataConfig(
    (32, 32), 10, "(.*)", 0.15, 0.15, 42, {"no": ("no",), "yes": ("yes",)}, {"brats": 1.0, "kaggle": 1.0}, 1
)
IMAGE_PHANTOMS = ImagePhantomConfig(4, 8, 8, 0)


@pytest.mark.parametrize(
    ("config", "key", "value"),
    [
        (IMAGES, "input_size", (8, 32)),
        (IMAGES, "min_tumour_pixels", 0),
        (IMAGES, "val_fraction", 0.0),
        (IMAGES, "test_fraction", 0.9),
        (IMAGES, "weights", {"brats": 1.0}),
        (IMAGES, "weights", {"brats": 1.0, "kaggle": 0.0}),
        (IMAGES, "weights", {"brats": 1.0, "kaggle": float("nan")}),
        (IMAGES, "weights", {"brats": 1.0, "kaggle": float("inf")}),
        (IMAGES, "weights", {"brats": 1.0, "kaggle": 1.0, "other": 1.0}),
        (IMAGES, "jobs", 0),
        (IMAGE_PHANTOMS, "patients", 3),
        (IMAGE_PHANTOMS, "yes_images", 7),
        (IMAGE_PHANTOMS, "no_images", 0),
        (IMAGE_PHANTOMS, "seed", -1),
    ],
)
def test_what_is_wrong_with_images_is_told_by_its_key(config, key, value):
    assert problems_of(config) == []
    (problem,) = problems_of(changed(config, key, value))
    assert key in problem.partition(":")[0] and str(value) in problem
