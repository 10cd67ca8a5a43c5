"""Does `predict` take longer than the loop that one would write with MONAI? `python -m benchmarks.predict`

20 phantoms on grids of 1 mm (192 x 192 x 144), the demo's network: `python -m entry_points.predict` from start to end against
a script of LoadImaged, the same transforms, sliding window, Invertd and SaveImaged, in turns. At most 1.05 times its wall
time; the first mask within 10 s of the start; and no more memory for 20 cases than for 5 (peak, at most 5 % more).
"""

import os
import sys
import time
from functools import partial
from pathlib import Path
from subprocess import DEVNULL, Popen
from typing import Any

import nibabel as nib
import numpy as np
from scipy import ndimage

from benchmarks.sides import ROOT, empty_home, in_turns, told, verdict

CASES, ROUNDS = 20, 3
SPACING, SIZE, OVERLAP = (3.0, 3.0, 4.5), (64, 64, 32), 0.5
NETWORK: dict[str, Any] = {"in_channels": 4, "out_channels": 3, "feature_size": 12, "window_size": 4}
CHANNELS = ("t2f", "t1c", "t1n", "t2w")


def cases_of(folder: Path) -> None:
    """Phantoms, their images resampled to 1 mm."""
    from medexp.data.volumes.phantoms import ensure_phantoms

    found = sorted(ensure_phantoms("meningioma", CASES, 5, folder / "phantoms").iterdir())[:CASES]
    for case in found:
        for channel in CHANNELS:
            image: Any = nib.load(case / f"{case.name}-{channel}.nii.gz")
            edges = nib.affines.voxel_sizes(image.affine)
            voxels = ndimage.zoom(np.asarray(image.dataobj, np.float32), edges, order=1).astype(np.int16)
            affine = image.affine @ np.diag([*(1 / edges), 1.0])
            place = folder / "cases" / case.name / f"{case.name}-{channel}.nii.gz"
            place.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(voxels, affine), place)
    few = folder / "few"
    few.mkdir()
    for case in found[:5]:
        (few / case.name).symlink_to(folder / "cases" / case.name)


def registered(folder: Path) -> None:
    """The demo's base as a registered model, and its weights as a file for the script."""
    import torch
    from mlflow import MlflowClient

    from medexp.data.volumes.steps import SlidingWindow
    from medexp.data.volumes.transforms import preprocessing
    from medexp.models.checkpoints import load_state, save_checkpoint
    from medexp.models.kinds import ONLY
    from medexp.phases.phase1.pretrained import SHIPPED
    from medexp.phases.shared.packaging import contract, regions
    from medexp.registry.definitions import load_definition
    from medexp.registry.package import Package
    from medexp.registry.registration import register
    from medexp.registry.writing import write_package
    from tests.small import data_config

    state = load_state(next(SHIPPED.rglob("*.pt")))
    steps = preprocessing(SPACING, SIZE).then(SlidingWindow(SIZE, OVERLAP, "gaussian"))
    said = contract("bsf_base", "logits", steps, {ONLY: regions(data_config())})
    package = Package("bsf_base", {"kind": "swin_unetr", **NETWORK}, said, state)
    write_package(package, load_definition("bsf_base"), folder / "package")
    register(MlflowClient().create_run("0").info.run_id, folder / "package", load_definition("bsf_base"), None)
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    save_checkpoint(state, folder / "weights.pt")


def plain(folder: Path, output: Path) -> None:
    """The loop."""
    import torch
    from monai.inferers import sliding_window_inference
    from monai.networks.nets.swin_unetr import SwinUNETR
    from monai.transforms import (
        Compose,
        ConcatItemsd,
        CropForegroundd,
        Invertd,
        LoadImaged,
        NormalizeIntensityd,
        Orientationd,
        SaveImaged,
        Spacingd,
        SpatialPadd,
    )

    from medexp.data.volumes.background import brighter_than
    from medexp.data.volumes.zero_background import ZeroBackgroundd

    torch.set_num_threads(2)
    net = SwinUNETR(**NETWORK, use_flash_attention=True)
    net.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    net.eval()
    made = Compose(
        [
            LoadImaged(CHANNELS, ensure_channel_first=True),
            ConcatItemsd(CHANNELS, "image"),
            ZeroBackgroundd("image"),
            Orientationd("image", axcodes="RAS", labels=None),
            Spacingd("image", pixdim=SPACING, mode="bilinear", dtype=np.float32),
            CropForegroundd("image", "image", select_fn=partial(brighter_than, share=0.01), allow_smaller=True),
            NormalizeIntensityd("image", nonzero=True, channel_wise=True),
            SpatialPadd("image", SIZE),
        ]
    )
    back = Compose([Invertd("logits", made, orig_keys="image", nearest_interp=False)])
    save = SaveImaged(
        "mask", output_dir=str(output), output_postfix="", separate_folder=False, print_log=False, resample=False
    )
    for case in sorted((folder / "cases").iterdir()):
        item = made({channel: case / f"{case.name}-{channel}.nii.gz" for channel in CHANNELS})
        with torch.inference_mode():
            item["logits"] = sliding_window_inference(item["image"][None], SIZE, 1, net, overlap=OVERLAP, mode="gaussian")[0]
        tc, wt, et = back(item)["logits"] > 0
        item["mask"] = torch.where(et, 3, torch.where(tc, 1, torch.where(wt, 2, 0)))[None].to(torch.uint8)
        save(item)


def run(words: list[str], first: Path | None = None) -> tuple[float, float, float]:
    """Seconds, seconds until a mask is in a folder, and peak memory in MiB, of a process."""
    started, seen = time.perf_counter(), 0.0
    path = os.environ | {"PYTHONPATH": str(ROOT)}
    process = Popen([sys.executable, *words], stdout=DEVNULL, env=path)  # noqa: S603  # ours
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if first is not None and not seen and any(first.glob("*.nii.gz")):
            seen = time.perf_counter() - started
        if pid:
            break
        time.sleep(0.02)
    if status:
        sys.exit(f"not measured: {' '.join(words)} ended with status {status}")
    return time.perf_counter() - started, seen, usage.ru_maxrss / 1024


def main() -> None:
    if sys.argv[1:2] == ["--plain"]:
        plain(Path(sys.argv[2]), Path(sys.argv[3]))
        return
    with empty_home() as folder:
        cases_of(folder)
        registered(folder)
        numbers, firsts, peaks = iter(range(100)), [], []

        def ours(given: str = "cases") -> float:
            output = folder / f"ours-{next(numbers)}"
            flags = ["--model=models:/bsf_base/1", f"--input={folder / given}", f"--output={output}", "--shown=0"]
            seconds, first, peak = run(["-m", "entry_points.predict", *flags], output)
            firsts.append(first)
            peaks.append(peak)
            return seconds

        def theirs() -> float:
            return run(["-m", "benchmarks.predict", "--plain", str(folder), str(folder / f"plain-{next(numbers)}")])[0]

        ours("few")
        few = peaks.pop()
        measured = in_turns({"ours": ours, "plain": theirs}, ROUNDS)
        ratio = sorted(one / other for one, other in zip(measured["ours"], measured["plain"], strict=True))[ROUNDS // 2]
        print(f"predict, {CASES} cases: {told(measured['ours'], measured['plain'])}; target 1.05: {verdict(ratio <= 1.05)}")
        print(f"first mask after {', '.join(f'{first:.1f}' for first in firsts)} s; target 10: {verdict(max(firsts) <= 10)}")
        most = max(peaks)
        print(f"peak memory {most:.0f} MiB for {CASES} cases, {few:.0f} for 5; target 5 % more: {verdict(most <= 1.05 * few)}")


if __name__ == "__main__":
    main()
