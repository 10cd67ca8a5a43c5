"""Writing a package, whole or not at all."""

import json
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from medexp.checks import as_records
from medexp.errors import RegistryError, StorageError
from medexp.models.checkpoints import weights_digest
from medexp.models.swin.features import offered
from medexp.registry.card import model_card
from medexp.registry.definitions import Definition
from medexp.registry.package import Package
from medexp.registry.packages import (
    CASES,
    DECODER,
    FORMAT,
    LEARNED,
    MANIFEST,
    SEEN,
    WEIGHTS,
    digest_of,
    files_in,
    weights_file,
)


def write_package(package: Package, definition: Definition, folder: Path) -> str:
    """Write a package whole or not at all.

    Args:
        package: What to write.
        definition: What the model is for, for the card.
        folder: Where to; there must be nothing yet.

    Returns:
        The package's digest, sha256 over its manifest.

    Raises:
        RegistryError: There is something at `folder`, or an adapter's files are missing.
        StorageError: The folder cannot be written.
    """
    if folder.exists():
        raise RegistryError(f"package {folder}: exists already; a package is written once. Give another folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
            made = Path(temporary) / folder.name
            made.mkdir()
            for name, source in package.extra.items():
                (made / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copytree(source, made / name) if source.is_dir() else shutil.copyfile(source, made / name)
            if package.weights:
                weights = {key: value.detach().cpu().contiguous() for key, value in package.weights.items()}
                save_file(weights, made / WEIGHTS)
            contract = {
                "format": FORMAT,
                "name": package.name,
                "architecture": dict(package.architecture),
                **package.contract,
            }
            if kinds := offered(package.architecture, DECODER in package.extra):
                contract["features"] = kinds
            _write_json(made / "contract.json", contract)
            _write_json(made / "checks.json", as_records(package.checks))
            _write_json(made / "evaluation.json", dict(package.evaluation))
            _write_json(made / "parents.json", {role: asdict(parent) for role, parent in package.parents.items()})
            if package.learned:
                _write_json(made / LEARNED, asdict(package.learned))
            if package.seen:
                _write_json(made / SEEN, dict(package.seen))
            package.per_case.to_csv(made / "per_case.csv", index=False)
            if package.cases is not None:
                package.cases.to_csv(made / CASES, index=False)
            (made / "README.md").write_text(model_card(definition, package))
            with ThreadPoolExecutor(1) as pool:  # hashing frees the interpreter: two digests in the time of one
                of_weights = pool.submit(weights_digest, load_file(weights_file(made)))
                files = files_in(made)
            content = {"format": FORMAT, "weights_digest": of_weights.result(), "files": files}
            digest = digest_of(content)
            _write_json(made / MANIFEST, {"digest": digest, **content})
            made.replace(folder)
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk as its own
        raise StorageError(f"package {folder}: cannot be written ({error}); free space or choose another folder") from error
    return digest


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
