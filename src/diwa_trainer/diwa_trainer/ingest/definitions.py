"""From a channel's bytes to messages, by the definition that the bag carries of their type."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from rosbags.serde import SerdeError
from rosbags.typesys import Stores, TypesysError, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from diwa_runtime.errors import InputError, one_line
from diwa_runtime.interfaces import message_definitions
from diwa_trainer.ingest.mcap import MAX_CHUNK_BYTES, Channel, DamagedError
from diwa_trainer.ingest.sources import PACKED_MAGIC, unpacked_message

Read = Callable[[bytes | memoryview], Any]

_UNREADABLE = (SerdeError, struct.error, IndexError, KeyError, ValueError, AssertionError, OverflowError, MemoryError)
_SEPARATOR = re.compile(r"^=+[ \t]*\n", re.MULTILINE)
_NO_IDL = re.compile(r"\AIDL:.*|^[ \t]*#.*", re.MULTILINE)
"""The line that names a definition, and those of the preprocessor."""


def reader_of(channel: Channel) -> Read:
    """Return what turns this channel's bytes into messages; what it cannot read, it refuses with a DamagedError.

    Raises:
        InputError: the bag does not define the type and it is not one that DiWA knows, or it is not in CDR.
    """
    if channel.message_encoding != "cdr":
        raise InputError(
            f"{channel.topic}: its messages are in {channel.message_encoding!r}, not in 'cdr'; record it with ROS 2"
        )
    store = _store_of(channel.type, channel.encoding, channel.text)

    def read(data: bytes | memoryview) -> Any:
        try:
            if data[:4] == PACKED_MAGIC:  # where CDR has its encapsulation header
                data = unpacked_message(data, MAX_CHUNK_BYTES)
            return store.deserialize_cdr(data, channel.type)
        except _UNREADABLE as error:
            raise DamagedError(
                f"{channel.topic}: a message of {len(data)} bytes is no {channel.type} ({one_line(error)})"
            ) from None

    return read


@lru_cache(maxsize=256)
def _store_of(name: str, encoding: str, definition: bytes) -> Typestore:
    try:
        if definition:
            types = _types_of(name, encoding, definition.decode("utf-8", "replace"))
            store = get_typestore(Stores.EMPTY)
        else:
            store, types = get_typestore(Stores.ROS2_JAZZY), {}
            for known, text in message_definitions().items():
                types.update(get_types_from_msg(text, known))
        store.register(types)
    except (TypesysError, ValueError, KeyError) as error:
        raise DamagedError(f"the definition of {name} in the bag cannot be read ({one_line(error)})") from None
    if name not in store.types:
        raise InputError(f"type {name} is not defined in the bag; record it with storage id mcap")
    return store


def _types_of(name: str, encoding: str, text: str) -> dict[str, Any]:
    """Return the types that a definition defines; bytes in its comments that are no UTF-8 were replaced."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if encoding not in ("ros2idl", "omgidl"):
        return dict(get_types_from_msg(text, name))
    types: dict[str, Any] = {}
    for part in _SEPARATOR.split(text):
        if idl := _NO_IDL.sub("", part).strip():
            types.update(get_types_from_idl(idl))
    return types
