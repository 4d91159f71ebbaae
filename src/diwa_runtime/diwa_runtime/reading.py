"""Reading files that anybody may have written: regular files alone, of a bounded size, and no number that is none."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from diwa_runtime.errors import one_line

LIMIT_BYTES = 256 << 20
"""Of any file that is read whole, unless its reader knows better."""
JSON_LIMIT_BYTES = 64 << 20
"""Its content takes several times as much."""


@contextmanager
def opened(path: Path, *, follow: bool = True) -> Iterator[BinaryIO]:
    """Open a regular file for reading.

    Raises:
        OSError: it cannot be read: not there, a folder, a pipe, no permission; or a link, unless we `follow`.
    """
    # A pipe that nobody writes to would be waited for without an end.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    descriptor = os.open(path, flags)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        raise OSError(errno.EINVAL, "not a regular file, but a pipe or a device", str(path))
    with os.fdopen(descriptor, "rb") as file:
        yield file


def read_bytes(path: Path, limit: int = LIMIT_BYTES, *, follow: bool = True) -> bytes:
    """Return the bytes of a regular file of at most `limit` bytes.

    Raises:
        OSError: as `opened`.
        ValueError: it is larger.
    """
    with opened(path, follow=follow) as file:
        raw = file.read(limit + 1)
    if len(raw) > limit:
        raise ValueError(f"larger than {limit} bytes")
    return raw


def read_text(path: Path, limit: int = LIMIT_BYTES) -> str:
    """Return the text of a UTF-8 file; errors as `read_bytes`, and what is not UTF-8 is a ValueError."""
    return read_bytes(path, limit).decode("utf-8")


def read_json(path: Path, limit: int = JSON_LIMIT_BYTES) -> Any:
    """Return the content of a JSON file; errors as `read_text` and `parse_json`."""
    return parse_json(read_text(path, limit))


def parse_json(text: str | bytes) -> Any:
    """Return what a JSON text says.

    Raises:
        ValueError: not JSON, nested too deeply, or with a number that is none or infinite.
    """
    try:
        return json.loads(text, parse_constant=_refused, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def reason_of(error: Exception) -> str:
    """Say in a few words why a file could not be read."""
    words = error.strerror if isinstance(error, OSError) and error.strerror else one_line(error)
    return words[:200] or type(error).__name__


def _refused(word: str) -> Any:
    raise ValueError(f"{word} is not a finite number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is not a finite number")
    return number
