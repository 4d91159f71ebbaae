"""Files and folders are written whole or not at all, whatever stops the writer."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from diwa_runtime.errors import StorageError
from diwa_runtime.files import remove_orphans, written_whole


def write_file(path: Path) -> None:
    path.write_text("new")


def write_folder(path: Path) -> None:
    path.mkdir()
    (path / "part").write_text("new")


@pytest.mark.parametrize("write", [write_file, write_folder])
def test_what_a_block_writes_takes_the_place_of_what_was_there(tmp_path, write):
    for _ in range(2):
        with written_whole(tmp_path / "deep" / "it") as temporary:
            write(temporary)

    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["it"]


@pytest.mark.parametrize("write", [write_file, write_folder])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_block_that_fails_leaves_what_was_there(tmp_path, write, error):
    with written_whole(tmp_path / "it") as temporary:
        write(temporary)
    before = sorted(tmp_path.rglob("*"))

    def fail():
        with written_whole(tmp_path / "it") as temporary:
            write(temporary)
            raise error

    with pytest.raises(error):
        fail()

    assert sorted(tmp_path.rglob("*")) == before


def test_an_older_folder_comes_back_when_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    with written_whole(tmp_path / "it") as temporary:
        write_folder(temporary)
    rename = Path.replace

    def refuse(self, target):
        if Path(target).name == "it" and ".old." not in self.name:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(StorageError, match="Input/output error"), written_whole(tmp_path / "it") as temporary:
        temporary.mkdir()

    assert [path.name for path in tmp_path.iterdir()] == ["it"]
    assert (tmp_path / "it" / "part").read_text() == "new"


def test_a_folder_never_replaces_a_file(tmp_path):
    (tmp_path / "thesis").write_text("years of work")

    with pytest.raises(StorageError, match="thesis"), written_whole(tmp_path / "thesis") as temporary:
        write_folder(temporary)

    assert (tmp_path / "thesis").read_text() == "years of work"


def test_a_full_disk_is_named_with_what_is_left_on_it(tmp_path):
    def fail():
        with written_whole(tmp_path / "it"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StorageError, match=rf"No space left.*GB are free on the disk of {tmp_path}"):
        fail()

    assert list(tmp_path.iterdir()) == []


def test_what_killed_writers_left_is_removed_and_what_living_ones_write_is_not(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    (tmp_path / f".it.{dead.pid}.partial").mkdir()
    (tmp_path / f".it.{dead.pid}.old.partial").write_text("half")
    (tmp_path / f".it.{os.getppid()}.partial").write_text("half, so far")
    (tmp_path / "it").write_text("whole")

    assert remove_orphans(tmp_path) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".it.{os.getppid()}.partial", "it"]


def test_what_is_not_ours_is_left_alone(tmp_path):
    (tmp_path / ".film.partial").write_text("somebody's download")

    assert remove_orphans(tmp_path) == 0
    assert (tmp_path / ".film.partial").exists()


def test_a_kill_between_the_two_renames_of_a_folder_loses_nothing(tmp_path):
    with written_whole(tmp_path / "it") as temporary:
        write_folder(temporary)
        (temporary / "part").write_text("old")
    if (child := os.fork()) == 0:
        renames = []

        def die_at_the_second(event, _):
            if event == "os.rename":
                renames.append(event)
                if len(renames) == 2:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(die_at_the_second)
        with written_whole(tmp_path / "it") as temporary:
            write_folder(temporary)
        os._exit(0)
    os.waitpid(child, 0)
    assert not (tmp_path / "it").exists(), "it was killed at that moment"

    assert remove_orphans(tmp_path) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["it"]
    assert (tmp_path / "it" / "part").read_text() == "old"


def test_all_of_it_is_on_the_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    """What a power cut asks for, which no test can make: each file and folder, then the rename, then its folder."""
    done = []
    sync, rename = os.fsync, Path.replace
    path_of = lambda file: str(Path(f"/proc/self/fd/{file}").readlink())  # noqa: E731
    monkeypatch.setattr(os, "fsync", lambda file: done.append(path_of(file)) or sync(file))
    monkeypatch.setattr(Path, "replace", lambda self, target: done.append("renamed") or rename(self, target))

    with written_whole(tmp_path / "it") as temporary:
        write_folder(temporary)

    assert sorted(done[:2]) == [str(temporary), str(temporary / "part")]
    assert done[2:] == ["renamed", str(tmp_path)]
