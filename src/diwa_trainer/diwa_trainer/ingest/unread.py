"""What lies where bags were looked for and is not read: said in a line each, with what to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_IGNORED = ("metadata.yaml",)
_SHOWN = 3

_SQLITE = "sqlite3 is not read; convert it with `ros2 bag convert` to storage id mcap"
_ROS_1 = "ROS 1 is not read; convert it with `rosbags-convert --src BAG --dst FOLDER --dst-storage mcap`"
_PACKED = "only zstd is unpacked here; unpack it first"
_OTHER = "no recording, not read"


@dataclass(frozen=True)
class Unread:
    """Files that are not read: one of them or their folder, why, and how many."""

    path: Path
    reason: str
    count: int = 1


class UnreadFiles:
    """Collects what is not read of a path that was named."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files: dict[tuple[Path, str], list[Path]] = {}
        self._folders: list[Unread] = []

    def add(self, path: Path) -> None:
        """Add a file; hidden ones and what belongs to a bag are nobody's loss."""
        if not path.name.startswith(".") and path.name not in _IGNORED:
            why = _why(path)
            self._files.setdefault((self._path if why == _OTHER else path.parent, why), []).append(path)

    def add_folder(self, path: Path, reason: str) -> None:
        """Add a folder that is not looked into."""
        self._folders.append(Unread(path, reason))

    def found(self) -> list[Unread]:
        """Return what was collected; files of one folder and kind together."""
        files = [Unread(path, f"{_names(paths)}: {why}", len(paths)) for (path, why), paths in self._files.items()]
        return [*self._folders, *files]


def _why(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if ".db3" in suffixes:
        return _SQLITE
    if ".bag" in suffixes[-2:]:  # or .bag.active
        return _ROS_1
    if suffixes[-2:-1] == [".mcap"]:
        return _PACKED
    return _OTHER


def _names(paths: list[Path]) -> str:
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return ", ".join(path.name for path in paths[:_SHOWN]) + more
