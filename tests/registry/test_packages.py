import copy
import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medexp.errors import MedexpError, RegistryError, StorageError
from medexp.registry.definitions import load_definition
from medexp.registry.loading import load_package
from medexp.registry.package import Package
from medexp.registry.packages import digest_of, files_in, verify_package
from medexp.registry.predictors import from_package
from medexp.registry.writing import write_package

DEFINITION = load_definition("phase1_encoder_merged")
FILES = (
    "weights.safetensors",
    "contract.json",
    "checks.json",
    "evaluation.json",
    "per_case.csv",
    "parents.json",
    "README.md",
)


def test_a_package_gives_back_the_network(package: Callable[..., Package], tmp_path: Path) -> None:
    made = package()
    digest = write_package(made, DEFINITION, tmp_path / "p")
    assert verify_package(tmp_path / "p") == digest
    assert {path.name for path in (tmp_path / "p").iterdir()} == {*FILES, "manifest.json"}
    net = load_package(tmp_path / "p")
    assert not net.training
    assert all(torch.equal(value, made.weights[key]) for key, value in net.state_dict().items())


def test_the_digest_follows_from_the_content(package: Callable[..., Package], tmp_path: Path) -> None:
    digests = [write_package(package(seed=seed), DEFINITION, tmp_path / str(place)) for place, seed in enumerate((0, 0, 1))]
    assert digests[0] == digests[1] != digests[2]


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(name=st.sampled_from((*FILES, "manifest.json")), where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_any_flipped_bit_is_found(written: Callable[..., Path], name: str, where: float, bit: int) -> None:
    folder = written()
    content = bytearray((folder / name).read_bytes())
    content[int(where * len(content))] ^= 1 << bit
    (folder / name).write_bytes(content)
    with pytest.raises(RegistryError, match=name):
        verify_package(folder)


def test_all_that_is_wrong_is_named_at_once(written: Callable[..., Path]) -> None:
    folder = written()
    (folder / "parents.json").unlink()
    (folder / "README.md").write_text("another")
    (folder / "extra").mkdir()
    (folder / "extra" / "payload.pkl").touch()
    with pytest.raises(RegistryError) as caught:
        verify_package(folder)
    for problem in (
        "parents.json is missing",
        "README.md was altered",
        "extra/payload.pkl does not belong to it",
        "Pull it again",
    ):
        assert problem in str(caught.value)


def test_a_manifest_that_fits_altered_files_has_another_digest(written: Callable[..., Path]) -> None:
    one, other = written(), written(seed=1)
    assert verify_package(one) != verify_package(other)
    manifest = json.loads((one / "manifest.json").read_text())
    (one / "manifest.json").write_text(json.dumps({**manifest, "digest": verify_package(other)}))
    with pytest.raises(RegistryError, match=r"manifest\.json was altered"):
        verify_package(one)


def rewritten(folder: Path, name: str, content: str) -> None:
    """A file is another one, and the manifest fits it: what somebody could publish."""
    (folder / name).write_text(content)
    manifest = json.loads((folder / "manifest.json").read_text()) | {"files": files_in(folder)}
    del manifest["digest"]
    (folder / "manifest.json").write_text(json.dumps({**manifest, "digest": digest_of(manifest)}))


_TINY: list[Path] = []


def tiny(written: Callable[..., Path]) -> Path:
    """A package of a small network that tests write to; one for all of them, since only its contract is another."""
    if not _TINY or not _TINY[0].is_dir():
        _TINY[:] = [written(architecture=TINY)]
    return _TINY[0]


def swin(**sizes: object) -> str:
    kind = {"kind": "swin_encoder", "in_channels": 4, "feature_size": 12, "window_size": 2}
    return json.dumps({"architecture": {**kind, **sizes}})


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[]", "contract.json is none: it holds a list"),
        ("null", "contract.json is none: it holds a NoneType"),
        ("{}", "contract.json is none: it has no 'architecture'"),
        ('{"architecture": []}', "contract.json is none: "),
        ('{"architecture": {"kind": 3}}', "contract.json is none: its architecture.kind is no text"),
        ('{"architecture": {"kind": "os.system"}}', "os.system"),
        ("[" * 100_000, "contract.json is no JSON"),
        (swin(feature_size=12_000_000), "feature_size is 12000000; at most 524288 is built"),
        (swin(in_channels=10**9), "in_channels is 1000000000; at most 524288 is built"),
        (swin(feature_size=480_000), "cannot be built of"),
        (swin(feature_size=24), "misshapen keys"),
        (swin(feature_size=-12), "architecture"),
        (swin(feature_size="12"), "architecture"),
        (swin(window_size=0), "architecture"),
        (swin(more=1), "architecture"),
    ],
)
def test_a_package_that_somebody_made_to_do_harm_is_told_in_a_line(
    written: Callable[..., Path], content: str, told: str
) -> None:
    folder = written()
    rewritten(folder, "contract.json", content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(MedexpError) as caught:
        load_package(folder)
    assert told in str(caught.value) and caught.value.exit_code == 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20, "kB: what it claims is not taken"


JSON = st.recursive(
    st.none() | st.booleans() | st.sampled_from([0, -1, 3, 10**9, 10**30, 0.5, 1e300]) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.just("what"), inner, max_size=3),
    max_leaves=4,
)
STEPS = [{"step": "read_grey", "version": 1}, {"step": "fit", "version": 1, "size": [16, 16]}]
TINY = {"kind": "multitask", "in_channels": 1, "base_filters": 2, "depth": 1, "classes": 2}
OUTPUTS = {"seg": {"what": "mask"}, "cls": {"what": "classes", "classes": ["no", "yes"], "calibration": "none"}}
SAID = {"architecture": TINY, "preprocessing": {"data": "images", "steps": STEPS}, "outputs": OUTPUTS, "name": "a"}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 40), value=JSON)
def test_any_value_in_a_contract_is_taken_or_refused(written: Callable[..., Path], place: int, value: Any) -> None:
    """What `predict` and MLflow's loader do first with a package that somebody published."""
    said = copy.deepcopy(SAID)
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            places.append((node, key))
            walk(node[key])

    walk(said)
    node, key = places[place % len(places)]
    node[key] = value
    rewritten(folder := tiny(written), "contract.json", json.dumps(said))
    try:
        from_package(folder, "a version 1", "cpu")
    except MedexpError as error:
        assert error.exit_code == 2


@pytest.mark.parametrize("name", ["manifest.json", "weights.safetensors"])
def test_a_folder_without_the_essential_is_no_package(written: Callable[..., Path], name: str) -> None:
    folder = written()
    (folder / name).unlink()
    with pytest.raises(RegistryError, match=name):
        load_package(folder)


@pytest.mark.parametrize(
    ("given_", "error"),
    [
        ({"extra": {"adapter": Path("nowhere")}}, StorageError),
        ({"weights": {}}, RegistryError),
    ],
    ids=["missing file", "no weights"],
)
def test_what_cannot_be_written_whole_leaves_nothing(
    package: Callable[..., Package], tmp_path: Path, given_: dict[str, object], error: type[MedexpError]
) -> None:
    with pytest.raises(error):
        write_package(package(**given_), DEFINITION, tmp_path / "new" / "p")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_disk_that_fills_up_leaves_nothing(package: Callable[..., Package], tmp_path: Path) -> None:
    made = package()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, before[1]))
    try:
        with pytest.raises(StorageError, match=r"new/p: cannot be written"):
            write_package(made, DEFINITION, tmp_path / "new" / "p")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list((tmp_path / "new").iterdir()) == []


def test_a_package_is_written_once(package: Callable[..., Package], written: Callable[..., Path]) -> None:
    folder = written()
    with pytest.raises(RegistryError, match="exists already"):
        write_package(package(seed=1), DEFINITION, folder)
    verify_package(folder)


def test_a_folder_that_cannot_be_written_is_named(package: Callable[..., Package], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"file/p: cannot be written"):
        write_package(package(), DEFINITION, tmp_path / "file" / "p")
