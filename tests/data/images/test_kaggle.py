import json
import shlex
import zlib
from collections import Counter
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from medexp.data.images.kaggle import find_kaggle, left_aside, read_kaggle, split_kaggle
from medexp.errors import ConfigError, DataError
from tests.configured import configured
from tests.data.images.small_images import LEGACY, Bomb, an_image, an_image_fact, kaggle_folder, pixels, write_picture

PATTERN = r"^(BraTS-[A-Za-z]+-\d+)-\d+$"


def test_images_of_both_classes_are_found_in_folders_of_any_case(tmp_path):
    write_picture(tmp_path / "YES" / "Y1.JPG")
    write_picture(tmp_path / "YES" / "Y1.png")
    write_picture(tmp_path / "No" / "1 no.jpeg")
    for name in ("Thumbs.db", ".DS_Store", "._Y1.JPG", "notes.txt"):
        (tmp_path / "YES" / name).write_text("")
    (tmp_path / "YES" / "folder.png").mkdir()
    (tmp_path / "other").mkdir()
    found = find_kaggle(tmp_path, PATTERN)
    assert [(image.id, image.label) for image in found] == [("no-1 no.jpeg", 0), ("yes-Y1.JPG", 1), ("yes-Y1.png", 1)]
    assert all(image.patient == image.scan == image.id and image.source == "kaggle" for image in found)


def test_names_that_tell_of_a_patient(tmp_path):
    for name in ("BraTS-GLI-00001-000.png", "BraTS-GLI-00001-001_slice_007.png", "P7_slice_001.png", "P7_slice_002.png"):
        write_picture(tmp_path / "yes" / name)
    write_picture(tmp_path / "no" / "N.png")
    patients = [image.patient for image in find_kaggle(tmp_path, PATTERN)]
    assert patients == ["no-N.png", "BraTS-GLI-00001", "BraTS-GLI-00001", "P7", "P7"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda root: None,
            ["No Kaggle data found in kaggle_dir", "no such folder", "kaggle_dir=FOLDER with the folders yes/"],
        ),
        (lambda root: root.mkdir(), ["No Kaggle data found", "neither yes/ nor no/ in it", "kaggle_dir=FOLDER"]),
        (lambda root: kaggle_folder(root / "brain_tumor_dataset"), ["did you mean kaggle_dir=", "brain_tumor_dataset?"]),
        (
            lambda root: write_picture(root / "yes" / "a.png"),
            ["class no: no folder no/; found yes/ (1 pictures); telling apart takes both classes"],
        ),
        (lambda root: (write_picture(root / "yes" / "a.png"), (root / "no").mkdir()), ["class no: no image in no/"]),
        (
            lambda root: [(root / name).mkdir(parents=True) for name in ("yes", "no")],
            ["2 problems", "no image in yes/", "no image in no/"],
        ),
        (
            lambda root: (write_picture(root / "yes" / "a.png"), write_picture(root / "no" / "b.bmp")),
            ["class no: no image in no/, only .bmp", "JPEG, PNG or npz"],
        ),
        (
            lambda root: (kaggle_folder(root), write_picture(root / "YES" / "a.png")),
            ["class yes: 2 folders (YES, yes); keep one"],
        ),
    ],
)
def test_a_folder_that_cannot_be_used(tmp_path, make, words):
    make(tmp_path / "set")
    with pytest.raises(DataError) as error:
        find_kaggle(tmp_path / "set", PATTERN)
    for expected in (str(tmp_path / "set"), *words):
        assert expected in str(error.value)


KINDS = {"no": ("no_tumor",), "yes": ("glioma_tumor", "meningioma_tumor")}


def kinds_folder(root: Path) -> Path:
    """Folders as sets of several kinds of tumour have them, each with a picture of the same name."""
    for name in ("glioma_tumor", "meningioma_tumor", "No_Tumor", "pituitary [3]"):
        write_picture(root / name / "image(1).jpg")
    return root


def test_folders_of_other_names_are_listed_and_can_be_named(tmp_path):
    """What the message says can be given as it stands."""
    with pytest.raises(DataError) as error:
        find_kaggle(kinds_folder(tmp_path), PATTERN)
    said = str(error.value)
    assert "neither yes/ nor no/ in it; found No_Tumor/ (1 pictures), glioma_tumor/ (1 pictures), " in said
    typed = shlex.split(said[said.index("-P ") :])[1]
    given = configured("phase2_2", dict([typed.split("=", 1)])).data.classes
    assert given == {"no": ("No_Tumor",), "yes": ("glioma_tumor", "meningioma_tumor", "pituitary [3]")}
    found = find_kaggle(tmp_path, PATTERN, given)
    assert [image.label for image in found] == [1, 1, 0, 1] and len({image.id for image in found}) == 4


def test_a_folder_of_no_class_and_pictures_beside_them_are_told(tmp_path):
    write_picture(kinds_folder(tmp_path) / "a.png")
    write_picture(tmp_path / "__MACOSX" / "no_tumor" / "._a.png")
    assert len(find_kaggle(tmp_path, PATTERN, KINDS)) == 3
    (tmp_path / "No_Tumor" / "gone.png").symlink_to("nowhere.png")
    (gone, folder, beside) = left_aside(tmp_path, KINDS)
    assert gone["reason"] == "not read (a link whose target is gone; JPEG, PNG and npz are)"
    assert folder["reason"] == "folder pituitary [3]/, which data.classes does not name; pictures in it: 1"
    assert (beside["case"], beside["reason"]) == ("a.png", "beside the folders of the classes, in none")


def test_a_class_of_which_a_folder_is_missing(tmp_path):
    with pytest.raises(DataError, match=r"class yes: no folder glioma/; found No_Tumor/ \(1 pictures\)"):
        find_kaggle(kinds_folder(tmp_path), PATTERN, {"no": ("no_tumor",), "yes": ("glioma", "meningioma_tumor")})


def test_folders_one_level_below(tmp_path):
    for name in ("Training", "Testing"):
        kinds_folder(tmp_path / name)
    write_picture(tmp_path / "Training" / "glioma_tumor" / "image(2).jpg")
    with pytest.raises(DataError) as error:
        find_kaggle(tmp_path, PATTERN)
    assert f"did you mean kaggle_dir={tmp_path / 'Training'}?" in str(error.value)
    assert '-P "data.classes={no: [No_Tumor], yes: [glioma_tumor, ' in str(error.value)


@pytest.mark.parametrize(
    "classes",
    [
        "{no: [no]}",
        "{no: [a], yes: [b], other: [c]}",
        "{no: [], yes: [b]}",
        "{no: [a], yes: [b, A]}",
        "{no: [a/b], yes: [c]}",
    ],
)
def test_classes_that_are_none(classes):
    with pytest.raises(ConfigError, match=r"data.classes: found .* there are these two classes"):
        configured("phase2_2", {"data.classes": classes})


def test_classes_of_a_file(tmp_path):
    """yes and no are no truth values there, and 0 is a name where it is one."""
    (tmp_path / "c.yaml").write_text("data:\n  classes: {no: ['0'], yes: ['1', 07_x]}\n")
    assert configured("phase2_2", config=tmp_path / "c.yaml").data.classes == {"no": ("0",), "yes": ("1", "07_x")}
    assert configured("phase2_2", {"data.classes": "{no: [0], yes: [1]}"}).data.classes == {"no": ("0",), "yes": ("1",)}


def test_a_pattern_that_names_no_patient(tmp_path):
    with pytest.raises(ConfigError, match="data.patient_pattern"):
        find_kaggle(kaggle_folder(tmp_path), "P")


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "I;16"])
def test_every_mode_of_a_png_gives_the_same_grey(tmp_path, mode):
    grey = pixels(1)
    image = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    image.save(tmp_path / "a.png")
    found, patient, _ = read_kaggle(tmp_path / "a.png")
    assert found.dtype == np.float32 and patient is None
    np.testing.assert_array_equal(found, grey.astype(np.float32))


def test_colours_are_weighted_and_what_is_transparent_is_black(tmp_path):
    colours = np.zeros((20, 20, 4), np.uint8)
    colours[..., 3] = 255
    colours[:10, :10, 0] = colours[:10, 10:, 1] = colours[10:, :10, 2] = colours[10:, 10:, 0] = 255
    colours[10:, 10:, 3] = 0
    Image.fromarray(colours).save(tmp_path / "a.png")
    found, *_ = read_kaggle(tmp_path / "a.png")
    assert [found[0, 0], found[0, 19], found[19, 0], found[19, 19]] == [76, 150, 29, 0]
    transparent = Image.fromarray(pixels(1)).convert("P")
    transparent.save(tmp_path / "p.png", transparency=int(np.asarray(transparent)[5, 5]))
    assert read_kaggle(tmp_path / "p.png")[0][5, 5] == 0


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_every_mode_of_a_jpeg_is_read(tmp_path, mode):
    ramp = np.tile(np.arange(0, 256, 4, np.uint8), (64, 1))
    Image.fromarray(ramp).convert("RGB").convert(mode).save(tmp_path / "a.jpg", quality=95)
    found, *_ = read_kaggle(tmp_path / "a.jpg")
    np.testing.assert_allclose(found, ramp, atol=6)


def test_black_and_white(tmp_path):
    Image.fromarray(pixels(1)).convert("1").save(tmp_path / "a.png")
    assert set(np.unique(read_kaggle(tmp_path / "a.png")[0])) == {0, 255}


def test_a_camera_that_was_held_askew(tmp_path):
    image = Image.fromarray(pixels(1, (40, 30)))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise by a quarter
    image.save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_kaggle(tmp_path / "a.png")[0], np.rot90(pixels(1, (40, 30)), -1))


def turned(suffix: str, changes: dict[int, int]) -> bytes:
    """A picture with EXIF data, of which the bytes at some places are changed, saved with Pillow."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x011A] = 6, "a head", 72.0  # a quarter turn, a description, dots per inch
    block = bytearray(exif.tobytes())
    for place, value in changes.items():
        block[place % len(block)] = value
    content = BytesIO()
    Image.fromarray(pixels(1, (40, 30))).save(content, "PNG" if suffix == ".png" else "JPEG", exif=bytes(block))
    return content.getvalue()


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize(
    ("place", "value", "kind"), [(9, 0, "SyntaxError"), (17, 0, "error"), (17, 26, "TypeError"), (41, 13, "AttributeError")]
)
def test_exif_data_that_pillow_cannot_read(tmp_path, suffix, place, value, kind):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(turned(suffix, {place: value}))
    with pytest.raises(DataError, match=rf"^a{suffix}: its EXIF data is damaged, .* save it turned right .* \({kind}: "):
        read_kaggle(path)
    path.write_bytes(turned(suffix, {}))
    assert read_kaggle(path)[0].shape == (30, 40)


def truncated(path: Path) -> None:
    path.write_bytes(write_picture(path).read_bytes()[:-300])


def bomb(path: Path, side: int = 30_000) -> None:
    """A PNG of a few bytes that claims many pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4) + kind + body + zlib.crc32(kind + body).to_bytes(4)

    header = side.to_bytes(4) * 2 + bytes((8, 0, 0, 0, 0))
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("a.png", lambda path: path.write_bytes(b""), "a.png: unreadable or no JPEG or PNG"),
        ("a.jpg", lambda path: path.write_text("this is no picture"), "a.jpg: unreadable or no JPEG or PNG"),
        ("a.png", truncated, "a.png: unreadable or no JPEG or PNG (OSError: "),
        ("a.png", bomb, "a.png: unreadable or no JPEG or PNG (DecompressionBombError"),
        ("a.png", lambda path: bomb(path, 10_000), "a.png: unreadable or no JPEG or PNG (DecompressionBombWarning"),
        ("a.png", lambda path: Image.new("L", (20, 20)).save(path, "GIF"), "a.png: unreadable or no JPEG or PNG"),
        ("a.png", lambda path: Image.new("L", (1, 1), 9).save(path), "a.png: 1 x 1 pixels; at least 16 a side"),
        ("a.png", lambda path: Image.fromarray(pixels(1, (40, 15))).save(path), "a.png: 15 x 40 pixels"),
        ("a.png", lambda path: Image.new("RGB", (40, 40), "white").save(path), "a.png: a constant image, every pixel is 255"),
        ("a.npz", lambda path: path.write_text("this is no archive"), "a.npz: unreadable or truncated"),
        ("a.npz", lambda path: np.savez(path, picture=pixels()), "a.npz: no array 'image'"),
        ("a.npz", lambda path: np.savez(path, image=np.zeros((40, 32, 3))), "'image' has the shape (40, 32, 3)"),
        ("a.npz", lambda path: np.savez(path, image=np.full((40, 32), np.nan)), "'image' has values that are NaN"),
        ("a.npz", lambda path: np.savez(path, image=np.ones((40, 32))), "a.npz: a constant image, every pixel is 1"),
        ("a.npz", lambda path: np.savez(path, image=pixels(), label=0), "a.npz: its label is 0, that of its folder 1"),
        ("a.npz", lambda path: np.savez(path, image=pixels(), label="no"), "its label is 'no', that of its folder 1"),
        ("a.npz", lambda path: np.savez(path, image=pixels(), label=[1, 1]), "its label is [1, 1], that of its folder 1"),
        ("a.npz", lambda path: np.savez(path, image=pixels(), metadata='{"label": 0}'), "its label is 0"),
        ("a.npz", lambda path: np.savez(path, image=pixels(), metadata="x"), "its metadata is no JSON object"),
        ("a.npz", lambda path: np.savez(path, label=0, metadata="x"), "3 problems"),
    ],
)
def test_an_image_that_cannot_be_used(tmp_path, name, make, words):
    make(tmp_path / name)
    with pytest.raises(DataError) as error:
        read_kaggle(tmp_path / name, 1)
    assert words in str(error.value)


def test_npz_with_and_without_label_and_metadata(tmp_path):
    path = tmp_path / "a.npz"
    for content, patient in (
        ({}, None),
        ({"label": 1}, None),
        ({"metadata": json.dumps({"label": 1, "patient": "P5"})}, "P5"),
        ({"metadata": np.array(LEGACY, object)}, None),
    ):
        for image in (pixels(), pixels()[None].astype(np.float64)):
            np.savez(path, image=image, **content)
            found, whose, _ = read_kaggle(path, 1)
            np.testing.assert_array_equal(found, pixels())
            assert found.dtype == np.float32 and whose == patient


@pytest.mark.parametrize("name", ["image", "label", "metadata"])
def test_a_pickle_bomb_never_goes_off(tmp_path, name):
    mark = tmp_path / "boom"
    np.savez(tmp_path / "a.npz", **({"image": pixels()} | {name: np.array([Bomb(mark)], object)}))
    if name == "image":
        with pytest.raises(DataError, match="'image' is a pickle, which is not opened"):
            read_kaggle(tmp_path / "a.npz", 1)
    else:
        read_kaggle(tmp_path / "a.npz", 1)
    assert not mark.exists()


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@given(
    place=st.floats(0, 1),
    value=st.integers(0, 255),
    keep=st.one_of(st.just(1.0), st.floats(0.3, 1)),
    exif=st.dictionaries(st.integers(6, 71), st.integers(0, 255), max_size=3),
    suffix=st.sampled_from([".png", ".jpg"]),
)
def test_a_damaged_picture_is_read_or_refused(tmp_path_factory, place, value, keep, exif, suffix):
    path = tmp_path_factory.mktemp("damaged") / f"a{suffix}"
    content = bytearray(turned(suffix, exif))
    content[int(place * (len(content) - 1))] = value
    path.write_bytes(content[: int(keep * len(content))])
    try:
        read_kaggle(path)
    except DataError as error:
        assert path.name in str(error)


def a_set(no=98, yes=155):
    images = [
        an_image(f"{name}-{n:03d}", label=label) for name, label, c in (("no", 0, no), ("yes", 1, yes)) for n in range(c)
    ]
    return images, [an_image_fact(image.id, label=image.label or 0) for image in images]


def sizes(splits, name):
    return tuple(sum(case.startswith(name) for case in part) for part in (splits.train, splits.val, splits.test))


def test_the_real_sets_sizes():
    splits, dropped = split_kaggle(*a_set(), 0.15, 0.15, 42)
    assert sizes(splits, "no") == (68, 14, 16) and sizes(splits, "yes") == (108, 23, 24)
    assert dropped == {}
    assert split_kaggle(*a_set(), 0.15, 0.15, 42)[0] == splits
    assert split_kaggle(*a_set(), 0.15, 0.15, 43)[0] != splits


@pytest.mark.parametrize(
    ("count", "wanted"),
    [(2, (1, 1, 0)), (3, (1, 1, 1)), (4, (2, 1, 1)), (7, (4, 1, 2)), (10, (7, 1, 2)), (20, (14, 3, 3)), (100, (70, 15, 15))],
)
def test_floors_and_at_least_one_each(count, wanted):
    splits, _ = split_kaggle(*a_set(no=count, yes=10), 0.15, 0.15, 0)
    assert sizes(splits, "no") == wanted
    assert sizes(split_kaggle(*a_set(no=count, yes=10), 0.15, 0.0, 0)[0], "no")[2] == 0


def test_floors_are_of_the_fractions_as_they_are_written():
    assert sizes(split_kaggle(*a_set(no=100, yes=10), 0.29, 0.0, 0)[0], "no") == (71, 29, 0)  # 0.29 * 100 is 28.999...
    assert sizes(split_kaggle(*a_set(no=100, yes=10), 0.35, 0.07, 0)[0], "no") == (58, 35, 7)


def test_duplicates_are_taken_out():
    images, facts = a_set(no=6, yes=6)
    same = {"yes-003": "a", "yes-001": "a", "yes-005": "a", "no-000": "b", "no-004": "b", "no-002": "c", "yes-002": "c"}
    facts = [an_image_fact(fact.case, same.get(fact.case), fact.label) for fact in facts]
    splits, dropped = split_kaggle(images, facts, 0.15, 0.15, 0)
    assert dropped == {
        "yes-003": "exact duplicate of yes-001",
        "yes-005": "exact duplicate of yes-001",
        "no-004": "exact duplicate of no-000",
        "no-002": "under both labels, an exact duplicate of yes-002",
        "yes-002": "under both labels, an exact duplicate of no-002",
    }
    kept = {*splits.train, *splits.val, *splits.test}
    assert kept == {image.id for image in images} - set(dropped)


def test_a_class_that_cannot_be_split():
    with pytest.raises(DataError, match="class yes: 1 patients. Training and validation take one each: add images"):
        split_kaggle(*a_set(no=9, yes=1), 0.15, 0.15, 0)
    images, facts = a_set(no=2, yes=2)
    facts = [an_image_fact(fact.case, fact.case.split("-")[0], fact.label) for fact in facts]
    with pytest.raises(DataError, match="2 problems[^$]*class no: 1 patients once duplicates are taken out"):
        split_kaggle(images, facts, 0.15, 0.15, 0)


@st.composite
def sets(draw):
    """Images of some patients, of both classes, some of them exact duplicates."""
    images, facts = [], []
    for number in range(draw(st.integers(4, 60))):
        label = draw(st.integers(0, 1))
        image = an_image(f"i{number:02d}", f"p{draw(st.integers(0, 40))}", label)
        images.append(image)
        facts.append(an_image_fact(image.id, f"v{draw(st.integers(0, 80))}", label))
    return images, facts


@given(data=sets(), val=st.floats(0.01, 0.5), test=st.floats(0, 0.45), seed=st.integers(0, 2**32 - 1), mix=st.randoms())
def test_no_patient_and_no_duplicate_is_ever_in_two_splits(data, val, test, seed, mix):
    images, facts = data
    try:
        splits, dropped = split_kaggle(images, facts, val, test, seed)
    except DataError as error:
        assert "take one each" in str(error)
        return
    parts = {name: set(getattr(splits, name)) for name in ("train", "val", "test")}
    assert sum(map(len, parts.values())) + len(dropped) == len(images)
    assert set.union(*parts.values()) | set(dropped) == {image.id for image in images}
    split_of = {case: name for name, part in parts.items() for case in part}
    kept = [image for image in images if image.id in split_of]
    voxels = {fact.case: fact.voxels_sha256 for fact in facts}
    assert len({voxels[image.id] for image in kept}) == len(kept), "no duplicate is left"
    labels = {image.id: image.label for image in images}
    for same in {voxels[image.id] for image in images}:
        of_it = [case for case in voxels if voxels[case] == same]
        left = [case for case in of_it if case in split_of]
        assert left == (sorted(of_it)[:1] if len({labels[case] for case in of_it}) == 1 else [])
    where = {(image.patient, split_of[image.id]) for image in kept}
    assert len(where) == len({patient for patient, _ in where})
    owner = {image.id: image.patient for image in images}
    splits_of = dict(where)
    for same in {voxels[image.id] for image in images}:
        sharing = {owner[case] for case in voxels if voxels[case] == same}
        assert len({splits_of[patient] for patient in sharing if patient in splits_of}) <= 1, "they may be one patient"
    owners = Counter(patient for patient, _ in where)
    single = all(len({image.label for image in kept if image.patient == patient}) == 1 for patient in owners)
    for label in (0, 1) if single else ():
        counts = Counter(split_of[image.id] for image in kept if image.label == label)
        assert counts["train"] and counts["val"]
    shuffled = mix.sample(images, len(images)), mix.sample(facts, len(facts))
    assert split_kaggle(*shuffled, val, test, seed) == (splits, dropped)
