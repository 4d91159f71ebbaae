"""Reads MCAP files front to back, without their index, so that a recording that was cut off reads up to the cut.

Lengths in the file are never believed: nothing is read or unpacked beyond what the file holds or `MAX_CHUNK_BYTES`.
The format: https://mcap.dev/spec.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from struct import error as StructError
from typing import BinaryIO

import lz4.frame  # type: ignore[import-untyped]

from diwa_runtime.errors import InputError, one_line

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAGIC = b"\x89MCAP0\r\n"
MAX_CHUNK_BYTES = 1 << 30

_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _DATA_END, _FOOTER = 0x03, 0x04, 0x05, 0x06, 0x0F, 0x02
_FOOTER_BYTES = 37
_RECORD = Struct("<BQ")
_MESSAGE_HEAD = Struct("<HIQQ")
_CHUNK_HEAD = Struct("<QQQI")
_U16, _U32, _U64 = Struct("<H"), Struct("<I"), Struct("<Q")


@dataclass(frozen=True)
class Channel:
    """One topic of a file.

    Attributes:
        topic: its full name.
        type: ROS message type, ``package/msg/Name``.
        encoding: of the definition: ``ros2msg``, ``ros2idl`` or ``""`` where there is none.
        definition: the type's text, with those it depends on.
    """

    topic: str
    type: str
    encoding: str
    definition: str


@dataclass(frozen=True)
class Message:
    """One message as it was recorded: its channel, the time of receipt (ns) and the serialized bytes."""

    channel: Channel
    receipt_ns: int
    data: bytes | memoryview


class DamagedError(InputError):
    """A bag whose bytes are not what was recorded; what is whole can be read with `skip_damaged`."""


class McapFile:
    """One MCAP file.

    Attributes:
        path: the file.
        losses: what could not be read, one line each; filled by `messages`.
        channels: found so far, by id.
    """

    def __init__(self, path: Path, skip_damaged: bool = False) -> None:
        """Name a file; nothing is read yet.

        Args:
            path: the file.
            skip_damaged: leave out a damaged chunk instead of raising DamagedError.
        """
        self.path = path
        self.losses: list[str] = []
        self.channels: dict[int, Channel] = {}
        self._skip_damaged = skip_damaged
        self._schemas: dict[int, tuple[str, str, str]] = {}

    def messages(self) -> Iterator[Message]:
        """Yield all messages in the order of the file.

        Raises:
            InputError: not there, or no MCAP file.
            DamagedError: a checksum or a length is wrong, and damage is not to be skipped.
        """
        self.losses.clear()
        try:
            with open(self.path, "rb") as file:
                size = file.seek(0, 2)
                file.seek(0)
                head = file.read(len(MAGIC))
                if len(head) < len(MAGIC) and MAGIC.startswith(head):
                    self._cut(0, size)
                    return
                if head != MAGIC:
                    raise InputError(f"{self.path}: not an MCAP file ({size} bytes); remove it or record again")
                if self._skip_damaged:
                    self._read_summary(file, size)
                yield from self._records(file, size)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror})") from None

    def _records(self, file: BinaryIO, size: int) -> Iterator[Message]:
        while True:
            start = file.tell()
            head = file.read(_RECORD.size)
            if len(head) < _RECORD.size:
                self._cut(start, size)
                return
            code, length = _RECORD.unpack(head)
            if length > size - file.tell():
                self._overlong(file, start, length, size)
                return
            if code in (_DATA_END, _FOOTER):
                return
            if code not in (_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK):
                file.seek(length, 1)
                continue
            body = memoryview(file.read(length))
            try:
                yield from self._chunk(body) if code == _CHUNK else self._record(code, body)
            except (StructError, ValueError, KeyError, RuntimeError, zstd.ZstdError) as error:
                self._damage(
                    f"{length + _RECORD.size:,} bytes at offset {start:,} are damaged ({one_line(error)[:120]})"
                )

    def _chunk(self, body: memoryview) -> Iterator[Message]:
        *_, unpacked_size, checksum = _CHUNK_HEAD.unpack_from(body)
        compression, at = _string(body, _CHUNK_HEAD.size)
        (packed_size,) = _U64.unpack_from(body, at)
        packed = body[at + 8 : at + 8 + packed_size]
        if len(packed) != packed_size:
            raise ValueError(f"a chunk of {packed_size} bytes does not fit its record")
        records = _unpacked(packed, compression, unpacked_size)
        if checksum and zlib.crc32(records) != checksum:
            raise ValueError("its checksum is wrong")
        at = 0
        while at < len(records):
            code, length = _RECORD.unpack_from(records, at)
            at += _RECORD.size
            if length > len(records) - at:
                raise ValueError(f"a record of {length} bytes does not fit its chunk")
            yield from self._record(code, records[at : at + length])
            at += length

    def _record(self, code: int, body: memoryview) -> Iterator[Message]:
        if code == _MESSAGE:
            channel, _, receipt_ns, _ = _MESSAGE_HEAD.unpack_from(body)
            yield Message(self.channels[channel], receipt_ns, body[_MESSAGE_HEAD.size :])
        elif code == _SCHEMA:
            (number,) = _U16.unpack_from(body)
            name, at = _string(body, 2)
            encoding, at = _string(body, at)
            self._schemas[number] = (name, encoding, _string(body, at)[0])
        elif code == _CHANNEL:
            number, schema = _U16.unpack_from(body)[0], _U16.unpack_from(body, 2)[0]
            self.channels[number] = Channel(_string(body, 4)[0], *self._schemas.get(schema, ("", "", "")))

    def _read_summary(self, file: BinaryIO, size: int) -> None:
        """Learn the channels from the file's end, where they are repeated: the chunk that has them may be damaged."""
        back_to = file.tell()
        try:
            file.seek(max(size - _FOOTER_BYTES, 0))
            footer = file.read()
            (summary_start,) = _U64.unpack_from(footer, _RECORD.size)
            if footer.endswith(MAGIC) and footer[0] == _FOOTER and 0 < summary_start < size:
                file.seek(summary_start)
                summary = memoryview(file.read())
                at = 0
                while summary[at] in (_SCHEMA, _CHANNEL):
                    code, length = _RECORD.unpack_from(summary, at)
                    at += _RECORD.size
                    for _ in self._record(code, summary[at : at + length]):
                        pass
                    at += length
        except (StructError, ValueError, IndexError):
            pass
        file.seek(back_to)

    def _overlong(self, file: BinaryIO, start: int, length: int, size: int) -> None:
        """Tell a file that was cut off, whose last record is naturally too long, from one with a wrong length."""
        file.seek(max(size - len(MAGIC), 0))
        if file.read() != MAGIC:
            self._cut(start, size)
        else:
            self._damage(
                f"a record at offset {start:,} claims {length:,} bytes; from there on {size - start:,} are lost"
            )

    def _cut(self, start: int, size: int) -> None:
        self.losses.append(
            f"{self.path}: was cut off; read up to its last whole chunk, the last {size - start:,} bytes lost"
        )

    def _damage(self, what: str) -> None:
        if not self._skip_damaged:
            raise DamagedError(f"{self.path}: {what}; leave out what is damaged with --skip-damaged, or record again")
        self.losses.append(f"{self.path}: {what}; left out")


def _unpacked(packed: memoryview, compression: str, size: int) -> memoryview:
    """Unpack a chunk that claims `size` bytes, never more than one byte beyond."""
    if size > MAX_CHUNK_BYTES:
        raise ValueError(f"a chunk claims {size:,} bytes")
    if compression == "":
        records = bytes(packed)
    elif compression == "zstd":
        records = zstd.ZstdDecompressor().decompress(packed, max_length=size + 1)
    elif compression == "lz4":
        records = lz4.frame.LZ4FrameDecompressor().decompress(packed, max_length=size + 1)
    else:
        raise ValueError(f"compression {compression!r} is not known")
    if len(records) != size:
        raise ValueError(f"a chunk of {size:,} bytes unpacks to another size")
    return memoryview(records)


def _string(body: memoryview, at: int) -> tuple[str, int]:
    (length,) = _U32.unpack_from(body, at)
    end = at + 4 + length
    if end > len(body):
        raise ValueError(f"a text of {length} bytes does not fit its record")
    return str(body[at + 4 : end], "utf-8"), end
