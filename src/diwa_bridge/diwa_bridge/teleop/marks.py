"""What the operator says of episodes, as marks; refuses what cannot be. ROS-free."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from diwa_bridge.teleop.pilot import Action
from diwa_runtime.events import FRAMES_AFTER_SUCCESS, EventKind


class Mark(NamedTuple):
    """One `EpisodeEvent`; task "" is play."""

    kind: EventKind
    task: str


class Told(NamedTuple):
    """What came of a press: marks to publish, in order, and a line for the operator."""

    marks: tuple[Mark, ...]
    text: str
    refused: bool = False


class EpisodeMarks:
    """Which episode runs, and what became of those before.

    Attributes:
        running: task of the episode that runs, "" for play; None = none runs.
        ended: how many ended, by how.
    """

    def __init__(self, tasks: Sequence[str] = ("",)) -> None:
        """Begin without an episode; the first of `tasks` is the one that START names."""
        self._tasks, self._index = tuple(tasks) or ("",), 0
        self.running: str | None = None
        self._due: Mark | None = None  # the END of a demonstration that was saved
        self._states_left = 0
        self.ended = {"saved": 0, "failed": 0, "discarded": 0, "left": 0}

    @property
    def next_task(self) -> str:
        """What START will name."""
        return self._tasks[self._index]

    def state(self) -> tuple[Mark, ...]:
        """Take note that one more robot state has come; return the marks that belong to it."""
        if self._due is not None:
            self._states_left -= 1
        return () if self._states_left else self._overdue()

    def press(self, action: Action) -> Told:
        """Take a press of START, SAVE, FAILURE, DISCARD, TASK or ACHIEVED.

        For the operator an episode is over once it is saved: nothing that is pressed undoes that, and a START before
        its END has gone out stands for both.
        """
        if action is Action.TASK:
            self._index = (self._index + 1) % len(self._tasks)
            return Told((), f"the next episode is {_named(self.next_task)}")
        if action is Action.START:
            return self._start()
        if self.running is None:
            return Told((), f"{action}: no episode runs; start one first", refused=True)
        task = self.running
        if action is Action.DISCARD:
            return self._end("discarded", Mark(EventKind.DISCARD, task))
        if action is Action.SAVE:
            return self._save(task)
        if action is Action.ACHIEVED:
            return self._achieve(task)
        assert action is Action.FAILURE, action
        if not task:
            return Told((), "failure: play has no task to fail at; save or discard it", refused=True)
        return self._end("failed", Mark(EventKind.FAILURE, task), Mark(EventKind.END, task))

    def close(self) -> Told:
        """Discard the episode that runs, if any: nobody said that it was good. One that was saved ends now."""
        if self.running is not None:
            return self.press(Action.DISCARD)
        return Told(self._overdue(), "no episode is open any more")

    def _overdue(self) -> tuple[Mark, ...]:
        """Return the END that is still to come, if any, and forget it."""
        due, self._due = self._due, None
        return () if due is None else (due,)

    def _start(self) -> Told:
        before, self._due = "", None
        if self.running is not None:
            self.ended["left"] += 1
            before = f"; {_named(self.running)} that ran ends here, its outcome unknown"
        self.running = self.next_task
        return Told((Mark(EventKind.START, self.running),), f"{_named(self.running)} begins{before}")

    def _save(self, task: str) -> Told:
        end = Mark(EventKind.END, task)
        if not task:
            return self._end("saved", end)
        self._due, self._states_left = end, FRAMES_AFTER_SUCCESS
        return self._end("saved", Mark(EventKind.SUCCESS, task))

    def _achieve(self, running: str) -> Told:
        """Mark, in play, that the task which would be next was achieved; play goes on."""
        if running:
            return Told((), f"achieved: {_named(running)} runs; save it instead", refused=True)
        if not self.next_task:
            return Told((), "achieved: choose first which task", refused=True)
        return Told((Mark(EventKind.SUCCESS, self.next_task),), f"in play, {self.next_task} was achieved")

    def _end(self, how: str, *marks: Mark) -> Told:
        task, self.running = self.running, None
        self.ended[how] += 1
        return Told(marks, f"{_named(task or '')} {how} ({self.ended[how]} so far)")


def _named(task: str) -> str:
    return f"an episode of {task}" if task else "an episode of play"
