"""A folder and a bucket are the same to a reader."""

import pickle

import pytest

from medexp.data.storage import local_file, local_folder, place
from medexp.errors import DataError, StorageError
from tests import s3

CONTENTS = {"participants.tsv": b"a\tb\r\n", "scans/1001/left eye.dcm": b"x" * 3_000_000, "scans/1001/empty.npy": b""}


def test_a_folder_and_a_bucket_are_read_alike(bucket, tmp_path):
    folder = tmp_path / "folder"
    for key, content in CONTENTS.items():
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(content)
    bucket.put_folder(folder)
    places = [place(str(folder), tmp_path / "cache"), place(bucket.uri, tmp_path / "cache")]
    assert [pickle.loads(pickle.dumps(one)) for one in places] == places  # noqa: S301  they go to other processes
    read = [{entry.key: one.fetch(entry).read_bytes() for entry in one.entries()} for one in places]
    assert read[0] == read[1] == CONTENTS
    assert [one.uri for one in places] == [str(folder), bucket.uri]
    for where in (str(folder), bucket.uri):
        brought = local_folder(where, tmp_path / "cache")
        assert {key: (brought / key).read_bytes() for key in CONTENTS} == CONTENTS
        assert local_file(f"{where}/participants.tsv", tmp_path / "cache").name == "participants.tsv"


def test_wrong_credentials_are_told_without_a_word_of_them(bucket, tmp_path, monkeypatch):
    s3.environment(monkeypatch, bucket.server.endpoint, s3.KEY, "another-secret")
    with pytest.raises(StorageError, match="does not know the credentials") as caught:
        place(bucket.uri, tmp_path).entries()
    assert "another-secret" not in str(caught.value)


def test_what_is_not_there_is_told(bucket, tmp_path):
    bucket.put(a=b"a")
    with pytest.raises(StorageError, match="no bucket no-such-bucket"):
        place("s3://no-such-bucket/x", tmp_path).entries()
    with pytest.raises(DataError, match="no such object"):
        local_file(f"{bucket.uri}/b", tmp_path)
    with pytest.raises(DataError, match="nothing under this prefix"):
        place(f"{bucket.uri}/b", tmp_path).entries()
