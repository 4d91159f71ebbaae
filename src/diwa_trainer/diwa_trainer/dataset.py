"""The dataset: a folder of memory-mapped arrays at control rate, one row a step, and one `dataset.json`.

`proprio.npy`, `scene.npy` (simulation only), `action.npy`, `stamp.npy` and one `<camera>.npy` per camera hold the rows
of all episodes one after the other; a training window is a slice, nothing is decoded in the loop. Row i is an
observation and `action[i]` what was accepted after it, leading to row i + 1.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from diwa_runtime.actions import ACTION_SIZE
from diwa_runtime.errors import InputError
from diwa_runtime.files import sha256_of, written_whole
from diwa_runtime.spec import Spec
from diwa_trainer.npy import GrowingArray, open_array

FORMAT_VERSION = 1
DESCRIPTION = "dataset.json"

Kind = Literal["play", "demonstration"]
Outcome = Literal["success", "failure"]
KINDS: tuple[Kind, ...] = ("play", "demonstration")
OUTCOMES: tuple[Outcome | None, ...] = ("success", "failure", None)


@dataclass(frozen=True)
class Episode:
    """A gap-free run of rows.

    Attributes:
        start: first row.
        end: one past the last row.
        kind: unlabelled play, or a demonstration of `task`.
        task: the task that was demonstrated; None for play.
        outcome: whether the demonstration achieved it; None where nobody said.
        seed: the simulator's seed, None for a robot.
        bag: name of the bag that it comes from.
        sha256: the bag's sha256.
        marks: (row, task) of each recorded success, `row` counted over the whole dataset.
    """

    start: int
    end: int
    kind: Kind = "play"
    task: str | None = None
    outcome: Outcome | None = None
    seed: int | None = None
    bag: str = ""
    sha256: str = ""
    marks: tuple[tuple[int, str], ...] = ()

    def __len__(self) -> int:
        return self.end - self.start

    @property
    def rows(self) -> slice:
        """The episode's rows, for indexing any of the dataset's arrays."""
        return slice(self.start, self.end)


@dataclass(frozen=True)
class Dropped:
    """Something that a bag held and the dataset does not: how often, of what unit, and why."""

    bag: str
    reason: str
    count: int


@dataclass(frozen=True)
class Source:
    """A bag that was ingested: its path as given, its sha256, and how many rows came of it."""

    path: str
    sha256: str
    rows: int


def field_layouts(spec: Spec, scene: bool = True) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    """Return dtype and row shape of each array that a dataset of this Spec holds, by field name."""
    layouts: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {
        "stamp": (np.dtype("<i8"), ()),
        "proprio": (np.dtype("<f4"), (len(spec.proprio),)),
        "action": (np.dtype("<f4"), (ACTION_SIZE,)),
    }
    if scene:
        layouts["scene"] = (np.dtype("<f4"), (len(spec.scene),))
    if spec.uses_cameras:
        for camera in spec.cameras:
            layouts[camera.name] = (np.dtype("u1"), (camera.height, camera.width, 3))
    return layouts


class Dataset:
    """A dataset opened for reading; it changes nothing on disk.

    Attributes:
        folder: where it lies.
        spec: the Spec of its rows.
        episodes: all episodes, in order of their rows.
        dropped: what ingest left out, and why.
        sources: the bags that it was made from.
        arrays: the rows by field name: `stamp` (N,) int64 ns, `proprio` (N, 15) and `action` (N, 7) float32, `scene`
            (N, 24) float32 where recorded, and each camera (N, H, W, 3) uint8 RGB. Float fields are in RAM, images
            stay on disk.
    """

    def __init__(
        self,
        folder: Path,
        spec: Spec,
        episodes: Sequence[Episode],
        arrays: Mapping[str, NDArray[Any]],
        dropped: Sequence[Dropped] = (),
        sources: Sequence[Source] = (),
    ) -> None:
        self.folder = Path(folder)
        self.spec = spec
        self.episodes = tuple(episodes)
        self.arrays = dict(arrays)
        self.dropped = tuple(dropped)
        self.sources = tuple(sources)

    @classmethod
    def open(cls, folder: Path | str) -> Dataset:
        """Open a dataset folder.

        Raises:
            InputError: it is no dataset, is damaged, or was made by another version; names the file.
        """
        folder = Path(folder)
        data = _read_description(folder / DESCRIPTION)
        spec = Spec.from_json(data.get("spec"), str(folder / DESCRIPTION))
        try:
            rows = int(data["rows"])
            names = [str(name) for name in data["fields"]]
            episodes = [_episode_from_json(episode) for episode in data["episodes"]]
            dropped = [Dropped(**item) for item in data["dropped"]]
            sources = [Source(**item) for item in data["sources"]]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{folder / DESCRIPTION}: damaged ({error!r}); ingest again") from None
        _check_episodes(folder / DESCRIPTION, episodes, rows)
        layouts = field_layouts(spec, scene="scene" in names)
        if sorted(names) != sorted(layouts):
            raise InputError(
                f"{folder / DESCRIPTION}: has the fields {', '.join(names)}, "
                f"its Spec needs {', '.join(layouts)}; ingest again"
            )
        arrays = {
            name: open_array(folder / f"{name}.npy", dtype, (rows, *shape)) for name, (dtype, shape) in layouts.items()
        }
        for name, (dtype, _) in layouts.items():
            if dtype.kind != "u":
                arrays[name] = np.array(arrays[name])
        return cls(folder, spec, episodes, arrays, dropped, sources)

    def __len__(self) -> int:
        return len(self.arrays["stamp"])

    @property
    def fingerprint(self) -> str:
        """sha256 of `dataset.json`, which names every bag by its own: two datasets of the same bags agree in it."""
        return sha256_of(self.folder / DESCRIPTION)

    @property
    def stamp(self) -> NDArray[np.int64]:
        """When each row was observed, (N,) int64 ns."""
        return self.arrays["stamp"]

    @property
    def proprio(self) -> NDArray[np.float32]:
        """Proprioception (N, 15) float32, in the Spec's layout."""
        return self.arrays["proprio"]

    @property
    def scene(self) -> NDArray[np.float32]:
        """Scene state (N, 24) float32.

        Raises:
            InputError: the bags had none (a real robot has none).
        """
        if "scene" not in self.arrays:
            raise InputError(f"{self.folder}: holds no scene state; ingest bags that have it, with --mode state")
        return self.arrays["scene"]

    @property
    def action(self) -> NDArray[np.float32]:
        """What was accepted after each row, (N, 7) float32 in the Spec's units."""
        return self.arrays["action"]

    @property
    def images(self) -> dict[str, NDArray[np.uint8]]:
        """The cameras' memory-mapped images (N, H, W, 3) uint8 RGB, by name; empty in mode `state`."""
        return {name: array for name, array in self.arrays.items() if array.ndim == 4}

    def rows(self, episode: Episode) -> dict[str, NDArray[Any]]:
        """Return views of all fields of one episode, each (T, ...)."""
        return {name: array[episode.rows] for name, array in self.arrays.items()}

    def episodes_of(
        self, kind: Kind | None = None, task: str | None = None, outcome: Outcome | None = None
    ) -> tuple[Episode, ...]:
        """Return the episodes that match all that is given, in order; None matches any."""
        return tuple(
            episode
            for episode in self.episodes
            if (kind is None or episode.kind == kind)
            and (task is None or episode.task == task)
            and (outcome is None or episode.outcome == outcome)
        )

    def split(self, fraction: float, seed: int) -> tuple[tuple[Episode, ...], tuple[Episode, ...]]:
        """Return (train, validation) episodes; the same for the same dataset, fraction and seed.

        About `fraction` of the episodes of each kind, task and outcome go to validation: at least one where the
        group has two or more (and `fraction` > 0), and never a whole group.
        """
        if not 0 <= fraction < 1:
            raise ValueError(f"fraction must be in [0, 1), not {fraction}")
        rng = np.random.default_rng(seed)
        groups: dict[tuple[str, str, str], list[Episode]] = {}
        for episode in self.episodes:
            groups.setdefault((episode.kind, episode.task or "", episode.outcome or ""), []).append(episode)
        held_out: set[Episode] = set()
        for _, group in sorted(groups.items()):
            wanted = max(round(fraction * len(group)), 1) if fraction > 0 else 0
            count = min(wanted, len(group) - 1)
            held_out.update(group[index] for index in rng.permutation(len(group))[:count])
        train = tuple(episode for episode in self.episodes if episode not in held_out)
        return train, tuple(episode for episode in self.episodes if episode in held_out)

    def windows(
        self,
        rng: np.random.Generator,
        batch: int,
        length: int,
        episodes: Sequence[Episode] | None = None,
        fields: Iterable[str] | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Draw `batch` windows of `length` rows, each within one episode, uniformly over all possible windows.

        Args:
            rng: is advanced.
            batch: B.
            length: T, rows a window.
            episodes: draw from these only; None: from all.
            fields: return these only; None: all.

        Returns:
            copies of each field (B, T, ...), and `row` (B, T) int64, where each came from.

        Raises:
            InputError: no episode is long enough.
        """
        chosen = self.episodes if episodes is None else episodes
        starts = np.fromiter((episode.start for episode in chosen), np.int64, len(chosen))
        counts = np.fromiter((len(episode) for episode in chosen), np.int64, len(chosen)) - length + 1
        counts = np.maximum(counts, 0)
        last = np.cumsum(counts)
        if not len(chosen) or last[-1] == 0:
            longest = max((len(episode) for episode in chosen), default=0)
            raise InputError(
                f"{self.folder}: none of its {len(chosen)} episodes has {length} rows (the longest has {longest}); "
                "use shorter windows or record longer episodes"
            )
        drawn = rng.integers(last[-1], size=batch)
        index = np.searchsorted(last, drawn, side="right")
        first = starts[index] + drawn - (last[index] - counts[index])
        row = first[:, None] + np.arange(length)
        names = self.arrays.keys() if fields is None else fields
        window = {name: self._take(name, row) for name in names}
        window["row"] = row
        return window

    def _take(self, name: str, row: NDArray[np.int64]) -> NDArray[Any]:
        # A run of rows is one copy; that beats an indexed copy of every row by far where rows are images.
        array = self.arrays[name]
        if array.ndim < 4:
            return array[row]
        window = np.empty((*row.shape, *array.shape[1:]), array.dtype)
        for target, start in zip(window, row[:, 0], strict=True):
            target[:] = array[start : start + len(target)]
        return window


class DatasetWriter(AbstractContextManager["DatasetWriter"]):
    """Writes a dataset row by row, whole or not at all; holds no images in memory.

    Use as a context manager. On any exception nothing is left behind and what was at `folder` before is untouched.
    """

    def __init__(self, folder: Path | str, spec: Spec, scene: bool = True) -> None:
        """Prepare to write.

        Args:
            folder: where the dataset is to be; an older dataset there is replaced at the end.
            spec: the Spec of the rows.
            scene: whether rows have a scene.

        Raises:
            InputError: the folder holds something that is no dataset.
        """
        self.folder = Path(folder)
        self.spec = spec
        self._layouts = field_layouts(spec, scene)
        self._episodes: list[Episode] = []
        self._dropped: dict[tuple[str, str], int] = {}
        self._sources: list[Source] = []
        self._files: dict[str, GrowingArray] = {}
        self._rows = 0
        self._start = 0
        if self.folder.exists() and not _may_be_replaced(self.folder):
            raise InputError(f"{self.folder}: exists and is no dataset; choose another output folder")

    def __enter__(self) -> Self:
        self._whole = written_whole(self.folder)
        temporary = self._whole.__enter__()
        try:
            temporary.mkdir(parents=True)
            for name, (dtype, shape) in self._layouts.items():
                self._files[name] = GrowingArray(temporary / f"{name}.npy", dtype, shape)
        except OSError as error:
            self._abandon(error)
        self._temporary = temporary
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if error is not None:
            self._abandon(error)
        try:
            self._finish()
        except BaseException as failure:
            self._abandon(failure)
        self._whole.__exit__(None, None, None)
        return None

    @property
    def rows(self) -> int:
        """How many rows have been written."""
        return self._rows

    def append(self, rows: Mapping[str, NDArray[Any]]) -> None:
        """Add rows to the episode under way: every field of the dataset, each (n, ...).

        Raises:
            ValueError: a field is missing, too many, or has another shape or kind of number.
        """
        if rows.keys() != self._layouts.keys():
            raise ValueError(f"rows have the fields {sorted(rows)}, expected {sorted(self._layouts)}")
        count = len(rows["stamp"])
        arrays = {}
        for name, (dtype, shape) in self._layouts.items():
            array = np.asarray(rows[name])
            if array.shape != (count, *shape):
                raise ValueError(f"{name} has shape {array.shape}, expected {(count, *shape)}")
            if not np.can_cast(array.dtype, dtype, "same_kind"):
                raise ValueError(f"{name} is {array.dtype}, expected {dtype}")
            if dtype.kind == "f" and not np.isfinite(array).all():
                raise ValueError(f"{name} is not finite")
            arrays[name] = np.ascontiguousarray(array, dtype)
        for name, array in arrays.items():
            self._files[name].write(array)
        self._rows += count

    def end_episode(
        self,
        kind: Kind = "play",
        task: str | None = None,
        outcome: Outcome | None = None,
        seed: int | None = None,
        bag: str = "",
        sha256: str = "",
        marks: Iterable[tuple[int, str]] = (),
    ) -> Episode:
        """Close the episode under way and return it; `marks` count rows from the episode's own start."""
        if self._rows == self._start:
            raise ValueError("an episode needs at least one row")
        absolute = tuple((self._start + row, name) for row, name in marks)
        episode = Episode(self._start, self._rows, kind, task, outcome, seed, bag, sha256, absolute)
        _check_episodes(self.folder, [episode], self._rows, first=self._start)
        self._episodes.append(episode)
        self._start = self._rows
        return episode

    def discard_episode(self) -> int:
        """Throw away the rows of the episode under way; return how many."""
        discarded = self._rows - self._start
        for file in self._files.values():
            file.truncate(self._start)
        self._rows = self._start
        return discarded

    def add_episode(self, rows: Mapping[str, NDArray[Any]], **about: Any) -> Episode:
        """Append all rows of one episode and close it; `about` as for `end_episode`."""
        self.append(rows)
        return self.end_episode(**about)

    def drop(self, bag: str, reason: str, count: int = 1) -> None:
        """Note that something of `bag` is not in the dataset; the same reason adds up."""
        self._dropped[bag, reason] = self._dropped.get((bag, reason), 0) + count

    def add_source(self, path: str, sha256: str, rows: int) -> None:
        """Note a bag that the dataset is made from."""
        self._sources.append(Source(path, sha256, rows))

    @property
    def dropped(self) -> tuple[Dropped, ...]:
        """What was noted by `drop` so far."""
        return tuple(Dropped(bag, reason, count) for (bag, reason), count in self._dropped.items())

    @property
    def episodes(self) -> tuple[Episode, ...]:
        """The episodes that are closed so far."""
        return tuple(self._episodes)

    def _finish(self) -> None:
        if self._rows != self._start:
            raise ValueError("the last episode was not ended")
        for file in self._files.values():
            file.close(self._rows)
        description = {
            "format": FORMAT_VERSION,
            "rows": self._rows,
            "fields": list(self._layouts),
            "episodes": [asdict(episode) for episode in self._episodes],
            "dropped": [asdict(item) for item in self.dropped],
            "sources": [asdict(source) for source in self._sources],
            "notes": {},  # nothing writes any; format 1 has it
            "spec": self.spec.to_json(),
        }
        text = json.dumps(description, indent=1)
        (self._temporary / DESCRIPTION).write_text(text + "\n", encoding="utf-8")

    def _abandon(self, error: BaseException) -> None:
        for file in self._files.values():
            file.abandon()
        self._whole.__exit__(type(error), error, error.__traceback__)
        raise error


def _may_be_replaced(folder: Path) -> bool:
    return folder.is_dir() and ((folder / DESCRIPTION).exists() or not any(folder.iterdir()))


def _read_description(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path.parent}: no dataset (it has no {DESCRIPTION}); make one with `ingest`") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error}); ingest again") from None
    version = data.get("format") if isinstance(data, dict) else None
    if version != FORMAT_VERSION:
        raise InputError(f"{path}: dataset format {version!r}, this DiWA reads {FORMAT_VERSION}; ingest again")
    return data


def _episode_from_json(data: dict[str, Any]) -> Episode:
    marks = tuple((int(row), str(task)) for row, task in data["marks"])
    return Episode(**{**data, "start": int(data["start"]), "end": int(data["end"]), "marks": marks})


def _check_episodes(source: Path, episodes: Sequence[Episode], rows: int, first: int = 0) -> None:
    at = first
    for number, episode in enumerate(episodes):
        name = f"{source}: episode {number}"
        if not at == episode.start < episode.end <= rows:
            raise InputError(f"{name} claims rows {episode.start} to {episode.end}, expected from {at} to <= {rows}")
        if episode.kind not in KINDS or episode.outcome not in OUTCOMES:
            raise InputError(f"{name} is of kind {episode.kind!r} and outcome {episode.outcome!r}, unknown here")
        if any(not episode.start <= row < episode.end for row, _ in episode.marks):
            raise InputError(f"{name} has a mark outside of its rows {episode.start} to {episode.end}")
        at = episode.end
    if at != rows:
        raise InputError(f"{source}: episodes end at row {at} of {rows}; ingest again")
