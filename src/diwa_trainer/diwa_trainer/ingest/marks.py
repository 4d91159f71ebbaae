"""Cuts a bag's time line into episodes by the marks on `episode/event`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from diwa_runtime.events import NO_SEED, EventKind
from diwa_runtime.rows.order import LAST_STAMP
from diwa_trainer.dataset import EpisodeOutcome

FOREVER = LAST_STAMP


@dataclass(frozen=True)
class Event:
    """One mark: `kind` as EpisodeEvent numbers it, `task` "" for none, `seed` -1 for none."""

    stamp: int
    kind: int
    task: str
    seed: int = NO_SEED


@dataclass(frozen=True)
class Span:
    """An episode's part of the time line, both ends included.

    Attributes:
        start, end: ns.
        task: what is demonstrated; None: play.
        outcome: whether it was achieved, where a mark said so.
        seed: of the start state; None where unknown.
        marks: (stamp ns, task) of each success.
        discarded: it was marked as not to be learned from.
    """

    start: int
    end: int
    task: str | None = None
    outcome: EpisodeOutcome | None = None
    seed: int | None = None
    marks: tuple[tuple[int, str], ...] = ()
    discarded: bool = False


@dataclass(frozen=True)
class Cuts:
    """The episodes of a bag, and how many marks belong to none, by what is wrong with them."""

    spans: tuple[Span, ...]
    stray: Counter[str]


WHOLE_BAG = Cuts((Span(0, FOREVER),), Counter())
"""What a bag without any mark is: play from end to end."""


class Marks:
    """The marks of a bag, as they lie in it.

    Attributes:
        stray: how many cannot be used, by what is wrong with them.
    """

    def __init__(self) -> None:
        self.stray: Counter[str] = Counter()
        self._found: list[tuple[int, int, Event]] = []

    def add(self, event: Event, receipt_ns: int) -> None:
        """Take one mark."""
        if not 0 <= event.stamp <= LAST_STAMP:
            self.stray["mark of an impossible time"] += 1
        elif event.kind not in list(EventKind):
            self.stray[f"mark of kind {event.kind}, which is not known"] += 1
        else:
            self._found.append((event.stamp, receipt_ns, event))

    def cut(self, first: int) -> Cuts:
        """Cut a bag, whose first message is of `first` ns, by its marks in order of time; without any, not at all."""
        received = sorted(self._found, key=lambda found: found[1])
        newest = accumulate((stamp for stamp, _, _ in received), max)
        late = sum(stamp < before for (stamp, _, _), before in zip(received[1:], newest, strict=False))
        if late:
            self.stray["mark that came after a later one (kept, in order of time)"] += late
        events = [event for _, _, event in sorted(received, key=lambda found: found[:2])]
        events = without_stale(events, first)
        cuts = cut(events) if events else WHOLE_BAG
        return Cuts(cuts.spans, self.stray + cuts.stray)


def without_stale(events: Sequence[Event], first: int) -> list[Event]:
    """Leave out the marks of episodes that were over before the bag's first message, at `first` ns.

    Marks are latched for a recorder that comes late to an episode. It hears of older ones too, and without this nothing
    that it records later would belong to an episode.
    """
    over = (EventKind.END, EventKind.DISCARD)
    ends = [number for number, event in enumerate(events) if event.stamp < first and event.kind in over]
    return list(events[ends[-1] + 1 :]) if ends else list(events)


def cut(events: Iterable[Event]) -> Cuts:
    """Cut by marks in order of time; an episode that nothing ends goes on to the end of the bag."""
    spans: list[Span] = []
    stray: Counter[str] = Counter()
    running: Span | None = None
    for event in events:
        kind = EventKind(event.kind)
        if kind is EventKind.START:
            if running is not None:
                spans.append(replace(running, end=event.stamp - 1))
            seed = None if event.seed == NO_SEED else event.seed
            running = Span(event.stamp, FOREVER, event.task or None, None, seed)
        elif running is None:
            stray[f"mark {kind.name} outside of an episode"] += 1
        elif kind in (EventKind.END, EventKind.DISCARD):
            spans.append(replace(running, end=event.stamp, discarded=kind is EventKind.DISCARD))
            running = None
        else:
            judged = _judged(running, kind, event)
            if judged is running:
                stray[f"mark {kind.name} of no task, or of another than is demonstrated"] += 1
            running = judged
    if running is not None:
        spans.append(running)
    return Cuts(tuple(spans), stray)


def _judged(span: Span, kind: EventKind, event: Event) -> Span:
    """Add a mark of success or failure; only one of the demonstrated task itself is the episode's outcome."""
    task = event.task or span.task
    if kind is EventKind.FAILURE:
        return replace(span, outcome="failure") if task == span.task is not None else span
    if task is None:
        return span
    outcome = "success" if task == span.task else span.outcome
    return replace(span, outcome=outcome, marks=(*span.marks, (event.stamp, task)))
