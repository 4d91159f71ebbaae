"""What stands in `dataset.json`: episodes, sources, what was left out, and which arrays lie beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from diwa_runtime.actions import ACTION_SIZE
from diwa_runtime.errors import InputError
from diwa_runtime.files import FolderFormat
from diwa_runtime.kinds import COUNT, MAPPING, NAME, TEXT, WHOLE, fault_in, list_of, one_of, pair_of, shown
from diwa_runtime.reading import read_json, reason_of
from diwa_runtime.spec import Spec
from diwa_runtime.stream_spec import is_name

FORMAT_VERSION = 1
DESCRIPTION = "dataset.json"
_OURS = {"format", "rows", "fields", "episodes", "dropped", "sources", "spec"}
"""What a description of ours has had in every version."""

Kind = Literal["play", "demonstration"]
EpisodeOutcome = Literal["success", "failure"]
KINDS: tuple[Kind, ...] = ("play", "demonstration")
OUTCOMES: tuple[EpisodeOutcome | None, ...] = ("success", "failure", None)


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
    outcome: EpisodeOutcome | None = None
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


KEYS = {
    "rows": COUNT, "fields": list_of(NAME), "episodes.*.start": COUNT, "episodes.*.end": COUNT,
    "episodes.*.kind": one_of(*KINDS), "episodes.*.task": TEXT.or_null(), "episodes.*.outcome": one_of(*OUTCOMES),
    "episodes.*.seed": WHOLE.or_null(), "episodes.*.bag": TEXT, "episodes.*.sha256": TEXT,
    "episodes.*.marks": list_of(pair_of(COUNT, TEXT)), "episodes": list_of(MAPPING),
    "dropped.*.bag": TEXT, "dropped.*.reason": TEXT, "dropped.*.count": COUNT, "dropped": list_of(MAPPING),
    "sources.*.path": TEXT, "sources.*.sha256": TEXT, "sources.*.rows": COUNT, "sources": list_of(MAPPING),
    "spec": MAPPING,
}  # fmt: skip
"""What a description must have."""


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


def _arrays_of(data: Any) -> list[str] | None:
    """Return the names of the files beside a description; None where another program wrote it."""
    if not isinstance(data, dict) or not data.keys() >= _OURS:
        return None
    fields, spec = data["fields"], data["spec"]
    names = isinstance(fields, list) and all(isinstance(name, str) and is_name(name) for name in fields)
    if type(data["format"]) is not int or not names or not isinstance(spec, dict) or "version" not in spec:
        return None
    return [f"{name}.npy" for name in fields]


DATASET = FolderFormat("dataset", DESCRIPTION, _arrays_of)


def read_description(path: Path) -> dict[str, Any]:
    """Read a `dataset.json`.

    Raises:
        InputError: not there, not JSON, of another version, or something in it is not what it must be.
    """
    try:
        data = read_json(path)
    except FileNotFoundError:
        raise InputError(f"{path.parent}: no dataset (it has no {DESCRIPTION}); make one with `ingest`") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({reason_of(error)})") from None
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({reason_of(error)}); delete the folder and ingest again") from None
    version = data.get("format") if isinstance(data, dict) else None
    if version != FORMAT_VERSION:
        raise InputError(f"{path}: dataset format {shown(version)}, this DiWA reads {FORMAT_VERSION}; ingest again")
    if (fault := fault_in(data, KEYS)) is not None:
        raise InputError(f"{path}: damaged ({fault}); delete the folder and ingest again")
    return data


def episode_from_json(data: dict[str, Any]) -> Episode:
    marks = tuple((int(row), str(task)) for row, task in data["marks"])
    return Episode(**{**data, "start": int(data["start"]), "end": int(data["end"]), "marks": marks})


def check_episodes(source: Path, episodes: Sequence[Episode], rows: int, first: int = 0) -> None:
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
