"""The gripper: a thread of its own that works on the latest wish, because each of its calls takes up to seconds."""

from __future__ import annotations

import threading
from typing import Any

from diwa_bridge.arm import _franky, _line

OPEN, CLOSED = 1.0, -1.0
LOOK_S = 0.03
"""How often the width is read, also while the fingers move."""
ANY_WIDTH_M = 0.2
"""Tolerance of a grasp: whatever is between the fingers is held."""


class Gripper:
    """A Franka hand.

    Attributes:
        hostname: of the arm's control box.
        hysteresis: an open gripper closes below minus this, a closed one opens above it.
        speed: of the fingers, m/s.
        force: with which it holds, N.
        width: between the fingers, m, as last read; nan before the first.
        command: the last wish, `OPEN` or `CLOSED`.
        fault: why it does not work; "" = it does.
    """

    def __init__(self, hostname: str, hysteresis: float = 0.1, speed: float = 0.05, force: float = 20.0) -> None:
        self.hostname, self.hysteresis, self.speed, self.force = hostname, hysteresis, speed, force
        self.width, self.command, self.fault = float("nan"), OPEN, ""
        self._device: Any = None
        self._wish: float | None = None
        self._changed, self._ended = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def connect(self) -> None:
        """Connect, or connect anew; what it did before is not taken up again.

        Raises:
            InputError: franky cannot be imported.
        """
        self.close()
        franky = _franky()
        self._wish, self.fault = None, ""
        self._changed.clear()
        self._ended.clear()
        try:
            self._device = franky.Gripper(self.hostname)
            self.width = float(self._device.width)
            self.command = OPEN if self.width > self._device.max_width / 2 else CLOSED
        except franky.Exception as error:
            self.fault = f"gripper of {self.hostname}: {_line(error)}"
            return
        self._thread = threading.Thread(target=self._work, name="gripper", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; the fingers stop where they are told to."""
        self._ended.set()
        self._changed.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._device = None

    def wish(self, value: float) -> float:
        """Open (> 0) or close it; return the wish that holds now. Never waits."""
        if value > self.hysteresis:
            self._set(OPEN)
        elif value < -self.hysteresis:
            self._set(CLOSED)
        return self.command

    def _set(self, wish: float) -> None:
        if wish == self._wish:  # nothing is wished for at first, so the first wish is always followed
            return
        self.command = self._wish = wish
        self._changed.set()

    def _work(self) -> None:
        franky = _franky()
        running: Any = None
        try:
            while not self._ended.is_set():
                if self._changed.wait(LOOK_S):
                    self._changed.clear()
                    if running is not None and not running.wait(0):
                        self._device.stop()
                    running = self._started(self._wish)
                if running is not None and running.wait(0):
                    running.get()  # raises what went wrong; grasping nothing is no fault
                    running = None
                self.width = float(self._device.width)
        except franky.Exception as error:
            self.fault = f"gripper of {self.hostname}: {_line(error)}"

    def _started(self, wish: float | None) -> Any:
        if wish is None:
            return None
        if wish == OPEN:
            return self._device.move_async(self._device.max_width, self.speed)
        return self._device.grasp_async(0.0, self.speed, self.force, ANY_WIDTH_M, ANY_WIDTH_M)
