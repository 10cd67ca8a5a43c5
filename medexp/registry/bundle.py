"""A registered segmenter as a MONAI bundle: a folder that MONAI's own `python -m monai.bundle run` runs, without medexp.

https://docs.monai.io/en/stable/bundle/mb_specification.html. What is done to a file comes from the contract's steps, by which
medexp itself is executed, and what MONAI has not is copied from medexp's source: nothing of either is said again here.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, NamedTuple

import medexp
from medexp.data.preprocessing import Preprocessing
from medexp.data.volumes.steps import ReadChannels, SlidingWindow
from medexp.data.volumes.transforms import transform_named
from medexp.errors import RegistryError, StorageError
from medexp.files import filling, read_csv
from medexp.models.checkpoints import load_state, save_checkpoint
from medexp.models.kinds import ONLY, kind_of
from medexp.registry.card import without_paths
from medexp.registry.contracts import draws, outputs_said, preprocessing_of
from medexp.registry.definitions import load_definition
from medexp.registry.packages import ADAPTER_KIND, network_of, read_json, weights_file
from medexp.registry.store import Pulled, pull

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
BESIDE = {"fire": "0.7.1", "pytorch-ignite": "0.5.5"}
"""What MONAI's command and evaluator need and medexp does not, at the versions that tests run bundles with."""

_HOME = "medexp.data.volumes"
_SCRIPTS = ("background", "cases", "regions", "suffixes", "zero_background")  # of _HOME, and what these import of it
_LIBRARIES = ("einops", "nibabel", "scipy")
_ORIGIN = (
    f'''"""What MONAI has not: copied from medexp {medexp.__version__}, https://www.apache.org/licenses/LICENSE-2.0."""\n'''
)


class Exported(NamedTuple):
    """What was written, and how it is used.

    Attributes:
        pulled: What it was made of.
        install: Installs what it needs.
        command: Runs it; CASES and MASKS are the user's folders.
    """

    pulled: Pulled
    install: str
    command: str


def export_bundle(uri: str, folder: Path) -> Exported:
    """Write a registered segmenter as a MONAI bundle.

    Args:
        uri: `models:/NAME@alias` or `models:/NAME/VERSION`.
        folder: Where; it must not exist.

    Raises:
        RegistryError: No such model, or one that MONAI has no network for, or whose steps no bundle can hold.
        StorageError: The folder exists or cannot be written.
    """
    if folder.exists():
        raise StorageError(f"FOLDER {folder}: exists already, and nothing is overwritten. Give the name of a new folder")
    pulled = pull(uri)
    called = f"{pulled.name} version {pulled.version}"
    contract = read_json(pulled.folder, "contract.json")
    said = outputs_said(contract).get(ONLY, {})
    if refused := _refused(contract, said):
        raise RegistryError(f"{called}: {refused}")
    config = _inference(preprocessing_of(pulled.folder, called), network_of(contract), said["painted"])
    metadata = _metadata(pulled, contract["input"], said, config)
    exported = Exported(pulled, _install(), _command(folder))
    with filling(folder, "FOLDER") as within:
        for name in ("configs", "models", "docs", "scripts"):
            (within / name).mkdir()
        _write(within / "configs/metadata.json", metadata)
        _write(within / "configs/inference.json", config)
        save_checkpoint(load_state(weights_file(pulled.folder)), within / "models/model.pt")
        card = without_paths((pulled.folder / "README.md").read_text())
        (within / "docs/README.md").write_text(_readme(called, pulled, config) + card)
        (within / "scripts/__init__.py").write_text(_ORIGIN)
        for name in _SCRIPTS:
            source = (Path(__file__).parents[1] / "data/volumes" / f"{name}.py").read_text()
            (within / "scripts" / f"{name}.py").write_text(source.replace(_HOME, "scripts"))
    return exported


# ---------------------------------------------------------------------------------------------------------- what is exported


def _refused(contract: Mapping[str, Any], outputs: Mapping[str, Any]) -> str:
    """Why a network cannot be exported; nothing where it can."""
    kind, can = network_of(contract)["kind"], "such as phase1_segmenter or bsf_base"
    if draws(contract):
        return (
            f"draws pairs from noise, by a network that MONAI has no second time for. What is exported is a segmenter, {can}"
        )
    if contract["architecture"]["kind"] == ADAPTER_KIND:
        return f"is an adapter, and a bundle holds a whole network. Export one that an adapter was merged into, {can}"
    if not kind_of(network_of(contract)).monai or outputs.get("what") != "regions":
        return f"is a {kind}. What is exported is a segmenter of volumes by a network that MONAI has, {can}"
    return ""


# ------------------------------------------------------------------------------------------------------------- what is written


def _inference(done: Preprocessing, network: Mapping[str, Any], painted: Mapping[str, int | None]) -> dict[str, Any]:
    """`inference.json`: what `python -m monai.bundle run` runs; keys as MONAI's model zoo has them."""
    arguments = {key: value for key, value in network.items() if key != "kind" and value is not None}
    read, window = done.get(ReadChannels), done.get(SlidingWindow)
    steps: Sequence[Any] = done.steps
    transforms = [_configured(name, {"keys": ["image"], **values}) for step in steps for name, values in step.transforms]
    load = {"keys": ["image"], "reader": "NibabelReader", "ensure_channel_first": True, "image_only": True}
    # As `onto_own_grid` of medexp.data.volumes.transforms has it.
    back = {"keys": ["pred"], "key_dst": "own", "mode": "bilinear", "padding_mode": "zeros", "dtype": "$np.float32"}
    mask = "$lambda logits: monai.utils.convert_to_dst_type(paint(logits > 0, @painted)[None], logits)[0]"
    named = "$lambda meta, _: {'subject': pathlib.Path(meta['filename_or_obj']).parent.name + '.nii.gz'}"
    # A mask lies on its `original_affine` already; only asked to bring it there does MONAI 1.6.1 write axes such as ASL.
    save = {"resample": True, "separate_folder": False, "output_name_formatter": named}
    save |= {
        "output_ext": ".nii.gz",
        "output_postfix": "seg",
        "output_dtype": "$np.uint8" if max(filter(None, painted.values())) < 256 else "$np.int32",
    }
    return {
        "imports": [
            "$import pathlib",
            "$import numpy as np",
            "$from scripts.regions import paint",
            "$from scripts.suffixes import cases_in",
        ],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/cases'",
        "output_dir": "$@bundle_root + '/eval'",
        "num_workers": 0,
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "suffixes": {channel: list(read.suffixes[channel]) for channel in read.channels},
        "painted": dict(painted),
        "network_def": {**(kind_of(network).monai or {}), **arguments},
        "network": "$@network_def.to(@device)",
        "datalist": "$[{'image': files} for files in cases_in(@dataset_dir, @suffixes)]",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", **load},
                {"_target_": "CopyItemsd", "keys": ["image"], "names": ["own"]},
                *transforms,
                {"_target_": "SelectItemsd", "keys": ["image", "own"]},
            ],
        },
        "dataset": {"_target_": "Dataset", "data": "@datalist", "transform": "@preprocessing"},
        "dataloader": {
            "_target_": "DataLoader",
            "dataset": "@dataset",
            "batch_size": 1,
            "shuffle": False,
            "num_workers": "@num_workers",
        },
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": list(window.size),
            "sw_batch_size": 1,
            "overlap": window.overlap,
            "mode": window.blending,
        },
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "ResampleToMatchd", **back},
                {"_target_": "Lambdad", "keys": ["pred"], "func": mask},
                {"_target_": "SaveImaged", "keys": ["pred"], "output_dir": "@output_dir", **save},
            ],
        },
        "handlers": [
            {
                "_target_": "CheckpointLoader",
                "load_path": "$@bundle_root + '/models/model.pt'",
                "load_dict": {"model": "@network"},
                "map_location": "@device",
            }
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
        },
        "run": ["$@evaluator.run()"],
    }


def _configured(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """A transform that a step names, in MONAI's config language."""
    return {"_target_": _target(transform_named(name), name), **{key: _value(value) for key, value in values.items()}}


def _value(value: Any) -> Any:
    if isinstance(value, partial):
        return {"_target_": _target(value.func, value.func.__name__), "_mode_": "callable", **value.keywords}
    return value


def _target(made: Any, name: str) -> str:
    """A class or function as a bundle names it: what is medexp's lies in its scripts, and MONAI finds its own."""
    home, _, module = made.__module__.rpartition(".")
    return f"scripts.{module}.{name}" if home == _HOME else name


def _metadata(pulled: Pulled, given: Mapping[str, Any], said: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """`metadata.json`, with the keys of MONAI's specification.

    Args:
        pulled: The model.
        given: `input` of its contract.
        said: What its output means.
        config: `inference.json`.
    """
    definition, channels, regions = load_definition(pulled.name), list(config["suffixes"]), said["regions"]
    window = config["inferer"]["roi_size"]
    tensor = {"type": "image", "spatial_shape": window, "dtype": "float32", "value_range": [], "is_patch_data": True}
    classes = ", ".join(f"{value} {region}" for region, value in said["painted"].items() if value is not None)
    shown = f"medexp {medexp.__version__}, model {pulled.name}, version {pulled.version}"
    takes = {"format": "magnitude", "modality": "MR", "num_channels": len(channels), "channel_def": _numbered(channels)}
    gives = {"format": "segmentation", "num_channels": len(regions), "channel_def": _numbered(regions)}
    version = f"{pulled.version}.0.0"
    return {
        "schema": SCHEMA,
        "version": version,
        "changelog": {version: f"exported by {shown}, digest {pulled.digest}"},
        "monai_version": installed("monai"),
        "pytorch_version": installed("torch"),
        "numpy_version": installed("numpy"),
        "required_packages_version": {**{name: installed(name) for name in _LIBRARIES}, **BESIDE},
        "name": pulled.name,
        "task": definition.title,
        "description": " ".join(definition.task.split()),
        "authors": "not stated: docs/README.md says how it was made",
        "copyright": "not stated: docs/README.md says what is known of its license",
        "data_source": "see Sources of the data in docs/README.md",
        "data_type": "NIfTI, one folder a case, one file a channel",
        "image_classes": f"{', '.join(channels)}; {given['units']}",
        "label_classes": f"masks: 0 background, {classes}",
        "pred_classes": f"logits of {', '.join(regions)}, which overlap; above 0 is inside",
        "eval_metrics": _means(pulled.folder / "per_case.csv"),
        "intended_use": " ".join(definition.intended_use.split()),
        "references": [],
        "medexp": {"model": pulled.name, "version": pulled.version, "digest": pulled.digest},
        "network_data_format": {"inputs": {"image": tensor | takes}, "outputs": {"pred": tensor | gives}},
    }


def _numbered(names: Sequence[str]) -> dict[str, str]:
    return {str(place): name for place, name in enumerate(names)}


def _means(per_case: Path) -> dict[str, float]:
    """Mean Dice by region over the cases that a version was judged on, where it was."""
    scores = read_csv(per_case).filter(like="dice_").mean().dropna()
    return {f"mean_{name}": round(float(value), 4) for name, value in scores.items()}


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=4) + "\n")


def _install() -> str:
    extras = "einops,fire,ignite,nibabel,scipy"
    return f'pip install "monai[{extras}]=={installed("monai")}"'


def _command(folder: Path) -> str:
    root = shlex.quote(str(folder))
    return (
        f"python -m monai.bundle run --config_file {root}/configs/inference.json --bundle_root {root} "
        "--dataset_dir CASES --output_dir MASKS"
    )


def _readme(called: str, pulled: Pulled, config: Mapping[str, Any]) -> str:
    """How the bundle is run; the model card follows."""
    painting = ", then ".join(f"{region} with {value}" for region, value in config["painted"].items() if value is not None)
    channels = "; ".join(f"{name}: *-{' or *-'.join(ends)}" for name, ends in config["suffixes"].items())
    return f"""# {called}, a MONAI bundle

Digest of the registered package that it was made of: {pulled.digest}. The model card follows below.

## How to run it

    {_install()}
    {_command(Path())}

CASES holds one folder a case, with one NIfTI file a channel ({channels}; .nii.gz or .nii, after - or _). MASKS gets
`<case>_seg.nii.gz`, on the case's own grid: {painting} over it; 0 is background. What is there already is overwritten. With
`--num_workers 2` files are read while the network runs. What MONAI has not lies in `scripts/`, which is medexp's (Apache-2.0).
Masks are those of medexp, voxel for voxel, but where a logit is 0 to 1e-6. And medexp looks at files first: it refuses NaN, a
constant channel and a 2D image, and says where a case lies outside what the model saw; a bundle does not.

`metadata.json` has the keys of MONAI's specification. Its JSON Schema is a download, and was not asked; with a network:

    python -m monai.bundle verify_metadata --meta_file configs/metadata.json --filepath schema.json

"""
