"""The gripper: a thread of its own that works on the latest wish, because each of its calls takes up to seconds."""

from __future__ import annotations

import ctypes
import threading
import time
from typing import Any

from diwa_bridge.arm import franky_library
from diwa_runtime.errors import one_line

OPEN, CLOSED = 1.0, -1.0
LOOK_S = 0.03
"""How often the width is read, also while the fingers move."""
ANY_WIDTH_M = 0.2
"""Tolerance of a grasp: whatever is between the fingers is held."""
HOMED_M = 0.01
"""A hand that was not homed since it was switched on says that it opens no further than this."""
CLOSE_S = 2.0


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
        self._running: Any = None
        self._called: Any = None  # the last call, whether its outcome is still of interest or not
        self._wish: float | None = None
        self._changed, self._ended = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def connect(self) -> None:
        """Connect, or connect anew; what it did before is not taken up again.

        Raises:
            InputError: franky cannot be imported.
        """
        self.close()
        franky = franky_library()
        self._wish, self.fault = None, ""
        self._changed.clear()
        self._ended.clear()
        if self._called is not None:
            self.fault = f"gripper of {self.hostname}: its last call does not return; start the bridge anew"
            return
        try:
            self._device = franky.Gripper(self.hostname)
            state = self._device.state
            self.width = float(state.width)
            if state.max_width < HOMED_M:
                self.fault = f"gripper of {self.hostname}: it does not know its width; home it in Desk"
                return
            self.command = CLOSED if state.is_grasped or self.width < state.max_width / 2 else OPEN
        except Exception as error:  # the edge to franky, whose errors have no common kind
            self.fault = f"gripper of {self.hostname}: {one_line(error)}"
            return
        self._thread = threading.Thread(target=self._work, name="gripper", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; fingers that move stop."""
        self._ended.set()
        self._changed.set()
        end = time.monotonic() + CLOSE_S
        if self._thread is not None:
            self._thread.join(CLOSE_S)
            self._thread = None
        # To drop a hand whose call has not returned, also at the interpreter's end, would hold all of it until it does.
        if self._called is not None and not self._called.wait(max(end - time.monotonic(), 0.0)):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object((self._device, self._called)))
            return
        self._device = self._running = self._called = None

    def wish(self, value: float) -> float:
        """Open (> 0) or close it; return the wish that holds now. Never waits."""
        if value > self.hysteresis:
            self._set(OPEN)
        elif value < -self.hysteresis:
            self._set(CLOSED)
        return self.command

    def halt(self) -> None:
        """Let the fingers stand where they are until the next wish, which is followed whatever it is. Never waits."""
        self._wish = None
        self._changed.set()

    def _set(self, wish: float) -> None:
        if wish == self._wish:  # nothing is wished for at first, so the first wish is always followed
            return
        self.command = self._wish = wish
        self._changed.set()

    def _work(self) -> None:
        try:
            while not self._ended.is_set():
                if self._changed.wait(LOOK_S):
                    self._changed.clear()
                    self._turn_to(self._wish)
                if self._running is not None and self._running.wait(0):
                    self._running.get()  # raises what went wrong; grasping nothing is no fault
                    self._running = None
                self.width = float(self._device.width)
        except Exception as error:  # the edge to franky, whose errors have no common kind
            self.fault = f"gripper of {self.hostname}: {one_line(error)}"

    def _turn_to(self, wish: float | None) -> None:
        if self._running is not None and not self._running.wait(0):
            self._device.stop()
        self._running = None
        if self._ended.is_set() or wish is None:
            return
        if wish == OPEN:
            self._running = self._called = self._device.move_async(self._device.max_width, self.speed)
        else:
            self._running = self._called = self._device.grasp_async(
                0.0, self.speed, self.force, ANY_WIDTH_M, ANY_WIDTH_M
            )
