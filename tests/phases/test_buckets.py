"""What phases read from a folder they read from a bucket."""

import json

import pytest
from pandas.testing import assert_frame_equal

from medexp.config.shared import cache_root
from medexp.data.images.prepared import prepare_images
from medexp.data.pairs.find import find_pairs
from medexp.data.storage import local
from medexp.data.volumes.prepared import prepare_volumes
from medexp.data.volumes.tables import read_table
from tests import s3
from tests.configured import run_phase
from tests.data.images.small_images import PHANTOMS, kaggle_folder, slices_folder
from tests.data.pairs.small_pairs import pair_data, write_bids
from tests.data.volumes.small_cases import write_case
from tests.runs import last_run, logged_table
from tests.small import prepare_config


@pytest.fixture
def cases(tmp_path):
    for number in range(4):
        write_case(tmp_path / "data", f"BraTS-MEN-{number:05d}-000", seed=number)
    (tmp_path / "splits.json").write_text(
        json.dumps(
            {
                "train": [f"BraTS-MEN-0000{n}-000" for n in (0, 1)],
                "val": ["BraTS-MEN-00002-000"],
                "test": ["BraTS-MEN-00003-000"],
            }
        )
    )
    return tmp_path / "data"


def test_volumes_and_their_splits_are_the_same_from_a_bucket(bucket, tmp_path, cases):
    bucket.put_folder(tmp_path)
    from_folder = prepare_volumes(prepare_config(tmp_path / "a", data_dir=str(cases), splits=str(tmp_path / "splits.json")))
    there = {"data_dir": f"{bucket.uri}/data", "splits": f"{bucket.uri}/splits.json"}
    from_bucket = prepare_volumes(prepare_config(tmp_path / "b", **there))
    assert (from_bucket.source, from_bucket.splits) == (f"{bucket.uri}/data", from_folder.splits)
    assert_frame_equal(from_bucket.manifest, from_folder.manifest)


def test_images_are_the_same_from_a_bucket(bucket, tmp_path, image_config):
    slices_folder(tmp_path / "data" / "slices")
    kaggle_folder(tmp_path / "data" / "kaggle")
    bucket.put_folder(tmp_path / "data")
    read = [
        prepare_images(f"{where}/slices", f"{where}/kaggle", image_config(), PHANTOMS, tmp_path / "cache")
        for where in (tmp_path / "data", bucket.uri)
    ]
    assert_frame_equal(read[0].manifest, read[1].manifest)


def test_pairs_are_the_same_from_a_bucket_in_folders_and_by_a_table(bucket, store, tmp_path):
    write_bids(tmp_path / "data" / "pairs", 6)
    found = [case for case in find_pairs([tmp_path / "data" / "pairs"], pair_data()).cases if case.label]
    rows = [
        f"{case.id}\t{case.images[0].relative_to(tmp_path / 'data')}\t{case.label.relative_to(tmp_path / 'data')}"
        for case in found
    ]
    (tmp_path / "data" / "pairs.tsv").write_text("\n".join(["case\timage\tmask", *rows]))
    bucket.put_folder(tmp_path / "data")
    manifests = []
    for where in (f"{tmp_path}/data/pairs", f"{bucket.uri}/pairs", f"{bucket.uri}/pairs.tsv"):
        assert run_phase("prepare", pairs=where, pair_data__jobs=1, cache_dir=str(tmp_path / "cache")) == 0
        manifests.append(logged_table(last_run(store, "prepare"), "manifest.csv"))
    assert len(manifests[0]) == 6
    assert_frame_equal(manifests[0], manifests[1])
    assert_frame_equal(manifests[0], manifests[2])


def test_the_paths_of_a_table_in_a_bucket_are_relative_to_it(bucket, tmp_path, cases):
    names = sorted(path.name for path in cases.iterdir())
    rows = ["id\tpath\tlabel\tpatient", *(f"{name}\tdata/{name}\t{name[-5] in '13'}\t{name}" for name in names)]
    (tmp_path / "table.tsv").write_text("\n".join(rows))
    bucket.put_folder(tmp_path)
    read = [read_table(local(f"{where}/table.tsv", tmp_path / "cache")) for where in (tmp_path, bucket.uri)]
    assert read[0].labels == read[1].labels
    voxels = [[[image.read_bytes() for image in case.images] for case in table.cases] for table in read]
    assert voxels[0] == voxels[1]


def test_a_run_on_a_bucket_holds_no_credential(bucket, store, tmp_path, cases, capfd):
    bucket.put_folder(tmp_path)
    assert run_phase("prepare", data_dir=f"{bucket.uri}/data", output_dir=str(tmp_path / "outputs")) == 0
    assert last_run(store, "prepare").data.tags["medexp.profile"] == "demo"
    said = list(capfd.readouterr())
    said += [path.read_text("latin1") for path in tmp_path.rglob("*") if path.is_file() and not path.is_relative_to(cases)]
    assert any(f"{bucket.uri}/data" in text for text in said)
    assert not [text for text in said if s3.SECRET in text or s3.KEY in text]


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("data_dir", "s3://AKIA0SOMEONE:hunter2@bucket/x", "data_dir: holds credentials"),
        ("output_dir", "s3://bucket/out", "output_dir: found s3://bucket/out; what is written goes to a folder"),
        ("slices_dir", "s3://bucket/out", "slices_dir: found"),
        ("cache_dir", "s3://bucket/out", "cache_dir: found"),
        ("data_dir", "s3://no-such-bucket/x", "data_dir|there is no bucket no-such-bucket"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(bucket, store, capfd, key, value, told):
    assert run_phase("prepare", **{key: value}) == 2
    said = "".join(capfd.readouterr())
    assert any(part in said for part in told.split("|")) and "hunter2" not in said and "Traceback" not in said


def test_the_cache_of_buckets_lies_with_what_else_is_computed_once(bucket, store, tmp_path):
    bucket.put(x=b"x")
    assert local(f"{bucket.uri}/x", cache_root(None)).is_relative_to(tmp_path / "cache" / "medexp" / "s3")
