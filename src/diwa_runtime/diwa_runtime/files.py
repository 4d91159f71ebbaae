"""Writing files whole or not at all: a temporary name first, then a rename."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diwa_runtime.errors import StorageError

TEMPORARY_SUFFIX = ".partial"


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, file or folder; rename it onto `path` when the block ends well.

    On any exception what was written is removed and `path` is as it was. A folder replaces an older folder.

    Raises:
        StorageError: the disk refused; the message names the disk and what is left on it.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(temporary)
        yield temporary
        _put(temporary, path)
    except OSError as error:
        _remove(temporary)
        raise StorageError(f"{path}: could not be written ({error.strerror or error}); {_space_left(path)}") from error
    except BaseException:
        _remove(temporary)
        raise


def remove_orphans(folder: Path) -> int:
    """Delete what killed writers left in `folder`; return how many. A living process keeps what it is writing."""
    orphans = [path for path in Path(folder).glob(f".*{TEMPORARY_SUFFIX}") if not _is_being_written(path)]
    for orphan in orphans:
        _remove(orphan)
    return len(orphans)


def sha256_of(path: Path) -> str:
    """Return the file's sha256 as hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_being_written(temporary: Path) -> bool:
    found = re.search(r"\.(\d+)(\.old)?\.[a-z]+$", temporary.name)
    if found is None or int(found[1]) == os.getpid():
        return False
    try:
        os.kill(int(found[1]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's, and alive
    return True


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
