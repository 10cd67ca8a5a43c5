"""Secrets that are planted wherever they can come from are in nothing that is written."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medexp.secrets import masked

ROOT = Path(__file__).parents[1]
VARIABLES = {
    "HF_TOKEN": "hf_" + "aB3dE5fG7hJ9kL1mN3pQ5rS7tU9v",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "AWS_SESSION_TOKEN": "FwoGZXIvYXdzEJr//////////wEaDExample",
    "MLFLOW_TRACKING_PASSWORD": "correct-horse-battery",
    "PGPASSWORD": "s3cret-of-postgres",
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "HOSPITAL_SECRET": "ward seven is blue",
    "HTTPS_PROXY": "http://someone:pr0xy-w0rd@127.0.0.1:9",
    "MEDEXP_STORAGE_URL": "postgresql://me:p%40ss-of-study@127.0.0.1:9/x",
}
IN_FILES = {
    "an AWS access key": "AKIAIOSFODNN7EXAMPLE",
    "a GitHub token": "ghp_0123456789abcdefghijABCDEFGHIJ012345",
    "a GitLab token": "glpat-abcDEF123456ghiJKL78",
    "a Slack token": "xoxb-123456789012-abcdefABCDEF",
    "a key of an AI service": "sk-abcdefghijkl0123456789ABCDEF",
    "a Google API key": "AIzaSyA0123456789abcdefghijklmnopqrstuv",
    "a JSON web token": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U",
    "a password in a URL": "hunter2-of-the-lab",
    "a private key": "MIIEowIBAAKCAQEA0123456789abcdefghijklmn",
    "what a password or key is assigned": "Tr0ub4dor-and-3",
}
REMOTE = "remote-t0ken-of-the-checkout"
SECRETS = [
    *(value for name, value in VARIABLES.items() if "://" not in value),
    *("pr0xy-w0rd", "p%40ss-of-study", "p@ss-of-study", REMOTE),
    *IN_FILES.values(),
]
PLANTED = f"""
KEY = "{IN_FILES["an AWS access key"]}"
TOKENS = "{IN_FILES["a GitHub token"]} {IN_FILES["a GitLab token"]} {IN_FILES["a Slack token"]}"
MORE = ["{IN_FILES["a key of an AI service"]}", "{IN_FILES["a Google API key"]}", "{IN_FILES["a JSON web token"]}"]
STORE = "postgresql://lab:{IN_FILES["a password in a URL"]}@db.example/x"
PEM = '''-----BEGIN RSA PRIVATE KEY-----
{IN_FILES["a private key"]}
-----END RSA PRIVATE KEY-----'''
db_password = "{IN_FILES["what a password or key is assigned"]}"
COPIED = "{VARIABLES["AWS_SECRET_ACCESS_KEY"]} {VARIABLES["HOSPITAL_SECRET"]} {VARIABLES["MLFLOW_TRACKING_PASSWORD"]}"
ALSO = "{VARIABLES["PGPASSWORD"]} {VARIABLES["WANDB_API_KEY"]} {VARIABLES["AWS_SESSION_TOKEN"]} {VARIABLES["HF_TOKEN"]}"
WAYS = "pr0xy-w0rd p%40ss-of-study p@ss-of-study"
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout of the project with secrets in what is not committed and in its remote."""
    folder = tmp_path_factory.mktemp("home") / "project"
    for name in ("medexp", "entry_points", "registry"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "bases", "checkpoints"))
    for name in ("MLproject", "conda.yaml"):
        shutil.copy(ROOT / name, folder / name)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(folder)]
    for words in (["init", "-q"], ["add", "medexp/__init__.py", "medexp/arrays.py"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    subprocess.run([*git, "remote", "add", "origin", f"https://me:{REMOTE}@git.example/lab.git"], check=True)
    with (folder / "medexp/arrays.py").open("a") as file:
        file.write(PLANTED)
    return folder


def run(checkout: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_RUN", "XDG_"))}
    environment |= VARIABLES | {"PYTHONPATH": str(checkout), "HOME": str(checkout.parent)}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"  # of the source that secrets are planted in Python would write a copy
    environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{checkout}/mlflow.db"
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    command = ["mlflow", "run", ".", "-e", "prepare", "--env-manager", "local"]
    given = [word for key in words for word in ("-P", key)]
    return subprocess.run([*command, *given], cwd=checkout, env=environment, capture_output=True, text=True, check=False)


def test_no_secret_is_in_anything_that_a_run_writes(checkout: Path) -> None:
    done = run(checkout, "phantoms.meningioma_patients=4", "phantoms.glioma_patients=4", "data.jobs=1")
    assert done.returncode == 0, done.stderr
    told = done.stdout + done.stderr
    assert "environment/uncommitted.diff of the run: *** in the place of " in told
    assert all(kind in told for kind in IN_FILES) and "the value of HOSPITAL_SECRET" in told
    source = checkout / "medexp/arrays.py"
    written = [path for path in checkout.parent.rglob("*") if path.is_file() and ".git" not in path.parts and path != source]
    (diff,) = [path for path in written if path.name == "uncommitted.diff"]
    assert "+COPIED = " in diff.read_text() and str(checkout.parent) not in diff.read_text()
    for path in written:
        content = path.read_bytes()
        assert not (found := [secret for secret in SECRETS if secret.encode() in content]), f"{path}: {found}"
    assert not [secret for secret in SECRETS if secret in told]


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        ("storage=postgresql://me:s3cret-word@127.0.0.1/x", "MEDEXP_STORAGE_URL"),
        ("data_dir=s3://me:s3cret-word@bucket/x", "AWS_SECRET_ACCESS_KEY"),
        ("note=password=s3cret-word", "secrets come from the environment"),
    ],
)
def test_a_secret_on_the_command_line_is_refused_with_the_way_to_give_it_before_anything_is_logged(
    checkout: Path, given: str, advice: str
) -> None:
    done = run(checkout, given)
    told = done.stdout + done.stderr
    assert done.returncode == 2 and "Traceback" not in told, told
    assert f"{given.partition('=')[0]}: holds " in told and advice in told and "s3cret-word" not in told
    for path in checkout.glob("mlflow.db*"):
        assert b"s3cret-word" not in path.read_bytes()


@pytest.mark.parametrize(
    "text",
    [
        "token = tokenizer.encode(text)",
        "digest fae7c4ccbba3db44a51c6cac1cc0a9b0fae7c4ccbba3db44a51c6cac1cc0a9b0",
        "http://127.0.0.1:5000/#/experiments/1/runs/0123456789abcdef0123456789abcdef?workflowType=machine_learning",
        "models:/phase1_encoder_merged@champion",
        "password: null, tokens: 256, max_tokens=2048",
        "postgresql://me@127.0.0.1:5432/studies",
        "case,patient\nsk-1,AKIA",
        'fetch(file,{credentials:"same-origin"})',
    ],
)
def test_what_is_no_secret_stands(text: str) -> None:
    assert masked(text).text == text and masked(text).found == ()


@given(st.text(), st.sampled_from(sorted(IN_FILES.items())), st.text())
def test_a_secret_is_found_whatever_stands_around_it(before: str, secret: tuple[str, str], after: str) -> None:
    line = next(line for line in PLANTED.replace("'''", "").split("\n\n")[0].splitlines(keepends=True) if secret[1] in line)
    if secret[0] == "a private key":
        line = f"-----BEGIN RSA PRIVATE KEY-----\n{secret[1]}\n-----END RSA PRIVATE KEY-----"
    assert secret[1] not in masked(f"{before}\n{line}\n{after}").text
