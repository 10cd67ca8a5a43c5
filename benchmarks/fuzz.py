"""Readers of foreign files under a fuzzer that follows coverage: whatever the bytes, they read or say a MedexpError.

    python -m benchmarks.fuzz READER FOLDER [SECONDS]        READER: nifti, npz, table or package

Needs `atheris`, which is no dependency of medexp. FOLDER takes the corpus, which a later run goes on from, and `found/`: an
input for each place that raised something else. The first byte of an input says how the rest becomes a file, so that checksums
of gzip and zip, and the digests of a manifest, do not stop every mutation at the door.
"""

import copy
import gzip
import io
import json
import logging
import random
import resource
import sys
import tempfile
import traceback
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["medexp", "nibabel", "zipfile", "csv", "json", "numpy.lib"]):
    import nibabel as nib
    import numpy as np
    import torch
    from safetensors.torch import save

    from medexp.checks import from_records
    from medexp.data.headers import of_volume, two_affines
    from medexp.data.images.kaggle import read_kaggle
    from medexp.data.images.slices import read_slice
    from medexp.data.inputs import rows_of
    from medexp.data.oct.labels import read_participants
    from medexp.data.oct.manifest import find_manifests
    from medexp.data.oct.readers import read_scan
    from medexp.data.storage import Folder
    from medexp.data.volumes.brats import read_label
    from medexp.data.volumes.tables import read_table
    from medexp.errors import MedexpError
    from medexp.models.kinds import build
    from medexp.registry.packages import digest_of, files_in, read_json
    from medexp.registry.predictors import from_package

CLASSES = {1: 1, 2: 2, 3: 3}
MAPPING = {"healthy": 0, "pre_diabetes_lifestyle_controlled": 1}
ODD: Sequence[Any] = (
    None,
    True,
    0,
    -1,
    3,
    10**9,
    10**30,
    0.5,
    1e300,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\ud800",
    [],
    [[]],
    {},
    {"what": []},
    [0],
)
"""What stands in a JSON file in the place of something else."""
Attempt = Callable[[], object]


def nifti(folder: Path, way: int, content: bytes) -> list[Attempt]:
    """As it is, or packed whole."""
    path = folder / ("a.nii.gz" if way % 3 else "a.nii")
    path.write_bytes(gzip.compress(content, 1) if way % 3 == 1 else content)

    def label() -> None:
        read_label(path, CLASSES)
        of_volume({"a": path})
        two_affines([path])

    return [label, lambda: read_scan(path)]


def npz(folder: Path, way: int, content: bytes) -> list[Attempt]:
    """As it is, or as one of the arrays of a file whose others are good."""
    path = folder / "P1-000_slice_003.npz"
    name = ("", "image", "mask", "metadata", "label")[way % 5]
    if not name:
        path.write_bytes(content)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            for each, array in _arrays().items():
                archive.writestr(f"{each}.npy", content if each == name else _npy(array))
    return [lambda: read_slice(path), lambda: read_kaggle(path, 1)]


def table(folder: Path, way: int, content: bytes) -> list[Attempt]:
    """With tabs or with commas."""
    path = folder / ("a.csv" if way % 2 else "a.tsv")
    path.write_bytes(content)
    return [
        lambda: read_table(path),
        lambda: rows_of(path),
        lambda: read_participants(path, MAPPING),
        lambda: find_manifests(Folder(folder), [], [path]),
    ]


def package(folder: Path, way: int, content: bytes) -> list[Attempt]:
    """In the place of one of its files, with a manifest that fits, or in that of the manifest."""
    names = ("contract.json", "weights.safetensors", "manifest.json", "evaluation.json", "checks.json")
    name = names[way % len(names)]
    for each, good in _package().items():
        (folder / each).write_bytes(content if each == name else good)
    if name != "manifest.json":
        made = {"format": 1, "weights_digest": "", "files": files_in(folder)}
        (folder / "manifest.json").write_text(json.dumps({"digest": digest_of(made), **made}))
    return [lambda: from_package(folder, "a version 1", "cpu"), lambda: from_records(read_json(folder, "checks.json"))]


def _npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(array))
    return file.getvalue()


def _arrays() -> dict[str, Any]:
    metadata = {"format": "medexp-slice-1", "case": "P1-000", "patient": "P1", "slice": 3}
    grey = np.arange(1280, dtype=np.float32).reshape(1, 40, 32)
    return {"image": grey, "mask": (grey[0] > 900).astype(np.uint8), "metadata": json.dumps(metadata), "label": 1}


def _package() -> dict[str, bytes]:
    kind = {"kind": "multitask", "in_channels": 1, "base_filters": 2, "depth": 1, "classes": 2}
    steps = [{"step": "read_grey", "version": 1}, {"step": "fit", "version": 1, "size": [16, 16]}]
    contract = {"format": 1, "name": "a", "architecture": kind, "preprocessing": {"data": "images", "steps": steps}}
    state = {key: value.contiguous() for key, value in build(kind).state_dict().items()}
    words = {"contract.json": contract, "checks.json": [], "evaluation.json": {}, "parents.json": {}}
    return {"weights.safetensors": save(state), **{name: json.dumps(content).encode() for name, content in words.items()}}


def seeds(reader: str) -> list[bytes]:
    """Good files, each after the byte that says how it is used."""
    if reader == "nifti":
        voxels = np.arange(60, dtype=np.int16).reshape(3, 4, 5) % 3
        whole = [kind(voxels, np.diag([2, 2, 3, 1])).to_bytes() for kind in (nib.Nifti1Image, nib.Nifti2Image)]
        return [bytes([way]) + (gzip.compress(one) if way == 2 else one) for one in whole for way in range(3)]
    if reader == "npz":
        file = io.BytesIO()
        np.savez(file, **_arrays())
        return [b"\0" + file.getvalue(), *(bytes([way]) + _npy(array) for way, array in enumerate(_arrays().values(), 1))]
    if reader == "table":
        texts = [
            "id\tpath\tlabel\tpatient\tsplit\na\t.\tx\tp1\ttrain\nb\t.\ty\tp2\tval\n",
            "participant_id\tstudy_group\trecommended_split\tretinal_oct\n1\thealthy\ttrain\tTrue\n2\thealthy\tval\tTrue\n",
            "person_id\tfilepath\tlaterality\theight\tpixel_spacing\n1\t/retinal_oct/a.dcm\tL\t992\t0.01, 0.02\n",
        ]
        return [bytes([way]) + text.replace("\t", "\t,"[way]).encode() for text in texts for way in range(2)]
    names = ("contract.json", "weights.safetensors", "manifest.json", "evaluation.json", "checks.json")
    return [bytes([way]) + _package().get(name, b'{"digest": "", "files": {}}') for way, name in enumerate(names)]


def main() -> None:
    """Run one reader for so many seconds; libFuzzer says executions and coverage."""
    reader, place, seconds = sys.argv[1], Path(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "900"
    corpus, found = place / "corpus", place / "found"
    for each in (corpus, found):
        each.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(seeds(reader)):
        (corpus / f"seed{number}").write_bytes(content)
    attempts = {"nifti": nifti, "npz": npz, "table": table, "package": package}[reader]
    places: set[str] = set()

    def one(content: bytes) -> None:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            for attempt in attempts(Path(folder), content[0] if content else 0, content[1:]):
                try:
                    attempt()
                except MedexpError:
                    continue
                except Exception as error:
                    last = traceback.extract_tb(error.__traceback__)
                    ours = [line for line in last if "/medexp/" in line.filename][-1]
                    told = f"{type(error).__name__} at {ours.filename.rpartition('/medexp/')[2]}:{ours.lineno}"
                    if told not in places:
                        places.add(told)
                        (found / f"{len(places)}.bin").write_bytes(content)
                        (found / f"{len(places)}.txt").write_text("".join(traceback.format_exception(error)))
                        print(f"FOUND {told}: {error}", flush=True)

    def mutated(content: bytes, most: int, seed: int) -> bytes:
        """Of JSON mostly another JSON: a value elsewhere replaced, doubled or taken out."""
        draw = random.Random(seed)
        try:
            whole = json.loads(content[1:])
        except (ValueError, RecursionError):
            whole = None
        places: list[tuple[Any, Any]] = []

        def walk(node: Any) -> None:
            for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
                places.append((node, key))
                walk(node[key])

        walk(whole)
        if not places or draw.random() < 0.2:
            return bytes(atheris.Mutate(content, most))
        node, key = draw.choice(places)
        match draw.randrange(4):
            case 0:
                del node[key]
            case 1:
                other, there = draw.choice(places)
                node[key] = copy.deepcopy(other.get(there) if isinstance(other, dict) else other)
            case _:
                node[key] = draw.choice(ODD)
        return (content[:1] + json.dumps(whole).encode())[:most]

    torch.set_num_threads(1)
    logging.disable()  # nibabel's remarks on headers
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limits = [
        f"-max_total_time={seconds}",
        "-timeout=10",
        "-rss_limit_mb=4096",
        "-max_len=16384",
        "-keep_seed=1",
        "-len_control=0",
        f"-artifact_prefix={found}/",
    ]
    atheris.Setup(
        [sys.argv[0], *limits, "-print_final_stats=1", str(corpus)],
        one,
        custom_mutator=mutated if reader == "package" else None,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
