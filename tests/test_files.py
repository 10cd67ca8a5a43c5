import pytest

from medexp.errors import StorageError
from medexp.files import replacing


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
