"""Bases: pretrained vision-language networks, as a folder that transformers wrote or by their name on the Hugging Face Hub.

Weights are read from safetensors, by classes of transformers, and every key is accounted for: nothing is unpickled, no code of
a checkpoint is run, and nothing stays at random values.
"""

import hashlib
import importlib.util
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from medexp.addresses import local_path
from medexp.config.shared import cache_root
from medexp.errors import CheckpointError, ConfigError, RegistryError, all_problems
from medexp.files import replacing
from medexp.models.checkpoints import demand_finite
from medexp.models.kinds import Architecture
from medexp.words import some

Quantize = Literal["none", "8bit", "4bit"]
_INDEX, _WHOLE = "model.safetensors.index.json", "model.safetensors"
_FETCHED = ["*.json", "*.jinja", "*.model", "*.txt", "*.safetensors"]
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_CHUNK = 1 << 24


@dataclass(frozen=True)
class Base:
    """A pretrained network that is there.

    Attributes:
        source: A folder, whole, for it is looked up from elsewhere too; or a name on the Hub.
        revision: Commit of a name; None of a folder.
        folder: Where it lies.
        digest: sha256 over the content of its safetensors files, in the order of their names.
        architecture: `kind` and `config`, what its config.json holds.
    """

    source: str
    revision: str | None
    folder: Path
    digest: str
    architecture: Architecture

    @property
    def files(self) -> list[Path]:
        """Its safetensors files."""
        return _weights(self.folder)


def find_base(source: str, revision: str | None = None, cache: Path | None = None) -> Base:
    """A base by its folder, or by its name: from Hugging Face's cache or, where there is a network, fetched.

    Args:
        source: A folder, or a name such as google/medgemma-4b-it.
        revision: Commit, tag or branch of a name; None: the newest that is in the cache, else of the Hub.
        cache: Root of what is computed once, where digests are kept; None: the platform's own.

    Raises:
        ConfigError: There is no such base here and it cannot be fetched, or it is none that takes images and text.
        CheckpointError: Its files are incomplete, or hold weights as pickles alone.
    """
    folder = local_path(source)
    if folder.is_dir():
        if revision is not None:
            raise ConfigError(f"revision={revision}: is of a model given by name; {source} is a folder, which is as it is")
        return Base(str(folder.absolute()), None, folder, _digest(_weights(folder), cache), _architecture(folder))
    if source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise ConfigError(f"model={source}: no such folder; give one, or a name such as google/medgemma-4b-it")
    folder = _of_hub(source, revision)
    return Base(source, folder.name, folder, _digest(_weights(folder), cache), _architecture(folder))


def load_base(base: Base, *, quantize: Quantize, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """The network with its weights, in eval mode.

    Args:
        base: What was found.
        quantize: none, or 8bit or 4bit for linear layers whose weights bitsandbytes holds in so many bits.
        dtype: Of all other weights, and of what is computed.
        device: Where it lies.

    Raises:
        ConfigError: It cannot be quantised here.
        CheckpointError: A file is damaged, or keys are missing, unexpected or of another shape: all are named.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForImageTextToText

    from medexp.models.vision_language.network import stored_once

    settings = _quantisation(quantize, dtype, device)
    load: Any = AutoModelForImageTextToText.from_pretrained
    try:
        with quietly():
            net, found = load(
                base.folder,
                dtype=dtype,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # they are told below, with all else that does not fit
                output_loading_info=True,
                **settings,
            )
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        told = str(error).strip().splitlines()[0]
        raise CheckpointError(f"model {base.source}: cannot be loaded ({told}); are its files complete?") from error
    _demand_whole(base, net, found)
    demand_finite(net.state_dict(), f"model {base.source}")
    return stored_once((net if settings else net.to(device)).eval())


@contextmanager
def quietly() -> Iterator[None]:
    """Without transformers' own progress bars and its warnings of keys, which are told as errors here."""
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def _demand_whole(base: Base, net: nn.Module, found: dict[str, Any]) -> None:
    """Every key has its place and every place its key, and what config.json ties is tied."""
    told = {"missing_keys": "missing keys", "unexpected_keys": "unexpected keys", "mismatched_keys": "misshapen keys"}
    problems = [
        f"{len(keys)} {told[kind]}: {some(keys)}"
        for kind in told
        if (keys := sorted(_told(key) for key in found.get(kind, ())))
    ]
    problems += [str(message) for message in found.get("error_msgs", ())]
    embedded, head = (getattr(net, name)() for name in ("get_input_embeddings", "get_output_embeddings"))
    if net.config.tie_word_embeddings and head is not None and head.weight is not embedded.weight:  # type: ignore[union-attr]
        problems.append("config.json ties the output layer to the embedding, and the weights hold two that differ")
    problems += [f"{name} stayed empty" for name, value in net.state_dict().items() if getattr(value, "is_meta", False)]
    if problems:
        advice = "Fetch the model again, whole; what is missing would stay at random values."
        raise CheckpointError(
            all_problems(f"model {base.source}: its weights do not fit {type(net).__name__}", problems, advice)
        )


def _told(key: Any) -> str:
    """A key, with the shapes in the file and in the network where these differ."""
    if not isinstance(key, tuple):
        return str(key)
    name, held, wanted = key
    return f"{name} is {tuple(held)}, the network's is {tuple(wanted)}"


def _quantisation(quantize: Quantize, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    if quantize == "none":
        return {}
    if device.type == "mps":
        raise ConfigError(
            f"quantize={quantize}: bitsandbytes has no MPS; set quantize=none with training.precision=bf16-mixed, and lower "
            "training.batch_size or set training.gradient_checkpointing=true"
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(f"quantize={quantize}: needs bitsandbytes: pip install bitsandbytes; or set quantize=none")
    if device.type == "cpu":
        raise ConfigError(
            f"quantize={quantize}: wants a GPU with CUDA; set quantize=none, and a smaller model where memory is short"
        )
    from transformers import BitsAndBytesConfig

    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)  # it tells of each layer in each step

    made = (
        BitsAndBytesConfig(load_in_8bit=True)
        if quantize == "8bit"
        else BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
    )
    return {"quantization_config": made, "device_map": {"": device}}


def _of_hub(name: str, revision: str | None) -> Path:
    """The folder of a name in Hugging Face's cache, which is filled first where it can be."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=_FETCHED, local_files_only=True))
        _weights(folder)
        return folder
    except Exception:  # noqa: S110  not in the cache, or not all of it; errors of three libraries
        pass
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_FETCHED))
    except Exception as error:  # no network, no such name, no such revision, no licence accepted: errors of three libraries
        if denied := _denied(error):
            raise ConfigError(
                f"model={name}: Hugging Face's cache cannot be used ({denied}); it may be another user's. Set HF_HOME to a "
                "folder of your own, or give model=FOLDER"
            ) from error
        told = " ".join(str(error).split())[:200] or type(error).__name__
        wanted = "" if revision is None else f" --revision {revision}"
        raise ConfigError(
            f"model={name}: not in Hugging Face's cache, and it cannot be fetched ({told}). Where there is a network, accept "
            f"its licence on its page at the Hub, set HF_TOKEN to a token that may read it, and run: hf download {name}"
            f"{wanted} --local-dir FOLDER. Then give model=FOLDER"
        ) from error


def _denied(error: BaseException | None) -> PermissionError | None:
    """What an error, or one that it came from, says of a file that may not be read or written."""
    while error:
        if isinstance(error, PermissionError):
            return error
        error = error.__cause__ or error.__context__
    return None


def _architecture(folder: Path) -> dict[str, Any]:
    """What config.json says.

    Raises:
        ConfigError: There is none, or it is of no network for images and text.
    """
    from medexp.models.vision_language.network import config_of

    path = folder / "config.json"
    if not path.is_file():
        adapter = " It is an adapter; give the base that it is for." if (folder / "adapter_config.json").is_file() else ""
        raise ConfigError(
            f"model={folder}: holds no config.json; give a folder as transformers' save_pretrained writes it.{adapter}"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        config_of(config)
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error
    except RegistryError as error:
        raise ConfigError(f"model={folder}: {error}") from error
    return {"kind": "vision_language", "config": config}


def _weights(folder: Path) -> list[Path]:
    """The safetensors files of a folder, in the order of their names.

    Raises:
        CheckpointError: There are none, or not all that the index names.
    """
    index = folder / _INDEX
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{index}: cannot be read ({error}); fetch it again") from error
        if absent := [name for name in names if not (folder / name).is_file()]:
            raise CheckpointError(f"{index}: names {len(absent)} files that are not there: {some(absent)}; fetch them")
        return [folder / name for name in names]
    if (folder / _WHOLE).is_file():
        return [folder / _WHOLE]
    if not (folder / "config.json").is_file():
        return []  # what is said of that says more
    if pickles := sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern)):
        raise CheckpointError(
            f"model={folder}: refused, its weights are pickles ({some(pickles)}), which run code when loaded; "
            f"give a folder with {_WHOLE}, as save_pretrained writes it"
        )
    raise CheckpointError(f"model={folder}: holds no weights; {_WHOLE} or {_INDEX} with its files is wanted")


def _digest(files: list[Path], cache: Path | None) -> str:
    """sha256 over the content of files; computed once for files of the same paths, sizes and times of change."""
    there = [(str(path.resolve()), (stat := path.stat()).st_size, stat.st_mtime_ns, stat.st_ctime_ns) for path in files]
    name = hashlib.sha256(json.dumps(there).encode()).hexdigest()
    known = (cache or cache_root(None)) / "bases" / f"{name}.txt"
    if known.is_file():
        return known.read_text()
    digest = hashlib.sha256()
    for path in files:
        try:
            with path.open("rb") as content:
                while part := content.read(_CHUNK):
                    digest.update(part)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    with replacing(known) as temporary:
        temporary.write_text(digest.hexdigest())
    return digest.hexdigest()
