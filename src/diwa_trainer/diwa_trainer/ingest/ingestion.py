"""Ingest: bags in, one dataset out. Episodes are cut by marks, rows made by the one assembler, frames decoded once.

The bags are only ever read. The dataset is written whole or not at all; bags that an older dataset at the same place
already holds, by their sha256 and under the same Spec, are copied from it rather than read again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diwa_runtime.cameras import CameraSource, joined, unlike
from diwa_runtime.errors import DiwaError, InputError, nearest
from diwa_runtime.rows.row import Rows
from diwa_runtime.rows.selection import names_changed
from diwa_runtime.spec import Spec
from diwa_trainer.dataset import Dataset, DatasetWriter, Dropped
from diwa_trainer.dataset.cameras import CAMERAS, sources_from_json
from diwa_trainer.ingest.bag_to_rows import EpisodeDraft, episode_drafts
from diwa_trainer.ingest.bags import Bag, find
from diwa_trainer.ingest.clocks import clocks_apart
from diwa_trainer.ingest.frames import FrameReader
from diwa_trainer.ingest.identity import KnownRows
from diwa_trainer.ingest.left_out import count_beyond, slow_stream
from diwa_trainer.ingest.marks import Span
from diwa_trainer.ingest.older import NAMES, SAME, OlderDataset, about, may_have_names
from diwa_trainer.ingest.recording import Recording, frames_of, read_recording

BLOCK = 64
"""Rows that are decoded and written at a time."""

Report = Callable[[str], None]


def ingest(
    bags: Sequence[Path],
    output: Path,
    spec: Spec,
    skip_damaged: bool = False,
    workers: int = 2,
    report: Report = print,
) -> Dataset:
    """Make a dataset of bags, or return the one that is there where nothing has changed.

    Args:
        bags: .mcap files, bags, or folders of bags.
        output: the dataset's folder; an older dataset there is replaced.
        spec: of the dataset.
        skip_damaged: leave out bags that cannot be used and chunks that are damaged, instead of refusing them.
        workers: threads that decode frames.
        report: is told what happens, a line at a time.

    Raises:
        InputError: no bag, nothing usable in them, or a bag that cannot be used; names it.
        StorageError: the disk refused.
    """
    found, unread = find(bags, Path(output))
    _check_apart(found, Path(output))
    for item in unread:
        report(f"warning: {item.path}: {item.reason}")
    sums = {bag.path: bag.sha256() for bag in found}
    old = OlderDataset.at(Path(output), spec)
    if old is not None and old.is_of(sums.values()):
        return old.dataset
    with DatasetWriter(output, spec, scene=_has_scene(spec)) as writer:
        for item in unread:
            writer.drop(str(item.path), item.reason, item.count)
        ingestion = _Ingestion(writer, spec, old, skip_damaged, workers, report)
        for bag in found:
            ingestion.add(bag, sums[bag.path])
        if not writer.episodes:
            names = {bag.name for bag in found}
            why = _why([item for item in writer.dropped if item.bag in names])
            raise InputError(f"{found[0].path}: no episode can be made of {_these(found)}{why}")
    return Dataset.open(output)


def summary(dataset: Dataset) -> str:
    """Return a table of what a dataset holds, and of what was left out and why."""
    groups: dict[str, list[int]] = {}
    for episode in dataset.episodes:
        groups.setdefault(episode.task or "play", []).append(len(episode))
    rows = [("episodes", "rows", "of"), *((str(len(g)), f"{sum(g):,}", name) for name, g in groups.items())]
    lines = [f"{count:>10} {size:>10}  {name}" for count, size, name in rows]
    if dataset.dropped:
        lines += ["", f"{'left out':>10} {'':>10}  from and why"]
        lines += [f"{item.count:>10} {'':>10}  {item.bag}: {item.reason}" for item in dataset.dropped]
    return "\n".join(lines)


class _Ingestion:
    """One run of `ingest`: adds bag after bag to a writer."""

    def __init__(
        self,
        writer: DatasetWriter,
        spec: Spec,
        old: OlderDataset | None,
        skip_damaged: bool,
        workers: int,
        report: Report,
    ) -> None:
        self._writer, self._spec, self._old = writer, spec, old
        self._skip_damaged, self._workers, self._report = skip_damaged, workers, report
        cameras = [camera.name for camera in spec.cameras] if spec.uses_cameras else []
        self._cameras = cameras
        self._fields = ("proprio", *(["scene"] if _has_scene(spec) else []), *cameras)
        self._known: dict[str, str] = {}
        self._known_rows = KnownRows()
        self._names: dict[str, tuple[str, ...]] = {}
        if may_have_names(spec):
            writer.note(NAMES, self._names)
        self._camera_sources: dict[str, Any] = {}
        if cameras:
            writer.note(CAMERAS, self._camera_sources)
        self._said: set[str] = set()

    def add(self, bag: Bag, sha256: str) -> None:
        """Add a bag's episodes.

        Raises:
            InputError: it cannot be used, and is not to be skipped.
        """
        if sha256 in self._known:
            self._writer.drop(bag.name, f"the same bytes as {self._known[sha256]}")
            return
        self._known[sha256] = bag.name
        before, start = self._writer.rows, time.monotonic()
        old = self._old if self._old is not None and self._old.source(bag.name, sha256) is not None else None
        try:
            if old is not None:
                self._copy(bag, sha256, old)
            else:
                self._read(bag, sha256)
        except DiwaError as error:
            if not (self._skip_damaged and isinstance(error, InputError)):
                raise
            self._writer.drop(bag.name, str(error))
            self._report(f"warning: {error}; left out")
            return
        rows = self._writer.rows - before
        self._writer.add_source(str(bag.path), sha256, rows)
        self._tell(bag, rows, time.monotonic() - start, copied=old is not None)

    def _tell(self, bag: Bag, rows: int, seconds: float, copied: bool) -> None:
        if copied:
            self._report(f"{bag.name}: {rows:,} rows, taken over unchanged")
        else:
            speed = rows / self._spec.rate_hz / max(seconds, 1e-9)
            self._report(f"{bag.name}: {rows:,} rows, {speed:,.0f}x real time")

    def _read(self, bag: Bag, sha256: str) -> None:
        try:
            recording = read_recording(bag, self._spec, self._fields, self._skip_damaged)
            self._check_names(recording.names)
            self._warn_of_clocks(recording)
            if slow := slow_stream(recording.streams, self._spec.rate_hz):
                self._say_once(f"warning: {slow}")
            drafts = list(self._drafts(recording))
            self._names.update(recording.names)
            self._note_cameras(bag, sha256, recording.cameras)
        except InputError as error:
            named = str(error) if str(error).startswith(str(bag.path)) else f"{bag.path}: {error}"
            advice = [] if self._skip_damaged or not bag.losses else ["leave the bag out with --skip-damaged"]
            raise type(error)("; ".join([named, *bag.losses[:1], *advice])) from None
        for loss in bag.losses:
            self._writer.drop(bag.name, loss)
            self._report(f"warning: {loss}")
        if self._cameras:
            self._write_with_frames(bag, sha256, drafts)
        else:
            for draft in drafts:
                self._writer.add_episode(_arrays(draft.rows), **draft.about, sha256=sha256)
                self._known_rows.add(bag.name, draft.rows.stamp, draft.rows.values["proprio"])

    def _drafts(self, recording: Recording) -> Iterator[EpisodeDraft]:
        """Make a bag's episodes, but for those that are in the dataset already."""
        name = recording.bag.name
        drop = partial(self._writer.drop, name)
        for span in recording.cuts.spans:
            if not span.discarded:
                self._warn_of_tasks(name, span)
        for draft in episode_drafts(recording, self._spec, self._fields, drop, self._report):
            if not self._is_known(name, *_reference(recording, draft.rows)):
                count_beyond(draft.rows, drop)
                yield draft

    def _is_known(self, name: str, stamps: NDArray[np.int64], values: NDArray[np.float32]) -> bool:
        """Say whether an episode is of a recording that is in the dataset already, and count it."""
        other = self._known_rows.same_as(name, stamps, values)
        if other is None:
            return False
        self._writer.drop(name, f"{SAME} {other}")
        self._say_once(f"warning: {name}: {SAME} {other}; left out")
        return True

    def _check_names(self, names: Mapping[str, tuple[str, ...]]) -> None:
        """Refuse values that are selected by their place, and that had other names in a bag before."""
        for values, found in names.items():
            before = self._names.get(values, found)
            if before != found:
                raise InputError(names_changed(values, before, found))

    def _warn_of_clocks(self, recording: Recording) -> None:
        for topic, other, seconds in clocks_apart(recording.streams):
            way = "ahead of" if seconds > 0 else "behind"
            what = f"by time of receipt, {topic} is stamped {abs(seconds):.2f} s {way} {other}"
            self._writer.drop(recording.bag.name, f"{what} (rows kept)")
            self._report(
                f"warning: {recording.bag.name}: {what}: rows put together what was not at the same time; set the "
                "clocks, or find what delays one"
            )

    def _say_once(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            self._report(line)

    def _warn_of_tasks(self, name: str, span: Span) -> None:
        """Say which marked tasks nothing can be trained for."""
        known = [task.name for task in self._spec.tasks]
        for task in dict.fromkeys([*([span.task] if span.task else []), *(task for _, task in span.marks)]):
            if task not in known:
                self._writer.drop(name, f"mark of task {task!r}, which the Spec does not have (rows kept)")
                if task not in self._said:
                    self._said.add(task)
                    advice = f"{nearest(task, known)}; nothing learns it"
                    self._report(f"warning: {name}: the Spec has no task {task!r}{advice}")

    def _note_cameras(self, bag: Bag, sha256: str, cameras: Mapping[str, CameraSource]) -> None:
        """Note what a bag's pictures come from; say where another bag's came from something else."""
        before = joined(map(sources_from_json, self._camera_sources.values()))
        for camera, source in cameras.items():
            if why := unlike(camera, before.get(camera, ()), source):
                self._say_once(f"warning: {bag.name}: {why}; eyes learn from both")
        self._camera_sources[sha256] = {camera: asdict(source) for camera, source in cameras.items()}

    def _write_with_frames(self, bag: Bag, sha256: str, drafts: Sequence[EpisodeDraft]) -> None:
        wanted = {name: [n for draft in drafts for n in draft.rows.values[name]] for name in self._cameras}
        messages = frames_of(bag, self._spec, self._skip_damaged)
        asked = 0
        with FrameReader(self._spec.cameras, messages, wanted, self._workers) as reader:
            for draft in drafts:
                asked += len(draft.rows)
                try:
                    self._write_draft(draft, sha256, reader)
                    self._known_rows.add(bag.name, draft.rows.stamp, draft.rows.values["proprio"])
                except InputError as error:
                    self._writer.discard_episode()
                    self._writer.drop(bag.name, f"episode with a damaged image ({error})")
                    self._report(f"warning: {bag.name}: {error}; its episode is left out")
                    for name in self._cameras:
                        reader.pass_to(name, asked)

    def _write_draft(self, draft: EpisodeDraft, sha256: str, reader: FrameReader) -> None:
        numbers = _arrays(draft.rows)
        for start in range(0, len(draft.rows), BLOCK):
            block = {name: values[start : start + BLOCK] for name, values in numbers.items()}
            for name in self._cameras:
                block[name] = reader.frames(name, len(block["stamp"]))
            self._writer.append(block)
        self._writer.end_episode(**draft.about, sha256=sha256)

    def _copy(self, bag: Bag, sha256: str, old: OlderDataset) -> None:
        """Take over a bag's episodes from the older dataset."""
        self._check_names(old.names)
        self._names.update(old.names)
        self._note_cameras(bag, sha256, old.cameras(sha256))
        for episode in old.episodes(sha256):
            stamps, proprio = old.dataset.stamp[episode.rows], old.dataset.proprio[episode.rows]
            if not self._is_known(bag.name, stamps, proprio):
                self._known_rows.add(bag.name, stamps, proprio)
                for rows in old.rows(episode):
                    self._writer.append(rows)
                self._writer.end_episode(**about(episode))
        for item in old.dropped(bag.name, sha256):
            self._writer.drop(item.bag, item.reason, item.count)


def _reference(recording: Recording, rows: Rows) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return stamps (n,) and values (n, k) of the messages of the reference stream from the first row to the last."""
    data = next(data for data in recording.streams if data.stream.field == "proprio")
    stamps, values = data.between(int(rows.stamp[0]), int(rows.stamp[-1]))
    told = [(stamp, data.stream.own(value)) for stamp, value in zip(stamps, values, strict=True) if value.size]
    return np.array([stamp for stamp, _ in told], np.int64), np.array([value for _, value in told], np.float32)


def _arrays(rows: Rows) -> dict[str, NDArray[Any]]:
    """Return the fields that are numbers."""
    numbers = {name: values for name, values in rows.values.items() if not isinstance(values, list)}
    return {"stamp": rows.stamp, "action": rows.action, **numbers}


def _has_scene(spec: Spec) -> bool:
    return spec.mode != "vision"


def _check_apart(bags: Sequence[Bag], output: Path) -> None:
    """Refuse an output that is a bag, lies in one, or holds one: replacing it would delete recordings.

    Raises:
        InputError: names the bag.
    """
    place = output.resolve()
    for bag in bags:
        path = bag.path.resolve()
        if place in (path, *path.parents) or path in place.parents:
            raise InputError(f"{output}: is where the bag {bag.path} lies; choose an --output of its own")


def _these(bags: Sequence[Bag]) -> str:
    return "this bag" if len(bags) == 1 else f"these {len(bags)} bags"


def _why(dropped: Sequence[Dropped]) -> str:
    return f" ({dropped[0].reason})" if dropped else ""
