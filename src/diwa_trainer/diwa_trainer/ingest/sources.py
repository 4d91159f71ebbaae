"""The bytes of a recording, front to back: of a plain file, or of one that was packed as a whole by zstd.

rosbag2's ``--compression-mode file`` writes such files. They are unpacked as they are read, a block at a time.
"""

from __future__ import annotations

import sys
from typing import BinaryIO

import lz4.frame  # type: ignore[import-untyped]

from diwa_runtime.errors import one_line

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PACKED_MAGIC = b"\x28\xb5\x2f\xfd"
_SKIPPABLE_MAGIC = b"\x2a\x4d\x18"
"""Of frames of zstd that hold something else: all but their first byte."""
BLOCK = 1 << 20
_PIECE = 1 << 16
"""Bytes that are unpacked at a time: where the packing is damaged, what one call has unpacked before that is lost."""
_FILE_END_BYTES = 16


class PlainSource:
    """A file that is read as it is.

    Attributes:
        size: in bytes.
        complaint: what is wrong with the packing; "" = nothing.
        is_cut: whether the packing ends before its end.
    """

    complaint, is_cut = "", False

    def __init__(self, file: BinaryIO) -> None:
        """Read `file` from its beginning."""
        self._file = file
        self.size = file.seek(0, 2)
        file.seek(0)

    @property
    def offset(self) -> int:
        """How many bytes have been read."""
        return self._file.tell()

    def holds(self, count: int) -> bool:
        """Say whether there can be so many more bytes."""
        return count <= self.size - self.offset

    def read(self, count: int) -> bytes:
        """Return the next `count` bytes, fewer at the end; never ask for more than `holds`."""
        return self._file.read(count)

    def peek(self, count: int) -> bytes:
        """Return the next bytes without reading on."""
        data = self._file.read(count)
        self._file.seek(-len(data), 1)
        return data

    def skip(self, count: int) -> bool:
        """Leave out the next bytes; False where there are fewer."""
        return self._file.seek(count, 1) <= self.size

    def ends_with(self, end: bytes) -> bool:
        """Say whether these are the last bytes; nothing can be read after that."""
        self._file.seek(max(self.size - len(end), 0))
        return self._file.read() == end


class PackedSource:
    """What was packed in a file, with the methods and attributes of `PlainSource`; `size` is known at the end alone."""

    def __init__(self, file: BinaryIO) -> None:
        """Unpack `file` from its beginning."""
        self._file = file
        self._unpacker = zstd.ZstdDecompressor()
        self._buffer = bytearray()
        self._at_end = False
        self._last = b""
        self.offset = self.size = 0
        self.complaint, self.is_cut = "", False

    def holds(self, count: int) -> bool:
        return len(self._buffer) >= count or not self._at_end

    def read(self, count: int) -> bytes:
        self._fill(count)
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        self.offset += len(data)
        return data

    def peek(self, count: int) -> bytes:
        self._fill(count)
        return bytes(self._buffer[:count])

    def skip(self, count: int) -> bool:
        while count > 0:
            skipped = len(self.read(min(count, BLOCK)))
            if not skipped:
                return False
            count -= skipped
        return True

    def ends_with(self, end: bytes) -> bool:
        while self._fill(1):
            self.read(BLOCK)
        return self._last[-len(end) :] == end and not self.complaint

    def _fill(self, count: int) -> bool:
        """Unpack until `count` bytes are there, or no more come."""
        while len(self._buffer) < count and not self._at_end:
            piece = self._unpacked()
            self.size += len(piece)
            self._last = (self._last + piece[-_FILE_END_BYTES:])[-_FILE_END_BYTES:]
            self._buffer += piece
        return len(self._buffer) >= count

    def _unpacked(self) -> bytes:
        """Return the next piece, b"" as well where the packer has to be given more first."""
        try:
            packed = b""
            if self._unpacker.eof:  # a file may be packed in parts
                packed = self._unpacker.unused_data or self._file.read(_PIECE)
                self._at_end = not packed
                self._unpacker = zstd.ZstdDecompressor()
            elif self._unpacker.needs_input:
                packed = self._file.read(_PIECE)
                self._at_end = self.is_cut = not packed
            return b"" if self._at_end else self._unpacker.decompress(packed, max_length=_PIECE)
        except zstd.ZstdError as error:
            self._at_end = True
            self._file.seek(-_FILE_END_BYTES, 2)
            if any(self._file.read()):  # zeros are what a crash of the file system leaves
                self.complaint = one_line(error)
            return b""


Source = PlainSource | PackedSource


def open_source(file: BinaryIO) -> Source:
    """Return the source that fits a file, by its first bytes."""
    magic = file.read(len(PACKED_MAGIC))
    file.seek(0)
    return PackedSource(file) if magic == PACKED_MAGIC or magic[1:] == _SKIPPABLE_MAGIC else PlainSource(file)


def unpacked(packed: memoryview, compression: str, size: int) -> memoryview:
    """Unpack a chunk that claims `size` bytes, never more than one byte beyond.

    Raises:
        ValueError, RuntimeError: it is damaged, of another size, or of a compression that is not known.
    """
    try:
        if compression == "":
            records = bytes(packed)
        elif compression == "zstd":
            records = zstd.ZstdDecompressor().decompress(packed, max_length=size + 1)
        elif compression == "lz4":
            records = lz4.frame.LZ4FrameDecompressor().decompress(packed, max_length=size + 1)
        else:
            raise ValueError(f"compression {compression!r} is not known")
    except zstd.ZstdError as error:
        raise ValueError(one_line(error)) from None
    if len(records) != size:
        raise ValueError(f"a chunk of {size:,} bytes unpacks to another size")
    return memoryview(records)


def unpacked_message(data: bytes | memoryview, limit: int) -> bytes:
    """Unpack one message of rosbag2's ``--compression-mode message``.

    Raises:
        ValueError: it is damaged, or unpacks to more than `limit` bytes.
    """
    unpacker = zstd.ZstdDecompressor()
    try:
        message = unpacker.decompress(data, max_length=limit)
    except zstd.ZstdError as error:
        raise ValueError(one_line(error)) from None
    if not unpacker.eof:
        raise ValueError("its packing is cut off")
    return message
