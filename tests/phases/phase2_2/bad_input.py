"""What phase 2.2 refuses: the keys that are given, and words of what is told."""

from collections.abc import Callable
from pathlib import Path

import torch

from medexp.models.checkpoints import save_checkpoint
from medexp.models.unet.network import MultiTaskModel
from tests.phases.shared.image_runs import MODELS, scan_name, write_pictures, write_slices

Given = Callable[[Path], dict[str, str]]
ENCODER, NAME = MODELS["phase2_1"], MODELS["phase2_2"]


def pickled(folder: Path) -> dict[str, str]:
    torch.save({"net": MultiTaskModel(base_filters=4, depth=2)}, folder / "bad.pt")
    return {"encoder": str(folder / "bad.pt")}


def wider(folder: Path) -> dict[str, str]:
    save_checkpoint(MultiTaskModel(base_filters=64, depth=3).state_dict(), folder / "wide.pt")
    return {"encoder": str(folder / "wide.pt"), "network.base_filters": "32", "network.depth": "3"}


def deeper(folder: Path) -> dict[str, str]:
    save_checkpoint(MultiTaskModel(base_filters=8, depth=3).state_dict(), folder / "deep.pt")
    return {"encoder": str(folder / "deep.pt")}


def old_names(folder: Path) -> dict[str, str]:
    state = MultiTaskModel(base_filters=4, depth=2).state_dict()
    save_checkpoint({key.replace("seg_decoder.", "decoder."): value for key, value in state.items()}, folder / "old.pt")
    return {"encoder": str(folder / "old.pt")}


def diverged(folder: Path) -> dict[str, str]:
    net = MultiTaskModel(base_filters=4, depth=2)
    torch.nn.init.constant_(next(net.cls_head.parameters()), float("nan"))
    save_checkpoint({f"model.{key}": value for key, value in net.state_dict().items()}, folder / "diverged.pt")
    return {"encoder": str(folder / "diverged.pt")}


def page(folder: Path) -> dict[str, str]:
    (folder / "page.pt").write_text("<!doctype html><title>Sign in</title>")
    return {"encoder": str(folder / "page.pt")}


def no_tumours(folder: Path) -> dict[str, str]:
    return {"slices_dir": str(write_slices(folder / "slices", tumour=False)), "kaggle_dir": ""}


def no_kaggle(folder: Path) -> dict[str, str]:
    (folder / "pictures").mkdir()
    return {"kaggle_dir": str(folder / "pictures")}


def two_sources(folder: Path) -> dict[str, str]:
    pictures = write_pictures(folder / "pictures")
    (pictures / "yes" / "yes0.png").rename(pictures / "yes" / f"{scan_name(3)}.png")
    return {"kaggle_dir": str(pictures)}


BAD: dict[str, tuple[Given, list[str]]] = {
    "no such model": (
        lambda _: {"encoder": "models:/nobody@champion"},
        ["encoder=models:/nobody@champion", "Encoder checkpoint not found", "no model nobody", f"registered are: {ENCODER}"],
    ),
    "no such alias": (lambda _: {"encoder": f"models:/{ENCODER}@best"}, ["Encoder checkpoint not found", "no alias best"]),
    "no such file": (
        lambda _: {"encoder": "nowhere/best_model.pt"},
        ["encoder=nowhere/best_model.pt", "Encoder checkpoint not found", "no such file", "mlflow run . -e phase2_1"],
    ),
    "a file that would run code": (pickled, ["bad.pt", "refused"]),
    "a diverged network": (diverged, ["diverged.pt", "cls_head.", "values that are not finite"]),
    "a page that was saved instead": (page, ["page.pt", "a page of HTML", "download the file itself"]),
    "a wider network": (
        wider,
        ["architecture mismatch", "base_filters 64 against 32", "-P network.base_filters=64"],
    ),
    "a deeper network": (deeper, ["base_filters 8 against 4, depth 3 against 2", "-P network.depth=3"]),
    "a decoder of another name": (old_names, ["old.pt", "missing keys: seg_decoder.", "unexpected keys: decoder."]),
    "images of another size": (lambda _: {"data.input_size": "[16, 16]"}, ["data.input_size", "(16, 16)", "(32, 32)"]),
    "a classifier as encoder": (lambda _: {"encoder": f"models:/{NAME}@champion"}, ["is a classifier", "-e phase2_1"]),
    "a table": (lambda _: {"table": "a.tsv"}, ["table: found a.tsv", "takes 2D images"]),
    "one class only": (no_tumours, ["train: no image of the class 'tumour'", "val: no image of the class 'tumour'"]),
    "an empty folder of pictures": (no_kaggle, ["No Kaggle data found", "pictures"]),
    "a patient in two sources": (two_sources, ["BraTS-MEN-00003", "two sources"]),
    "no folder for real data": (
        lambda _: {"profile": "full", "slices_dir": "", "kaggle_dir": ""},
        ["slices_dir or kaggle_dir or table", "profile=full needs real data"],
    ),
}
