"""The hand's process, without a hand: the newest wish counts, and nothing moves on when nobody wishes any more."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from multiprocessing import Pipe
from types import SimpleNamespace
from typing import Any

import pytest

from diwa_bridge.arm import hand

PATIENCE_S = 20.0


class Call:
    """A call to the hand that is under way until it is let return."""

    def __init__(self) -> None:
        self._returned = threading.Event()
        self.error: Exception | None = None

    def let_return(self, error: Exception | None = None) -> None:
        self.error = error
        self._returned.set()

    def wait(self, seconds: float) -> bool:
        return self._returned.wait(seconds)

    def get(self) -> bool:
        if self.error is not None:
            raise self.error
        return True


class Device:
    """Stands in for franky's gripper, and notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.calls: list[Call] = []

    @property
    def state(self) -> SimpleNamespace:
        return SimpleNamespace(width=0.04, max_width=0.08, is_grasped=False)

    def move_async(self, *words: float) -> Call:
        return self._call("move", *words)

    def grasp_async(self, *words: float) -> Call:
        return self._call("grasp", *words)

    def stop(self) -> None:
        self.told.append(("stop",))

    def _call(self, *words: Any) -> Call:
        self.told.append(words)
        self.calls.append(Call())
        return self.calls[-1]


class Working:
    """A hand at work in a thread, and the bridge's end of its connection."""

    def __init__(self) -> None:
        self.device, self.error = Device(), ""
        self.bridge, self._theirs = Pipe()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        try:
            hand.work(self.device, self._theirs, 0.05, 20.0)
        except RuntimeError as error:
            self.error = str(error)
        self._theirs.close()

    def states_until(self, moving: bool) -> dict[str, Any]:
        while True:
            assert self.bridge.poll(PATIENCE_S)
            state: dict[str, Any] = json.loads(self.bridge.recv_bytes())
            if state["moving"] == moving:
                return state

    def wish(self, *words: bytes) -> None:
        for word in words:
            self.bridge.send_bytes(word)

    def join(self) -> None:
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()


@pytest.fixture
def working() -> Iterator[Working]:
    made = Working()
    yield made
    if not made.bridge.closed:
        made.bridge.close()
    made.join()


def test_it_opens_closes_and_says_so(working: Working) -> None:
    state = working.states_until(moving=False)
    assert (state["width"], state["max_width"], state["grasped"]) == (0.04, 0.08, False)
    working.wish(hand.OPEN)
    working.states_until(moving=True)
    working.device.calls[0].let_return()
    working.states_until(moving=False)
    working.wish(hand.CLOSE)
    working.states_until(moving=True)
    assert working.device.told == [("move", 0.08, 0.05), ("grasp", 0.0, 0.05, 20.0, 0.2, 0.2)]


def test_what_is_wished_anew_stops_what_is_under_way(working: Working) -> None:
    working.wish(hand.CLOSE)
    working.states_until(moving=True)
    working.wish(hand.HALT)
    working.states_until(moving=False)
    assert [words[0] for words in working.device.told] == ["grasp", "stop"]


def test_of_several_wishes_the_newest_counts() -> None:
    device = Device()
    ours, theirs = Pipe()
    for word in (hand.OPEN, hand.CLOSE, hand.HALT, hand.OPEN, hand.END):
        ours.send_bytes(word)
    hand.work(device, theirs, 0.05, 20.0)
    assert device.told == []
    ours.close()
    theirs.close()


@pytest.mark.parametrize("end", [hand.END, None], ids=["told to end", "the bridge is gone"])
def test_nothing_moves_on_when_nobody_wishes_any_more(working: Working, end: bytes | None) -> None:
    working.wish(hand.CLOSE)
    working.states_until(moving=True)
    if end is None:
        working.bridge.close()
    else:
        working.wish(end)
    working.join()
    assert [words[0] for words in working.device.told] == ["grasp", "stop"]


def test_a_call_that_fails_ends_it(working: Working) -> None:
    working.wish(hand.OPEN)
    working.states_until(moving=True)
    working.device.calls[0].let_return(RuntimeError("jammed"))
    working.join()
    assert working.error == "jammed"
