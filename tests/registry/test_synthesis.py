"""A model that draws: the same pairs from a seed wherever it is loaded, on the base and VAE that it was trained with."""

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from mlflow.exceptions import MlflowException
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from medexp import console, registry
from medexp.errors import CheckpointError, MedexpError, RegistryError, TrainingDiverged
from medexp.models.kinds import build
from medexp.phases import phase
from medexp.registry.definitions import load_definition
from medexp.registry.loading import load_verified
from medexp.registry.package import Parent
from medexp.registry.promotion import judge, scores_of
from medexp.registry.store import Registered
from medexp.registry.synthesis import Generator, judged_on, load_generator, per_sample
from tests.configured import configured
from tests.runs import store_in
from tests.synthesis import ADAPTER, AFFINE, BASE, SIZE, UNET, adapted, joint, network, publish_adapter, publish_base

ENCODED, POOLED = f"models:/{ADAPTER}/1", f"models:/{ADAPTER}/2"
Drawn = tuple[NDArray[np.float32], NDArray[np.bool_]]
TOLERANCE = 1e-5
"""How far intensities of a sample may lie apart in two processes; its mask may differ where the soft one is as near to the
threshold."""


def named(made: Registered) -> Parent:
    return Parent(made.name, made.version, made.digest, made.weights_digest)


def assert_alike(one: Drawn, other: Drawn) -> None:
    np.testing.assert_allclose(one[0], other[0], atol=TOLERANCE, rtol=0)
    assert (one[1] != other[1]).mean() < 1e-3


@pytest.fixture(scope="module")
def home(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a store: base 1 and, on it, an adapter of either strategy, versions 1 and 2; base 2 has other weights."""
    folder = tmp_path_factory.mktemp("synthesis")
    with pytest.MonkeyPatch.context() as patch:
        store = store_in(folder, empty_database, patch)
        parent = named(publish_base(store, folder / "base"))
        for number, strategy in enumerate(("vae", "downsample")):
            adapted(strategy, folder / strategy, seed=number)
            contrast = 0.2 + 0.04 * number
            made = publish_adapter(store, folder / f"adapter_{strategy}", strategy, folder / strategy, parent, contrast)
            assert ("champion" in made.aliases) == (number == 0), "the first was loaded and run"
        publish_base(store, folder / "base_2", seed=1)
        yield folder


# ------------------------------------------------------------------------------------------------------------------ the same


@pytest.mark.parametrize(("uri", "strategy", "seed"), [(ENCODED, "vae", 0), (POOLED, "downsample", 1)])
def test_what_is_loaded_draws_what_was_trained(home: Path, uri: str, strategy: str, seed: int, tmp_path: Path) -> None:
    own = Generator(adapted(strategy, tmp_path, seed), joint(strategy), SIZE, AFFINE, "this run")
    pulled = load_generator(uri)
    for steps in (1, 3):
        images, masks = pulled.draw(3, 7, steps)
        wanted, lesions = own.draw(3, 7, steps)
        assert images.dtype == np.float32 and images.shape == (3, *SIZE) and masks.dtype == bool
        assert_alike((images, masks), (wanted, lesions))
        assert images.min() >= 0 and images.max() <= 1 and 0 < masks.mean() < 1
    assert not np.array_equal(pulled.draw(1, 7, 1)[0], pulled.draw(1, 7, 3)[0])
    assert pulled.called == f"{ADAPTER} version {uri[-1]}" and len(pulled.digest) == 64
    np.testing.assert_array_equal(pulled.affine, AFFINE)


def test_a_pair_follows_from_its_seed_and_its_number_alone(home: Path) -> None:
    generator = load_generator(ENCODED)
    together, masks = generator.draw(3, 5)
    for number in range(3):
        alone, mask = generator.draw(1, 5, first=number)
        np.testing.assert_array_equal(alone[0], together[number])
        np.testing.assert_array_equal(mask[0], masks[number])
    assert len({one.tobytes() for one in (*together, *generator.draw(3, 6)[0])}) == 6


_ELSEWHERE = """
import sys
import numpy as np
from medexp.registry.synthesis import load_generator
images, masks = load_generator(sys.argv[1]).draw(2, 5, steps=2, first=1)
np.savez("drawn.npz", images=images, masks=masks)
"""


def test_a_fresh_process_draws_the_same_volumes_by_alias(home: Path) -> None:
    program = [sys.executable, "-c", _ELSEWHERE, f"models:/{ADAPTER}@champion"]
    done = subprocess.run(program, check=False, cwd=home, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    generator = load_generator(f"models:/{ADAPTER}@champion")
    images, masks = generator.draw(3, 5, steps=2)
    with np.load(home / "drawn.npz") as drawn:
        assert_alike((drawn["images"], drawn["masks"]), (images[1:], masks[1:]))


def test_samples_that_are_not_finite_name_the_model_and_what_to_do(home: Path) -> None:
    generator = load_generator(ENCODED)
    with torch.no_grad():
        for parameter in generator.net.parameters():
            parameter.mul_(1e30)
    told = rf"(?s)what {ADAPTER} version 1 draws in 3 steps: 2 problems.*seed5-sample000: .*training\.lr .*\(adapter\)"
    with pytest.raises(TrainingDiverged, match=told):
        generator.draw(2, 5, 3)


def test_a_base_draws_images_without_a_lesion(home: Path) -> None:
    images, masks = load_generator(f"models:/{BASE}/1").draw(2, 0)
    assert images.std() > 0 and not masks.any()


# --------------------------------------------------------------------------------------------------- its base and its VAE


def test_load_gives_the_module_with_the_adapter_on_the_widened_base(home: Path, tmp_path: Path) -> None:
    own = adapted("vae", tmp_path)
    z, t, r = torch.randn(2, 8, 4, 4, 4), torch.ones(2), torch.zeros(2)
    save_file(network().state_dict(), tmp_path / "network.safetensors")
    for base in (None, network(), tmp_path / "network.safetensors"):
        net = registry.load(ENCODED, base=base)
        assert not net.training
        with torch.inference_mode():
            torch.testing.assert_close(net(z, t, r), own(z, t, r), rtol=1e-4, atol=1e-5)
    with net.disable_adapter(), torch.inference_mode():
        torch.testing.assert_close(net(z, t, r)[:, :4], network()(z[:, :4], t, r), rtol=1e-4, atol=1e-5)


def test_another_base_is_refused(home: Path, tmp_path: Path) -> None:
    save_file(network(1).state_dict(), tmp_path / "other.safetensors")
    for base in (network(1), tmp_path / "other.safetensors"):
        with pytest.raises(RegistryError, match=r"was trained on meanflow_base version 1, .*the base given has \w{12}"):
            registry.load(ENCODED, base=base)
    wide = adapted("vae", tmp_path / "a").get_base_model()
    with pytest.raises(RegistryError, match="was trained on meanflow_base version 1, with weights"):
        registry.load(ENCODED, base=wide)


def test_a_base_of_other_channels_is_refused_by_name(home: Path, tmp_path: Path) -> None:
    save_file(build(UNET | {"channels": 3}).state_dict(), tmp_path / "three.safetensors")
    for base in (build(UNET | {"channels": 3}), tmp_path / "three.safetensors"):
        with pytest.raises(RegistryError, match="takes latents of 4 channels; the base given takes 3. Give the base"):
            registry.load(ENCODED, base=base)


def test_a_file_of_a_base_accounts_for_every_key(home: Path, tmp_path: Path) -> None:
    state = network().state_dict()
    lacks = {key: value for key, value in state.items() if "middle_block" not in key}
    save_file(lacks, tmp_path / "lacks.safetensors")
    save_file(state | {"extra.weight": torch.zeros(1)}, tmp_path / "more.safetensors")
    for file, told in (("lacks", "missing keys: unet.middle_block"), ("more", "1 unexpected keys: extra.weight")):
        with pytest.raises(CheckpointError, match=told):
            registry.load(ENCODED, base=tmp_path / f"{file}.safetensors")


def test_an_adapter_that_lacks_a_tensor_is_refused_and_not_filled_in(home: Path, tmp_path: Path) -> None:
    """peft would leave the new slice at its initial values, and say nothing."""
    folder = tmp_path / "package"
    shutil.copytree(registry.pull(ENCODED).folder, folder)
    file = folder / "adapter" / "adapter_model.safetensors"
    state = load_file(file)
    dropped = next(key for key in state if "conv_in.new" in key)
    save_file({key: value for key, value in state.items() if key != dropped}, file)
    with pytest.raises(CheckpointError, match=rf"is of another base: {dropped} is missing"):
        load_verified(folder)
    save_file(state | {"base_model.model.more.weight": torch.zeros(1)}, file)
    with pytest.raises(CheckpointError, match=r"more\.weight is \(1,\), the network's is none"):
        load_verified(folder)


def test_the_base_may_be_given_by_its_folder_and_its_vae_lies_beside(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(registry.pull(f"models:/{BASE}/1").folder, folder)
    wanted = load_generator(ENCODED).draw(1, 3)
    for base in (folder, folder / "weights.safetensors"):
        assert_alike(load_generator(ENCODED, base).draw(1, 3), wanted)
    vae = folder / "vae.safetensors"
    save_file(joint("vae", seed=1).vae.state_dict(), vae)
    with pytest.raises(RegistryError, match=r"latents of a VAE with weights \w{12}; .*vae.safetensors has"):
        load_generator(ENCODED, folder)
    vae.write_bytes(b"\0" * 100)
    with pytest.raises(CheckpointError, match=r"vae\.safetensors: cannot be read"):
        load_generator(ENCODED, folder)
    vae.unlink()
    with pytest.raises(RegistryError, match=r"its VAE, .*/base/vae\.safetensors, is missing"):
        load_generator(ENCODED, folder)


def test_a_base_of_another_digest_is_another_base(home: Path, tmp_path: Path) -> None:
    """As where it was deleted, and one of the same U-Net and another VAE has its number."""
    folder = tmp_path / "package"
    shutil.copytree(registry.pull(ENCODED).folder, folder)
    parents = json.loads((folder / "parents.json").read_text())
    registered = parents["base"]["digest"]
    parents["base"]["digest"] = "0" * 64
    (folder / "parents.json").write_text(json.dumps(parents))
    with pytest.raises(RegistryError, match=rf"of digest 000000000000; what is registered so has {registered[:12]}"):
        load_verified(folder)


def test_an_altered_vae_is_never_used(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of a package in the cache it is fetched again; where the store itself holds an altered one, nothing is drawn."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    wanted = load_generator(ENCODED).draw(1, 3)
    cached = registry.pull(f"models:/{BASE}/1").folder / "vae.safetensors"
    whole = cached.read_bytes()
    altered = whole[:-1] + bytes([whole[-1] ^ 1])
    cached.unlink()
    cached.write_bytes(altered)
    assert_alike(load_generator(ENCODED).draw(1, 3), wanted)
    (stored,) = (file for file in home.glob("mlruns/**/vae.safetensors") if file.read_bytes() == whole)
    stored.unlink()
    stored.write_bytes(altered)
    try:
        shutil.rmtree(tmp_path / "medexp" / "models")
        for load in (registry.load, load_generator):
            with pytest.raises(RegistryError, match=r"vae\.safetensors was altered"):
                load(ENCODED)
    finally:
        stored.write_bytes(whole)


def test_what_draws_nothing_is_no_generator(home: Path) -> None:
    for uri in ("models:/nothing@champion", "nothing"):
        with pytest.raises(MedexpError):
            load_generator(uri)


# ----------------------------------------------------------------------------------------------------- served, told, promoted


def test_mlflow_takes_arrays_by_name_and_says_which(home: Path, tmp_path: Path) -> None:
    for uri, channels in ((ENCODED, 8), (POOLED, 5), (f"models:/{BASE}/1", 4)):
        model = mlflow.pyfunc.load_model(uri)
        signature = {spec.name: (spec.type.name, spec.shape) for spec in model.metadata.signature.inputs}
        assert signature == {"z": ("float32", (-1, channels, -1, -1, -1)), "t": ("float32", (-1,)), "r": ("float32", (-1,))}
        z = np.random.default_rng(0).standard_normal((2, channels, 4, 4, 4), np.float32)
        given = {"z": z, "t": np.ones(2, np.float32), "r": np.zeros(2, np.float32)}
        with torch.inference_mode():
            wanted = registry.load(uri)(**{name: torch.from_numpy(value) for name, value in given.items()})
        np.testing.assert_allclose(model.predict(given), wanted, rtol=1e-4, atol=1e-5)
        with pytest.raises(MlflowException, match="r"):
            model.predict({name: given[name] for name in ("z", "t")})


def test_files_are_refused_with_the_command_that_draws(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert console.main(["predict", f"{ADAPTER}@champion", "volume.nii.gz", "--output", "masks"]) == 2
    told = capsys.readouterr().err
    assert "draws from noise, and takes no files" in told and not (home / "masks").exists()
    command = shlex.split(told.partition("Draw some: ")[2])
    assert command[:4] == ["mlflow", "run", ".", "-e"]
    flags = [word for pair in zip(command[5::2], command[6::2], strict=True) for word in pair if word != "-P"]
    given = dict(flag.split("=", 1) for flag in flags)
    assert given["adapter"] == f"models:/{ADAPTER}@champion"
    assert configured(command[4], given).mode == "sample", "which is a configuration that holds"
    assert console.main(["predict", f"{BASE}/1", "volume.nii.gz"]) == 2
    assert f"takes no files. It is for adapting: mlflow run . -e phase7 -P base=models:/{BASE}/1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["export-bundle", f"{ADAPTER}/1", "out"], "draws pairs from noise, by a network that MONAI has no second time for"),
        (["export-bundle", f"{BASE}/1", "out"], "draws pairs from noise, by a network that MONAI has no second time for"),
        (
            ["export-hf", f"{ADAPTER}/1", "out"],
            "is an adapter of a meanflow_unet, a network that no library of the Hub builds",
        ),
        (["export-hf", f"{BASE}/1", "out"], "is a meanflow_unet, a network that no library of the Hub builds"),
        (["power", f"{BASE}/1", "--gain", "0.1"], "was registered without scores of cases"),
        (["rollback", BASE, "--reason", "x"], "has no promotion policy; its versions are named by number"),
        (["promote", "--model", BASE, "--version", "1"], "has no promotion policy; its versions are named by number"),
    ],
)
def test_what_cannot_be_done_with_it_is_said(
    home: Path, command: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert console.main(command) == 2
    assert told in capsys.readouterr().err
    assert not (home / "out").exists()


def test_samples_are_compared_pair_by_pair_and_called_so(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Version 2 has 0.24 of the 0.3 that real pairs have, version 1 has 0.2, and every tenth mask of both is empty."""
    assert console.main(["power", f"{ADAPTER}/1", "--gain", "0.02"]) == 0
    assert "takes 32 samples to be seen" in capsys.readouterr().out
    assert console.main(["compare", f"{ADAPTER}/1", f"{ADAPTER}/2"]) == 0
    told = capsys.readouterr().out
    assert f"contrast_gap: {ADAPTER} version 2 is better than {ADAPTER} version 1: +0.036" in told
    assert console.main(["promote", "--model", ADAPTER, "--version", "2"]) == 0
    told = capsys.readouterr().out
    assert "PASSED PROMOTE_CASES" in told and "samples 40, cases_of_one_alone 0" in told
    assert "gain 0.036" in told and "patients" not in told
    assert console.main(["rollback", ADAPTER, "--reason", "test"]) == 0
    first, second = (registry.pull(uri) for uri in (ENCODED, POOLED))
    given = {"revision": phase("phase7").revision, "samples": 200, "seed": 0}
    worse = judge(load_definition(ADAPTER), first, scores_of(second), **given)
    (refused,) = (check for check in worse.checks if check.blocks)
    assert "it does worse than the champion in contrast_gap: -0.036" in refused.advice
    assert refused.advice.endswith("judge both on more samples")
    otherwise = replace(scores_of(first), data_digest=judged_on("d1", steps=4, size=SIZE))
    (refused,) = (check for check in judge(load_definition(ADAPTER), second, otherwise, **given).checks if check.blocks)
    assert refused.id == "PROMOTE_DATA" and "in the same number of steps" in refused.advice


def test_an_empty_mask_counts_as_no_contrast() -> None:
    table = per_sample(3, np.array([0.2, np.nan, 0.5]), np.array([0.3, 0.2, np.nan, 0.4]), first=9)
    assert list(table["case"]) == ["seed3-sample009", "seed3-sample010", "seed3-sample011"] == list(table["patient"])
    np.testing.assert_allclose(table["contrast_gap"], [0.1, 0.3, 0.2])
    assert list(table["empty_mask"]) == [0, 1, 0]


def test_the_card_says_what_it_is_made_of_and_that_it_is_never_for_diagnosis(home: Path) -> None:
    card = (registry.pull(ENCODED).folder / "README.md").read_text()
    base = registry.pull(f"models:/{BASE}/1")
    vae = json.loads((base.folder / "contract.json").read_text())["latents"]["vae"]["weights_digest"]
    for told in (
        "synthetic and of nobody: never for diagnosis",
        "against pairs of the data that it was made on, and against none from elsewhere",
        f"| digest | {base.digest} |",
        f"| digest of the VAE's weights | {vae} |",
        "| strategy | vae |",
        "| voxels of a volume | 16, 16, 16 |",
        "| samples that it was judged by | 40 |",
        "40 samples, beside real pairs, split val",
        "bootstrap of the paired difference by sample",
        "mean contrast_gap 0.1",
    ):
        assert told in card, told
    assert "patients, split val" not in card
