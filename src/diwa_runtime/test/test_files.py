"""Files and folders are written whole or not at all, whatever stops the writer."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from diwa_runtime import files
from diwa_runtime.errors import InputError, StorageError
from diwa_runtime.files import (
    FolderFormat,
    check_overwritable,
    make_folder,
    remove_orphans,
    remove_orphans_of,
    written_whole,
)


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


@pytest.mark.parametrize("deeper", ["it", "deep/it"])
def test_a_file_where_a_folder_should_be_is_said(tmp_path, deeper):
    (tmp_path / "thesis").write_text("years of work")

    said = rf"thesis/{deeper}: could not be written \(.+\)"
    with pytest.raises(StorageError, match=said), written_whole(tmp_path / "thesis" / deeper) as temporary:
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


# --- whose folder it is -------------------------------------------------------------------------------------------

FORM = FolderFormat("book", "book.json", lambda data: data["pages"] if data.get("of") == "ours" else None)


def write_book(folder: Path, *pages: str, text: str = "new") -> None:
    folder.mkdir(exist_ok=True)
    for page in pages:
        (folder / page).write_text(text)
    (folder / "book.json").write_text(json.dumps({"of": "ours", "pages": pages, "text": text}))


def is_whole(book: dict[str, str]) -> bool:
    about = json.loads(book["book.json"])
    return {name: book[name] for name in book if name != "book.json"} == dict.fromkeys(about["pages"], about["text"])


def read_book(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if not path.name.startswith(".")}


@pytest.mark.parametrize(
    ("add", "named"),
    [
        (lambda folder: (folder / "NOTES.md").write_text("mine"), "NOTES.md"),
        (lambda folder: (folder / ".git").mkdir(), ".git"),
        (lambda folder: (folder / "one").unlink() or (folder / "one").symlink_to("/etc/hostname"), "one"),
        (lambda folder: (folder / "one").unlink() or (folder / "one").mkdir(), "one"),
        (lambda folder: (folder / "book.json").write_text('{"of": "theirs", "pages": ["one"]}'), "book.json"),
        (lambda folder: (folder / "book.json").write_text("{"), "book.json"),
        (lambda folder: (folder / "book.json").unlink() or os.mkfifo(folder / "book.json"), "book.json"),
        (lambda folder: (folder / "book.json").unlink(), "one"),
        (lambda folder: (folder / f".other.{2**22}.partial").write_text("mine"), ".other."),
    ],
)
def test_a_folder_is_replaced_only_if_all_of_it_is_ours(tmp_path, add, named):
    write_book(tmp_path / "it", "one")
    add(tmp_path / "it")
    before = sorted(tmp_path.rglob("*"))

    with pytest.raises(InputError) as refused, written_whole(tmp_path / "it", FORM) as temporary:
        write_book(temporary, "two")

    assert str(refused.value).startswith(str(tmp_path / "it"))
    assert named in str(refused.value)
    assert "\n" not in str(refused.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_was_laid_into_a_folder_while_it_was_made_anew_stays(tmp_path):
    write_book(tmp_path / "it", "one")

    def replace_and_note():
        with written_whole(tmp_path / "it", FORM) as temporary:
            write_book(temporary, "two")
            (tmp_path / "it" / "NOTES.md").write_text("mine")

    with pytest.raises(InputError, match=r"NOTES.md: is not ours"):
        replace_and_note()

    assert set(read_book(tmp_path / "it")) == {"one", "book.json", "NOTES.md"}
    assert [path.name for path in tmp_path.iterdir()] == ["it"]


def test_orphans_of_other_names_are_left_alone(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    for name in ("it", "film"):
        (tmp_path / f".{name}.{dead.pid}.partial").write_text("half")

    assert remove_orphans_of(tmp_path / "it") == 1
    assert [path.name for path in tmp_path.iterdir()] == [f".film.{dead.pid}.partial"]


@pytest.mark.parametrize(
    ("content", "refusal"),
    [("", ""), ("of ours", ""), ("years of work", "is there already and no page"), (None, "folder")],
)
def test_a_file_is_written_over_only_if_it_is_ours(tmp_path, content, refusal):
    path = tmp_path / "it"
    path.mkdir() if content is None else path.write_text(content)

    with pytest.raises(InputError, match=refusal) if refusal else nullcontext():
        check_overwritable(path, "page", lambda head: b"ours" in head)


# --- links, mount points, other disks -----------------------------------------------------------------------------


@pytest.mark.parametrize("write", [write_file, write_folder])
def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path, write):
    (tmp_path / "disk").mkdir()
    write(tmp_path / "disk" / "real")
    (tmp_path / "it").symlink_to("disk/real")

    with written_whole(tmp_path / "it") as temporary:
        assert temporary.parent == tmp_path / "disk"
        write(temporary)

    assert (tmp_path / "it").readlink() == Path("disk/real")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "it"]
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["real"]


@pytest.mark.parametrize("path", ["it", "it/inside", "loop"])
def test_a_link_to_nothing_is_one_line(tmp_path, path):
    (tmp_path / "it").symlink_to("unplugged")
    (tmp_path / "loop").symlink_to("loop")

    with pytest.raises(StorageError, match=r"is a link to \w+, which is not there"), written_whole(tmp_path / path):
        pass
    with pytest.raises(StorageError, match="is a link to"):
        make_folder(tmp_path / path)

    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["it", "loop"]


@pytest.fixture
def fixed(tmp_path, monkeypatch):
    """A folder that holds a book and is not renamed."""
    write_book(tmp_path / "it", "one", "old", text="old")
    monkeypatch.setattr(files, "_stays", lambda place: place.is_dir())
    return tmp_path / "it"


def replace_book(folder: Path, inside: bool = False) -> None:
    with written_whole(folder, FORM) as temporary:
        assert not inside or temporary.parent == folder, "another disk may be too small"
        write_book(temporary, "one", "two")


def test_a_folder_that_cannot_be_renamed_is_filled(fixed):
    inode = fixed.stat().st_ino

    replace_book(fixed)

    assert fixed.stat().st_ino == inode
    assert read_book(fixed).keys() == {"one", "two", "book.json"}
    assert set(read_book(fixed).values()) == {"new", json.dumps({"of": "ours", "pages": ["one", "two"], "text": "new"})}
    assert not list(fixed.glob(".*"))


def test_a_kill_at_any_moment_of_filling_leaves_the_older_or_the_newer_folder(tmp_path, fixed):
    outcomes = set()
    for point in range(1, 200):
        folder = tmp_path / f"it_{point}"
        shutil.copytree(fixed, folder)
        if (child := os.fork()) == 0:
            count = 0

            def die(event, _, point=point):
                nonlocal count
                count += event == "open" or event.startswith(("os.", "shutil."))
                if count == point:
                    os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(die)
            replace_book(folder)
            os._exit(0)
        killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
        shown = read_book(folder)  # by a reader who knows nothing of all this
        assert "book.json" not in shown or is_whole(shown), point

        remove_orphans_of(folder, FORM)

        after = read_book(folder)
        assert is_whole(after), point
        outcomes.add(after["one"])
        assert not list(folder.glob(".*")), point
        if not killed:
            break
    assert outcomes == {"old", "new"}
    assert not killed


def test_what_lies_in_a_folder_whose_filling_was_cut_off_stays(fixed):
    write_book(fixed / f".it.{2**22}.new.partial", "one", "two")
    (fixed / "NOTES.md").write_text("mine")

    remove_orphans_of(fixed, FORM)

    assert read_book(fixed).keys() == {"one", "two", "book.json", "NOTES.md"}


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EXDEV])
@pytest.mark.parametrize("form", [FORM, None])
def test_a_folder_that_turns_out_not_to_move_is_filled(tmp_path, monkeypatch, number, form):
    folder = tmp_path / "it"
    folder.mkdir()
    if form is not None:
        write_book(folder, "one", "old", text="old")
    rename = Path.replace

    def refuse(self, target):
        across = self.parent != Path(target).parent and self.name.startswith(".it.") and number == errno.EXDEV
        if self == folder or (across and not (folder / "moved").exists() and self.parent == tmp_path):
            raise OSError(number, os.strerror(number))
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with written_whole(folder, form) as temporary:
        write_book(temporary, "one", "two")

    assert read_book(folder).keys() == {"one", "two", "book.json"}
    assert [path.name for path in tmp_path.iterdir()] == ["it"]


def bind(source: Path, target: Path) -> bool:
    return subprocess.run(["mount", "--bind", source, target], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("name", ["it", "it is here"])
def test_a_mount_point_is_filled(tmp_path, name):
    (tmp_path / "volume").mkdir()
    folder = tmp_path / name
    folder.mkdir()
    if os.getuid() != 0 or not bind(tmp_path / "volume", folder):
        pytest.skip("nothing can be mounted here")
    try:
        replace_book(folder, inside=True)
        write_book(folder, "one", "old", text="old")
        (folder / "two").unlink()
        replace_book(folder, inside=True)
        (tmp_path / "link").symlink_to(folder)
        replace_book(tmp_path / "link")
        with pytest.raises(ValueError), written_whole(folder, FORM) as temporary:  # noqa: PT012
            write_book(temporary, "three")
            raise ValueError

        assert read_book(tmp_path / "volume").keys() == {"one", "two", "book.json"}
        assert not list((tmp_path / "volume").glob(".*"))
    finally:
        subprocess.run(["umount", folder], check=True)
    assert not list(folder.iterdir())


def test_where_we_stand_is_filled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    for _ in range(2):
        replace_book(Path())

    assert read_book(tmp_path).keys() == {"one", "two", "book.json"}
