"""The command line: layers, one clear line for bad input, exit codes."""

import fcntl
import os
import platform
import signal
import subprocess
import sys
import termios
from pathlib import Path

import psutil
import pytest
import yaml

from medexp.cli import main
from medexp.config.keys import keys
from medexp.errors import CheckFailed
from medexp.phases.phase1.config import Phase1Config
from medexp.phases.prepare.config import PrepareConfig
from medexp.phases.probe.config import ProbeConfig
from medexp.phases.promote.config import PromoteConfig
from medexp.tracking.processes import PARENT
from medexp.tracking.provenance import config_yaml

ROOT = Path(__file__).parents[1]
DEMO, FULL = (
    yaml.safe_load((ROOT / "medexp/phases/phase1/profiles" / f"{profile}.yaml").read_text()) for profile in ("demo", "full")
)
SNIPPET = """
lora:
  rank: 8
  alpha: 16
  target_stages: [3, 4]
  target_modules: [qkv]
  lora_dropout: 0.1
  mode: lora  # or dora for ablation A2

training:
  epochs: 100
  lr_lora: 1e-4
  lr_decoder: 5e-4
  lr_aux: 1e-3
  optimizer: adamw
  weight_decay: 0.01
  batch_size: 2
  scheduler: cosine
  warmup_epochs: 10
  grad_clip: 1.0
  precision: bf16-mixed

aux_heads:
  enabled: true
  lambda_aux: 0.1
  warmup_start_epoch: 5
  warmup_duration: 10
"""
seen: list[Phase1Config] = []


def record(config):
    """Stands in for a phase."""
    seen.append(config)


def fail_a_check(config):
    raise CheckFailed("TEST_2.5: Dice WT 0.7, demanded > 0.80")


def be_interrupted(config):
    raise KeyboardInterrupt


def be_terminated(config):
    raise SystemExit(143)


def have_a_defect(config):
    return {}["x"]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    seen.clear()
    monkeypatch.chdir(tmp_path)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MEDEXP_DEBUG", "MLFLOW_RUN_ID", "RANK"):
        monkeypatch.setenv(name, "before")  # so that what the command line sets is undone
        monkeypatch.delenv(name)


def call(*argv, run=record):
    return main("phase1", argv, run=run)


def resolved(*argv):
    assert call(*argv) == 0
    return seen[-1]


def test_the_profile_is_the_first_layer():
    config = resolved()
    assert (config.profile, config.seed, config.training.epochs) == ("demo", DEMO["seed"], DEMO["training"]["epochs"])
    assert config.data.input_size == tuple(DEMO["data"]["input_size"])
    assert isinstance(config.lora.alpha, float)


def test_flags_win_over_the_file_and_the_file_over_the_profile(tmp_path):
    (tmp_path / "mine.yaml").write_text("lora: {rank: 4, alpha: 2}\nseed: 7\n")
    config = resolved("--config", "mine.yaml", "--lora.alpha=32")
    assert (config.lora.rank, config.lora.alpha, config.seed) == (4, 32, 7)
    assert config.training.epochs == DEMO["training"]["epochs"]


def test_the_specifications_snippet_loads_as_it_stands(tmp_path):
    (tmp_path / "snippet.yaml").write_text(SNIPPET)
    config = resolved("--config", "snippet.yaml")
    assert (config.training.lr_lora, config.training.lr_decoder, config.training.lr_aux) == (1e-4, 5e-4, 1e-3)
    assert config.training.precision == "bf16-mixed"
    assert config.training.validate_every == DEMO["training"]["validate_every"]


def test_the_full_profile_has_the_specifications_numbers(tmp_path):
    (tmp_path / "snippet.yaml").write_text(SNIPPET)
    full = ["--profile", "full", "--data_dir", "d", "--checkpoint", "c"]
    assert resolved(*full, "--config", "snippet.yaml") == resolved(*full)


@pytest.mark.parametrize(
    ("argv", "key", "value"),
    [
        (["--rank", "3"], "lora.rank", 3),
        (["--rank=3"], "lora.rank", 3),
        (["--lora.alpha", "32"], "lora.alpha", 32.0),
        (["--lora.target_modules", "[qkv, proj]"], "lora.target_modules", ("qkv", "proj")),
        (["--data.input_size", "[64,64,64]"], "data.input_size", (64, 64, 64)),
        (["--data.exclude", "[a,b]"], "data.exclude", ("a", "b")),
        (["--data.exclude=[]"], "data.exclude", ()),
        (["--data.labels", "map", "--data.label_map", "{4: 3}"], "data.label_map", {4: 3}),
        (["--data.patient_pattern", r"^(\d+)-\w$"], "data.patient_pattern", r"^(\d+)-\w$"),
        (["--data_dir", "null"], "data_dir", None),
        (["--data_dir", "123"], "data_dir", "123"),
        (["--data_dir", "a=b c"], "data_dir", "a=b c"),
        (["--training.lr_lora", "1e-4"], "training.lr_lora", 1e-4),
        (["--aux_heads.enabled", "false"], "aux_heads.enabled", False),
        (["--aux_heads.enabled", "no"], "aux_heads.enabled", False),
        (["--threads", "null"], "threads", None),
        (["--validation.min_dice_gain", "-1"], "validation.min_dice_gain", -1.0),
        (["--checkpoint", "models:/bsf_base@champion"], "checkpoint", "models:/bsf_base@champion"),
    ],
)
def test_a_flag(argv, key, value):
    found = resolved(*argv)
    for name in key.split("."):
        found = getattr(found, name)
    assert (found, type(found)) == (value, type(value))


BAD_FLAGS = {
    "out of range": (["--rank", "0"], "lora.rank: found 0; at least 1"),
    "a word for a number": (["--rank=abc"], "lora.rank: found abc; expected a whole number"),
    "a fraction for a count": (["--rank", "1.5"], "lora.rank: found 1.5; expected a whole number"),
    "null where there must be a value": (["--seed", "null"], "seed: found null; expected a whole number"),
    "not a number": (["--training.weight_decay", ".nan"], "training.weight_decay: found .nan; expected a number"),
    "brackets without an end": (
        ["--data.spacing", "[" * 90_000],
        f"data.spacing: found {'[' * 500}... (90000 characters); expected a list [...] of 3 values",
    ),
    "infinite": (["--data.spacing", "[1, 1, .inf]"], "data.spacing: found [1, 1, .inf]; expected a list [...] of 3 values"),
    "two of three": (
        ["--data.spacing", "[1,1]"],
        "data.spacing: found [1,1]; expected a list [...] of 3 values, each a number",
    ),
    "no such choice": (["--lora.mode", "qlora"], "lora.mode: found qlora; expected one of lora, dora"),
    "a size that is no multiple of 32": (
        ["--data.input_size", "[64,64,40]"],
        "data.input_size: found (64, 64, 40); give three multi",
    ),
    "a misspelt flag": (["--lora.rnk=8"], "--lora.rnk: no such flag; did you mean --lora.rank?"),
    "a flag without its block": (["--alpha", "3"], "--alpha: no such flag; did you mean --lora.alpha?"),
    "an abbreviated flag": (["--lora.alp", "3"], "--lora.alp: no such flag; did you mean --lora.alpha?"),
    "a block as a flag": (["--lora", "{rank: 3}"], "--lora: no such flag"),
    "nothing like it": (["--zzzzz", "3"], "--zzzzz: no such flag"),
    "nothing where null may be": (["--threads", ""], "threads: found ; expected a whole number or null"),
    "no value": (["--rank"], "--rank: needs a value"),
    "a flag where a value should be": (["--rank", "--seed", "3"], "--rank: needs a value"),
    "twice": (["--rank", "3", "--lora.rank", "4"], "--lora.rank: given twice"),
    "a word on its own": (["train"], "train: found on its own"),
    "an unknown profile": (["--profile", "fulll"], "--profile: found 'fulll'; phase1 has demo, full"),
    "a profile that is a path": (
        ["--profile", "../prepare/demo"],
        "--profile: found '../prepare/demo'; phase1 has demo, full",
    ),
    "an unknown run": (["--resume", "abc"], "--resume: no run 'abc' in output_dir outputs; it has none"),
    "a file that is not there": (["--config", "nowhere.yaml"], "nowhere.yaml: cannot be read (No such file or directory)"),
}


@pytest.mark.parametrize(("argv", "message"), BAD_FLAGS.values(), ids=BAD_FLAGS.keys())
def test_a_bad_flag_is_one_line_and_exit_code_2(argv, message, capsys, tmp_path):
    assert call(*argv) == 2
    told = capsys.readouterr()
    assert told.err.startswith(f"medexp phase1: error: {message}")
    assert told.err.count("\n") == 1
    assert told.out == ""
    assert not seen
    assert not list(tmp_path.iterdir())


BAD_FILES = {
    "malformed": ("lora: [3\nseed: 4", "mine.yaml: line 2, column 5: is no valid YAML ("),
    "a tab": ("lora:\n\trank: 3", "mine.yaml: line 2, column 1: is no valid YAML ("),
    "an unknown key": ("seeed: 3", "mine.yaml: seeed: no such key; did you mean seed?"),
    "an unknown key deep in it": ("lora: {rnk: 3}", "mine.yaml: lora.rnk: no such key; did you mean lora.rank?"),
    "an unknown block": ("lorra: {rank: 3}", "mine.yaml: lorra: no such key; did you mean lora?"),
    "a key in the wrong block": ("training: {rank: 3}", "mine.yaml: training.rank: no such key"),
    "a value for a block": ("lora: 8", "mine.yaml: lora: found 8; expected a block of keys"),
    "an empty block": ("lora:", "mine.yaml: lora: found null; expected a block of keys"),
    "a block and a dotted key": ("lora: {rank: 8}\nlora.rank: 4", "mine.yaml: lora.rank: given twice, as a block and dotted"),
    "a key by both of its names": ("lora: {rank: 8}\nrank: 4", "mine.yaml: lora.rank: given twice, as a block and dotted"),
    "a number in quotes": ("lora: {rank: '8'}", "lora.rank: found '8'; expected a whole number (in mine.yaml)"),
    "a wrong type": ("lora: {rank: many}", "lora.rank: found many; expected a whole number (in mine.yaml)"),
    "null where there must be a value": ("seed: null", "seed: found null; expected a whole number (in mine.yaml)"),
    "a truth for a number": ("lora: {rank: true}", "lora.rank: found true; expected a whole number (in mine.yaml)"),
    "out of range": ("lora: {rank: 0}", "lora.rank: found 0; at least 1 (in mine.yaml)"),
    "a profile beside a few keys": (
        "profile: full\nseed: 3",
        "mine.yaml: profile: a file with some of the keys cannot choose it",
    ),
    "a list": ("[1, 2]", "mine.yaml: holds [1, 2]; expected keys with values"),
    "a word": ("lora", "mine.yaml: holds lora; expected keys with values"),
    "nothing": ("", "mine.yaml: holds nothing; expected keys with values"),
    "an object to build": ("seed: !!python/object/apply:os.getpid []", "mine.yaml: line 1, column 7: is no valid YAML ("),
}


@pytest.mark.parametrize(("text", "message"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_bad_file_is_one_line_and_exit_code_2(text, message, capsys, tmp_path):
    (tmp_path / "mine.yaml").write_text(text)
    assert call("--config", "mine.yaml") == 2
    told = capsys.readouterr()
    assert told.err.startswith(f"medexp phase1: error: {message}")
    assert told.err.count("\n") == 1
    assert not seen


@pytest.mark.parametrize("content", [b"\xff\xfe\x00\x01", None], ids=["no text", "a folder"])
def test_a_file_that_cannot_be_read(content, capsys, tmp_path):
    if content is None:
        (tmp_path / "mine.yaml").mkdir()
    else:
        (tmp_path / "mine.yaml").write_bytes(content)
    assert call("--config", "mine.yaml") == 2
    assert capsys.readouterr().err.startswith("medexp phase1: error: mine.yaml: ")


def test_everything_that_is_wrong_is_told_at_once(capsys, tmp_path):
    (tmp_path / "mine.yaml").write_text("training: {epochs: 0, warmup_epochs: 1, lr_lora: fast}")
    assert call("--config", "mine.yaml", "--rank", "x", "--lora.alpha", "-1") == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "medexp phase1: error: configuration: 5 problems",
        "  - training.lr_lora: found fast; expected a number (in mine.yaml)",
        "  - lora.rank: found x; expected a whole number",
        "  - lora.alpha: found -1.0; above 0",
        "  - training.epochs: found 0; at least 1 (in mine.yaml)",
        "  - training.warmup_epochs: found 1; below epochs (0) (in mine.yaml)",
    ]


def test_the_full_profile_says_what_it_needs(capsys):
    assert call("--profile", "full") == 2
    told = capsys.readouterr().err
    assert "data_dir: profile=full needs real data" in told
    assert "checkpoint: profile=full needs the base" in told


@pytest.mark.parametrize(
    ("run", "code", "message"),
    [
        (fail_a_check, 3, "error: TEST_2.5: Dice WT 0.7"),
        (be_interrupted, 130, "interrupted; go on with -P resume="),
        (be_terminated, 143, "interrupted; go on with -P resume=abc123"),
    ],
)
def test_exit_codes(run, code, message, capsys, monkeypatch):
    monkeypatch.setenv("MLFLOW_RUN_ID", "abc123")
    assert call(run=run) == code
    told = capsys.readouterr().err
    assert told.startswith(f"medexp phase1: {message}")
    assert "Traceback" not in told


def test_a_defect_keeps_its_traceback():
    with pytest.raises(KeyError):
        call(run=have_a_defect)


@pytest.mark.parametrize("argv", [["--debug"], ["--debug", "true"], ["--debug=true"]])
def test_debug_shows_the_traceback(argv, capsys):
    assert call(*argv, run=fail_a_check) == 3
    assert "Traceback" in capsys.readouterr().err


def test_the_first_line_and_the_threads_come_before_the_phase(capsys, monkeypatch):
    assert call("--threads", "3", "--seed", "5") == 0
    assert capsys.readouterr().out == "medexp phase1: profile demo, seed 5\n"
    assert os.environ["OMP_NUM_THREADS"] == "3"
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert call("--threads", "null") == 0
    assert os.environ["OMP_NUM_THREADS"] == "7"


@pytest.fixture
def saved(tmp_path):
    """A run `r1` as tracking leaves it: the configuration that it was started with in its folder."""
    config = resolved("--rank", "4", "--output_dir", str(tmp_path / "runs"))
    folder = tmp_path / "runs" / "r1"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config_yaml(config))
    return config


def test_resume_takes_the_runs_own_configuration(saved):
    # `mlflow run` hands its default profile on
    config = resolved(
        "--profile", "demo", "--resume", "r1", "--output_dir", saved.output_dir, "--device", "cpu", "--threads", "2"
    )
    assert (config.resume, config.device, config.threads) == ("r1", "cpu", 2)
    assert config.lora == saved.lora
    assert config.training == saved.training


def test_resume_finds_a_folder_that_was_moved(saved, tmp_path):
    (tmp_path / "runs").rename(tmp_path / "outputs")  # where the profile looks
    assert resolved("--resume", "r1").output_dir == "outputs"


def test_resume_refuses_a_changed_key_and_says_both_values(saved, capsys):
    assert call("--resume", "r1", "--output_dir", saved.output_dir, "--rank", "8", "--seed", "0", "--profile", "full") == 2
    assert capsys.readouterr().err.splitlines()[-4:] == [
        "medexp phase1: error: resume continues run r1 as it was started: 2 problems",
        "  - lora.rank: the run has 4, given is 8",
        "  - profile: the run has 'demo', given is 'full'",
        "Leave them out, or start a new run without resume.",
    ]


def test_resume_of_an_unknown_run_lists_those_there_are(saved, capsys):
    assert call("--resume", "r2", "--output_dir", saved.output_dir) == 2
    assert f"--resume: no run 'r2' in output_dir {saved.output_dir}; it has r1" in capsys.readouterr().err


def test_resume_does_not_leave_the_output_folder(saved, capsys):
    assert call("--resume", "../runs/r1", "--output_dir", saved.output_dir) == 2
    assert "no run '../runs/r1'" in capsys.readouterr().err


def test_resume_with_a_damaged_configuration_names_the_file(saved, capsys):
    file = Path(saved.output_dir) / "r1" / "config.yaml"
    content = yaml.safe_load(file.read_text())
    del content["data"]["suffixes"], content["recover"]  # which older versions had not, and which ask for nothing
    file.write_text(yaml.safe_dump(content))
    assert resolved("--resume", "r1", "--output_dir", saved.output_dir).data.suffixes == saved.data.suffixes == {}
    del content["seed"]
    file.write_text(yaml.safe_dump(content))
    assert call("--resume", "r1", "--output_dir", saved.output_dir) == 2
    assert f"{file}: seed: missing" in capsys.readouterr().err


def test_prepare_has_no_rank_and_no_resume(capsys):
    assert main("prepare", ["--rank", "3"], run=record) == 2
    assert "--rank: no such flag" in capsys.readouterr().err
    assert main("prepare", [], run=be_interrupted) == 130
    assert capsys.readouterr().err == "medexp prepare: interrupted\n"


def test_help_tells_each_key_with_its_text_and_the_profiles_default(capsys):
    assert call("--help") == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "Adapt a SwinUNETR encoder with LoRA" in told
    assert f"--lora.rank , --rank Rank of the update; at least 1. (a whole number; default: {DEMO['lora']['rank']})" in told
    assert f"Passes over the training cases. (a whole number; default: {DEMO['training']['epochs']})" in told
    assert f"along R, A, S. (a list [...] of 3 values, each a number; default: {DEMO['data']['spacing']})" in told
    assert call("--help", "--profile", "full") == 0
    told = " ".join(capsys.readouterr().out.split())
    assert f"Passes over the training cases. (a whole number; default: {FULL['training']['epochs']})" in told


@pytest.mark.parametrize("phase", ["phase1", "prepare", "promote", "probe", "main"])
def test_help_and_bad_input_import_neither_torch_nor_mlflow(phase):
    program = f"""
import runpy, sys
for argv in (["--help"], ["--nonsense", "3"]):
    sys.argv = ["x", *argv]
    try:
        runpy.run_module("entry_points.{phase}", run_name="__main__")
    except SystemExit as end:
        print("exit code", end.code)
print("imported", {{"torch", "mlflow", "monai", "numpy"}} & sys.modules.keys())
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "imported set()"
    assert [line for line in done.stdout.splitlines() if line.startswith("exit code")] == ["exit code 0", "exit code 2"]


# In short sleeps: Python heeds a signal that comes just before a sleep when that sleep is over. It ends, so that one which is
# ignored fails a test and does not hold it up.
WAITS = """
import time
def run(config):
    print("waiting", flush=True)
    for _ in range(60_000):
        time.sleep(0.01)
"""


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), ("its parent was killed", 143)]
)
def test_a_signal_ends_a_process_of_its_own(tmp_path, sent, code):
    (tmp_path / "phase.py").write_text(WAITS)
    program = "from medexp.cli import main; import phase; raise SystemExit(main('phase1', [], run=phase.run))"
    pipe = subprocess.PIPE
    parent = subprocess.Popen(["cat"], stdin=pipe)
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    environment |= {PARENT: f"{platform.node()} {parent.pid} {psutil.Process(parent.pid).create_time():.0f}"}
    with (
        parent,
        subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=pipe, stderr=pipe, text=True) as process,
    ):
        assert process.stdout
        assert process.stderr
        assert [process.stdout.readline(), process.stdout.readline()] == ["medexp phase1: profile demo, seed 0\n", "waiting\n"]
        if isinstance(sent, str):
            parent.kill()
        else:
            process.send_signal(sent)
        assert process.wait() == code
        parent.kill()
        assert process.stderr.read() == "medexp phase1: interrupted; go on with -P resume=RUN_ID (--resume RUN_ID)\n"


def test_a_closed_terminal_ends_a_process_with_the_code_of_its_signal(tmp_path):
    """Its own last words have nowhere to go then, and change nothing."""
    (tmp_path / "phase.py").write_text(WAITS)
    program = "from medexp.cli import main; import phase; raise SystemExit(main('phase1', [], run=phase.run))"
    ours, theirs = os.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509  no thread is there yet
    ) as process:
        os.close(theirs)
        said = b""
        while b"waiting" not in said:
            said += os.read(ours, 1024)
        os.close(ours)
        assert process.wait() == 129


STEPS = {"prepare": PrepareConfig, "phase1": Phase1Config, "promote": PromoteConfig, "probe": ProbeConfig}


def call_main(*argv):
    return main("main", argv, run=record)


def resolved_main(*argv):
    assert call_main(*argv) == 0
    return seen[-1]


@pytest.mark.parametrize(
    "flags",
    [
        {"profile": "demo"},
        {"profile": "full", "data_dir": "d", "checkpoint": "c", "table": "t"},
        {"seed": "4", "threads": "1", "device": "cpu", "output_dir": "o", "cache_dir": "c"},
        {"rank": "4", "data.exclude": "[a]", "phantoms.seed": "9"},
    ],
)
def test_a_pipelines_steps_are_configured_as_the_phases_alone(flags):
    config = resolved_main(*(f"--{key}={value}" for key, value in flags.items()))
    for step, config_class in STEPS.items():
        parameters = {"rank": "lora.rank"}
        has = [
            key
            for key in flags
            if reached(config_class, parameters.get(key, key)) and (step, key) != ("probe", "phantoms.seed")
        ]
        assert main(step, [f"--{key}={flags[key]}" for key in has], run=record) == 0
        assert getattr(config, step) == seen[-1]
    assert config.phase1.lora.rank == int(flags.get("rank", DEMO["lora"]["rank"]))


def reached(config_class, key):
    return key in keys(config_class)


def test_a_key_can_be_given_to_one_step():
    config = resolved_main("--phase1.lora.rank=3", "--probe.phantoms.seed", "5", "--probe.threads", "7")
    assert (config.phase1.lora.rank, config.probe.phantoms.seed, config.phase1.phantoms.seed) == (3, 5, 0)
    assert (config.probe.threads, config.phase1.threads, config.threads) == (7, DEMO["threads"], None)


def test_a_file_for_a_phase_is_one_for_the_pipeline(tmp_path):
    (tmp_path / "snippet.yaml").write_text(SNIPPET)
    (tmp_path / "mine.yaml").write_text("rank: 2\nprobe: {head: mlp, search: {folds: 3}}\nseed: 6\n")
    assert resolved_main("--config", "snippet.yaml").phase1.training.epochs == 100
    config = resolved_main("--config", "mine.yaml", "--lora.rank", "5")
    assert (config.phase1.lora.rank, config.probe.head, config.probe.search.folds, config.promote.seed) == (5, "mlp", 3, 6)


def test_what_a_pipeline_was_run_with_is_read_back(tmp_path):
    config = resolved_main("--rank", "4", "--seed", "7", "--probe.head", "mlp")
    (tmp_path / "config.yaml").write_text(config_yaml(config))
    assert resolved_main("--config", "config.yaml") == config
    assert resolved_main("--config", "config.yaml", "--seed", "8").probe.seed == 8


BAD_PIPELINES = {
    "said twice": (
        ["--rank", "3", "--phase1.lora.rank", "4"],
        "lora.rank and phase1.lora.rank: found 3 and 4; give one of them",
    ),
    "against its step": (["--seed", "3", "--probe.seed", "4"], "seed and probe.seed: found 3 and 4; give one of them"),
    "against the profile": (["--probe.seed", "4"], "seed and probe.seed: found 0 and 4; give seed alone"),
    "another profile": (
        ["--probe.profile", "full", "--probe.table", "t"],
        "profile and probe.profile: found 'demo' and 'full'",
    ),
    "another data set": (
        ["--prepare.data.val_fraction", "0.2"],
        "prepare.data.val_fraction and phase1.data.val_fraction: found 0.2 and 0.45; give data.val_fraction",
    ),
    "another folder": (
        ["--phase1.data_dir", "d"],
        "configuration: 2 problems\n  - prepare.data_dir and phase1.data_dir: found None",
    ),
    "resume": (["--resume", "abc"], "phase1.resume: found abc; leave it out: main goes on by itself"),
    "a version": (["--version", "3"], "promote.model and promote.version: leave them out"),
    "an encoder": (["--encoder", "models:/x@y"], "probe.encoder: found models:/x@y; leave it out"),
    "misspelt": (["--phase1.lora.rnk", "3"], "--phase1.lora.rnk: no such flag; did you mean --phase1.lora.rank?"),
    "out of range": (["--rank", "0"], "phase1.lora.rank: found 0; at least 1"),
    "of a wrong type": (["--lora.alpha", "x"], "phase1.lora.alpha: found x; expected a number"),
    "an unknown profile": (["--profile", "fulll"], "--profile: found 'fulll'; main has demo, full"),
}


@pytest.mark.parametrize(("argv", "message"), BAD_PIPELINES.values(), ids=BAD_PIPELINES.keys())
def test_a_pipeline_that_contradicts_itself(argv, message, capsys):
    assert call_main(*argv) == 2
    assert capsys.readouterr().err.startswith(f"medexp main: error: {message}")
    assert not seen


@pytest.mark.parametrize(("name", "argv"), [("main", []), ("sweep", []), ("recover", ["--run", "abc123"])])
def test_an_interrupted_pipeline_or_study_says_how_it_goes_on(name, argv, capsys):
    assert main(name, argv, run=be_terminated) == 143
    assert capsys.readouterr().err == f"medexp {name}: interrupted; run it again, it goes on from there\n"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--resume", "abc123"], "resume: found abc123; leave it out: a sweep goes on by itself when it is run again"),
        (["--recover", "true"], "recover: found true; leave it out"),
        (["--phase1.resume", "abc123"], "resume: found abc123; leave it out"),
    ],
)
def test_what_a_sweep_does_not_hand_on(argv, message, capsys):
    assert main("sweep", argv, run=record) == 2
    assert capsys.readouterr().err.startswith(f"medexp sweep: error: {message}")


def test_a_file_does_not_choose_the_phase_of_a_sweep(tmp_path, capsys):
    (tmp_path / "sweep.yaml").write_text("phase: phase2_1\n")
    assert main("sweep", ["--config", str(tmp_path / "sweep.yaml")], run=record) == 2
    assert "phase: found 'phase2_1' in a file; which phase is searched is said as a flag" in capsys.readouterr().err


def test_a_pipelines_help_is_of_its_own_keys_and_names_its_steps(capsys):
    assert call_main("--help") == 0
    told = capsys.readouterr().out
    assert "--table" in told
    assert "phase1.lora" not in told
    assert "prepare, phase1, promote, probe" in " ".join(told.split())
