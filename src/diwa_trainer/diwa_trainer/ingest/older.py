"""The dataset that lies where a new one is to be: what of it can be taken over without reading a bag again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from diwa_runtime.cameras import CameraSource
from diwa_runtime.errors import DiwaError
from diwa_runtime.spec import Spec
from diwa_runtime.stream_spec import ROBOT_STATE_TYPE
from diwa_trainer.dataset import Dataset, Dropped, Episode, Source
from diwa_trainer.dataset.cameras import noted_sources

ROWS = 4096
"""That are copied at a time."""

NAMES = "names"
"""The note in `dataset.json` of the names beside values that are selected by their place, by topic and path."""

SAME = "episode of the same recording as"
"""How the reason begins for which an episode is left out that is in the dataset already."""


class OlderDataset:
    """A dataset of the same Spec.

    Attributes:
        dataset: as it lies there.
        names: the note `NAMES`.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.names = _names_of(dataset) or {}

    @classmethod
    def at(cls, output: Path, spec: Spec) -> OlderDataset | None:
        """Return the dataset that lies at `output`, if it can be used and is of this Spec."""
        try:
            dataset = Dataset.open(output)
        except DiwaError:
            return None
        return cls(dataset) if dataset.spec == spec else None

    def is_of(self, sums: Iterable[str]) -> bool:
        """Say whether it was made of the bags of these sha256 and no others."""
        return [source.sha256 for source in self.dataset.sources] == list(dict.fromkeys(sums))

    def source(self, bag: str, sha256: str) -> Source | None:
        """Return what it was made of that bag of this name and sha256; None: the bag is to be read.

        That is so as well where a part of it was left out for being in another bag, which may not be there any more,
        and where an older DiWA did not look at the names of values.
        """
        if may_have_names(self.dataset.spec) and _names_of(self.dataset) is None:
            return None
        if any(item.reason.startswith(SAME) for item in self.dropped(bag, sha256)):
            return None
        return next((source for source in self.dataset.sources if source.sha256 == sha256), None)

    def cameras(self, sha256: str) -> dict[str, CameraSource]:
        """Return what the pictures of a bag come from, where that was noted."""
        return noted_sources(self.dataset).get(sha256, {})

    def episodes(self, sha256: str) -> list[Episode]:
        """Return the episodes of a bag."""
        return [episode for episode in self.dataset.episodes if episode.sha256 == sha256]

    def dropped(self, bag: str, sha256: str) -> list[Dropped]:
        """Return what was left out of a bag, which may have had another name."""
        names = {bag, *(episode.bag for episode in self.episodes(sha256))}
        return [item for item in self.dataset.dropped if item.bag in names]

    def rows(self, episode: Episode) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield an episode's rows, some at a time."""
        for start in range(episode.start, episode.end, ROWS):
            part = slice(start, min(start + ROWS, episode.end))
            yield {name: array[part] for name, array in self.dataset.arrays.items()}


def about(episode: Episode) -> dict[str, Any]:
    """Return what an episode is, as `DatasetWriter.end_episode` takes it."""
    marks = [(row - episode.start, task) for row, task in episode.marks]
    known = {name: getattr(episode, name) for name in ("kind", "task", "outcome", "seed", "bag", "sha256")}
    return {**known, "marks": marks}


def may_have_names(spec: Spec) -> bool:
    """Say whether a stream selects by place from a message that may name its values; DiWA's own does not."""
    return any("|" not in path and s.type != ROBOT_STATE_TYPE for s in spec.streams for path in s.select)


def _names_of(dataset: Dataset) -> Mapping[str, tuple[str, ...]] | None:
    """Return the note of names; None where there is none that can be used."""
    try:
        return {str(values): tuple(map(str, names)) for values, names in dataset.notes[NAMES].items()}
    except (KeyError, AttributeError, TypeError):
        return None
