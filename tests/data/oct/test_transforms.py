"""What an encoder gets: the size, the normalisation of its pretraining, and the whole of the volume."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medexp.data.oct import transforms
from medexp.data.oct.cases import Scan
from medexp.data.oct.inputs import find_inputs
from medexp.data.oct.transforms import execute, preprocessing
from medexp.errors import DataError
from tests.data.oct.small_scans import retina, write_dicom

EDGE = st.integers(2, 24)


def scan(voxels: np.ndarray) -> Scan:
    return Scan(voxels, (None, None, None), {}, None, None)


@settings(max_examples=40, deadline=None)
@given(shape=st.tuples(EDGE, EDGE, EDGE), size=st.tuples(EDGE, EDGE, EDGE), seed=st.integers(0, 99))
def test_any_volume_comes_out_in_the_size_and_normalised(
    shape: tuple[int, int, int], size: tuple[int, int, int], seed: int
) -> None:
    voxels = np.random.default_rng(seed).integers(0, 4000, shape).astype(np.uint16)
    standard = execute(preprocessing(size, "zscore").steps, scan(voxels))
    assert standard.shape == (1, *size) and standard.dtype == torch.float32 and standard.is_contiguous()
    assert standard.mean().abs() < 1e-5 and (standard.std(correction=0) - 1).abs() < 1e-4
    unit = execute(preprocessing(size, "unit").steps, scan(voxels))
    assert unit.min() == 0 and unit.max() == 1 and unit.shape == (1, *size)


def test_a_volume_of_the_size_is_not_interpolated() -> None:
    voxels = retina()
    done = execute(preprocessing((8, 24, 20), "zscore").steps, scan(voxels))[0]
    assert torch.allclose(done, torch.from_numpy((voxels - voxels.mean()) / voxels.std()).float(), atol=1e-5)


def test_what_shrinks_is_averaged_along_every_axis() -> None:
    """Noise on an eighth of each edge: of its SD a fortieth is left, more than a twentieth where one axis is not averaged."""
    noise = np.random.default_rng(0).normal(0, 1, (64, 64, 64)).astype(np.float32)
    done = execute(preprocessing((8, 8, 8), "zscore").steps[:2], scan(noise))
    assert done.std() < 0.04


def test_without_antialiasing_it_is_the_trilinear_interpolation_that_torch_has_and_speckle_stays() -> None:
    noise = np.random.default_rng(0).normal(0, 1, (16, 64, 48)).astype(np.float32)
    done = execute(preprocessing((8, 24, 16), "zscore", antialias=False).steps[:2], scan(noise))
    plain = torch.nn.functional.interpolate(torch.from_numpy(noise)[None, None], (8, 24, 16), mode="trilinear")
    assert torch.allclose(done, plain[0], atol=1e-5)
    assert done.std() > 2 * execute(preprocessing((8, 24, 16), "zscore").steps[:2], scan(noise)).std()


def test_resizing_part_by_part_is_resizing_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    voxels = retina((9, 30, 40))
    whole = execute(preprocessing((4, 10, 12), "zscore").steps, scan(voxels))
    monkeypatch.setattr(transforms, "_TOGETHER", 30 * 40 * 2)
    assert torch.equal(execute(preprocessing((4, 10, 12), "zscore").steps, scan(voxels)), whole)


def test_a_linear_ramp_stays_one() -> None:
    ramp = np.broadcast_to(np.arange(60.0, dtype=np.float32)[None, :, None], (6, 60, 6))
    done = execute(preprocessing((6, 20, 6), "unit").steps[:2], scan(ramp))[0, 0, :, 0]
    assert torch.allclose(done[2:-2], torch.arange(20.0)[2:-2] * 3 + 1, atol=1e-3)


def test_volumes_that_somebody_wants_predicted_are_found(tmp_path: Path) -> None:
    one, two = tmp_path / "1001" / "a.dcm", tmp_path / "1002" / "b.npy"
    write_dicom(one, retina())
    two.parent.mkdir()
    np.save(two, retina())
    (tmp_path / "notes.txt").write_text("x")
    found = find_inputs(tmp_path, lambda name: name.partition("/")[0])
    assert [(case.id, case.patient) for case in found.cases] == [("1001/a", "1001"), ("1002/b", "1002")]
    assert found.cases[0].files == (one,) and not found.problems
    assert find_inputs(one).cases[0].files == (one,) and find_inputs(one).cases[0].id == "a"
    table = tmp_path / "list.tsv"
    table.write_text("id\tpath\tpatient\tlabel\nx\t1001/a.dcm\tP\thealthy\ny\tgone.dcm\t\t\nz\tnotes.txt\t\t\n")
    listed = find_inputs(table)
    assert [(case.id, case.patient) for case in listed.cases] == [("x", "P")] and listed.labels == {"x": "healthy"}
    assert "no such file" in listed.problems["y"] and "no file of a volume" in listed.problems["z"]
    with pytest.raises(DataError, match="no such file or folder"):
        find_inputs(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.txt").write_text("x")
    with pytest.raises(DataError, match="no volume in it; read are .dcm"):
        find_inputs(tmp_path / "empty")
