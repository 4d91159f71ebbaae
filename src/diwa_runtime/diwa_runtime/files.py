"""Writing files whole or not at all: a temporary name first, all of it onto the disk, then a rename."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diwa_runtime.errors import StorageError

TEMPORARY_SUFFIX = ".partial"
_TEMPORARY = re.compile(rf"\.(?P<name>.+)\.(?P<process>\d+)(?P<aside>\.old)?{re.escape(TEMPORARY_SUFFIX)}")


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, file or folder; rename it onto `path` when the block ends well.

    On any exception what was written is removed and `path` is as it was. A folder replaces an older folder. What stands
    at `path` is on the disk itself, so that a power cut leaves the older or the newer, and neither half.

    Raises:
        StorageError: the disk refused; the message names the disk and what is left on it.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(temporary)
        yield temporary
        onto_disk(temporary)
        _put(temporary, path)
        _synchronise(path.parent)
    except OSError as error:
        _remove(temporary)
        raise StorageError(f"{path}: could not be written ({error.strerror or error}); {_space_left(path)}") from error
    except BaseException:
        _remove(temporary)
        raise


def remove_orphans(folder: Path) -> int:
    """Delete what killed writers left in `folder`; return how many. A living process keeps what it is writing.

    A folder that had stepped aside for one that did not take its place goes back there.
    """
    removed = 0
    for path in Path(folder).glob(f".*{TEMPORARY_SUFFIX}"):
        found = _TEMPORARY.fullmatch(path.name)
        if found is None or _is_alive(int(found["process"])):
            continue
        if found["aside"] and not path.with_name(found["name"]).exists():
            path.replace(path.with_name(found["name"]))
        else:
            _remove(path)
            removed += 1
    return removed


def sha256_of(path: Path) -> str:
    """Return the file's sha256 as hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def onto_disk(path: Path) -> None:
    """Have a file, or a folder and all in it, on the disk and not in the system's memory alone.

    Renaming does not see to that: after a power cut the new name may stand before an empty file.

    Raises:
        OSError: the disk refused.
    """
    for written in (path, *path.rglob("*")):
        _synchronise(written)


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


def _put(temporary: Path, path: Path) -> None:
    """Rename onto `path`. A full folder cannot be renamed onto: it steps aside first and is deleted last, so that no
    moment has half of it."""
    if not (temporary.is_dir() and path.is_dir()):
        temporary.replace(path)
        return
    aside = path.with_name(f".{path.name}.{os.getpid()}.old{TEMPORARY_SUFFIX}")
    _remove(aside)
    path.replace(aside)
    try:
        temporary.replace(path)
    except BaseException:
        aside.replace(path)
        raise
    _remove(aside)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _space_left(path: Path) -> str:
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    return (
        f"{shutil.disk_usage(folder).free / 1e9:.1f} GB are free on the disk of {folder}; free some or choose another"
    )
