"""OCT files: what is in them comes out, in the order of the positions; what is no volume is refused in a line."""

import io
import pickle
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.filewriter import dcmwrite
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    MPEG4HP41,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    RLELossless,
)

from medexp.data.oct.readers import contradictions, read_scan
from medexp.errors import DataError
from tests.data.oct.small_scans import SHAPE, item, retina, write_dicom

VOXELS = retina()
ORDER = [3, 1, 0, 2, 7, 6, 5, 4]
FRAMES = range(len(VOXELS))


def test_a_dicom_file_is_read_with_what_it_says(tmp_path: Path) -> None:
    scan = read_scan(write_dicom(tmp_path / "a.dcm", VOXELS))
    assert scan.voxels.dtype == np.uint8 and np.array_equal(scan.voxels, VOXELS)
    assert scan.spacing_mm == (0.047, 0.0026, 0.012) and (scan.laterality, scan.device) == ("R", "Maestro2")
    said = {"frames": 8, "rows": 24, "columns": 20, "format": "DICOM", "device": "Maestro2", "bits": 8, "spacing rows": 0.0026}
    assert said.items() <= scan.header.items()
    assert "Somebody" not in str(scan.header) and "1001" not in str(scan.header)


@pytest.mark.parametrize(
    "where",
    [
        {"positions": [[0, 0, 0.05 * index] for index in ORDER]},
        {"positions": [[0, 3, 0.05 * index] for index in ORDER], "planes": [[1, 0, 0, 0, 1, 0]] * 8},
        {"lines": [[10 * index, 5, 10 * index, 700] for index in ORDER]},
        {"lines": [[5, 10 * index, 700, 10 * index] for index in ORDER]},
        {"frames": [{"FrameContentSequence": item(InStackPositionNumber=index + 1)} for index in ORDER]},
    ],
    ids=["positions", "normal", "rows of the fundus", "columns of the fundus", "numbers"],
)
def test_frames_come_in_the_order_of_their_positions(tmp_path: Path, where: Any) -> None:
    assert np.array_equal(read_scan(write_dicom(tmp_path / "a.dcm", VOXELS[ORDER], **where)).voxels, VOXELS)


def test_a_scan_that_runs_backwards_is_turned(tmp_path: Path) -> None:
    there = [[0, 0, -0.11 * index] for index in FRAMES]
    scan = read_scan(write_dicom(tmp_path / "a.dcm", VOXELS, positions=there))
    assert np.array_equal(scan.voxels, VOXELS[::-1]) and scan.spacing_mm[0] == pytest.approx(0.11)
    forth = read_scan(write_dicom(tmp_path / "a.dcm", VOXELS[::-1], positions=there[::-1]))
    assert np.array_equal(forth.voxels, VOXELS[::-1])


@given(st.permutations(list(FRAMES)))
def test_any_order_of_frames_is_undone(tmp_path_factory: pytest.TempPathFactory, order: list[int]) -> None:
    path = tmp_path_factory.getbasetemp() / "shuffled.dcm"
    write_dicom(path, VOXELS[order], positions=[[0, 0, 0.05 * index] for index in order])
    assert np.array_equal(read_scan(path).voxels, VOXELS)


@given(st.permutations(list(FRAMES)), st.integers(2, 3))
def test_repeats_of_every_place_stay_beside_each_other_and_are_told(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], times: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "repeated.dcm"
    every = [*order] * times  # the whole retina again, as angiography is stored
    scan = read_scan(write_dicom(path, VOXELS[every], positions=[[0, 0, 0.05 * index] for index in every]))
    assert np.array_equal(scan.voxels, np.repeat(VOXELS, times, axis=0)) and scan.spacing_mm[0] == pytest.approx(0.05)
    assert scan.frames == f"its {8 * times} frames lie in 8 places (ImagePositionPatient), {times} in each, as repeats do"


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ({"positions": [[0, 0, 0.05 * index] for index in ORDER]}, ""),
        ({"positions": [[0, 0, 0.047 * index + 0.004 * (index % 2)] for index in FRAMES]}, ""),
        (
            {"positions": [[0, 0, 0]] * 8},
            "its header puts all 8 frames in one place (ImagePositionPatient); they are taken by their numbers in the stack",
        ),
        (
            {"positions": [[0, 0, 0.05 * index] for index in (0, 1, 2, 3, 6, 7, 8, 9)]},
            "its frames 4 and 5 lie 3.0 times as far apart as others (ImagePositionPatient), as where B-scans are missing",
        ),
        (
            {"frames": [{"FrameContentSequence": item(InStackPositionNumber=n)} for n in (1, 2, 3, 4, 5, 7, 8, 9)]},
            "its frames 5 and 6 lie 2.0 times as far apart as others (InStackPositionNumber), as where B-scans are missing",
        ),
        (
            {"frames": [{"FrameContentSequence": item(InStackPositionNumber=n)} for n in (1, 1, 2, 2, 3, 3, 4, 4)]},
            "its 8 frames lie in 4 places (InStackPositionNumber), 2 in each, as repeats do",
        ),
        (
            {"lines": [[n, 5, n, 700] for n in (100, 101, 102, 102, 103, 104, 105, 106)]},
            "its 8 frames lie in 7 places (ReferenceCoordinates), which are rounded to 1",
        ),
        (
            {
                "lines": [[n, 5, n, 700] for n in (100, 101, 102, 102, 103, 104, 105, 106)],
                "positions": [[0, 0, 0.05 * index] for index in FRAMES],
            },
            "",
        ),
        ({"frames": [{"FrameContentSequence": item(StackID=str(n), InStackPositionNumber=1)} for n in FRAMES]}, ""),
    ],
    ids=["even", "jitter", "one place", "gap", "number", "numbers twice", "rounded", "rounded and not", "stacks of one"],
)
def test_frames_that_do_not_lie_side_by_side_are_told(tmp_path: Path, where: Any, told: str) -> None:
    """Not refused: nothing is wrong with such files, and an encoder may have been pretrained on the like."""
    assert read_scan(write_dicom(tmp_path / "a.dcm", VOXELS, **where)).frames == told


@pytest.mark.parametrize("kind", ["lines", "planes"])
def test_a_radial_scan_is_no_volume(tmp_path: Path, kind: str) -> None:
    angles = np.linspace(0, np.pi, len(VOXELS), endpoint=False)
    turned: dict[str, Any] = {
        "lines": [
            [384 - 300 * np.sin(a), 384 - 300 * np.cos(a), 384 + 300 * np.sin(a), 384 + 300 * np.cos(a)] for a in angles
        ],
        "planes": [[round(np.cos(a), 6), 0, round(np.sin(a), 6), 0, 1, 0] for a in angles],
    }
    with pytest.raises(DataError, match=r"a.dcm: is a radial scan, no volume: .* by 90 degrees"):
        read_scan(write_dicom(tmp_path / "a.dcm", VOXELS, **{kind: turned[kind]}))


def test_values_are_rescaled_for_all_or_for_each_frame(tmp_path: Path) -> None:
    both = item(RescaleSlope=0.5, RescaleIntercept=-3, RescaleType="US")
    scan = read_scan(write_dicom(tmp_path / "a.dcm", VOXELS, shared={"PixelValueTransformationSequence": both}))
    assert scan.voxels.dtype == np.float32 and np.allclose(scan.voxels, VOXELS * 0.5 - 3)
    each = [
        {"PixelValueTransformationSequence": item(RescaleSlope=1 + index, RescaleIntercept=0, RescaleType="US")}
        for index in FRAMES
    ]
    scan = read_scan(write_dicom(tmp_path / "a.dcm", VOXELS, frames=each))
    assert np.allclose(scan.voxels, VOXELS * np.arange(1.0, 9)[:, None, None])
    scan = read_scan(write_dicom(tmp_path / "a.dcm", VOXELS, RescaleSlope=2, RescaleIntercept=1))
    assert np.allclose(scan.voxels, VOXELS * 2.0 + 1)


def test_sixteen_bits_signs_and_inverted_grey(tmp_path: Path) -> None:
    wide = VOXELS.astype(np.uint16) * 100
    assert np.array_equal(read_scan(write_dicom(tmp_path / "a.dcm", wide)).voxels, wide)
    signed = VOXELS.astype(np.int16) - 100
    assert np.array_equal(read_scan(write_dicom(tmp_path / "a.dcm", signed)).voxels, signed)
    inverted = write_dicom(tmp_path / "a.dcm", 255 - VOXELS, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(read_scan(inverted).voxels, VOXELS)
    both = write_dicom(tmp_path / "a.dcm", -1 - signed, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(read_scan(both).voxels, signed), "of 16 bits with a sign none stands for 65535"


@settings(max_examples=40, deadline=None)
@given(bits=st.integers(8, 16), signed=st.booleans(), inverted=st.booleans(), big=st.booleans(), others=st.booleans())
def test_values_are_the_same_however_they_are_stored(tmp_path_factory, bits, signed, inverted, big, others):
    """12 bits in 16, in either order of bytes, with or without a sign, with something else in the bits above."""
    lowest = -(2 ** (bits - 1)) if signed else 0
    values = (VOXELS.astype(np.int64) << (bits - 8)) + lowest
    stored = (2 * lowest + 2**bits - 1 - values if inverted else values) & (2**bits - 1)
    stored |= 1 << 15 if others and bits < 16 else 0
    path = write_dicom(
        tmp_path_factory.getbasetemp() / "stored.dcm",
        stored.astype(np.uint16),
        BitsStored=bits,
        HighBit=bits - 1,
        PixelRepresentation=int(signed),
        PhotometricInterpretation="MONOCHROME1" if inverted else "MONOCHROME2",
    )
    if big:
        dataset = dcmread(path)
        dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        dataset.PixelData = stored.astype(">u2").tobytes()
        dcmwrite(path, dataset, implicit_vr=False, little_endian=False, force_encoding=True)
    assert np.array_equal(read_scan(path).voxels, values)


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
def test_padding_that_the_header_names_is_dark(tmp_path: Path, dtype: Any, inverted: bool) -> None:
    """Of one value or of a range, above or below the retina, rescaled or not; the darkest of the rest is not hidden by it."""
    grey = {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"} if inverted else {}
    outside = np.zeros(SHAPE, bool)
    outside[:, :3], outside[2:5, :, :4] = True, True
    darkest = VOXELS[~outside].min()
    top, turned = (2**16 - 1, dtype == np.uint16) if inverted else (0, False)
    stored = (top - VOXELS.astype(np.int64) if turned else -1 - VOXELS.astype(np.int64) if inverted else VOXELS).astype(dtype)
    for low, high in ((999, 999), (-2000 if dtype == np.int16 else 63536, None), (30_000, 30_010)):
        padded = np.where(outside, low, stored).astype(dtype)
        padded[0, 0, :2] = low if high is None else high
        values = {"PixelPaddingValue": low} | ({} if high is None else {"PixelPaddingRangeLimit": high})
        scan = read_scan(write_dicom(tmp_path / "a.dcm", padded, **values, **grey))
        assert np.array_equal(scan.voxels, np.where(outside, darkest, VOXELS))
        scaled = read_scan(write_dicom(tmp_path / "a.dcm", padded, RescaleSlope=2, RescaleIntercept=-7, **values, **grey))
        difference = scan.voxels * 2.0 - scaled.voxels
        assert np.ptp(difference) < 1e-2
    ends = np.iinfo(dtype)
    with pytest.raises(DataError, match="all values are"):
        read_scan(write_dicom(tmp_path / "a.dcm", padded, PixelPaddingValue=ends.min, PixelPaddingRangeLimit=ends.max, **grey))


def test_what_a_file_does_not_say_is_none(tmp_path: Path) -> None:
    bare = write_dicom(
        tmp_path / "a.dcm", VOXELS, SharedFunctionalGroupsSequence=None, ImageLaterality="B", ManufacturerModelName=""
    )
    scan = read_scan(bare)
    assert scan.spacing_mm == (None, None, None) and scan.laterality is None and scan.device is None
    eye = item(FrameLaterality="L", AnatomicRegionSequence=Items([Dataset()]))
    other = write_dicom(tmp_path / "a.dcm", VOXELS, shared={"FrameAnatomySequence": eye}, ManufacturerModelName="Triton plus")
    assert (read_scan(other).laterality, read_scan(other).device) == ("L", "Triton")


def compressed(path: Path, frames: list[bytes], syntax: Any) -> Path:
    dataset = dcmread(write_dicom(path, VOXELS))
    dataset.PixelData = encapsulate(frames)
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(path)
    return path


def jpeg2000(frame: NDArray[Any]) -> bytes:
    held = io.BytesIO()
    Image.fromarray(frame).save(held, "JPEG2000", irreversible=False, no_jp2=True)
    return held.getvalue()


def test_compressed_frames_are_read(tmp_path: Path) -> None:
    scan = read_scan(compressed(tmp_path / "a.dcm", [jpeg2000(frame) for frame in VOXELS], JPEG2000Lossless))
    assert np.array_equal(scan.voxels, VOXELS) and "JPEG 2000" in str(scan.header["compression"])
    dataset = dcmread(write_dicom(tmp_path / "b.dcm", VOXELS))
    dataset.compress(RLELossless)
    dataset.save_as(tmp_path / "b.dcm")
    assert np.array_equal(read_scan(tmp_path / "b.dcm").voxels, VOXELS)


def test_a_header_with_a_sign_over_a_stream_without_one_is_refused(tmp_path: Path) -> None:
    """pydicom 1149: one of both is wrong, and by the wrong one 128 becomes -128."""
    frames = [jpeg2000(frame) for frame in VOXELS]
    path = compressed(tmp_path / "a.dcm", frames, JPEG2000Lossless)
    dataset = dcmread(path)
    dataset.PixelRepresentation = 1
    dataset.save_as(path)
    with pytest.raises(DataError, match=r"a.dcm: its header says signed values .*, its JPEG 2000 stream unsigned ones"):
        read_scan(path)
    dataset.PixelData = encapsulate([frame[:42] + bytes([frame[42] | 0x80]) + frame[43:] for frame in frames])  # SIZ: signed
    dataset.save_as(path)
    assert np.array_equal(read_scan(path).voxels, VOXELS.astype(np.int16) - 128)


def test_a_compression_that_nothing_reads_is_named_with_what_does(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"JPEG Lossless.*pip install 'pylibjpeg>=[0-9.]+' 'pylibjpeg-libjpeg>=[0-9.]+'$"):
        read_scan(compressed(tmp_path / "a.dcm", [b"x" * 8] * 8, JPEGLosslessSV1))
    with pytest.raises(DataError, match=r"MPEG-4.*; convert it to an uncompressed one$"):
        read_scan(compressed(tmp_path / "a.dcm", [b"x" * 8] * 8, MPEG4HP41))


def pixels_hidden(path: Path) -> Path:
    dataset = dcmread(write_dicom(path, VOXELS))
    del dataset.PixelData
    dataset.EncryptedAttributesSequence = item(EncryptedContent=b"1234")
    dataset.save_as(path)
    return path


def cut(path: Path, share: float) -> Path:
    content = write_dicom(path, VOXELS).read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def deflated(path: Path) -> Path:
    dataset = dcmread(write_dicom(path, VOXELS))
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(path)
    return path


def saved(path: Path, values: Any, **how: Any) -> Path:
    np.save(path, values, **how)
    return path


ENVELOPE = bytes.fromhex("308006092a864886f70d010703a080") + b"\0" * 400
HOLED = VOXELS.astype(np.float32)
HOLED[2, 3, 4] = np.nan
BAD = {
    "nothing.dcm": (lambda path: written(path, b""), "is empty (0 bytes)"),
    "absent.npy": (lambda path: path, "cannot be read (No such file or directory)"),
    "notes.txt": (lambda path: written(path, b"x"), "no file of a volume (.dcm, "),
    "envelope.dcm": (lambda path: written(path, ENVELOPE), "is encrypted (a CMS envelope)"),
    "scrambled.dcm": (lambda path: written(path, bytes(range(256)) * 8), "no DICOM file: DICM does not follow"),
    "hidden.dcm": (pixels_hidden, "its pixels are encrypted"),
    "header.dcm": (lambda path: cut(path, 0.05), "it is cut off or damaged"),
    "half.dcm": (lambda path: cut(path, 0.7), "cannot be read"),
    "last.dcm": (lambda path: cut(path, 0.999), "cannot be read"),
    "photo.dcm": (
        lambda path: write_dicom(path, VOXELS, SOPClassUID="1.2.840.10008.5.1.4.1.1.77.1.5.1"),
        "holds Ophthalmic Photography 8 Bit Image Storage; structural OCT is wanted",
    ),
    "line.dcm": (lambda path: write_dicom(path, VOXELS[:1]), "holds a single B-scan of 24 x 20"),
    "colour.dcm": (
        lambda path: write_dicom(path, VOXELS, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0),
        "is in colour (RGB, 3 samples a pixel)",
    ),
    "both ways.dcm": (
        lambda path: write_dicom(path, VOXELS, PresentationLUTShape="INVERSE"),
        "its header says MONOCHROME2 and a PresentationLUTShape of INVERSE, of which one inverts the grey",
    ),
    "table.dcm": (
        lambda path: write_dicom(path, VOXELS, ModalityLUTSequence=item(ModalityLUTType="US")),
        "its grey is to be looked up in a table (ModalityLUTSequence)",
    ),
    "shifted.dcm": (
        lambda path: write_dicom(path, VOXELS.astype(np.uint16) << 8, BitsStored=12, HighBit=15),
        "its header says 12 bits, the highest of them bit 15 (HighBit), not 11: values lie shifted",
    ),
    "fewer.dcm": (lambda path: write_dicom(path, VOXELS, NumberOfFrames=6), "its header says 6 frames, its pixels are of 8"),
    "unnumbered.dcm": (
        lambda path: write_dicom(path, VOXELS, NumberOfFrames=None),
        "its header says no number of frames (NumberOfFrames), its pixels are of 8",
    ),
    "shared.dcm": (
        lambda path: write_dicom(path, VOXELS, positions=[[0, 0, 0.047 * n] for n in (0, 1, 2, 2, 3, 4, 5, 6)]),
        "2 of its 8 frames share a place (ImagePositionPatient), such as 3 and 4; the others have one each",
    ),
    "numbered.dcm": (
        lambda path: write_dicom(
            path,
            VOXELS,
            frames=[{"FrameContentSequence": item(InStackPositionNumber=n)} for n in (1, 2, 3, 4, 4, 5, 6, 7)],
        ),
        "2 of its 8 frames share a place (InStackPositionNumber), such as 4 and 5; the others have one each",
    ),
    "overlaid.dcm": (
        lambda path: write_dicom(path, VOXELS, lines=[[n, 5, n, 700] for n in (10.5, 21, 31.5, 31.5, 31.5, 42, 52.5, 63)]),
        "3 of its 8 frames share a place (ReferenceCoordinates), such as 3 and 4; the others",
    ),
    "line of the fundus.dcm": (
        lambda path: write_dicom(path, VOXELS, lines=[[300, 5, 300, 700]] * 8),
        "is no volume: all its frames lie on one line of the fundus image (ReferenceCoordinates)",
    ),
    "stacks.dcm": (
        lambda path: write_dicom(
            path,
            VOXELS,
            frames=[{"FrameContentSequence": item(StackID=s, InStackPositionNumber=n)} for s in "12" for n in (1, 2, 3, 4)],
        ),
        "holds 2 stacks of frames (StackID 1, 2), and no position says how these lie",
    ),
    "deflated.dcm": (deflated, "is compressed as a whole (Deflated Explicit VR Little Endian), which is not read"),
    "marked.npy": (
        lambda path: saved(path, np.where(VOXELS < 20, np.finfo(np.float32).max, VOXELS).astype(np.float32)),
        "values are not finite, or beyond 1e+30",
    ),
    "flat.dcm": (lambda path: write_dicom(path, np.full(SHAPE, 7, np.uint8)), "all values are 7"),
    "huge.dcm": (lambda path: write_dicom(path, VOXELS, NumberOfFrames=2_000_000_000), "voxels are more than the 1073741824"),
    "pickle.npy": (lambda path: written(path, pickle.dumps({"a": 1})), "no NPY file; pickles are never read"),
    "objects.npy": (lambda path: saved(path, np.array([{}, 1], object)), "holds Python objects, which are never read"),
    "short.npy": (lambda path: written(path, saved(path, VOXELS).read_bytes()[:-90]), "is cut off or damaged"),
    "nan.npy": (lambda path: saved(path, np.full(SHAPE, np.nan)), "none of its values is finite"),
    "hole.npy": (lambda path: saved(path, HOLED), f"1 of {VOXELS.size} values are not finite"),
    "plane.npy": (lambda path: saved(path, VOXELS[0]), "shape (24, 20); a volume is (D, H, W)"),
    "rgb.npy": (lambda path: saved(path, np.stack([VOXELS] * 3, -1)), "is in colour, shape (8, 24, 20, 3)"),
    "picture.npy": (lambda path: saved(path, np.stack([VOXELS[0]] * 3, -1)), "is one picture in colour, shape (24, 20, 3)"),
    "several.npy": (lambda path: saved(path, np.stack([VOXELS] * 2)), "shape (2, 8, 24, 20); a volume is (D, H, W)"),
    "text.npy": (lambda path: saved(path, np.full(SHAPE, "a")), "whole or real numbers are read"),
    "rows first.npy": (lambda path: saved(path, VOXELS.transpose(1, 0, 2)), "axes seem to be (H, D, W)"),
    "rows last.npy": (lambda path: saved(path, VOXELS.transpose(0, 2, 1)), "axes seem to be (D, W, H)"),
    "text.nii": (lambda path: written(path, b"hello" * 100), "cannot be read as NIfTI"),
    "half.nii.gz": (lambda path: written(path, b"\x1f\x8b" + b"\0" * 40), "cannot be read as NIfTI"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_volume_is_refused_in_a_line(tmp_path: Path, name: str) -> None:
    make, told = BAD[name]
    path = make(tmp_path / name)
    with pytest.raises(DataError) as error:
        read_scan(path)
    assert told in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)


@given(at=st.integers(0, 4000), value=st.integers(0, 255))
def test_a_damaged_byte_ends_in_a_volume_or_in_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, at: int, value: int
) -> None:
    path = write_dicom(tmp_path_factory.getbasetemp() / "damaged.dcm", VOXELS, positions=[[0, 0, 0.1 * i] for i in FRAMES])
    content = bytearray(path.read_bytes())
    content[at % len(content)] = value
    path.write_bytes(bytes(content))
    try:
        assert read_scan(path).voxels.ndim == 3
    except DataError as error:
        assert "\n" not in str(error)


def test_npy_is_taken_as_it_lies(tmp_path: Path) -> None:
    for stored in (VOXELS, VOXELS[None], np.asfortranarray(VOXELS), VOXELS.astype(">u2")):
        scan = read_scan(saved(tmp_path / "a.npy", stored))
        assert np.array_equal(scan.voxels, VOXELS) and scan.voxels.flags.c_contiguous and scan.voxels.dtype.isnative
    assert read_scan(saved(tmp_path / "a.npy", VOXELS / 3)).voxels.dtype == np.float32
    assert scan.spacing_mm == (None, None, None) and scan.header["format"] == "NPY"


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_the_affine_of_a_nifti_file_is_honoured(tmp_path: Path, ending: str) -> None:
    """An array of ITK's order (D, H, W) lies in NIfTI as (W, H, D), axes to the left, into the eye and upward."""
    affine = np.diag([-0.012, -0.0026, 0.05, 1])
    path = tmp_path / f"a{ending}"
    nib.save(nib.Nifti1Image(VOXELS.transpose(2, 1, 0), affine), path)
    scan = read_scan(path)
    assert np.array_equal(scan.voxels, VOXELS) and np.allclose(np.array(scan.spacing_mm, float), (0.05, 0.0026, 0.012))
    turned = tmp_path / f"turned{ending}"
    nib.save(nib.as_closest_canonical(nib.load(path)), turned)
    again = read_scan(turned)
    assert np.array_equal(again.voxels, VOXELS) and np.allclose(np.array(again.spacing_mm, float), (0.05, 0.0026, 0.012))


@pytest.mark.parametrize("affine", [None, np.eye(4)])
def test_an_affine_that_says_nothing_leaves_the_axes_as_they_lie(tmp_path: Path, affine: Any) -> None:
    nib.save(nib.Nifti1Image(VOXELS, affine), tmp_path / "a.nii")
    scan = read_scan(tmp_path / "a.nii")
    assert np.array_equal(scan.voxels, VOXELS) and scan.spacing_mm == (None, None, None)


def test_the_slope_of_a_nifti_file_is_honoured(tmp_path: Path) -> None:
    image = nib.Nifti1Image(VOXELS.astype(np.int16), np.eye(4))
    image.header.set_slope_inter(0.25, -7)
    nib.save(image, tmp_path / "a.nii.gz")
    raw = np.asarray(nib.load(tmp_path / "a.nii.gz").dataobj)
    assert np.allclose(read_scan(tmp_path / "a.nii.gz").voxels, raw)


def test_a_manifest_that_the_file_contradicts_is_told(tmp_path: Path) -> None:
    scan = read_scan(write_dicom(tmp_path / "a.dcm", VOXELS))
    agreed = {"frames": 8.0, "rows": None, "laterality": "R", "device": "Maestro2", "region": "Macula", "source": "m, line 2"}
    assert contradictions(scan, agreed) == [] == contradictions(scan, {"laterality": "L", "device": "Cirrus"})
    assert contradictions(scan, {"device": "a name that nobody knows", "source": "m, line 2"}) == []
    assert contradictions(
        scan, {"frames": 24.0, "rows": 8.0, "laterality": "L", "device": "Cirrus", "source": "m, line 2"}
    ) == [
        "frames: m, line 2 says 24, the file 8",
        "rows: m, line 2 says 8, the file 24",
        "laterality: m, line 2 says L, the file R",
        "device: m, line 2 says Cirrus, the file Maestro2",
    ]
