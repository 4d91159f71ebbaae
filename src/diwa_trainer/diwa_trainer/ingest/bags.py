"""Finds ROS 2 bags on disk and reads their messages; `metadata.yaml` is not needed for either."""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from rosbags.serde import SerdeError
from rosbags.typesys import Stores, TypesysError, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from diwa_runtime.errors import InputError
from diwa_runtime.interfaces import message_definitions
from diwa_trainer.ingest.mcap import Channel, DamagedError, McapFile, Message

Read = Callable[[bytes | memoryview], Any]


@dataclass
class Bag:
    """One recording: an .mcap file, or a folder of those that follow one another.

    Attributes:
        path: as found.
        name: what it is called in a dataset.
        files: its .mcap files in order of time.
        losses: what could not be read, one line each; filled by `messages`.
    """

    path: Path
    name: str
    files: tuple[Path, ...]
    losses: list[str] = field(default_factory=list)

    def sha256(self) -> str:
        """Return the sha256 of the files' bytes one after the other, as hex."""
        digest = hashlib.sha256()
        for path in self.files:
            try:
                with open(path, "rb") as file:
                    while block := file.read(1 << 20):
                        digest.update(block)
            except OSError as error:
                raise InputError(f"{path}: cannot be read ({error.strerror})") from None
        return digest.hexdigest()

    def messages(self, skip_damaged: bool = False) -> Iterator[Message]:
        """Yield all messages in order; errors as `McapFile.messages`."""
        self.losses.clear()
        for path in self.files:
            file = McapFile(path, skip_damaged)
            yield from file.messages()
            self.losses.extend(file.losses)


def find_bags(paths: Iterable[Path]) -> list[Bag]:
    """Return the bags at `paths`, each an .mcap file, a bag's folder, or a folder of bags; in order, none twice.

    Raises:
        InputError: a path is not there, or holds no bag.
    """
    found: dict[Path, Bag] = {}
    for path in paths:
        bags = list(_bags_at(path))
        if not bags:
            kind = (
                "a folder without .mcap files" if path.is_dir() else "no .mcap file" if path.exists() else "not there"
            )
            raise InputError(f"{path}: {kind}; name a bag, an .mcap file or a folder of bags")
        for bag in bags:
            found.setdefault(bag.path.resolve(), bag)
    names = [bag.name for bag in found.values()]
    for bag in found.values():
        if names.count(bag.name) > 1:
            bag.name = str(bag.path)
    return list(found.values())


def reader_of(channel: Channel) -> Read:
    """Return what turns this channel's bytes into messages.

    Raises:
        InputError: the bag does not define the type and it is not one that DiWA knows.
    """
    store = _store_of(channel.type, channel.encoding, channel.definition)

    def read(data: bytes | memoryview) -> Any:
        try:
            return store.deserialize_cdr(data, channel.type)
        except (SerdeError, struct.error, IndexError, KeyError, ValueError, AssertionError) as error:
            raise DamagedError(
                f"{channel.topic}: a message of {len(data)} bytes is no {channel.type} ({error})"
            ) from None

    return read


def _bags_at(path: Path) -> Iterator[Bag]:
    if path.is_file() and path.suffix == ".mcap":
        yield Bag(path, path.stem, (path,))
    elif path.is_dir():
        files = _in_order(path)
        if files:
            yield Bag(path, path.resolve().name, files)
        else:
            for child in sorted(path.iterdir()):
                if child.is_dir() and not child.name.startswith(".") and (files := _in_order(child)):
                    yield Bag(child, child.name, files)


def _in_order(folder: Path) -> tuple[Path, ...]:
    """Return the folder's .mcap files by their numbers; a recorder that splits counts them."""

    def numbers(path: Path) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.stem)]

    return tuple(sorted((path for path in folder.glob("*.mcap") if path.is_file()), key=numbers))


@lru_cache(maxsize=256)
def _store_of(name: str, encoding: str, definition: str) -> Typestore:
    try:
        if definition:
            parse = get_types_from_idl if encoding == "ros2idl" else get_types_from_msg
            types = parse(definition) if encoding == "ros2idl" else parse(definition, name)  # type: ignore[call-arg]
            store = get_typestore(Stores.EMPTY)
        else:
            store, types = get_typestore(Stores.ROS2_JAZZY), {}
            for known, text in message_definitions().items():
                types.update(get_types_from_msg(text, known))
        store.register(types)
    except (TypesysError, ValueError, KeyError) as error:
        raise DamagedError(
            f"the definition of {name} in the bag cannot be read ({' '.join(str(error).split())})"
        ) from None
    if name not in store.types:
        raise InputError(f"type {name} is not defined in the bag; record it with storage id mcap")
    return store
