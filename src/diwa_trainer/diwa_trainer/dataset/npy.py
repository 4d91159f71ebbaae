"""The .npy files of a dataset: written row by row, opened by memory mapping, never unpickled."""

from __future__ import annotations

import contextlib
import os
import tokenize
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from diwa_runtime.errors import InputError, StorageError, one_line
from diwa_runtime.reading import opened, reason_of

# What numpy's header parser may raise on hostile bytes: it runs Python's tokenizer and `ast.literal_eval`.
_BAD_HEADER = (
    ValueError, KeyError, TypeError, OverflowError, MemoryError, RecursionError, SyntaxError, tokenize.TokenError,
)  # fmt: skip


@dataclass
class GrowingArray:
    """A .npy file that grows; its header gets the number of rows when it is closed."""

    path: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    _file: BinaryIO = field(init=False, repr=False)
    _data_at: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._file = open(self.path, "wb")  # noqa: SIM115 - lives as long as the writer
        self._write_header(0)
        self._data_at = self._file.tell()

    def write(self, rows: NDArray[Any]) -> None:
        """Append rows (n, ...) of exactly this dtype and row shape, C-contiguous."""
        self._file.write(rows.data if rows.size else b"")

    def truncate(self, rows: int) -> None:
        """Keep the first `rows` rows."""
        self._file.seek(self._data_at + rows * self.dtype.itemsize * int(np.prod(self.shape)))
        self._file.truncate()

    def close(self, rows: int) -> None:
        """Finish a file that holds this many rows."""
        self._file.seek(0)
        self._write_header(rows)
        if self._file.tell() != self._data_at:
            raise StorageError(f"{self.path.name}: its header grew; report this with your numpy's version")
        self._file.close()

    def abandon(self) -> None:
        """Close without finishing; a full disk refuses the last bytes too, and the file is about to be deleted."""
        with contextlib.suppress(OSError):
            self._file.close()

    def _write_header(self, rows: int) -> None:
        # numpy pads the header so that the first axis may grow to any number of digits in place.
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": (rows, *self.shape)}
        np.lib.format.write_array_header_1_0(self._file, header)


def open_array(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], anew: str = "ingest again") -> NDArray[Any]:
    """Memory-map a .npy file that must have this dtype and shape; never unpickles. `anew` says how it is made.

    Raises:
        InputError: not there, no .npy file, or other content than expected; names the file.
    """
    try:
        with opened(path) as file:
            version = np.lib.format.read_magic(file)
            read_header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            found_shape, fortran_order, found_dtype = read_header(file)
            offset = file.tell()
            size = os.fstat(file.fileno()).st_size - offset
    except FileNotFoundError:
        raise InputError(f"{path}: not there; {anew}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({reason_of(error)})") from None
    except _BAD_HEADER as error:
        raise InputError(f"{path}: not a .npy file that this DiWA reads ({one_line(error)[:120]}); {anew}") from None
    if (found_shape, found_dtype, fortran_order) != (shape, dtype, False):
        raise InputError(f"{path}: holds {found_dtype} {found_shape}, expected {dtype} {shape}; {anew}")
    wanted = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if size != wanted:
        raise InputError(f"{path}: has {size} bytes of data, expected {wanted}; {anew}")
    if not wanted:
        return np.zeros(shape, dtype)
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape)
