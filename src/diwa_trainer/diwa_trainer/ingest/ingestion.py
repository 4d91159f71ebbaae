"""Ingest: bags in, one dataset out. Episodes are cut by marks, rows made by the one assembler, frames decoded once.

The bags are only ever read. The dataset is written whole or not at all; bags that an older dataset at the same place
already holds, by their sha256 and under the same Spec, are copied from it rather than read again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diwa_runtime.actions import GRIPPER
from diwa_runtime.errors import DiwaError, InputError, nearest
from diwa_runtime.rows.assembler import MAX_GAP_S, Assembly, Rows, assemble
from diwa_runtime.rows.streams import NANOSECONDS
from diwa_runtime.spec import Spec
from diwa_trainer.dataset import Dataset, DatasetWriter, Dropped, Episode, Source
from diwa_trainer.ingest.bags import Bag, find_bags
from diwa_trainer.ingest.frames import FrameReader
from diwa_trainer.ingest.marks import Span
from diwa_trainer.ingest.recording import Recording, frames_of, read_recording

MIN_ROWS = 2
BLOCK = 64
"""Rows that are decoded and written at a time."""

ROUNDING = 1e-3
"""By which an action may exceed 1 through units and float32 alone."""

Report = Callable[[str], None]


@dataclass(frozen=True)
class EpisodeDraft:
    """One future episode: its rows and metadata; the row offset is assigned on write."""

    rows: Rows
    about: Mapping[str, Any]


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
    found = find_bags(bags)
    _check_apart(found, Path(output))
    sums = {bag.path: bag.sha256() for bag in found}
    old = _older(Path(output), spec)
    if old is not None and [source.sha256 for source in old.sources] == list(dict.fromkeys(sums.values())):
        return old
    with DatasetWriter(output, spec, scene=_has_scene(spec)) as writer:
        ingestion = _Ingestion(writer, spec, old, skip_damaged, workers, report)
        for bag in found:
            ingestion.add(bag, sums[bag.path])
        if not writer.episodes:
            raise InputError(f"{found[0].path}: no episode can be made of {_these(found)}{_why(writer.dropped)}")
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
        old: Dataset | None,
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
        self._unknown: set[str] = set()  # tasks

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
        source = next((s for s in self._old.sources if s.sha256 == sha256), None) if self._old is not None else None
        try:
            if source is not None:
                self._copy(bag, source)
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
        self._tell(bag, rows, time.monotonic() - start, copied=source is not None)

    def _tell(self, bag: Bag, rows: int, seconds: float, copied: bool) -> None:
        if copied:
            self._report(f"{bag.name}: {rows:,} rows, taken over unchanged")
        else:
            speed = rows / self._spec.rate_hz / max(seconds, 1e-9)
            self._report(f"{bag.name}: {rows:,} rows, {speed:,.0f}x real time")

    def _read(self, bag: Bag, sha256: str) -> None:
        try:
            recording = read_recording(bag, self._spec, self._fields, self._skip_damaged)
            drafts = list(self._drafts(recording, sha256))
        except InputError as error:
            named = str(error) if str(error).startswith(str(bag.path)) else f"{bag.path}: {error}"
            raise type(error)(named) from None
        for loss in bag.losses:
            self._writer.drop(bag.name, loss)
            self._report(f"warning: {loss}")
        if self._cameras:
            self._write_with_frames(bag, drafts)
        else:
            for draft in drafts:
                self._writer.add_episode(_arrays(draft.rows), **draft.about)

    def _drafts(self, recording: Recording, sha256: str) -> Iterator[EpisodeDraft]:
        drop = self._writer.drop
        name = recording.bag.name
        for reason, count in recording.cuts.stray.items():
            drop(name, reason, count)
        outside = _count_outside(recording)
        if outside:
            drop(name, "message of the robot's state outside of any episode", outside)
        for span in recording.cuts.spans:
            if span.discarded:
                drop(name, "episode marked to be discarded")
                continue
            self._warn_of_tasks(name, span)
            assembly = assemble(
                self._spec, [data.between(span.start, span.end) for data in recording.streams], self._fields
            )
            if assembly.faults:
                fault = assembly.faults[0]
                drop(name, f"episode with a faulty message ({fault.topic}: {fault.reason})")
                self._report(
                    f"warning: {name}: {fault.topic} at {fault.stamp} ns: {fault.reason}; its episode is left out"
                )
                continue
            _check_gripper(assembly.segments, self._spec)
            _count_losses(assembly, name, drop)
            parts = list(_parts(assembly.segments, span))
            lost = len(span.marks) - sum(len(part["marks"]) for _, part in parts)
            if lost:
                drop(name, "mark of success that falls into a gap", lost)
            for rows, part in parts:
                if len(rows) < MIN_ROWS:
                    drop(name, f"episode of fewer than {MIN_ROWS} rows")
                else:
                    _count_beyond(rows, name, drop)
                    yield EpisodeDraft(rows, {**part, "seed": span.seed, "bag": name, "sha256": sha256})

    def _warn_of_tasks(self, name: str, span: Span) -> None:
        """Say which marked tasks nothing can be trained for."""
        known = [task.name for task in self._spec.tasks]
        for task in dict.fromkeys([*([span.task] if span.task else []), *(task for _, task in span.marks)]):
            if task not in known:
                self._writer.drop(name, f"mark of task {task!r}, which the Spec does not have (rows kept)")
                if task not in self._unknown:
                    self._unknown.add(task)
                    advice = f"{nearest(task, known)}; nothing learns it"
                    self._report(f"warning: {name}: the Spec has no task {task!r}{advice}")

    def _write_with_frames(self, bag: Bag, drafts: Sequence[EpisodeDraft]) -> None:
        wanted = {name: [n for draft in drafts for n in draft.rows.values[name]] for name in self._cameras}
        messages = frames_of(bag, self._spec, self._skip_damaged)
        with FrameReader(self._spec.cameras, messages, wanted, self._workers) as reader:
            for draft in drafts:
                try:
                    self._write_draft(draft, reader)
                except InputError as error:
                    self._writer.discard_episode()
                    self._writer.drop(bag.name, f"episode with a damaged image ({error})")
                    self._report(f"warning: {bag.name}: {error}; its episode is left out")

    def _write_draft(self, draft: EpisodeDraft, reader: FrameReader) -> None:
        numbers = _arrays(draft.rows)
        for start in range(0, len(draft.rows), BLOCK):
            block = {name: values[start : start + BLOCK] for name, values in numbers.items()}
            for name in self._cameras:
                block[name] = reader.frames(name, draft.rows.values[name][start : start + BLOCK])
            self._writer.append(block)
        self._writer.end_episode(**draft.about)

    def _copy(self, bag: Bag, source: Source) -> None:
        """Take over a bag's episodes from the older dataset."""
        assert self._old is not None
        names = {bag.name}
        for episode in (e for e in self._old.episodes if e.sha256 == source.sha256):
            names.add(episode.bag)
            for start in range(episode.start, episode.end, BLOCK * BLOCK):
                end = min(start + BLOCK * BLOCK, episode.end)
                self._writer.append({name: array[start:end] for name, array in self._old.arrays.items()})
            self._writer.end_episode(**_about(episode))
        for item in self._old.dropped:
            if item.bag in names:
                self._writer.drop(item.bag, item.reason, item.count)


def _parts(segments: Sequence[Rows], span: Span) -> Iterator[tuple[Rows, dict[str, Any]]]:
    """Give each gap-free part of an episode its marks.

    Of a demonstration that a gap has split, the part with the task's success (or, failed or unjudged, the last part)
    stays one; what comes before or after is play, since it neither starts nor ends as a demonstration does.
    """
    marks = [_marks_within(rows, span, first=n == 0, last=n == len(segments) - 1) for n, rows in enumerate(segments)]
    keeper = len(segments) - 1
    if span.outcome == "success":
        keeper = next((n for n, part in enumerate(marks) if any(task == span.task for _, task in part)), -1)
    for number, (rows, part) in enumerate(zip(segments, marks, strict=True)):
        if span.task is not None and number == keeper:
            about = {"kind": "demonstration", "task": span.task, "outcome": span.outcome}
        else:
            about = {"kind": "play", "task": None, "outcome": None}
        yield rows, {**about, "marks": part}


def _marks_within(rows: Rows, span: Span, first: bool, last: bool) -> list[tuple[int, str]]:
    """Return (row, task) for the marks that fall on these rows; one between two rows belongs to the later.

    Just after an episode's last row it belongs to that one: the message it was set at need not have become a row.
    """
    found = []
    for stamp, task in span.marks:
        row = int(np.searchsorted(rows.stamp, stamp))
        if last and row == len(rows) and stamp - rows.stamp[-1] <= MAX_GAP_S * NANOSECONDS:
            found.append((row - 1, task))
        elif row < len(rows) and (row > 0 or first or stamp == rows.stamp[0]):
            found.append((row, task))
    return found


def _arrays(rows: Rows) -> dict[str, NDArray[Any]]:
    """Return the fields that are numbers."""
    numbers = {name: values for name, values in rows.values.items() if not isinstance(values, list)}
    return {"stamp": rows.stamp, "action": rows.action, **numbers}


def _count_losses(assembly: Assembly, name: str, drop: Callable[[str, str, int], None]) -> None:
    for topic, count in assembly.missing.items():
        drop(name, f"row without a fresh message of {topic}", count)
    for topic, count in assembly.repeated.items():
        drop(name, f"message of {topic} with the stamp of the one before", count)
    if assembly.held:
        drop(name, "gap of up to 0.2 s: the row before it is held (rows kept)", assembly.held)
    if len(assembly.segments) > 1:
        drop(name, "gap of more than 0.2 s: the episode is split there (rows kept)", len(assembly.segments) - 1)


def _check_gripper(segments: Sequence[Rows], spec: Spec) -> None:
    """Refuse a gripper that is told widths: actions know open and closed alone."""
    for rows in segments:
        odd = rows.action[np.abs(rows.action[:, GRIPPER]) != 1, GRIPPER]
        if len(odd):
            topics = ", ".join(dict.fromkeys(stream.topic for stream in spec.streams if stream.field == "action"))
            raise InputError(
                f"{topics}: a gripper command is {odd[0]:g}, must be 1 (open) or -1 (closed); give the Spec a stream "
                "that says so"
            )


def _count_beyond(rows: Rows, name: str, drop: Callable[[str, str, int], None]) -> None:
    """Count rows that moved further than a command may, as an arm guided by hand does: no policy can follow them."""
    beyond = int((np.abs(rows.action) > 1 + ROUNDING).any(axis=-1).sum())
    if beyond:
        drop(name, "row that moves further than an action of 1: guide more slowly (rows kept)", beyond)


def _count_outside(recording: Recording) -> int:
    """Count the reference's messages that belong to no episode."""
    data = next(data for data in recording.streams if data.stream.field == "proprio")
    return len(data.stamps) - sum(len(data.between(span.start, span.end)[0]) for span in recording.cuts.spans)


def _about(episode: Episode) -> dict[str, Any]:
    marks = [(row - episode.start, task) for row, task in episode.marks]
    about = {name: getattr(episode, name) for name in ("kind", "task", "outcome", "seed", "bag", "sha256")}
    return {**about, "marks": marks}


def _has_scene(spec: Spec) -> bool:
    return spec.mode != "vision"


def _older(output: Path, spec: Spec) -> Dataset | None:
    """Return the dataset that lies at `output`, if it can be used and is of this Spec."""
    try:
        old = Dataset.open(output)
    except DiwaError:
        return None
    return old if old.spec == spec else None


def _check_apart(bags: Sequence[Bag], output: Path) -> None:
    """Refuse an output that is a bag, lies in one, or holds one: replacing it would delete recordings."""
    place = output.resolve()
    for bag in bags:
        path = bag.path.resolve()
        if place in (path, *path.parents) or path in place.parents:
            raise InputError(f"{output}: is where the bag {bag.path} lies; choose an --output of its own")


def _these(bags: Sequence[Bag]) -> str:
    return "this bag" if len(bags) == 1 else f"these {len(bags)} bags"


def _why(dropped: Sequence[Dropped]) -> str:
    return f" ({dropped[0].reason})" if dropped else ""
