"""Writing files and folders whole or not at all: a temporary name first, all of it onto the disk, then a rename.

Nothing that DiWA did not write is deleted or written over: `check_replaceable` says whose a folder is.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diwa_runtime.errors import InputError, StorageError
from diwa_runtime.reading import read_json

TEMPORARY_SUFFIX = ".partial"
_TEMPORARY = re.compile(
    rf"\.(?P<name>.+)\.(?P<process>\d+)(?P<state>\.old|\.new)?{re.escape(TEMPORARY_SUFFIX)}", re.DOTALL
)
HEAD_BYTES = 1 << 20
_BEFORE = ".before"
"""Added to the name of a description that has made way for another."""
_CANNOT_MOVE = (errno.EBUSY, errno.EXDEV)
"""What the system says of a mount point, and of a folder that lies in a lower layer of a container's file system."""


@dataclass(frozen=True)
class FolderFormat:
    """What a folder that DiWA writes whole consists of, so that no other is taken for one.

    Attributes:
        kind: what it is called in messages: ``dataset``.
        description: the JSON file that says what the folder is; it is put in last.
        files: names of the files beside it, by the description's content; None where that is not of this format, in
            any version.
    """

    kind: str
    description: str
    files: Callable[[Any], Collection[str] | None]


@contextmanager
def written_whole(path: Path, form: FolderFormat | None = None) -> Iterator[Path]:
    """Give a temporary path for `path`, file or folder; put it into the place of `path` when the block ends well.

    On any exception what was written is removed and `path` is as it was. A folder replaces an older folder; where
    `form` is given, only one of that form. What stands at `path` is on the disk itself, so that a power cut leaves the
    older or the newer, and neither half. Where `path` is a link, what it points to is replaced and the link stays.

    A folder that cannot be renamed, such as a mount point, is filled from a temporary folder inside it. For that moment
    it has no description; what a kill leaves then, `remove_orphans_of` completes.

    Raises:
        StorageError: the disk refused, with the disk and what is left on it; or `path` is a link to nothing.
        InputError: as `check_replaceable`.
    """
    place = _place_of(path)
    temporary = _temporary(place, inside=_stays(place))
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        if form is not None:
            check_replaceable(path, form)
        _remove(temporary)
        yield temporary
        onto_disk(temporary)
        if form is not None:
            check_replaceable(path, form)  # much may have been laid into it meanwhile
        _put(temporary, place, form)
        _synchronise(place.parent)
    except OSError as error:
        _remove(temporary)
        raise StorageError(f"{path}: could not be written ({error.strerror or error}); {_space_left(place)}") from error
    except BaseException:
        _remove(temporary)
        raise


def check_replaceable(folder: Path, form: FolderFormat) -> None:
    """Refuse to replace a folder unless it is empty, or of that form and holds nothing else.

    Raises:
        InputError: names the first thing in it that is not ours.
        StorageError: it is a link to nothing.
    """
    place = _place_of(folder)
    if not os.path.lexists(place):
        return
    if not place.is_dir():
        raise InputError(f"{folder}: is a file, not a folder; choose another")
    entries = contents(place)
    if not entries:
        return
    listed = _files_of(place / form.description, form)
    if listed is None:
        ours = f"its {form.description} is damaged, or not DiWA's"
        reason = ours if form.description in entries else f"{min(entries)} is no {form.kind}'s"
        raise InputError(
            f"{folder}: is not empty and no {form.kind} ({reason}), so it is not replaced; choose another folder"
        )
    for name in sorted(entries):
        if name not in (form.description, *listed) or not entries[name].is_file(follow_symlinks=False):
            raise InputError(
                f"{Path(folder) / name}: is not ours, and the {form.kind} around it would be replaced; move it away, "
                "or choose another folder"
            )


def check_overwritable(path: Path, what: str, is_ours: Callable[[bytes], bool]) -> None:
    """Refuse to write over a file unless it is empty, or `is_ours` by its first `HEAD_BYTES`.

    Raises:
        InputError: it is a folder, or somebody else's file.
        StorageError: it is a link to nothing.
    """
    place = _place_of(path)
    if not place.exists():
        return
    if place.is_dir():
        raise InputError(f"{path}: is a folder; name the file to write in it")
    if not place.is_file():
        raise InputError(f"{path}: is a pipe or a device, not a file; choose another name")
    try:
        with place.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); choose another name") from None
    if head and not is_ours(head):
        raise InputError(f"{path}: is there already and no {what} of DiWA's; move it away or choose another name")


def contents(folder: Path) -> dict[str, os.DirEntry[str]]:
    """Return what lies in a folder, by name, without what a killed or a living writer and the file system keep there.

    Raises:
        OSError: the folder cannot be read.
    """
    place = Path(os.path.realpath(folder))
    system = {"lost+found"} if _is_mount(place) else set()

    def counts(name: str) -> bool:
        found = _TEMPORARY.fullmatch(name)
        return name not in system and (found is None or found["name"] != place.name)

    with os.scandir(folder) as entries:
        return {entry.name: entry for entry in entries if counts(entry.name)}


def make_folder(path: Path) -> None:
    """Make a folder and those around it, if they are not there.

    Raises:
        StorageError: the disk refused, or there is a link to nothing on the way.
    """
    place = _place_of(path)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{path}: could not be made ({error.strerror or error}); choose another folder") from error


def remove_orphans(folder: Path, is_ours: Callable[[str], object] = bool) -> int:
    """Delete what killed writers left in `folder` of what `is_ours` by its name; return how many.

    A living process keeps what it is writing. A folder that had stepped aside for one that did not take its place goes
    back there.
    """
    removed = 0
    for path, name, state in _orphans(folder):
        if state == ".new" or not is_ours(name):
            continue
        if state == ".old" and not os.path.lexists(path.with_name(name)):
            path.replace(path.with_name(name))
        else:
            _remove(path)
            removed += 1
    return removed


def remove_orphans_of(path: Path, form: FolderFormat | None = None) -> int:
    """Delete what killed writers of `path` left, beside it or in it; return how many.

    What one had whole, and was putting into a folder that cannot be renamed, is put there.
    """
    place = Path(os.path.realpath(path))
    if not place.parent.is_dir():
        return 0
    removed = remove_orphans(place.parent, lambda name: name == place.name)
    for orphan, name, state in _orphans(place) if place.is_dir() else ():
        if name != place.name:
            continue
        if state == ".new":
            _fill(place, orphan, form)
        else:
            _remove(orphan)
        removed += 1
    return removed


def sha256_of(path: Path) -> str:
    """Return the file's sha256 as hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def onto_disk(path: Path) -> None:
    """Have a file, or a folder and all in it, on the disk and not in the system's memory alone.

    Renaming does not see to that: after a power cut the new name may stand before an empty file.

    Raises:
        OSError: the disk refused.
    """
    for written in (path, *path.rglob("*")):
        _synchronise(written)


def _place_of(path: Path) -> Path:
    """Return what a path stands for: where it leads through all links on the way.

    Raises:
        StorageError: there is a link to nothing on the way, or nothing can be reached.
    """
    try:
        for link in (Path(path), *Path(path).parents):
            if link.is_symlink() and not link.exists():
                raise StorageError(
                    f"{link}: is a link to {link.readlink()}, which is not there; make that or remove it"
                )
        return Path(os.path.realpath(path))
    except OSError as error:
        raise StorageError(f"{path}: cannot be reached ({error.strerror or error}); choose another place") from None


def _temporary(place: Path, inside: bool, state: str = "") -> Path:
    return (place if inside else place.parent) / f".{place.name}.{os.getpid()}{state}{TEMPORARY_SUFFIX}"


def _orphans(folder: Path) -> Iterator[tuple[Path, str, str]]:
    """Yield path, name and state of what dead processes of ours were writing in a folder."""
    for path in Path(folder).glob(f".*{TEMPORARY_SUFFIX}"):
        found = _TEMPORARY.fullmatch(path.name)
        if found is not None and not _is_alive(int(found["process"])):
            yield path, found["name"], found["state"] or ""


def _is_alive(process: int) -> bool:
    """Whether another process of that number lives."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # somebody else's, and alive
    return True


def _stays(place: Path) -> bool:
    """Whether `place` is a folder that is better not renamed: a mount point, one whose parent is closed to us, or where
    we stand."""
    if not place.is_dir():
        return False
    here = os.path.realpath(".") if Path().exists() else os.sep
    return _is_mount(place) or not os.access(place.parent, os.W_OK) or Path(here).is_relative_to(place)


def _is_mount(folder: Path) -> bool:
    """Whether a folder is a mount point, also one whose file system is its parent's (a bind mount)."""
    if os.path.ismount(folder):
        return True
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return False
    points = {re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m[1], 8)]), line.split()[4]) for line in lines}
    return os.fsencode(folder) in points


def _synchronise(path: Path) -> None:
    """Have the bytes of a file, or the names in a folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems cannot do it for a folder
            raise
    finally:
        os.close(descriptor)


def _put(temporary: Path, place: Path, form: FolderFormat | None) -> None:
    """Rename onto `place`. A full folder cannot be renamed onto: it steps aside first and is deleted last, so that no
    moment has half of it."""
    if not (temporary.is_dir() and place.is_dir()):
        temporary.replace(place)
        return
    if temporary.parent == place:
        _fill_from(temporary, place, form)
        return
    aside = _temporary(place, inside=False, state=".old")
    _remove(aside)
    try:
        place.replace(aside)
    except OSError as error:
        if error.errno not in _CANNOT_MOVE:
            raise
        _fill_from(_moved(temporary, _temporary(place, inside=True)), place, form)
        return
    try:
        temporary.replace(place)
    except BaseException:
        aside.replace(place)
        raise
    _remove(aside)


def _moved(temporary: Path, inside: Path) -> Path:
    """Bring a folder to another place, by copying it where that is another disk's."""
    try:
        temporary.replace(inside)
    except OSError as error:
        if error.errno not in _CANNOT_MOVE:
            raise
        _remove(inside)
        shutil.copytree(temporary, inside)
        onto_disk(inside)
        _remove(temporary)
    return inside


def _fill_from(temporary: Path, place: Path, form: FolderFormat | None) -> None:
    """Put what lies in a temporary folder inside `place` into `place`."""
    if form is None and contents(place):
        _remove(temporary)
        raise OSError(errno.EBUSY, "it holds files, and cannot be renamed")
    whole = _temporary(place, inside=True, state=".new")
    _remove(whole)
    temporary.replace(whole)
    _synchronise(place)
    _fill(place, whole, form)


def _fill(place: Path, whole: Path, form: FolderFormat | None) -> None:
    """Put the files of `whole`, a folder in `place`, into `place`; called again after a kill, it goes on.

    The older description goes first and the new one comes last, so that no moment shows files of both as one.
    """
    names = sorted(entry.name for entry in os.scandir(whole))
    if form is not None:
        old, new, before = place / form.description, whole / form.description, whole / f"{form.description}{_BEFORE}"
        if new.exists() and old.exists() and not before.exists():
            old.replace(before)
            _synchronise(place)
        kept = _files_of(new, form) or ()
        for name in set(_files_of(before, form) or ()) - set(kept) if new.exists() else ():
            (place / name).unlink(missing_ok=True)
        names = [name for name in names if name not in (new.name, before.name)]
        names += [new.name] if new.exists() else []
    for name in names:
        (whole / name).replace(place / name)
    _synchronise(place)
    _remove(whole)


def _files_of(description: Path, form: FolderFormat) -> Collection[str] | None:
    """Return the names of the files beside a description; None where it is not there or not of that form."""
    try:
        return form.files(read_json(description))
    except (OSError, ValueError):
        return None


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(NotADirectoryError):  # where a folder should be is a file
            path.unlink(missing_ok=True)


def _space_left(path: Path) -> str:
    folder = next(parent for parent in (path, *path.parents) if parent.is_dir())
    return (
        f"{shutil.disk_usage(folder).free / 1e9:.1f} GB are free on the disk of {folder}; free some or choose another"
    )
