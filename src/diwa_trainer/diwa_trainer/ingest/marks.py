"""Cuts a bag's time line into episodes by the marks on `episode/event`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from diwa_runtime.errors import InputError
from diwa_runtime.events import NO_SEED, EventKind
from diwa_trainer.dataset import EpisodeOutcome

FOREVER = 2**63 - 1


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


def without_stale(events: Sequence[Event], first: int) -> list[Event]:
    """Leave out the marks of episodes that were over before the bag's first message, at `first` ns.

    Marks are latched for a recorder that comes late to an episode. It hears of older ones too, and without this nothing
    that it records later would belong to an episode.
    """
    over = (EventKind.END, EventKind.DISCARD)
    ends = [number for number, event in enumerate(events) if event.stamp < first and event.kind in over]
    return list(events[ends[-1] + 1 :]) if ends else list(events)


def cut(events: Iterable[Event]) -> Cuts:
    """Cut by marks in order of time; an episode that nothing ends goes on to the end of the bag.

    Raises:
        InputError: the marks' time goes backwards, or a mark is of no known kind.
    """
    spans: list[Span] = []
    stray: Counter[str] = Counter()
    running: Span | None = None
    newest = 0
    for event in events:
        if event.stamp < newest:
            raise InputError(
                f"episode/event: time goes backwards by {(newest - event.stamp) / 1e9:.3f} s; record again"
            )
        newest = event.stamp
        kind = _kind_of(event)
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
            running = _judged(running, kind, event)
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


def _kind_of(event: Event) -> EventKind:
    try:
        return EventKind(event.kind)
    except ValueError:
        raise InputError(f"episode/event: a mark is of kind {event.kind}, which is not known") from None
