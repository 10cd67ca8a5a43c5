"""A model as a folder whose every file is accounted for.

weights.safetensors   the weights; an adapter has adapter/adapter_model.safetensors instead
contract.json         the architecture, and what goes in and comes out
checks.json           the checks that the model was judged by
evaluation.json       which cases it was judged on, by which revision of the phase's checks
per_case.csv          its scores, a row a case
cases.csv             what its weights were trained and selected on, patients as sha256; absent where it is not known
vae.safetensors       of a base that draws latents: the autoencoder that they are of; an adapter's is its base's
processor/            of a model that takes text: its tokenizer and image processor, as transformers keeps them
training_metadata.json  of an adapter of a language model: how it was trained; `dtype`, what its base was computed in
split/                a head and the cases.csv of its own, where the weights have seen the validation cases and it has not:
                      what a later phase goes on from that is judged on these; not part of the model
learned.json          the data that its weights were trained on, in words and by digest; absent where that is not known
seen.json             what the files of its training cases looked like: ranges; absent where it is not known
parents.json          what it was made from: names, versions, digests, and which file of theirs says what that was trained on
judge/                what it takes to judge it again on other cases, such as the decoder of an encoder; not part of the model
README.md             the model card
manifest.json         size and sha256 of each of these, and one digest over them all
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medexp.errors import RegistryError, all_problems

WEIGHTS = "weights.safetensors"
ADAPTER = "adapter"
ADAPTER_KIND = "lora_adapter"
ADAPTER_WEIGHTS = "adapter/adapter_model.safetensors"
PROCESSOR = "processor"
VAE = "vae.safetensors"
TRAINING = "training_metadata.json"
MANIFEST = "manifest.json"
CONTRACT = "contract.json"
_HOLDS = {CONTRACT: dict, "checks.json": list, "evaluation.json": dict, "parents.json": dict}
CASES = "cases.csv"
DECODER = "judge/decoder.safetensors"
SEEN = "seen.json"
LEARNED = "learned.json"
SPLIT_HEAD, SPLIT_CASES = "split/head.safetensors", "split/cases.csv"
FORMAT = 1  # of the folder: raise it when an older medexp can no longer read what is written
AGAIN = "Pull it again; if that does not help, register the model anew from its run."


def verify_package(folder: Path) -> str:
    """The digest of a package, once every file in it was found to be the one that was written.

    Raises:
        RegistryError: Files are missing, altered or extra; the message names each.
    """
    digest, problems = problems_in(folder)
    if problems:
        raise RegistryError(all_problems(f"package {folder}", problems, AGAIN))
    return digest


def problems_in(folder: Path) -> tuple[str, list[str]]:
    """The digest of a package and all that is wrong with its files; paths in the manifest are compared, never followed."""
    try:
        manifest = read_json(folder, MANIFEST)
        digest, listed = manifest.pop("digest"), manifest["files"]
        if digest != digest_of(manifest) or not isinstance(listed, dict):
            raise TypeError
    except RegistryError as error:
        return "", [str(error).removeprefix(f"package {folder}: ").removesuffix(f" {AGAIN}")]
    except (AttributeError, KeyError, TypeError):
        return "", [f"{MANIFEST} was altered"]
    found = files_in(folder)
    problems = [f"{name} is missing" for name in sorted(set(listed) - set(found))]
    problems += [f"{name} was altered" for name in sorted(set(listed) & set(found)) if listed[name] != found[name]]
    problems += [f"{name} does not belong to it" for name in sorted(set(found) - set(listed))]
    return str(digest), problems


def read_json(folder: Path, name: str) -> Any:
    """A JSON file of a package.

    Raises:
        RegistryError: The file is missing, is no JSON, or holds something else than such a file does.
    """
    try:
        content = json.loads((folder / name).read_text())
        if name in _HOLDS and not isinstance(content, _HOLDS[name]):
            raise TypeError(f"it holds a {type(content).__name__}")
        if name == CONTRACT:
            _demand_contract(content)
        return content
    except (KeyError, TypeError) as error:
        told = f"it has no {error}" if isinstance(error, KeyError) else error
        raise RegistryError(f"package {folder}: {name} is none: {told}. Its author has to make it anew") from error
    except FileNotFoundError:
        raise RegistryError(f"package {folder}: {name} is missing. {AGAIN}") from None
    except (ValueError, RecursionError) as error:
        raise RegistryError(f"package {folder}: {name} is no JSON ({error}). {AGAIN}") from error
    except OSError as error:
        raise RegistryError(f"package {folder}: {name} cannot be read ({error.strerror}). {AGAIN}") from error


def _demand_contract(content: Mapping[str, Any]) -> None:
    """What whoever reads a contract takes for granted; steps and arguments are held against what there is where they are used.

    Raises:
        KeyError, TypeError: A part is missing or something else.
    """
    architecture = content["architecture"]
    named = {"architecture": architecture}
    if dict(architecture)["kind"] == ADAPTER_KIND:
        named["architecture.base"] = architecture["base"]
    for key, one in named.items():
        if not isinstance(dict(one)["kind"], str):
            raise TypeError(f"its {key}.kind is no text")
    for key in ("input", "outputs"):
        if not isinstance(content.get(key, {}), dict):
            raise TypeError(f"its {key} holds a {type(content[key]).__name__}")
    for output, meaning in content.get("outputs", {}).items():
        if not isinstance(meaning, dict) or not isinstance(meaning.get("what"), str):
            raise TypeError(f"its outputs.{output} does not say what")
        classes = meaning["classes"] if meaning["what"] in ("classes", "answers") else []
        if not isinstance(classes, list) or not all(isinstance(one, str) for one in classes):
            raise TypeError(f"its outputs.{output}.classes are no list of texts")
        if not isinstance(meaning.get("painted", {}), dict):
            raise TypeError(f"its outputs.{output}.painted is no mapping")


def network_of(contract: Mapping[str, Any]) -> Mapping[str, Any]:
    """The architecture of the network that runs, by a package's contract: of an adapter its base's, with as many channels as
    the adapter widens it to."""
    architecture: Mapping[str, Any] = contract["architecture"]
    if architecture["kind"] != ADAPTER_KIND:
        return architecture
    return architecture["base"] | {key: architecture[key] for key in ("channels",) if key in architecture}


def weights_file(folder: Path) -> Path:
    """The file with a package's weights.

    Raises:
        RegistryError: There is none.
    """
    for name in (WEIGHTS, ADAPTER_WEIGHTS):
        if (folder / name).is_file():
            return folder / name
    raise RegistryError(f"package {folder}: has no weights, neither {WEIGHTS} nor {ADAPTER_WEIGHTS}")


def files_in(folder: Path, apart: str = "") -> dict[str, Any]:
    """Size and sha256 by path, those below a folder `apart` left out; what is no plain file in the folder itself says so."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if apart and name.startswith(f"{apart}/"):
            continue
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            found[name] = "no plain file"
        elif path.is_file() and name != MANIFEST:
            try:
                with path.open("rb") as file:
                    found[name] = {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
            except OSError as error:  # a bad sector
                found[name] = str(error)
    return found


def digest_of(manifest: Mapping[str, Any]) -> str:
    """The digest of a package, sha256 over its manifest."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
