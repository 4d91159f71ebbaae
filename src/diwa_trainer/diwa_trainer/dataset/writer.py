"""Writes a dataset row by row, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from diwa_runtime.files import check_replaceable, written_whole
from diwa_runtime.spec import Spec
from diwa_trainer.dataset.description import (
    DATASET,
    DESCRIPTION,
    FORMAT_VERSION,
    Dropped,
    Episode,
    EpisodeOutcome,
    Kind,
    Source,
    check_episodes,
    field_layouts,
)
from diwa_trainer.dataset.npy import GrowingArray


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
            InputError: the folder holds something that is no dataset of ours, or anything beside one.
            StorageError: it is a link to nothing.
        """
        self.folder = Path(folder)
        self.spec = spec
        self._layouts = field_layouts(spec, scene)
        self._episodes: list[Episode] = []
        self._dropped: dict[tuple[str, str], int] = {}
        self._sources: list[Source] = []
        self._notes: dict[str, Any] = {}
        self._files: dict[str, GrowingArray] = {}
        self._rows = 0
        self._start = 0
        check_replaceable(self.folder, DATASET)

    def __enter__(self) -> Self:
        self._whole = written_whole(self.folder, DATASET)
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
        outcome: EpisodeOutcome | None = None,
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
        check_episodes(self.folder, [episode], self._rows, first=self._start)
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

    def note(self, name: str, data: Any) -> None:
        """Keep plain data that whoever adds to the dataset needs."""
        self._notes[name] = data

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
            "notes": self._notes,
            "spec": self.spec.to_json(),
        }
        text = json.dumps(description, indent=1)
        (self._temporary / DESCRIPTION).write_text(text + "\n", encoding="utf-8")

    def _abandon(self, error: BaseException) -> None:
        for file in self._files.values():
            file.abandon()
        self._whole.__exit__(type(error), error, error.__traceback__)
        raise error
