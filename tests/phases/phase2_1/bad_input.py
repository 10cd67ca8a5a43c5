"""What phase 2.1 refuses: the keys that are given, and words of what is told."""

from collections.abc import Callable
from pathlib import Path

from tests.phases.shared.image_runs import write_pictures, write_slices

Given = Callable[[Path], dict[str, str]]


def no_tumours(folder: Path) -> dict[str, str]:
    return {"slices_dir": str(write_slices(folder / "slices", tumour=False))}


def unreadable(folder: Path) -> dict[str, str]:
    slices = write_slices(folder / "slices", 6)
    first, second, *_ = sorted(slices.iterdir())
    first.write_bytes(b"no slice")
    second.write_bytes(second.read_bytes()[:-100])
    return {"slices_dir": str(slices)}


def pictures(folder: Path) -> dict[str, str]:
    return {"slices_dir": str(write_pictures(folder / "pictures", 2))}


BAD: dict[str, tuple[Given, list[str]]] = {
    "no such folder": (lambda _: {"slices_dir": "nowhere"}, ["nowhere", "no such folder", "-e prepare"]),
    "pictures instead of slices": (pictures, ["slices_dir", "pictures", "SCAN_slice_NNN.npz"]),
    "no tumour anywhere": (no_tumours, ["train: no slice with a mask of a tumour", "val: no slice", "slices_dir=FOLDER"]),
    "slices that cannot be read": (unreadable, ["BraTS-MEN-00000-000_slice_000", "BraTS-MEN-00000-000_slice_001"]),
    "a size that does not halve": (lambda _: {"data.input_size": "[30, 32]"}, ["data.input_size", "multiples of 4"]),
    "a bottleneck of one pixel": (
        lambda _: {"data.input_size": "[16, 16]", "network.depth": "4"},
        ["network.depth: found 4", "one pixel"],
    ),
    "real data that is missing": (lambda _: {"profile": "full", "slices_dir": ""}, ["slices_dir", "profile=full"]),
}
