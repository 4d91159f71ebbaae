"""Finds ROS 2 bags on disk, and says what lies there that is not read; `metadata.yaml` is not needed for either."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from diwa_runtime.errors import InputError
from diwa_runtime.files import TEMPORARY_SUFFIX
from diwa_trainer.ingest.definitions import Read, reader_of
from diwa_trainer.ingest.mcap import McapFile, Message
from diwa_trainer.ingest.splits import MCAP, Group, groups_in, is_mcap, stem_of, unpacked_name
from diwa_trainer.ingest.unread import Unread, UnreadFiles

__all__ = ["Bag", "Found", "Read", "find", "find_bags", "reader_of"]


@dataclass
class Bag:
    """One recording: an .mcap file, or those that follow one another.

    Attributes:
        path: as found; a folder where the bag is all that lies in it.
        name: what it is called in a dataset.
        files: its .mcap files in order of time, packed or not.
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


class Found(NamedTuple):
    """The bags at some paths, none twice, and what else lies there."""

    bags: list[Bag]
    unread: list[Unread]


def find_bags(paths: Iterable[Path]) -> list[Bag]:
    """Return the bags at `paths`; see `find`."""
    return find(paths).bags


def find(paths: Iterable[Path], output: Path | None = None) -> Found:
    """Return the bags at `paths`, each an .mcap file, a bag's folder, or a folder in which bags lie at any depth.

    Args:
        paths: in the order in which the bags are wanted.
        output: where a dataset may lie, of whose files nothing needs to be said.

    Raises:
        InputError: a path is not there, or holds no bag.
    """
    search = _Search(output)
    for path in paths:
        search.add(Path(path))
    bags = search.bags()
    names = [bag.name for bag in bags]
    for bag in bags:
        if names.count(bag.name) > 1:
            bag.name = str(bag.path)
    return Found(bags, search.unread)


class _Search:
    """Collects the files that paths name, and puts them together to bags."""

    def __init__(self, output: Path | None) -> None:
        self.unread: list[Unread] = []
        self._seen = 0
        self._output = None if output is None else output.resolve()
        self._files: dict[Path, Path] = {}  # as found, by folder's real path and name
        self._folders: dict[Path, Path] = {}  # as found, by real path: those that are searched whole
        self._groups: dict[Path, list[Group]] = {}

    def add(self, path: Path) -> None:
        """Look for bags at a path; errors as `find`."""
        before, unread = self._seen, UnreadFiles(path)
        try:
            is_folder, is_there = path.is_dir(), path.exists()
            if is_folder:
                self._add_folder(path, unread)
            elif is_there:
                self._add_file(path, unread)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None
        if self._seen == before:
            kind = "a folder without .mcap files" if is_folder else "no .mcap file" if is_there else "not there"
            advice = "".join(f"; {found.reason}" for found in unread.found())
            raise InputError(f"{path}: {kind}{advice}; name a bag, an .mcap file or a folder of bags")
        self.unread += unread.found()

    def _add_folder(self, folder: Path, unread: UnreadFiles) -> None:
        if folder.resolve() in self._folders:
            self._seen += 1
            return
        self._folders[folder.resolve()] = folder
        for child in sorted(folder.iterdir()):
            try:
                self._add_child(child, unread)
            except OSError as error:
                unread.add_folder(child, f"cannot be read ({error.strerror})")

    def _add_child(self, child: Path, unread: UnreadFiles) -> None:
        if child.is_dir() and child.name.endswith(TEMPORARY_SUFFIX):
            if any(is_mcap(file) for file in child.rglob(f"*{MCAP}*")):
                unread.add_folder(child, "an unfinished recording is not read unless it is named itself")
        elif child.name.startswith("."):
            return
        elif child.is_dir():
            self._add_folder(child, unread)
        elif is_mcap(child) or child.parent.resolve() != self._output:
            self._add_file(child, unread)

    def _add_file(self, path: Path, unread: UnreadFiles) -> None:
        if path.is_file() and is_mcap(path):
            self._seen += 1
            self._files.setdefault(_place_of(path), path)
        else:
            unread.add(path)

    def bags(self) -> list[Bag]:
        """Return a bag for each recording of which files were found, in the order of the first of them."""
        taken: dict[tuple[Path, str], list[Path]] = {}
        for place in self._files:
            taken.setdefault((place.parent, self._group_of(place).files[0]), []).append(place)
        return [self._bag(places) for places in taken.values()]

    def _group_of(self, place: Path) -> Group:
        folder, name = place.parent, unpacked_name(place.name)
        if folder not in self._groups:
            beside = {found.name for found in self._files if found.parent == folder}
            with suppress(OSError):  # who may not list it may read a file in it
                beside |= {path.name for path in folder.iterdir() if is_mcap(path) and not path.name.startswith(".")}
            self._groups[folder] = groups_in(folder, beside)
        return next(group for group in self._groups[folder] if name in group.files)

    def _bag(self, places: list[Path]) -> Bag:
        group, folder = self._group_of(places[0]), places[0].parent
        by_name: dict[str, list[Path]] = {}
        for place in sorted(places, key=lambda place: len(place.name)):  # the unpacked one first
            by_name.setdefault(unpacked_name(place.name), []).append(self._files[place])
        for path, *twins in by_name.values():
            self.unread += [Unread(twin, f"not read: {path.name} beside it is the same, unpacked") for twin in twins]
        files = tuple(by_name[name][0] for name in group.files if name in by_name)
        missing = len(group.files) - len(files)
        if missing:
            what = f"{len(files)} of the {len(group.files)} files of one recording, without what the others hold"
            self.unread.append(Unread(files[0], f"{what}, marks too; name their folder", missing))
        if not missing and len(self._groups[folder]) == 1 and (folder in self._folders or len(files) > 1):
            return Bag(self._folders.get(folder, files[0].parent), folder.name, files)
        return Bag(files[0], stem_of(files[0].name) if len(files) == 1 else group.name, files)


def _place_of(path: Path) -> Path:
    """Return what tells a file from all others; a link is a file of its own."""
    return path.parent.resolve() / path.name
