"""Which .mcap files of a folder are one recording: a recorder splits what becomes too large, and numbers the parts."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

MCAP = ".mcap"
PACKED = (".zstd", ".zst")
"""What rosbag2's ``--compression-mode file``, and zstd's own program, add to a file's name."""

_NUMBERED = re.compile(r"(.*)_(\d{1,5})", re.DOTALL)
"""A split's name, as rosbag2 gives it; more digits are a date or a time of day, and two such recordings are two."""


@dataclass(frozen=True)
class Group:
    """The files of one recording: their names without what packing adds, in order of time."""

    name: str
    files: tuple[str, ...]


def is_mcap(path: Path) -> bool:
    """Say whether a name is that of an MCAP file, packed or not."""
    return unpacked_name(path.name).lower().endswith(MCAP)


def unpacked_name(name: str) -> str:
    """Return the file's name without what packing adds."""
    return name[: name.rindex(".")] if name.lower().endswith(PACKED) else name


def stem_of(name: str) -> str:
    """Return a file's name without its endings."""
    return unpacked_name(name)[: -len(MCAP)]


def groups_in(folder: Path, names: Iterable[str]) -> list[Group]:
    """Put .mcap files of a folder together: those that its metadata.yaml lists, and those that differ in a number."""
    left = sorted({unpacked_name(name) for name in names}, key=_numbers)
    listed = _listed(folder) if len(left) > 1 else set()
    together = {_stem(name) for name in left if name in listed}
    groups: dict[str, list[str]] = {}
    for name in left:
        groups.setdefault("" if _stem(name) in together else _stem(name), []).append(name)
    return [Group(stem_of(files[0]) if len(files) == 1 else _stem(files[0]), tuple(files)) for files in groups.values()]


def _stem(name: str) -> str:
    """Return what the names of a split recording's files have in common; of one without a number, all of it."""
    numbered = _NUMBERED.fullmatch(stem_of(name))
    return stem_of(name) if numbered is None else numbered[1]


def _listed(folder: Path) -> set[str]:
    """Return the names of the files that the folder's metadata.yaml lists; none where it is damaged or not there."""
    try:
        metadata = yaml.safe_load((folder / "metadata.yaml").read_text(encoding="utf-8"))
        listed = metadata["rosbag2_bagfile_information"]["relative_file_paths"]
        return {unpacked_name(Path(str(path)).name) for path in listed}
    except (OSError, ValueError, yaml.YAMLError, TypeError, KeyError, RecursionError):
        return set()


def _numbers(name: str) -> list[tuple[int, str]]:
    """Order names by the numbers in them, as a recorder counts them."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", stem_of(name))]
