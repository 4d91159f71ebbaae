"""A dataset opened for reading: a folder of memory-mapped arrays at control rate, one row a step, and `dataset.json`.

`proprio.npy`, `scene.npy` (simulation only), `action.npy`, `stamp.npy` and one `<camera>.npy` per camera hold the rows
of all episodes one after the other; a training window is a slice, nothing is decoded in the loop. Row i is an
observation and `action[i]` what was accepted after it, leading to row i + 1.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diwa_runtime.errors import InputError
from diwa_runtime.spec import Spec
from diwa_trainer.dataset.description import (
    DESCRIPTION,
    Dropped,
    Episode,
    EpisodeOutcome,
    Kind,
    Source,
    check_episodes,
    episode_from_json,
    field_layouts,
    read_description,
)
from diwa_trainer.dataset.npy import open_array


class Dataset:
    """A dataset opened for reading; it changes nothing on disk.

    Attributes:
        folder: where it lies.
        spec: the Spec of its rows.
        episodes: all episodes, in order of their rows.
        dropped: what ingest left out, and why.
        sources: the bags that it was made from.
        notes: plain data of whoever wrote it, by name.
        arrays: the rows by field name: `stamp` (N,) int64 ns, `proprio` (N, 15) and `action` (N, 7) float32, `scene`
            (N, 24) float32 where recorded, and each camera (N, H, W, 3) uint8 RGB. Float fields are in RAM, images
            stay on disk. `seen` (N, S) float32 is what eyes see, where a world model has eyes (`with_seen`).
    """

    def __init__(
        self,
        folder: Path,
        spec: Spec,
        episodes: Sequence[Episode],
        arrays: Mapping[str, NDArray[Any]],
        dropped: Sequence[Dropped] = (),
        sources: Sequence[Source] = (),
        notes: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.spec = spec
        self.episodes = tuple(episodes)
        self.arrays = dict(arrays)
        self.dropped = tuple(dropped)
        self.sources = tuple(sources)
        self.notes = dict(notes or {})

    @classmethod
    def open(cls, folder: Path | str) -> Dataset:
        """Open a dataset folder.

        Raises:
            InputError: it is no dataset, is damaged, or was made by another version; names the file.
        """
        folder = Path(folder)
        data = read_description(folder / DESCRIPTION)
        spec = Spec.from_json(data.get("spec"), str(folder / DESCRIPTION))
        try:
            rows = int(data["rows"])
            names = [str(name) for name in data["fields"]]
            episodes = [episode_from_json(episode) for episode in data["episodes"]]
            dropped = [Dropped(**item) for item in data["dropped"]]
            sources = [Source(**item) for item in data["sources"]]
            notes = dict(data.get("notes", {}))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{folder / DESCRIPTION}: damaged ({error!r}); ingest again") from None
        check_episodes(folder / DESCRIPTION, episodes, rows)
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
        return cls(folder, spec, episodes, arrays, dropped, sources, notes)

    def __len__(self) -> int:
        return len(self.arrays["stamp"])

    def with_seen(self, seen: NDArray[np.float32]) -> Dataset:
        """Return the same recordings with what eyes see in each row (N, S) as one more field, `seen`."""
        other = Dataset(
            self.folder, self.spec, self.episodes, {**self.arrays, "seen": seen}, self.dropped, self.sources, self.notes
        )
        other.fingerprint = self.fingerprint  # of the recordings: whose eyes they were, the world model's file says
        return other

    def evenly(self, most: int) -> NDArray[np.int64]:
        """Return rows spread evenly over the recordings, at most so many: what statistics are taken from."""
        return np.linspace(0, len(self) - 1, min(len(self), most), dtype=np.int64)

    @property
    def numbers(self) -> tuple[str, ...]:
        """Fields of numbers, by which a world model is taught: what is observed, and where recorded the scene."""
        return tuple(name for name in ("proprio", "seen", "scene") if name in self.arrays)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of what the dataset holds: Spec, episodes, and each bag by its own sha256.

        Two datasets of the same bags agree in it, whatever paths and names bags and datasets have. An episode that
        names no bag's sha256 counts by its numbers.
        """
        digest = hashlib.sha256()
        for episode in self.episodes:
            about = {name: value for name, value in asdict(episode).items() if name != "bag"}
            digest.update(json.dumps(about, sort_keys=True).encode())
            for name, values in sorted(self.rows(episode).items() if not episode.sha256 else ()):
                digest.update(name.encode() + (b"" if values.dtype.kind == "u" else values.tobytes()))
        bags = [(source.sha256, source.rows) for source in self.sources]
        whole = {"spec": self.spec.to_json(), "fields": sorted(self.arrays), "rows": len(self), "bags": bags}
        digest.update(json.dumps(whole, sort_keys=True).encode())
        return digest.hexdigest()

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

    def take(self, name: str, rows: NDArray[np.int64], out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Return a copy of one field at rows (...), in any order: (..., *row shape); written into `out` where given.

        Raises:
            IndexError: there is no such row.
        """
        array = np.asarray(self.arrays[name])
        if rows.size and not 0 <= rows.min() <= rows.max() < len(array):
            raise IndexError(f"{name}: rows {rows.min()} to {rows.max()} of {len(array)}")
        return array.take(rows, axis=0, out=out, mode="clip")  # `raise` would copy twice to see to the bounds itself

    def episodes_of(
        self, kind: Kind | None = None, task: str | None = None, outcome: EpisodeOutcome | None = None
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
        window = {name: self.take(name, row) for name in names}
        window["row"] = row
        return window
