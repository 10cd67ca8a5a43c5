import shutil
import subprocess
import sys

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError

from medexp.cli import configuration
from medexp.errors import ConfigError, StorageError
from medexp.files import alone, filling, is_full_disk, parse_yaml, replacing


def test_the_file_appears_whole(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with replacing(path) as temporary:
        temporary.write_text("all")
        assert not path.exists()
    assert path.read_text() == "all"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_a_failure_keeps_what_was_there_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("before")
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(StorageError, match="taken/file.txt: cannot be written"), replacing(tmp_path / "taken" / "file.txt"):
        pass


def test_a_full_disk_is_named(tmp_path):
    with (
        pytest.raises(StorageError, match="file.txt: cannot be written .No space left on device."),
        replacing(tmp_path / "file.txt"),
        open("/dev/full", "w") as full,
    ):
        full.write("x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(28, "No space left on device"), True),
        (OSError(13, "Permission denied"), False),
        (shutil.Error([("a", "b", "[Errno 28] No space left on device: 'b'")]), True),
        (RuntimeError("database or disk is full"), True),
        (RuntimeError("database is locked"), False),
    ],
)
def test_a_full_disk_is_told_from_other_failures(error, full):
    assert is_full_disk(error) == full


def test_a_full_disk_is_named_of_a_library_whose_errors_are_its_own(tmp_path):
    with (
        pytest.raises(StorageError, match=r"out.safetensors: cannot be written \(.*No space left on device.*; free space"),
        replacing(tmp_path / "out.safetensors"),
    ):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    with pytest.raises(SafetensorError, match="misshapen"), replacing(tmp_path / "out.safetensors"):
        raise SafetensorError("misshapen")
    assert not [*tmp_path.iterdir()]


def test_a_folder_appears_full_and_the_first_one_stays(tmp_path):
    folder = tmp_path / "new" / "full"
    with filling(folder, "data_dir") as first:
        (first / "a.txt").write_text("first")
        with filling(folder, "data_dir") as second:
            (second / "a.txt").write_text("second")
            assert not folder.exists()
    assert (folder / "a.txt").read_text() == "second"
    assert [p.name for p in folder.parent.iterdir()] == ["full"]


def test_a_folder_that_was_not_filled_is_not_there(tmp_path):
    with pytest.raises(ZeroDivisionError), filling(tmp_path / "full", "data_dir") as folder:
        (folder / "a.txt").write_text("half")
        raise ZeroDivisionError
    with (
        pytest.raises(StorageError, match="data_dir .*full: cannot be written .No space left on device.; free space or give"),
        filling(tmp_path / "full", "data_dir"),
        open("/dev/full", "w") as full,
    ):
        full.write("x")
    assert not list(tmp_path.iterdir())
    (tmp_path / "full").write_text("a file")
    with pytest.raises(StorageError, match="data_dir .*full: cannot be written"), filling(tmp_path / "full", "data_dir"):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["full"]


WAITS = """
import sys
from pathlib import Path
from medexp.files import alone
with alone(Path(sys.argv[1]), waiting="waiting for the other one"):
    print("then", Path(sys.argv[2]).read_text())
"""


def test_one_process_at_a_time_and_the_others_say_that_they_wait(tmp_path):
    lock, work = tmp_path / "locks" / "one", tmp_path / "work"
    with alone(lock):
        command = [sys.executable, "-c", WAITS, str(lock), str(work)]
        other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert other.stdout is not None
        assert other.stdout.readline() == "waiting for the other one\n"
        work.write_text("done")
    assert other.communicate()[0] == "then done\n"


def test_a_lock_is_free_after_an_error_and_one_that_cannot_be_made_is_named(tmp_path):
    with pytest.raises(ZeroDivisionError), alone(tmp_path / "lock"):
        raise ZeroDivisionError
    with alone(tmp_path / "lock", waiting="never said"):
        pass
    (tmp_path / "taken").touch()
    with (
        pytest.raises(StorageError, match=r"taken/lock: cannot be written .*; move it"),
        alone(tmp_path / "taken" / "lock", remedy="move it"),
    ):
        raise AssertionError("started")


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("a: &a {x: 1, y: 1}\nb: {<<: *a, y: 2}", {"a": {"x": 1, "y": 1}, "b": {"x": 1, "y": 2}}),
        ("b: {y: 2, <<: [{x: 1}, {x: 3, y: 3}]}", {"b": {"y": 2, "x": 1}}),
        ("in: {a: &a {<<: {x: 1}, x: 2}}\nb: {<<: *a, x: 3}", {"in": {"a": {"x": 2}}, "b": {"x": 3}}),
        ("a: <<", {"a": "<<"}),
    ],
)
def test_blocks_are_merged_and_a_key_overrides_what_is_merged(text, content):
    assert parse_yaml(text) == content


@pytest.mark.parametrize("text", ["a: 1\na: 2", "a: {x: 1, x: 1}", "1: a\n0x1: b", "{<<: {x: 1}, y: 1, y: 2}"])
def test_a_key_that_stands_twice_is_refused(text):
    with pytest.raises(yaml.YAMLError, match="stands twice"):
        parse_yaml(text)


@pytest.mark.parametrize("text", ["!!int x", "!!bool x", "!!float ''", "!!timestamp x", "9" * 5000, "<<: 3"])
def test_whatever_cannot_be_read_is_no_yaml(text):
    with pytest.raises(yaml.YAMLError):
        parse_yaml(text)


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 100_000])
def test_what_is_nested_too_deeply_is_told_so(text):
    with pytest.raises(yaml.YAMLError, match="^it is nested too deeply$"):
        parse_yaml(text)


MARKS = [
    "{",
    "}",
    "[",
    "]",
    ":",
    ": ",
    "- ",
    "\n",
    "\n  ",
    "&a",
    "*a",
    "!!int ",
    "!!python/name:os.system ",
    "<<: ",
    "? ",
    "| ",
]
MARKS += [
    "'",
    '"',
    "#",
    "%YAML 9\n",
    "---\n",
    "...\n",
    "seed",
    "lora",
    "rank",
    "phase",
    "defaults",
    "~",
    "0x",
    "1e999",
    ".nan",
]
YAML = st.lists(st.sampled_from(MARKS) | st.text(max_size=3), max_size=20).map("".join)


@settings(max_examples=150, deadline=None)
@given(content=st.binary(max_size=40) | YAML.map(lambda text: text.encode("utf-8", "surrogatepass")))
@example(b"a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]")
def test_any_bytes_are_a_configuration_or_refused_with_the_files_name(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(content)
    try:
        configuration("phase1", ["--config", str(path)])
    except ConfigError as error:
        assert str(path) in str(error)
