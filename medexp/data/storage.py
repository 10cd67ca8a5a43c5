"""Data in a folder, or in a bucket that speaks S3: to whoever reads them the two are the same.

Endpoint, region and credentials come from where every S3 tool has them, the variables AWS_* and the files in ~/.aws, and the
endpoint from S3_ENDPOINT_URL too. None of it is kept in an object, a file or a message; endpoints that hold a password are
refused.

CACHE/s3/SERVER-BUCKET/objects/…    what was fetched, under a name made of its key, size and ETag
CACHE/s3/SERVER-BUCKET/listings/…   the keys under a prefix
CACHE/s3/SERVER-BUCKET/folders/…    a prefix as a folder, of links to the objects; another content, another folder
CACHE/s3/SERVER-BUCKET/locks/…      one fetches, the others wait
"""

import contextlib
import hashlib
import json
import os
import random
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol
from urllib.parse import urlsplit

from joblib import parallel_config

from medexp.addresses import local_path
from medexp.data.inputs import TABLES
from medexp.data.parallel import in_parallel
from medexp.errors import DataError, MedexpError, StorageError, all_problems
from medexp.files import alone, replacing

_CHUNK = 1 << 20
_TRIES = 5  # of a request, and of a read in a row that yield no byte; AWS_MAX_ATTEMPTS says another number
_PAUSE = 20.0  # seconds, the longest before a read goes on: a server that was killed needs half a minute to come back
_AT_ONCE = 16
_IN_USE = 120.0  # seconds in which what was handed out is opened, so that no process takes it out of the cache


@dataclass(frozen=True)
class Entry:
    """One file of a place.

    Attributes:
        key: Its name in the place, with /.
        size: Bytes.
        etag: Another one where the content may have changed: a bucket's ETag, `etag_of` a file.
    """

    key: str
    size: int
    etag: str


def etag_of(stat: os.stat_result) -> str:
    """Of a file: its size, the time of change that it says, and the time at which it last was written or replaced, which what
    keeps the former (`cp -p`, rsync, tar) does not set."""
    return f"{stat.st_size}-{stat.st_mtime_ns}-{stat.st_ctime_ns}"


class Place(Protocol):
    """Where data are. It can be pickled, and many threads and processes may use it at once."""

    @property
    def uri(self) -> str:
        """As a user reads it."""
        ...

    def entries(self, *, refresh: bool = False) -> Sequence[Entry]:
        """What is there, at least one, by key.

        Args:
            refresh: Ask the bucket anew. Without it a listing that was once made is the one that is read.

        Raises:
            DataError: Nothing is there.
            StorageError: The bucket cannot be listed, the cache cannot be written.
        """
        ...

    def fetch(self, entry: Entry) -> Path:
        """One of them as a file of this machine, to be opened at once: a bucket's is a verified copy in the cache.

        Raises:
            DataError: It is not there, or is not what was listed.
            StorageError: It cannot be fetched, the cache cannot be written.
        """
        ...


def place(where: str, cache: Path, limit_gb: float | None = None) -> Place:
    """A folder or a bucket.

    Args:
        where: Path of a folder, or `s3://bucket/prefix`.
        cache: Folder for what is fetched from buckets.
        limit_gb: What the fetched files of all buckets may take (10^9 bytes): the ones that were used least recently go, save
            those of the last two minutes and the folders of `local_folder`. None: there is no limit.

    Raises:
        DataError: It is neither.
        StorageError: The environment says no usable endpoint, or a profile that there is not.
    """
    if (found := _bucket_and_key(where)) is None:
        return Folder(local_path(where).absolute())
    name, key = found
    endpoint = _endpoint_of(_client())
    limit = None if limit_gb is None else int(limit_gb * 1e9)
    return Bucket(name, f"{key.rstrip('/')}/" if key.rstrip("/") else "", endpoint, cache / "s3", limit)


def local_file(where: str, cache: Path, beside: Sequence[str] = ()) -> Path:
    """One file of this machine.

    Args:
        where: Its path, which need not be there, or `s3://bucket/key`, which is asked for anew each time.
        cache: As for `place`.
        beside: Names of files that are brought along from the bucket where they are there, into the same folder.

    Raises:
        DataError: The bucket holds no such key.
        StorageError: It cannot be fetched, the cache cannot be written.
    """
    if (found := _bucket_and_key(where)) is None:
        return local_path(where)
    parent, _, name = found[1].rpartition("/")
    if not name:
        raise DataError(f"{where}: names no object; give s3://bucket/key of a file")
    bucket = place(f"s3://{found[0]}/{parent}", cache)
    assert isinstance(bucket, Bucket)
    entry = bucket.entry(name)
    entries = [entry]
    for other in beside:
        with contextlib.suppress(DataError):
            entries.append(bucket.entry(other))
    return bucket.folder(entries) / name


def local_folder(where: str, cache: Path) -> Path:
    """A folder of this machine.

    Args:
        where: Its path, which need not be there, or `s3://bucket/prefix`: all that is under it is brought here.
        cache: As for `place`.

    Raises:
        DataError: The bucket holds nothing there, or keys that no path can be.
        StorageError: It cannot be fetched, the cache cannot be written.
    """
    if _bucket_and_key(where) is None:
        return local_path(where)
    bucket = place(where, cache)
    assert isinstance(bucket, Bucket)
    return bucket.folder(bucket.entries(refresh=True))


def local(where: str, cache: Path) -> Path:
    """A file or a folder of this machine, whichever it is; of a bucket's table, or JSONL, with all that lies beside it, which
    its paths are relative to.

    Args:
        where: Its path, which need not be there, or `s3://bucket/key` or `s3://bucket/prefix`.
        cache: As for `place`.

    Raises:
        DataError: The bucket holds neither, or keys that no path can be.
        StorageError: It cannot be fetched, the cache cannot be written.
    """
    try:
        file = local_file(where, cache)
        if file.suffix.lower() in (*TABLES, ".jsonl") and _bucket_and_key(where) is not None:
            return local_folder(where.rpartition("/")[0], cache) / file.name
        return file
    except DataError:
        return local_folder(where, cache)


@dataclass(frozen=True)
class Folder:
    """A place that is a folder of this machine."""

    folder: Path

    @property
    def uri(self) -> str:
        return str(self.folder)

    def entries(self, *, refresh: bool = False) -> Sequence[Entry]:  # noqa: ARG002  a folder is looked at each time
        if not self.folder.is_dir():
            raise DataError(f"{self.folder}: no such folder; give a folder or s3://bucket/prefix")
        found = []
        for parent, _, names in os.walk(self.folder, followlinks=True):
            for name in names:
                path = Path(parent, name)
                with contextlib.suppress(FileNotFoundError):  # a link to nothing, or it went meanwhile
                    stat = path.stat()
                    found.append(Entry(path.relative_to(self.folder).as_posix(), stat.st_size, etag_of(stat)))
        if not found:
            raise DataError(f"{self.folder}: the folder is empty; give another one")
        return sorted(found, key=lambda entry: entry.key)

    def fetch(self, entry: Entry) -> Path:
        path = self.folder / _inside(self.uri, entry.key)
        if not path.is_file():
            raise DataError(f"{path}: no such file")
        return path


@dataclass(frozen=True)
class Bucket:
    """A place that is a prefix of a bucket.

    Attributes:
        name: The bucket's.
        prefix: Empty, or what all keys begin with, / at its end.
        endpoint: The server's address.
        cache: Folder for all buckets.
        limit: Bytes that the cache may take; None: there is no limit.
    """

    name: str
    prefix: str
    endpoint: str
    cache: Path
    limit: int | None = None

    @property
    def uri(self) -> str:
        return self._uri("").rstrip("/")

    def _uri(self, key: str) -> str:
        uri = f"s3://{self.name}/{self.prefix}{key}"
        return uri if uri.isprintable() else ascii(uri)[1:-1]

    @property
    def _root(self) -> Path:
        return self.cache / f"{_digest(self.endpoint)[:12]}-{self.name}"

    def entries(self, *, refresh: bool = False) -> Sequence[Entry]:
        kept = self._root / "listings" / f"{_digest(self.prefix)[:24]}.json"
        if not refresh and (known := _listed(kept)):
            return known
        found = []
        with _told(self.uri, self.endpoint):
            for page in _client().get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=self.prefix):
                for item in page.get("Contents", ()):
                    if not item["Key"].endswith("/"):  # what consoles make to show a folder
                        found.append(Entry(item["Key"][len(self.prefix) :], item["Size"], item["ETag"].strip('"')))
        if not found:
            raise DataError(f"{self.uri}: the bucket holds nothing under this prefix; give one that ends where a folder would")
        found.sort(key=lambda entry: entry.key)
        with replacing(kept) as temporary:
            content = {"place": self.uri, "entries": [[entry.key, entry.size, entry.etag] for entry in found]}
            temporary.write_text(json.dumps(content), encoding="utf-8")
        return found

    def entry(self, key: str) -> Entry:
        """What the bucket holds under a key now.

        Raises:
            DataError: It holds no such key.
            StorageError: It does not answer, or refuses.
        """
        with _told(self._uri(key), self.endpoint):  # of a HEAD no error says what it is
            found = _client().get_object(Bucket=self.name, Key=self.prefix + key)
            found["Body"].close()
        return Entry(key, found["ContentLength"], found["ETag"].strip('"'))

    def fetch(self, entry: Entry) -> Path:
        digest = _digest(f"{self.prefix}{entry.key}\0{entry.size}\0{entry.etag}")
        path = self._root / "objects" / digest[:2] / f"{digest[2:24]}-{_file_name(entry.key)}"
        # What was written to, cut or swapped since it was verified has another size or time of change than it was left with.
        changed = (1_000_000_000 + 2 * int(digest[:7], 16)) * 10**9  # whole, even seconds: any file system keeps them
        if _whole(path, entry, changed):
            return path
        with alone(self._root / "locks" / digest[:3], remedy="free space or choose another folder with cache_dir"):
            if _whole(path, entry, changed):
                return path  # another one fetched it meanwhile
            _make_room(self.cache, entry.size, self.limit)
            with replacing(path) as temporary:
                self._download(entry, temporary)
                os.utime(temporary, ns=(time.time_ns(), changed))
        return path

    def folder(self, entries: Sequence[Entry]) -> Path:
        """Some of what is there as a folder, which changes no more: what comes to stand in the bucket makes another one.

        Raises:
            DataError: A key cannot be a path; all are named.
        """
        problems, paths = [], []
        for entry in entries:
            try:
                paths.append(_inside(self.uri, entry.key))
            except DataError as error:
                problems.append(str(error))
        names = {*map(str, paths)}
        problems += [f"{above} is an object and a folder" for path in paths for above in path.parents if str(above) in names]
        if problems:
            raise DataError(all_problems(self.uri, problems, "Rename them in the bucket, or leave them out."))
        content = json.dumps([self.prefix, *([entry.key, entry.size, entry.etag] for entry in entries)])
        folder = self._root / "folders" / _digest(content)[:24]
        calls = [(self, entry, folder / path) for entry, path in zip(entries, paths, strict=True)]
        with parallel_config(backend="threading"):
            for _ in in_parallel(_link, calls, _AT_ONCE, f"Fetching {self.uri}"):
                pass
        return folder

    def _download(self, entry: Entry, file: Path) -> None:
        """Brings an object here, piece by piece, and compares it with its ETag where that is a hash of it."""
        uri = self._uri(entry.key)
        hashed = self._read(uri, entry, file)
        if hashed == entry.etag or not re.fullmatch("[0-9a-f]{32}", entry.etag):
            return
        if self._read(uri, entry, file) != hashed:  # two reads that agree: the ETag is something else, of encryption for one
            raise StorageError(f"{uri}: two reads of it differ; is there a broken proxy on the way?")

    def _read(self, uri: str, entry: Entry, file: Path) -> str:
        """Reads an object, and goes on where a read broke off; returns the MD5 of it all."""
        from botocore.exceptions import ClientError, HTTPClientError, IncompleteReadError
        from botocore.exceptions import ConnectionError as NotConnected
        from botocore.httpsession import URLLib3SSLError

        hashed, position, in_a_row, breaks, renewed = _md5(), 0, 0, 0, False
        with _told(uri, self.endpoint), file.open("wb") as out:
            while True:
                client, before = _client(), position
                try:
                    answer = client.get_object(
                        Bucket=self.name,
                        Key=self.prefix + entry.key,
                        IfMatch=f'"{entry.etag}"',
                        **({"Range": f"bytes={position}-"} if position else {}),
                    )
                    if answer["ETag"].strip('"') != entry.etag:
                        raise _changed(uri)
                    if position and not answer.get("ContentRange", "").startswith(f"bytes {position}-"):  # knows no ranges
                        hashed, position, before = _md5(), 0, 0
                        out.seek(0)
                        out.truncate()
                    for chunk in answer["Body"].iter_chunks(_CHUNK):
                        out.write(chunk)
                        hashed.update(chunk)
                        position += len(chunk)
                    break
                except (NotConnected, HTTPClientError, IncompleteReadError, URLLib3SSLError, ClientError) as error:
                    if isinstance(error, ClientError):
                        if _code(error) in _EXPIRED and not renewed:  # the files in ~/.aws may hold newer ones by now
                            renewed = True
                            _forget()
                            continue
                        if error.response["ResponseMetadata"]["HTTPStatusCode"] < 500:
                            raise
                    tries, breaks = client.meta.config.retries["total_max_attempts"], breaks + 1
                    in_a_row = 1 if position > before else in_a_row + 1
                    if in_a_row >= tries or breaks >= 10 * tries:
                        raise
                    time.sleep(min(2 ** (in_a_row + 1), _PAUSE) * random.uniform(0.5, 1))
        if position != entry.size:
            raise _changed(uri)
        return hashed.hexdigest()


def _md5() -> Any:
    return hashlib.md5(usedforsecurity=False)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _file_name(key: str) -> str:
    """A name for any key, with the ending by which a reader knows what it is."""
    return re.sub(r"[^\w.-]", "_", key.rpartition("/")[2], flags=re.ASCII)[-80:]


def _inside(uri: str, key: str) -> PurePosixPath:
    """A key as a path that leads nowhere but into the folder."""
    parts = key.split("/")
    if any(part in {"", ".", ".."} or "\0" in part for part in parts):
        raise DataError(f"{uri}: the key {key!r} is no path within a folder")
    if any(len(os.fsencode(part)) > 200 for part in parts):
        raise DataError(f"{uri}: the key {key!r} has a part of more than 200 bytes, which is too long for a file's name")
    return PurePosixPath(key)


def _link(bucket: Bucket, entry: Entry, path: Path) -> None:
    fetched = bucket.fetch(entry)
    if not (path.exists() and path.samefile(fetched)):
        with replacing(path) as temporary:
            temporary.hardlink_to(fetched)


def _listed(kept: Path) -> Sequence[Entry]:
    try:
        return [Entry(*row) for row in json.loads(kept.read_text(encoding="utf-8"))["entries"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []


def _whole(path: Path, entry: Entry, changed: int) -> bool:
    """Whether a fetched file is as it was left; if so, it is now used."""
    try:
        stat = path.stat()
        if (stat.st_size, stat.st_mtime_ns) != (entry.size, changed):
            return False
        os.utime(path, ns=(time.time_ns(), changed))
    except FileNotFoundError:
        return False
    except OSError:  # a cache that others filled and that may only be read
        return True
    return True


_room: dict[Path, int] = {}  # bytes that may come before the files in a cache are counted again
_counting = threading.Lock()


def _make_room(cache: Path, size: int, limit: int | None) -> None:
    """Takes out of a cache what was used least recently, so that a file of `size` bytes finds room."""
    if limit is None:
        return
    with _counting:
        _room[cache] = _room.get(cache, 0) - size
        if _room[cache] >= 0:
            return
        with alone(cache / "room.lock", remedy="free space or choose another folder with cache_dir"):
            left = limit - size - _trimmed(cache, limit - size)
        _room[cache] = max(left, 0) // 4  # other processes bring files too


def _trimmed(cache: Path, limit: int) -> int:
    """Bytes of a cache, after what was used least recently went where these were more than `limit`."""
    files = []
    for path in cache.glob("*/objects/*/*"):
        with contextlib.suppress(FileNotFoundError):
            stat = path.stat()
            if stat.st_nlink == 1:  # otherwise it stands in a folder too, and would free nothing
                files.append((max(stat.st_atime_ns, stat.st_mtime_ns), stat.st_size, path))
    total, now = sum(size for _, size, _ in files), time.time_ns()
    if total <= limit:
        return total
    for used, size, path in sorted(files):
        in_use = 3600 if path.name.startswith(".") else _IN_USE  # the former is being written, or its writer was killed
        if now - used > in_use * 10**9:
            with contextlib.suppress(OSError):
                if path.stat().st_atime_ns <= used:  # otherwise it was used meanwhile
                    path.unlink()
                    total -= size
        if total <= 0.9 * limit:
            break
    return total


# --------------------------------------------------------------------------------------------------------- what is said of S3

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired", "InvalidToken"}
_KEYS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"


def _bucket_and_key(where: str) -> tuple[str, str] | None:
    """Bucket and key of `s3://bucket/key`; None of a path."""
    if "://" not in where:
        return None
    scheme, _, rest = where.partition("://")
    name, _, key = rest.partition("/")
    if "@" in name or ":" in name:  # not repeated: it may be a password
        raise DataError(f"s3://…: a bucket's name has no @ or :; give s3://bucket/prefix, and keys as {_KEYS}")
    if scheme.lower() != "s3":
        raise DataError(f"{where}: {scheme}:// is not read; give a folder of this machine or s3://bucket/prefix")
    if not _NAME.fullmatch(name):
        raise DataError(f"{where}: {name!r} is no bucket's name; give s3://bucket/prefix")
    return name, key


_clients: dict[tuple[tuple[str, str], ...], Any] = {}
_making = threading.Lock()


def _forget() -> None:
    """A client is for one process, and for what the environment said when it was made."""
    global _making  # noqa: PLW0603  a thread that is not in this process may hold the old one
    _making = threading.Lock()
    _clients.clear()


os.register_at_fork(after_in_child=_forget)


def _client() -> Any:
    """The one client of this process, which its threads share."""
    said = tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_") or item[0] == "S3_ENDPOINT_URL"))
    with _making:
        if said not in _clients:
            _clients.clear()
            _clients[said] = _made()
        return _clients[said]


def _made() -> Any:
    import boto3
    from botocore.config import Config
    from botocore.session import get_session

    given = os.environ.get("S3_ENDPOINT_URL") or None
    with _told("s3", "the endpoint"):
        own = get_session()
        session = boto3.Session(botocore_session=own)

        def make(**s3: str) -> Any:
            return session.client(
                "s3",
                endpoint_url=given,
                config=Config(
                    retries={"mode": "standard", "total_max_attempts": own.get_config_variable("max_attempts") or _TRIES},
                    connect_timeout=10,
                    tcp_keepalive=True,
                    max_pool_connections=64,
                    # Servers other than Amazon's refuse what newer clients send for it; fetched files are verified here.
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                    s3=s3 or None,
                ),
            )

        try:
            if given:
                _endpoint("S3_ENDPOINT_URL", given)
            client = make()
            host = _endpoint("the endpoint's address", client.meta.endpoint_url)
        except ValueError:  # botocore's message repeats the address
            raise StorageError(
                "S3_ENDPOINT_URL: no address; give one such as https://s3.us-west-004.backblazeb2.com"
            ) from None
        amazon = host.endswith(("amazonaws.com", "amazonaws.com.cn"))
        # Elsewhere bucket.server is often a name that no one resolves; the profile may say that it is one.
        return client if amazon or "addressing_style" in (client.meta.config.s3 or {}) else make(addressing_style="path")


def _endpoint(called: str, address: str) -> str:
    """The host of an endpoint."""
    parts = urlsplit(address)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise StorageError(f"{called}: it holds more than an address; leave that out, and give keys as {_KEYS}")
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError
    return parts.hostname


def _endpoint_of(client: Any) -> str:
    return str(client.meta.endpoint_url)


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


_CHANGED = "the object changed since the bucket was listed; list it again (refresh)"


def _changed(uri: str) -> DataError:
    return DataError(f"{uri}: {_CHANGED}")


@contextmanager
def _told(uri: str, endpoint: str) -> Iterator[None]:
    """What boto3 raises, as one line that says what to do and repeats nothing that a server or the environment said."""
    from botocore import exceptions as s3

    try:
        yield
    except s3.ClientError as error:
        raise _refused(uri, endpoint, error) from None
    except (s3.NoCredentialsError, s3.PartialCredentialsError, s3.CredentialRetrievalError) as error:
        raise StorageError(f"{uri}: no credentials ({type(error).__name__}); set {_KEYS}") from None
    except s3.ProfileNotFound:
        raise StorageError(f"{uri}: AWS_PROFILE names a profile that ~/.aws does not have; set another, or {_KEYS}") from None
    except s3.SSLError:
        raise StorageError(
            f"{uri}: {endpoint} has no certificate that this machine trusts; AWS_CA_BUNDLE names a file of trusted ones"
        ) from None
    except (s3.ConnectionError, s3.HTTPClientError, s3.IncompleteReadError) as error:
        raise StorageError(
            f"{uri}: {endpoint} does not answer ({type(error).__name__}); is S3_ENDPOINT_URL right, is the server up? "
            "What was fetched stays in the cache: start again"
        ) from None
    except s3.BotoCoreError as error:
        raise StorageError(
            f"{uri}: cannot be read ({type(error).__name__}); compare the variables AWS_* and the files in ~/.aws with what "
            "the server wants"
        ) from None


# What is wrong and what to do, by the codes that servers answer with.
_REFUSALS: tuple[tuple[type[MedexpError], set[str], str], ...] = (
    (
        DataError,
        {"NoSuchKey", "404", "NotFound"},
        "there is no such object at {endpoint}; keys are case-sensitive, and a listing may be old (refresh)",
    ),
    (DataError, {"PreconditionFailed", "412"}, _CHANGED),
    (DataError, {"InvalidObjectState"}, "is archived and cannot be read; restore it in the bucket, or leave it out"),
    (StorageError, {"NoSuchBucket"}, "there is no bucket {bucket} at {endpoint}; is its name right, and S3_ENDPOINT_URL?"),
    (
        StorageError,
        {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidSecurity", "UnrecognizedClientException"},
        "{endpoint} does not know the credentials ({code}); set {keys}",
    ),
    (
        StorageError,
        _EXPIRED,
        "the credentials have expired ({code}); renew them and start again: what was fetched stays in the cache",
    ),
    (StorageError, {"RequestTimeTooSkewed"}, "this machine's clock differs from the server's ({code}); set it"),
    (
        StorageError,
        {"AuthorizationHeaderMalformed", "PermanentRedirect", "IncorrectEndpoint", "301", "307"},
        "the bucket lies in another region ({code}); set AWS_DEFAULT_REGION{region} and the endpoint of that region",
    ),
    (
        StorageError,
        {"AccessDenied", "AllAccessDisabled", "403"},
        "the credentials may not read it ({code}); they need the rights to list the bucket and to get its objects",
    ),
    (
        StorageError,
        {"SlowDown", "Throttling", "InternalError", "ServiceUnavailable", "500", "502", "503", "504"},
        "{endpoint} fails again and again ({code}); start again later: what was fetched stays in the cache",
    ),
    (StorageError, set(), "{endpoint} refuses ({code}); compare S3_ENDPOINT_URL and AWS_DEFAULT_REGION with what it wants"),
)


def _refused(uri: str, endpoint: str, error: Any) -> MedexpError:
    code, status = _code(error), str(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode"))
    known = [next((refusal for refusal in _REFUSALS if name in refusal[1]), None) for name in (code, status)]
    kind, _, words = known[0] or known[1] or _REFUSALS[-1]
    region = str(error.response.get("Error", {}).get("Region", ""))
    told = words.format(
        endpoint=endpoint,
        code=code if re.fullmatch(r"\w{1,60}", code) else status,
        bucket=uri.removeprefix("s3://").partition("/")[0],
        keys=_KEYS,
        region=f"={region}" if re.fullmatch(r"[a-z0-9-]{1,40}", region) else "",
    )
    return kind(f"{uri}: {told}")
