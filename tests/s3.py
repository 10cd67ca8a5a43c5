"""A real S3 server for tests, SeaweedFS, and a line to it that can be bad."""

import http.client
import json
import os
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest

KEY, SECRET = "AKIA0TESTS0ONLY0", "kept/secret+AAAA1111bbbb2222"
BUCKET = "medexp-tests"


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@dataclass
class Server:
    """One that can be killed and started again: port and data stay."""

    folder: Path
    ports: list[int] = field(default_factory=lambda: free_ports(8))
    process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}"

    def start(self) -> None:
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        identity = {
            "name": "tests",
            "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
            "actions": ["Admin", "Read", "Write", "List"],
        }
        (self.folder / "identities.json").write_text(json.dumps({"identities": [identity]}))
        names = ["s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc"]
        names += ["filer.port", "filer.port.grpc"]
        options = [f"-{name}={port}" for name, port in zip(names, self.ports, strict=True)]
        options += ["-s3", "-s3.iam=false", f"-s3.config={self.folder / 'identities.json'}", f"-dir={self.folder / 'data'}"]
        options += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.volumeSizeLimitMB=64", "-volume.max=20"]
        options += ["-s3.port.iceberg=0", "-s3.port.lance=0"]  # which it serves at fixed ports otherwise
        options += ["-master.telemetry=false"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(["weed", "server", *options], stdout=log, stderr=log, cwd=self.folder)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for port in self.ports:
                for left in Path(tempfile.gettempdir()).glob(f"seaweedfs-*-{port}.sock"):
                    left.unlink()

    def client(self) -> Any:
        """One that waits until the server answers."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
            config=boto3.session.Config(retries={"mode": "standard", "total_max_attempts": 12}),
        )


@dataclass(frozen=True)
class Prefix:
    """A prefix of the server's bucket that one test has to itself."""

    server: Server
    client: Any
    name: str
    bucket: str = BUCKET

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}/{self.name}"

    def put(self, **contents: bytes) -> None:
        self.put_all(contents)

    def put_all(self, contents: dict[str, bytes]) -> None:
        for key, content in contents.items():
            self.client.put_object(Bucket=self.bucket, Key=f"{self.name}/{key}", Body=content)

    def put_folder(self, folder: Path) -> None:
        """All files of a folder, as they lie there."""
        self.put_all({path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()})


def environment(patch: pytest.MonkeyPatch, endpoint: str, key: str | None = KEY, secret: str | None = SECRET) -> None:
    """The variables of S3 as a user has them, and nothing of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("AWS_") or name == "S3_ENDPOINT_URL"]:
        patch.delenv(name)
    said = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret, "S3_ENDPOINT_URL": endpoint}
    said |= {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull, "AWS_EC2_METADATA_DISABLED": "true"}
    for name, value in said.items():
        if value is not None:
            patch.setenv(name, value)


@dataclass
class Answer:
    """What the server answers to a GET, as a reader gets it.

    Attributes:
        cut: Bytes of the body after which the line is dead; None: it holds.
        then: What happens at that moment.
    """

    status: int
    headers: dict[str, str]
    body: Iterator[bytes]
    cut: int | None = None
    then: Callable[[], None] = lambda: None


@dataclass
class Request:
    path: str
    headers: dict[str, str]


class Line:
    """Stands between a reader and a server; `meddle` makes of an answer what the reader gets."""

    def __init__(self, server: Server) -> None:
        self.meddle: Callable[[Request, Answer], Answer] = lambda request, answer: answer
        self.requests: list[Request] = []
        line = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                request = Request(self.path, dict(self.headers))
                line.requests.append(request)
                behind = http.client.HTTPConnection("127.0.0.1", server.ports[0])
                try:
                    behind.request("GET", self.path, headers=request.headers)
                    got = behind.getresponse()
                    whole = iter(partial(got.read, 65536), b"")
                    answer = line.meddle(request, Answer(got.status, dict(got.headers), whole))
                    self.send_response_only(answer.status)
                    for name, value in answer.headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    sent = 0
                    for piece in answer.body:
                        self.wfile.write(piece[: None if answer.cut is None else answer.cut - sent])
                        sent += len(piece)
                        if answer.cut is not None and sent >= answer.cut:
                            answer.then()
                            answer.cut = None
                            raise ConnectionError
                except (OSError, http.client.HTTPException):
                    self.close_connection = True
                finally:
                    behind.close()

            def log_message(self, *told: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


def refusal(code: str, status: int = 400, **more: str) -> Answer:
    """An error as S3 servers write it."""
    inner = "".join(f"<{name}>{value}</{name}>" for name, value in {"Code": code, **more}.items())
    body = f'<?xml version="1.0" encoding="UTF-8"?><Error>{inner}</Error>'.encode()
    return Answer(status, {"Content-Type": "application/xml", "Content-Length": str(len(body))}, iter([body]))
