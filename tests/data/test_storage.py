"""A folder and a bucket are the same to a reader, and what goes wrong on the way is told in a line."""

import contextlib
import hashlib
import json
import multiprocessing
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medexp.data.storage import Entry, Folder, local, local_file, local_folder, place
from medexp.errors import DataError, MedexpError, StorageError
from tests import s3

CONTENTS = {"participants.tsv": b"a\tb\r\n", "scans/1001/left eye.dcm": b"x" * 3_000_000, "scans/1001/empty.npy": b""}


def files_in(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def of(line, key):
    """The requests for an object."""
    return [request for request in line.requests if request.path.partition("?")[0].endswith(key)]


@pytest.fixture
def few_tries(monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")


# ------------------------------------------------------------------------------------------------------------- what is read


def test_a_folder_and_a_bucket_are_read_alike(bucket, tmp_path):
    folder = tmp_path / "folder"
    for key, content in CONTENTS.items():
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(content)
    bucket.put_folder(folder)
    bucket.put_all({"scans/1002/": b""})  # as consoles show an empty folder
    places = [place(str(folder), tmp_path / "cache"), place(f"{bucket.uri}/", tmp_path / "cache")]
    assert [pickle.loads(pickle.dumps(one)) for one in places] == places  # noqa: S301  they go to other processes
    read = [{entry.key: one.fetch(entry).read_bytes() for entry in one.entries()} for one in places]
    assert read[0] == read[1] == CONTENTS
    assert [[entry.size for entry in one.entries()] for one in places] == [[5, 0, 3_000_000]] * 2
    assert [one.uri for one in places] == [str(folder), bucket.uri]
    for where in (str(folder), bucket.uri):
        for brought in (local_folder(where, tmp_path / "cache"), local(where, tmp_path / "cache")):
            assert {path.relative_to(brought).as_posix(): path.read_bytes() for path in files_in(brought)} == CONTENTS
        for brought in (local_file, local):
            table = brought(f"{where}/participants.tsv", tmp_path / "cache")
            assert (table.name, table.read_bytes()) == ("participants.tsv", CONTENTS["participants.tsv"])


def test_a_prefix_is_a_folder_and_not_the_beginning_of_a_name(bucket, tmp_path):
    bucket.put_all({"scans/1": b"a", "scans2/1": b"b"})
    assert [entry.key for entry in place(f"{bucket.uri}/scans", tmp_path).entries()] == ["1"]


def test_what_lies_beside_a_file_is_brought_along(bucket, tmp_path):
    bucket.put_all({"a.pt": b"weights", "a.card.yaml": b"card", "b.pt": b"others"})
    weights = local_file(f"{bucket.uri}/a.pt", tmp_path, ["a.card.yaml", "cases.csv"])
    assert [path.name for path in files_in(weights.parent)] == ["a.card.yaml", "a.pt"]


def test_a_file_and_a_folder_are_what_the_bucket_holds_now(bucket, tmp_path):
    bucket.put_all({"a/x": b"1", "a/y": b"2"})
    before = local_folder(f"{bucket.uri}/a", tmp_path)
    bucket.put_all({"a/x": b"3"})
    bucket.client.delete_object(Bucket=bucket.bucket, Key=f"{bucket.name}/a/y")
    now = local_folder(f"{bucket.uri}/a", tmp_path)
    assert [(path.name, path.read_bytes()) for path in files_in(now)] == [("x", b"3")]
    assert local_file(f"{bucket.uri}/a/x", tmp_path).read_bytes() == b"3"
    assert [path.read_bytes() for path in files_in(before)] == [b"1", b"2"]  # whoever reads it goes on reading it


def test_a_listing_is_kept_until_it_is_refreshed(bucket, tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: bucket.put_all({f"{number:04}": b""}), range(1003)))
    asked = place(bucket.uri, tmp_path)
    listed = asked.entries()
    assert [entry.key for entry in listed] == [f"{number:04}" for number in range(1003)]  # a page has 1000
    bucket.put_all({"new": b"", "0001": b"changed"})
    assert place(bucket.uri, tmp_path).entries() == listed
    with pytest.raises(DataError, match="0001: the object changed since the bucket was listed; list it again"):
        asked.fetch(listed[1])
    assert [entry.key for entry in asked.entries(refresh=True)][-1] == "new"
    assert asked.fetch(asked.entries()[1]).read_bytes() == b"changed"
    (kept,) = tmp_path.rglob("*.json")
    kept.write_text(kept.read_text()[:-100])
    assert len(asked.entries()) == 1004


def test_an_object_of_several_parts_is_read(bucket, tmp_path):
    where = {"Bucket": bucket.bucket, "Key": f"{bucket.name}/parts.npy"}
    upload = bucket.client.create_multipart_upload(**where)["UploadId"]
    parts = [os.urandom(5 << 20), os.urandom(999)]
    made = [
        {"PartNumber": n, "ETag": bucket.client.upload_part(**where, UploadId=upload, PartNumber=n, Body=part)["ETag"]}
        for n, part in enumerate(parts, 1)
    ]
    bucket.client.complete_multipart_upload(**where, UploadId=upload, MultipartUpload={"Parts": made})
    asked = place(bucket.uri, tmp_path)
    (entry,) = asked.entries()
    assert entry.etag.endswith("-2") and asked.fetch(entry).read_bytes() == b"".join(parts)


def test_endpoints_are_found_where_boto3_finds_them(bucket, tmp_path, monkeypatch):
    bucket.put(a=b"a")
    monkeypatch.delenv("S3_ENDPOINT_URL")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", bucket.server.endpoint)
    assert len(place(bucket.uri, tmp_path).entries(refresh=True)) == 1
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    (tmp_path / "config").write_text(f"[profile mine]\nendpoint_url = {bucket.server.endpoint}\n")
    (tmp_path / "credentials").write_text(f"[mine]\naws_access_key_id = {s3.KEY}\naws_secret_access_key = {s3.SECRET}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "mine")
    assert len(place(bucket.uri, tmp_path).entries(refresh=True)) == 1
    monkeypatch.setenv("AWS_PROFILE", "other")
    with pytest.raises(StorageError, match="AWS_PROFILE names a profile that"):
        place(bucket.uri, tmp_path)


# ----------------------------------------------------------------------------------------------------------- bad lines


def test_a_server_that_dies_in_the_middle_of_a_read_and_comes_back_is_survived(bucket, line, tmp_path):
    content = os.urandom(24_000_000)
    bucket.put(big=content)
    asked = place(bucket.uri, tmp_path)
    (entry,) = asked.entries()

    def dies(request, answer):
        line.meddle = lambda request, answer: answer
        answer.cut, answer.then = 9_000_000, lambda: (bucket.server.kill(), bucket.server.start())
        return answer

    line.meddle = dies
    assert asked.fetch(entry).read_bytes() == content
    first, *later = of(line, "/big")
    assert "Range" not in first.headers
    assert later and all(0 < int(again.headers["Range"][6:-1]) < 24_000_000 for again in later)
    assert {again.headers["If-Match"] for again in later} == {f'"{entry.etag}"'}


def test_a_read_that_gets_a_byte_further_each_time_ends_well(bucket, line, tmp_path, few_tries, monkeypatch):
    monkeypatch.setattr("medexp.data.storage.random.random", lambda: 0.0)
    content = os.urandom(1_000_000)
    bucket.put(big=content)

    def short(request, answer):
        answer.cut = 300_000
        return answer

    asked = place(bucket.uri, tmp_path)
    (entry,) = asked.entries()
    line.meddle = short
    assert asked.fetch(entry).read_bytes() == content
    assert [request.headers.get("Range") for request in of(line, "/big")] == [
        None,
        *(f"bytes={at}00000-" for at in (3, 6, 9)),
    ]


def test_a_line_that_stays_dead_is_given_up(bucket, line, tmp_path, few_tries):
    bucket.put(big=bytes(1_000_000))

    def dead(request, answer):
        answer.cut = 0
        return answer

    asked = place(bucket.uri, tmp_path)
    (entry,) = asked.entries()
    line.meddle = dead
    with pytest.raises(StorageError, match=r"big: http://127.0.0.1:\d+ does not answer .* start again"):
        asked.fetch(entry)
    assert 2 <= len(of(line, "/big")) <= 4
    assert not [path for path in files_in(tmp_path) if path.parent.parent.name == "objects"]


def test_what_changes_while_it_is_read_is_not_pieced_together(bucket, line, tmp_path):
    bucket.put(big=bytes(1_000_000))

    def changes(request, answer):
        line.meddle = lambda request, answer: answer
        answer.cut, answer.then = 500_000, lambda: bucket.put(big=b"\1" * 1_000_000)
        return answer

    asked = place(bucket.uri, tmp_path)
    (entry,) = asked.entries()
    line.meddle = changes
    with pytest.raises(DataError, match="big: the object changed"):
        asked.fetch(entry)


def test_a_server_that_knows_no_ranges_is_read_from_the_beginning(bucket, line, tmp_path):
    content = os.urandom(1_000_000)
    bucket.put(big=content)

    def whole(request, answer):
        if "Range" in request.headers:
            headers = {"ETag": entry.etag, "Content-Length": str(len(content))}
            return s3.Answer(200, headers, iter([content]))
        answer.cut = 500_000
        return answer

    asked = place(bucket.uri, tmp_path)
    (entry,) = asked.entries()
    line.meddle = whole
    assert asked.fetch(entry).read_bytes() == content


def test_a_byte_that_flips_on_the_way_is_noticed(bucket, line, tmp_path):
    bucket.put(a=bytes(1000))

    def flips(request, answer):
        answer.body = iter([os.urandom(1000)])
        return answer

    def flips_once(request, answer):
        line.meddle = lambda request, answer: answer
        return flips(request, answer)

    asked = place(bucket.uri, tmp_path)
    (entry,) = asked.entries()
    line.meddle = flips_once
    with pytest.raises(StorageError, match="two reads of it differ"):
        asked.fetch(entry)
    assert asked.fetch(entry).read_bytes() == bytes(1000)


# ----------------------------------------------------------------------------------------------------------------- the cache


@pytest.mark.parametrize("spoil", [lambda path: os.truncate(path, 5), lambda path: path.write_bytes(b"?" * 1000), Path.unlink])
def test_a_cached_file_is_read_again_only_where_it_was_damaged(bucket, line, tmp_path, spoil):
    bucket.put(a=bytes(1000))
    asked = place(bucket.uri, tmp_path)
    (entry,) = asked.entries()
    for _ in range(3):
        file = asked.fetch(entry)
    brought = local_folder(bucket.uri, tmp_path)
    assert len(of(line, "/a")) == 1
    spoil(file)
    assert asked.fetch(entry).read_bytes() == bytes(1000)
    assert len(of(line, "/a")) == 2
    assert local_folder(bucket.uri, tmp_path) == brought and (brought / "a").read_bytes() == bytes(1000)


def fetched_by_threads(asked, entry):
    with ThreadPoolExecutor(4) as pool:
        return [path.read_bytes() for path in pool.map(asked.fetch, [entry] * 8)]


def test_processes_and_threads_fetch_an_object_once(bucket, line, tmp_path):
    content = os.urandom(2_000_000)
    bucket.put(a=content)
    asked = place(bucket.uri, tmp_path)
    (entry,) = asked.entries()  # with a client that a forked process must not use
    with multiprocessing.get_context("fork").Pool(2) as pool:
        read = pool.starmap(fetched_by_threads, [(asked, entry)] * 2)
    assert read == [[content] * 8] * 2
    assert len(of(line, "/a")) == 1


def test_the_cache_keeps_its_limit_and_what_was_used_last(bucket, tmp_path):
    bucket.put_all({name: name.encode() * 100_000 for name in "abcdef"})
    asked = place(bucket.uri, tmp_path, limit_gb=0.000_35)
    entry = {entry.key: entry for entry in asked.entries()}

    def older(hours, path):  # than it is
        stat = path.stat()
        os.utime(path, ns=(stat.st_atime_ns - int(hours * 3600e9), stat.st_mtime_ns))

    older(3, a := asked.fetch(entry["a"]))
    older(2, b := asked.fetch(entry["b"]))
    older(1, c := asked.fetch(entry["c"]))
    assert a.exists()
    asked.fetch(entry["a"])  # so it is the youngest
    d = asked.fetch(entry["d"])
    assert [path.exists() for path in (a, b, c, d)] == [True, False, True, True]
    older(4, local_file(f"{bucket.uri}/e", tmp_path))
    assert c.exists()  # without a limit nothing goes
    older(1, asked.fetch(entry["b"]))
    assert [path.exists() for path in (a, c, d)] == [True, False, True]
    assert local_file(f"{bucket.uri}/e", tmp_path).read_bytes() == b"e" * 100_000
    for name in "cf":
        asked.fetch(entry[name])
    assert all(asked.fetch(entry[name]).exists() for name in "acdf")  # more than the limit, but just handed out


def test_an_object_larger_than_the_cache_is_fetched(bucket, tmp_path):
    bucket.put(a=bytes(1000))
    asked = place(bucket.uri, tmp_path, limit_gb=1e-9)
    assert asked.fetch(asked.entries()[0]).read_bytes() == bytes(1000)


# ---------------------------------------------------------------------------------------------------------------- odd keys

ODD = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40) | st.lists(
    st.sampled_from(["..", ".", "", "~", "a b", "ü", "a" * 300, "\\", "$HOME", "%2e%2e", "x.nii.gz", "\n", "-rf"]), min_size=1
).map("/".join)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(keys=st.lists(ODD, min_size=1, max_size=4, unique=True))
def test_no_key_leads_out_of_the_cache(bucket, tmp_path, keys):
    cache = tmp_path / "cache"
    asked = place("s3://medexp-tests/odd", cache)
    before = set(files_in(tmp_path))
    entries = []
    for key in keys:
        try:
            made = bucket.client.put_object(Bucket=bucket.bucket, Key=f"odd/{key}", Body=key.encode())
        except bucket.client.exceptions.ClientError:  # a key that this server does not take: another's listing may hold it
            made = {"ETag": ""}
        entries.append(Entry(key, len(key.encode()), made["ETag"].strip('"')))
    for entry in entries:
        try:
            assert asked.fetch(entry).read_bytes() == entry.key.encode()
        except MedexpError as error:
            assert "\n" not in str(error)
    with contextlib.suppress(MedexpError):
        folder = asked.folder(entries)
        assert {path.relative_to(folder).as_posix() for path in files_in(folder)} == set(keys)
    with contextlib.suppress(DataError):
        Folder(tmp_path / "folder").fetch(entries[0])
    assert all(path.is_relative_to(cache) for path in set(files_in(tmp_path)) - before)


def test_keys_that_no_path_can_be_are_all_named(bucket, tmp_path):
    asked = place(bucket.uri, tmp_path)
    entries = [Entry(key, 1, "x") for key in ("../out", "/etc/x", "a//b", "c" * 300, "d", "d/e")]
    with pytest.raises(DataError) as caught:
        asked.folder(entries)
    assert "5 problems" in str(caught.value) and "d is an object and a folder" in str(caught.value)
    with pytest.raises(DataError, match="no path within a folder"):
        Folder(tmp_path).fetch(entries[0])


# -------------------------------------------------------------------------------------------------------------- what is said


def test_what_is_not_there_is_told(bucket, tmp_path):
    bucket.put(a=b"a")
    with pytest.raises(StorageError, match="no bucket no-such-bucket"):
        place("s3://no-such-bucket/x", tmp_path).entries()
    for read in (local_file, local):
        with pytest.raises(DataError, match="/b: "):
            read(f"{bucket.uri}/b", tmp_path)
    with pytest.raises(DataError, match="nothing under this prefix"):
        place(f"{bucket.uri}/b", tmp_path).entries()
    with pytest.raises(DataError, match="no such object"):
        place(bucket.uri, tmp_path).fetch(Entry("gone", 1, "0" * 32))
    with pytest.raises(DataError, match="no such folder"):
        place(str(tmp_path / "none"), tmp_path).entries()
    with pytest.raises(DataError, match="empty"):
        (tmp_path / "empty").mkdir()
        place(str(tmp_path / "empty"), tmp_path).entries()


@pytest.mark.parametrize("where", ["gs://bucket/x", "https://host/x", "s3://", "s3:///x", "s3://a/"])
def test_only_a_folder_or_a_bucket_is_a_place(where, tmp_path):
    with pytest.raises(DataError, match="give .*s3://bucket/prefix"):
        place(where, tmp_path)


@pytest.mark.parametrize(
    ("answer", "kind", "told"),
    [
        (("ExpiredToken",), StorageError, "credentials have expired .* renew them and start again"),
        (("AuthorizationHeaderMalformed",), StorageError, r"another region .* AWS_DEFAULT_REGION=eu-west-9 and"),
        (("SignatureDoesNotMatch", 403), StorageError, "does not know the credentials .* set AWS_ACCESS_KEY_ID"),
        (("AccessDenied", 403), StorageError, "may not read it .* rights"),
        (("RequestTimeTooSkewed", 403), StorageError, "clock"),
        (("InvalidObjectState", 403), DataError, "archived .* restore"),
        (("SlowDown", 503), StorageError, "fails again and again .* start again later"),
        (("Odd", 418), StorageError, r"refuses \(Odd\)"),
        (("<b>", 502), StorageError, r"fails again and again \(502\)"),
    ],
)
def test_what_a_server_refuses_is_one_line_without_what_it_repeats(bucket, line, tmp_path, few_tries, answer, kind, told):
    line.meddle = lambda request, _: s3.refusal(*answer, Message=f"{s3.KEY} {s3.SECRET}", Region="eu-west-9")
    for read in (lambda: place(bucket.uri, tmp_path).entries(), lambda: local_file(f"{bucket.uri}/a", tmp_path)):
        with pytest.raises(kind, match=told) as caught:
            read()
        assert "\n" not in str(caught.value) and s3.KEY not in str(caught.value) and s3.SECRET not in str(caught.value)
        assert caught.value.exit_code == 2 and bucket.uri in str(caught.value)


def test_credentials_that_were_renewed_meanwhile_are_taken(bucket, line, tmp_path, monkeypatch):
    bucket.put(a=b"a")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    file = tmp_path / "credentials"
    file.write_text(f"[default]\naws_access_key_id = OLD\naws_secret_access_key = {s3.SECRET}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    stale = lambda request, answer: s3.refusal("ExpiredToken") if "OLD" in request.headers["Authorization"] else answer  # noqa: E731
    asked = place(bucket.uri, tmp_path / "cache")
    with pytest.raises(StorageError, match="does not know the credentials"):
        asked.entries()
    line.meddle = stale
    first = Entry("a", 1, hashlib.md5(b"a", usedforsecurity=False).hexdigest())
    with pytest.raises(StorageError, match="have expired"):
        asked.fetch(first)
    file.write_text(f"[default]\naws_access_key_id = {s3.KEY}\naws_secret_access_key = {s3.SECRET}\n")
    assert asked.fetch(first).read_bytes() == b"a"
    assert len(of(line, "/a")) == 4


def test_no_credential_is_in_any_message_file_or_object(bucket, tmp_path, few_tries, monkeypatch, capfd):
    bucket.put_all({"a/b": b"a"})
    asked = place(bucket.uri, tmp_path / "cache", limit_gb=1)
    local_folder(bucket.uri, tmp_path / "cache")
    asked.fetch(asked.entries()[0])
    said = [repr(asked), asked.uri, pickle.dumps(asked).decode("latin1")]
    with_password = bucket.server.endpoint.replace("//", "//someone:hunter2@")

    def refused(match):
        with pytest.raises(MedexpError, match=match) as caught:
            place(bucket.uri, tmp_path / "cache").entries(refresh=True)
        assert caught.value.exit_code == 2 and "\n" not in str(caught.value)
        said.append(str(caught.value))

    s3.environment(monkeypatch, bucket.server.endpoint, s3.KEY, "another-secret")
    refused("does not know the credentials")
    s3.environment(monkeypatch, bucket.server.endpoint, "AKIA0SOMEONE0ELSE", s3.SECRET)
    refused("does not know the credentials")
    s3.environment(monkeypatch, bucket.server.endpoint, None, s3.SECRET)
    refused("no credentials .*; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    s3.environment(monkeypatch, bucket.server.endpoint, s3.KEY, None)
    refused("no credentials")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3.environment(monkeypatch, f"http://127.0.0.1:{s3.free_ports(1)[0]}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    refused(r"http://127.0.0.1:\d+ does not answer .* is S3_ENDPOINT_URL right")
    for odd in ("//someone:hunter2@host", "host:hunter2", f"http://h/?key={s3.SECRET}", "http://:hunter2@h:x/"):
        s3.environment(monkeypatch, odd)
        refused("S3_ENDPOINT_URL")
    s3.environment(monkeypatch, with_password)
    refused("S3_ENDPOINT_URL: .* give keys as AWS_ACCESS_KEY_ID")
    s3.environment(monkeypatch, "")
    monkeypatch.setenv("AWS_ENDPOINT_URL", with_password)
    refused("address: .* give keys as AWS_ACCESS_KEY_ID")
    for where in (f"s3://{s3.KEY}:hunter2@bucket/x", "https://someone:hunter2@host/x"):
        with pytest.raises(DataError, match="no @ or :") as caught:
            place(where, tmp_path)
        said.append(str(caught.value))
    said += [path.read_text("latin1") + str(path) for path in files_in(tmp_path / "cache")] + list(capfd.readouterr())
    words = (s3.KEY, s3.SECRET, "AKIA0SOMEONE0ELSE", "another-secret", "hunter2")
    assert not [text for text in said if any(word in text for word in words)]
    assert (
        replace(asked) == asked and json.loads(next((tmp_path / "cache").rglob("*.json")).read_text())["place"] == bucket.uri
    )
