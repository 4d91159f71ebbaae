"""Reads MCAP files front to back, without their index, so that a recording that was cut off reads up to the cut.

Lengths in the file are never believed: nothing is read or unpacked beyond what the file holds or `MAX_CHUNK_BYTES`.
The format: https://mcap.dev/spec.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from struct import error as StructError
from typing import NamedTuple

from diwa_runtime.errors import InputError, one_line
from diwa_trainer.ingest.sources import Source, open_source, unpacked

MAGIC = b"\x89MCAP0\r\n"
MAX_CHUNK_BYTES = 1 << 30

_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _DATA_END, _FOOTER = 0x03, 0x04, 0x05, 0x06, 0x0F, 0x02
_READ = (_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK)
_NO_RECORD = 0x00
"""No record is of that code: it is what a crash of the file system leaves."""
_RECORD = Struct("<BQ")
_MESSAGE_HEAD = Struct("<HIQQ")
_CHUNK_HEAD = Struct("<QQQI")
_U16, _U32, _U64 = Struct("<H"), Struct("<I"), Struct("<Q")
_DAMAGED = (StructError, ValueError, KeyError, RuntimeError)


@dataclass(frozen=True)
class Channel:
    """One topic of a file.

    Attributes:
        topic: its full name.
        type: ROS message type, ``package/msg/Name``.
        encoding: of the definition: ``ros2msg``, ``ros2idl`` or ``""`` where there is none.
        text: the type's definition, with those it depends on, as it lies in the file.
        message_encoding: of its messages: ``cdr`` by ROS 2.
    """

    topic: str
    type: str
    encoding: str
    text: bytes
    message_encoding: str = "cdr"

    @property
    def definition(self) -> str:
        """The definition; bytes that are no UTF-8, which stand in comments, are replaced."""
        return self.text.decode("utf-8", "replace")


class Message(NamedTuple):
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
        self._schemas: dict[int, tuple[str, str, bytes]] = {}
        self._has_summary_read = False

    def messages(self) -> Iterator[Message]:
        """Yield all messages in the order of the file.

        Raises:
            InputError: not there, or no MCAP file.
            DamagedError: a checksum or a length is wrong, and damage is not to be skipped.
        """
        self.losses.clear()
        try:
            with open(self.path, "rb") as file:
                source = open_source(file)
                head = source.read(len(MAGIC))
                if head == MAGIC:
                    yield from self._records(source)
                elif (MAGIC.startswith(head) or not any(head)) and not source.complaint:
                    self._end_early(source, 0)
                else:
                    raise InputError(
                        f"{self.path}: not an MCAP file ({self.path.stat().st_size} bytes); remove it or record again"
                    )
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror})") from None

    def _records(self, source: Source) -> Iterator[Message]:
        while True:
            start = source.offset
            head = source.read(_RECORD.size)
            if len(head) < _RECORD.size:
                self._end_early(source, start)
                return
            code, length = _RECORD.unpack(head)
            if not _is_possible(source, head):
                self._end_early(source, start, f"a record at offset {start:,} claims {length:,} bytes")
                return
            if code in (_DATA_END, _FOOTER):
                return
            body = memoryview(source.read(length) if code in _READ else b"")
            if len(body) < length and (code in _READ or not source.skip(length)):
                self._end_early(source, start)
                return
            try:
                yield from self._contents(source, code, body)
            except _DAMAGED as error:
                what = f"{length + _RECORD.size:,} bytes at offset {start:,} are damaged ({one_line(error)[:120]})"
                head = source.peek(_RECORD.size)
                if len(head) < _RECORD.size or not _is_possible(source, head, _RECORD.size):
                    self._end_early(source, start, what)
                    return
                self._damage(what)

    def _contents(self, source: Source, code: int, body: memoryview) -> Iterator[Message]:
        if code == _CHUNK:
            yield from self._chunk(body)
        elif code == _MESSAGE:
            head = source.peek(_RECORD.size)  # without a chunk's checksum, a spoilt end may begin in the message
            if len(head) == _RECORD.size and not _is_possible(source, head, _RECORD.size):
                raise ValueError("no record follows it")
            yield self._message(body)
        else:
            self._learn(code, body)

    def _chunk(self, body: memoryview) -> list[Message]:
        """Return a chunk's messages, if all of it is whole."""
        *_, unpacked_size, checksum = _CHUNK_HEAD.unpack_from(body)
        compression, at = _string(body, _CHUNK_HEAD.size)
        (packed_size,) = _U64.unpack_from(body, at)
        packed = body[at + 8 : at + 8 + packed_size]
        if len(packed) != packed_size:
            raise ValueError(f"a chunk of {packed_size} bytes does not fit its record")
        if unpacked_size > MAX_CHUNK_BYTES:
            raise ValueError(f"a chunk claims {unpacked_size:,} bytes")
        records = unpacked(packed, compression, unpacked_size)
        if checksum and zlib.crc32(records) != checksum:
            raise ValueError("its checksum is wrong")
        at, found = 0, list[Message]()
        while at < len(records):
            code, length = _RECORD.unpack_from(records, at)
            at += _RECORD.size
            if code == _NO_RECORD or length > len(records) - at:
                raise ValueError(f"a record of {length} bytes does not fit its chunk")
            if code == _MESSAGE:
                found.append(self._message(records[at : at + length]))
            else:
                self._learn(code, records[at : at + length])
            at += length
        return found

    def _message(self, body: memoryview) -> Message:
        channel, _, receipt_ns, _ = _MESSAGE_HEAD.unpack_from(body)
        return Message(self.channels[channel], receipt_ns, body[_MESSAGE_HEAD.size :])

    def _learn(self, code: int, body: memoryview) -> None:
        """Take a schema or a channel; other records say nothing that is needed."""
        if code == _SCHEMA:
            (number,) = _U16.unpack_from(body)
            name, at = _string(body, 2)
            encoding, at = _string(body, at)
            self._schemas[number] = (name, encoding, bytes(_bytes(body, at)[0]))
        elif code == _CHANNEL:
            number, schema = _U16.unpack_from(body)[0], _U16.unpack_from(body, 2)[0]
            topic, at = _string(body, 4)
            channel = Channel(topic, *self._schemas.get(schema, ("", "", b"")), _string(body, at)[0])
            if self.channels.get(number) != channel:  # a channel may stand in every chunk
                self.channels[number] = channel

    def _read_summary(self) -> None:
        """Learn the channels from the file's end, where they are repeated: the chunk that has them may be damaged."""
        with open(self.path, "rb") as file:
            source = open_source(file)
            source.skip(len(MAGIC))
            is_summary = False
            while len(head := source.read(_RECORD.size)) == _RECORD.size:
                code, length = _RECORD.unpack(head)
                if is_summary and code in (_SCHEMA, _CHANNEL) and source.holds(length) and length <= MAX_CHUNK_BYTES:
                    try:
                        self._learn(code, memoryview(source.read(length)))
                    except _DAMAGED:
                        return
                elif code in (_NO_RECORD, _FOOTER) or not source.holds(length) or not source.skip(length):
                    return
                is_summary = is_summary or code == _DATA_END

    def _end_early(self, source: Source, start: int, what: str = "") -> None:
        """Tell a file that was cut off, or whose end a crash spoilt, from one that is damaged before its end."""
        is_finished = source.ends_with(MAGIC)
        lost = f"{source.size - start:,}"
        if source.complaint:
            self._damage(f"its packing is damaged ({source.complaint}); from offset {start:,} on all is lost")
        elif what and is_finished:
            self._damage(f"{what}; from there on {lost} are lost")
        elif not self.path.stat().st_size:
            self.losses.append(f"{self.path}: is empty (0 bytes)")
        else:
            rest = f"the last {lost} bytes lost{', and what was packed after them' if source.is_cut else ''}"
            self.losses.append(f"{self.path}: was cut off; read up to its last whole chunk, {rest}")

    def _damage(self, what: str) -> None:
        if not self._skip_damaged:
            raise DamagedError(f"{self.path}: {what}; leave out what is damaged with --skip-damaged, or record again")
        self.losses.append(f"{self.path}: {what}; left out")
        if not self._has_summary_read:
            self._has_summary_read = True
            self._read_summary()


def _is_possible(source: Source, head: bytes, read_on: int = 0) -> bool:
    """Say whether a record with this head can follow, `read_on` bytes of which are still to be read."""
    code, length = _RECORD.unpack(head)
    return code != _NO_RECORD and source.holds(length + read_on) and not (code in _READ and length > MAX_CHUNK_BYTES)


def _bytes(body: memoryview, at: int) -> tuple[memoryview, int]:
    (length,) = _U32.unpack_from(body, at)
    end = at + 4 + length
    if end > len(body):
        raise ValueError(f"a text of {length} bytes does not fit its record")
    return body[at + 4 : end], end


def _string(body: memoryview, at: int) -> tuple[str, int]:
    """Return a name, and where it ends. One that is no UTF-8 is not ours: nothing asks for what it names."""
    name, end = _bytes(body, at)
    return str(name, "utf-8", "backslashreplace"), end
