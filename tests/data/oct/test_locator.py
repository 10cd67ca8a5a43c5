"""From people to keys: all three sites, whole parts of names, manifests first, contradictions told, other scans left out."""

import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medexp.data.oct.locator import Located, locate, parts_of
from medexp.data.oct.manifest import Manifest, find_manifests
from medexp.data.storage import Entry, Folder
from medexp.errors import DataError

PLACE = Folder(Path("/data"))
UID = "2.16.840.1.114517.10.5.1.4.907063120230727170230.1.1"
HEADER = (
    "person_id\tmanufacturer\tmanufacturers_model_name\tanatomic_region\timaging\tlaterality\theight\twidth\tnumber_of_frames"
    "\tpixel_spacing\tslice_thickness\tsop_instance_uid\tfilepath\treference_instance_uid\treference_filepath"
)
STRUCTURAL = "retinal_oct/structural_oct"


def found(keys: Sequence[str], people: Sequence[str], manifest: Manifest | None = None, **more: Any) -> Located:
    return locate(PLACE, [Entry(key, 1, "e") for key in sorted(keys)], people, manifest or Manifest({}), **more)


def row(person: str, path: str, region: str = "Macula, 6 x 6", model: str = "Triton", **values: str) -> str:
    said = {
        "imaging": "OCT",
        "eye": "R",
        "height": "992",
        "width": "512",
        "frames": "256",
        "spacing": "[0.0026, 0.0117]",
        "thickness": "0.0234",
    } | values
    return "\t".join(
        [person, "Maker", model, region, said["imaging"], said["eye"], said["height"], said["width"], said["frames"]]
        + [said["spacing"], said["thickness"], "1.2.3", f"/{path}", "1.2.4", "/retinal_photography/ir/x.dcm"]
    )


def manifest_of(folder: Path, *rows: str, header: str = HEADER) -> Manifest:
    path = folder / "manifest.tsv"
    path.write_text("\r\n".join([header, *rows, ""]), newline="")
    return find_manifests(PLACE, [], [path])


def test_people_of_all_three_sites_have_their_volumes() -> None:
    keys = [
        f"{STRUCTURAL}/{device}/{who}/{who}_{name}_{eye}_{UID}.dcm"
        for who in ("1001", "4001", "7001")
        for device, name in (
            ("topcon_maestro2", "maestro2_3d_macula_oct"),
            ("topcon_triton", "triton_macula_12x12_octa_oct"),
            ("zeiss_cirrus", "cirrus_mac_oct"),
            ("heidelberg_spectralis", "spectralis_ppol_mac_hr_oct_oct"),
        )
        for eye in "lr"
    ]
    located = found(keys, ["1001", "4001", "7001"])
    assert {volume.patient: 8 for volume in located.volumes} == {"1001": 8, "4001": 8, "7001": 8}
    assert len(located.volumes) == 24 and located.missing == () and located.left_out.empty and located.contested.empty
    told = {(volume.known["device"], volume.known["laterality"], volume.known["region"]) for volume in located.volumes}
    assert told == {(device, eye, "macula") for device in ("Maestro2", "Triton", "Cirrus", "Spectralis") for eye in "LR"}
    assert all(volume.id == volume.entry.key[:-4] for volume in located.volumes)


@pytest.mark.parametrize(
    ("key", "who"),
    [
        ("1001/scan.dcm", "1001"),
        ("x/1001_oct.npy", "1001"),
        ("AIREADI-1001/oct.nii.gz", "1001"),
        ("sub-1001_ses-1/oct_od.nii", "1001"),
        ("1001_10_12.dcm", "1001"),
        ("a/1001/b/c/scan.DCM", "1001"),
        ("11001/scan.dcm", None),
        ("10010/scan.dcm", None),
        ("x1001/scan.dcm", None),
        ("1.2.826.0.1.3680043.1001/scan.dcm", None),
        ("scans/1.2.826.1001.5.dcm", None),
        ("2016-10-01/scan.dcm", None),
        ("a/2016_10_01.dcm", None),
        ("20161001/scan.dcm", None),
    ],
)
def test_an_id_is_a_whole_part_of_a_name(key: str, who: str | None) -> None:
    located = found([key], ["1001", "2016", "826"])
    assert [volume.patient for volume in located.volumes] == ([who] if who else [])
    assert [*located.left_out["reason"]] == ([] if who else ["names no participant of the table"])
    assert ("1001" in located.missing) == (who is None)


NAMES = st.text(string.ascii_letters + "_- .", max_size=6)


@settings(max_examples=60)
@given(
    before=NAMES.map("{}_".format),
    after=NAMES.map("-{}".format),
    digits=st.text("0123456789", min_size=1, max_size=3),
    folder=st.booleans(),
)
def test_no_other_number_is_somebodys_id(before: str, after: str, digits: str, folder: bool) -> None:
    ending = "/scan.npy" if folder else ".npy"
    assert [one.patient for one in found([f"{before}4001{after}{ending}"], ["4001"]).volumes] == ["4001"]
    for longer in (f"{digits}4001", f"4001{digits}"):
        assert not found([f"{before}{longer}{after}{ending}"], ["4001"]).volumes


def test_parts_leave_uids_and_dates_out() -> None:
    assert parts_of(f"1001_maestro2_l_{UID}.dcm") == ["1001", "maestro2", "l", "dcm"]
    assert parts_of("7001 2023-07-27 od") == ["7001", "od"]


def test_a_key_of_two_people_is_nobodys(tmp_path: Path) -> None:
    keys = ["1001/1002_oct.dcm", "1001 1002/oct.dcm", "1001/oct.dcm", f"{STRUCTURAL}/1002/a.dcm", f"{STRUCTURAL}/1001/b.dcm"]
    both = [
        row("1001", f"{STRUCTURAL}/1002/a.dcm"),
        row("1001", f"{STRUCTURAL}/1001/b.dcm"),
        row("1002", f"{STRUCTURAL}/1001/b.dcm"),
    ]
    located = found(keys, ["1001", "1002"], manifest_of(tmp_path, *both))
    assert [volume.entry.key for volume in located.volumes] == ["1001/oct.dcm"]
    assert [*located.contested["key"]] == sorted(set(keys) - {"1001/oct.dcm"})
    assert set(located.contested["participant"]) == {"1001 1002"}
    told = dict(zip(located.contested["key"], located.contested["reason"], strict=True))
    assert told[f"{STRUCTURAL}/1002/a.dcm"] == "is of several participants: manifest.tsv, line 2 says 1001; 1001, 1002"
    assert located.missing == ("1002",)


def test_a_manifest_says_more_than_names_do(tmp_path: Path) -> None:
    key = f"{STRUCTURAL}/device/scans/a.dcm"
    manifest = manifest_of(tmp_path, row("7001", key, eye="OS", spacing="Varies by frame", thickness="Not reported"))
    for shown in (key, f"ai-readi/dataset/{key}", "device/scans/a.dcm"):
        (volume,) = found([shown], ["7001"], manifest).volumes
        assert volume.patient == "7001" and volume.known["device"] == "Triton" and volume.known["laterality"] == "L"
        assert volume.known["frames"] == 256 and volume.known["rows"] == 992 and volume.known.get("spacing_mm") is None
    manifest = manifest_of(tmp_path, row("7001", key))
    assert found([key], ["7001"], manifest).volumes[0].known["spacing_mm"] == (0.0234, 0.0026, 0.0117)


@pytest.mark.parametrize("person", ["participant_id", "person_id"])
def test_both_names_of_the_column_are_read(tmp_path: Path, person: str) -> None:
    manifest = manifest_of(tmp_path, row("4001", "x/a.dcm"), header=HEADER.replace("person_id", person))
    assert [volume.patient for volume in found(["x/a.dcm"], ["4001"], manifest).volumes] == ["4001"]


def test_what_is_no_volume_of_the_macula_is_left_out_and_said(tmp_path: Path) -> None:
    listed = {
        "1001/1001_a.dcm": (row("1001", "1001/1001_a.dcm", region="Optic Disc"), "shows Optic Disc"),
        "1001/1001_b.dcm": (
            row("1001", "1001/1001_b.dcm", region="Optic Disc", model="Spectralis", frames="27"),
            "a radial scan around the optic nerve head, no volume",
        ),
        "1001/1001_c.dcm": (
            row("1001", "1001/1001_c.dcm", region="Macula, 20 x 20", model="Spectralis"),
            "20 x 20 mm, of angiography, whose B-scans run backwards",
        ),
        "1001/1001_d.dcm": (row("1001", "1001/1001_d.dcm", imaging="Infrared Reflectance"), "shows Infrared Reflectance"),
        "1001/1001_e.dcm": (row("1001", "1001/1001_e.dcm", region="Wide Field"), "shows Wide Field"),
    }
    named = {
        "1001/1001_spectralis_onh_rc_hr_oct_oct_l_1.2.3.4.dcm": "a radial scan around the optic nerve head, no volume",
        "1001/1001_triton_3d_radial_oct_l.dcm": "a radial scan around the optic nerve head, no volume",
        "1001/1001_cirrus_disc_oct_r.dcm": "shows the optic disc",
        "1001/1001_maestro2_3d_wide_oct_r.dcm": "shows the wide field",
        "1001/1001_spectralis_mac_20x20_hs_octa_oct_r.dcm": "20 x 20 mm, of angiography, whose B-scans run backwards",
        "1001/1001_maestro2_macula_6x6_enface_l.dcm": "an en face image",
        "1001/1001_maestro2_macula_6x6_octa_ir_l.dcm": "a picture of the fundus",
        "retinal_octa/flow_cube/topcon_triton/1001/1001_triton_macula_6x6_octa_flow_cube_r.dcm": "OCT angiography",
        "retinal_photography/cfp/icare_eidon/1001/1001_eidon_mosaic_cfp_l.dcm": "a picture of the fundus",
    }
    taken = [f"{STRUCTURAL}/topcon_maestro2/1001/1001_maestro2_macula_6x6_octa_oct_r_{UID}.dcm", "1001/plain.npy"]
    manifest = manifest_of(tmp_path, *(line for line, _ in listed.values()))
    located = found([*listed, *named, *taken, "1001/notes.txt"], ["1001"], manifest)
    assert sorted(volume.entry.key for volume in located.volumes) == sorted(taken)
    reasons = dict(zip(located.left_out["key"], located.left_out["reason"], strict=True))
    assert reasons == {key: reason for key, (_, reason) in listed.items()} | named
    wide = found([*listed, *named, *taken], ["1001"], manifest, regions=("Macula", "wide field"))
    assert len(wide.volumes) == len(taken) + 2


def test_keys_of_nobody_people_without_keys_and_files_that_are_not_there_are_told(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, row("1001", "x/1001/a.dcm"), row("4001", "x/4001/b.dcm"), row("1001", "x/1001/gone.dcm"))
    located = found(["x/1001/a.dcm", "x/9999/c.dcm", "x/5000/d.dcm"], ["1001", "4001"], manifest, others=["5000"])
    assert located.missing == ("4001",) and [volume.patient for volume in located.volumes] == ["1001"]
    assert [*located.left_out.itertuples(index=False, name=None)] == [
        ("", "x/9999/c.dcm", "names no participant of the table"),
        ("1001", "x/1001/gone.dcm", "manifest.tsv, line 4: there is no such file"),
        ("4001", "x/4001/b.dcm", "manifest.tsv, line 3: there is no such file"),
        ("5000", "x/5000/d.dcm", "of a participant who is left out"),
    ]


def test_two_files_of_one_name_keep_their_endings() -> None:
    assert [one.id for one in found(["1001/a.dcm", "1001/a.npy", "1001/b.npy"], ["1001"]).volumes] == [
        "1001/a.dcm",
        "1001/a.npy",
        "1001/b",
    ]


def test_a_place_without_volumes_is_refused() -> None:
    with pytest.raises(DataError, match="/data: holds no DICOM, NIfTI or NPY file"):
        found(["1001/a.txt"], ["1001"])


def test_manifests_are_found_among_the_data_and_above_them(tmp_path: Path) -> None:
    text = "\n".join([HEADER, row("1001", "retinal_oct/x/a.dcm")])
    (tmp_path / "retinal_oct" / "x").mkdir(parents=True)
    (tmp_path / "retinal_oct" / "manifest.tsv").write_text(text)
    (tmp_path / "retinal_oct" / "x" / "a.dcm").write_text("x")
    (tmp_path / "environment").mkdir()
    (tmp_path / "environment" / "manifest.tsv").write_text("person_id\tother\n1\t2\n")
    for folder in (tmp_path, tmp_path / "retinal_oct", tmp_path / "retinal_oct" / "x"):
        place = Folder(folder)
        assert len(find_manifests(place, place.entries()).rows) == 1
    with pytest.raises(DataError, match="no manifest: it needs participant_id or person_id and filepath"):
        find_manifests(PLACE, [], [tmp_path / "environment" / "manifest.tsv"])
