"""The gripper as the bridge sees it: never waits, because a hand's calls take seconds, or for ever.

They are made in `diwa_bridge.arm.hand`, a process of its own that can be ended.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from diwa_bridge.arm import hand
from diwa_bridge.arm.franka import franky_library

OPEN, CLOSED = 1.0, -1.0
HOMED_M = 0.01
"""A hand that was not homed since it was switched on says that it opens no further than this."""
CONNECT_S, SILENT_S, CLOSE_S = 15.0, 3.0, 2.0
"""How long the hand may take to connect, to say its state again, and to end."""


class Gripper:
    """A Franka hand.

    Attributes:
        hostname: of the arm's control box.
        hysteresis: an open gripper closes below minus this, a closed one opens above it.
        speed: of the fingers, m/s.
        force: with which it holds, N.
        width: between the fingers, m, as last read; nan before the first.
        command: the last wish, `OPEN` or `CLOSED`.
        moving: whether the hand is still at what it was last told to do.
        fault: why it does not work; "" = it does.
    """

    def __init__(self, hostname: str, hysteresis: float = 0.1, speed: float = 0.05, force: float = 20.0) -> None:
        self.hostname, self.hysteresis, self.speed, self.force = hostname, hysteresis, speed, force
        self.width, self.command, self.moving, self.fault = float("nan"), OPEN, False, ""
        self._wish: float | None = None
        self._ended = False
        self._process: subprocess.Popen[bytes] | None = None
        self._hand: Connection | None = None
        self._listener: threading.Thread | None = None

    def connect(self) -> None:
        """Connect, or connect anew; what it did before is not taken up again.

        Raises:
            InputError: franky cannot be imported.
        """
        self.close()
        franky_library()
        self._wish, self._ended, self.fault = None, False, ""
        self._hand = self._start()
        state = self._next_state(CONNECT_S)
        if state is not None and not state["max_width"] >= HOMED_M:
            self._fail("it does not know its width; home it in Desk")
        if state is None or self.fault:
            self.close()
            return
        self.command = CLOSED if state["grasped"] or self.width < state["max_width"] / 2 else OPEN
        self._listener = threading.Thread(target=self._listen, name="gripper", daemon=True)
        self._listener.start()

    def close(self) -> None:
        """End the hand's process; fingers that move stop."""
        if self._process is None or self._hand is None:
            return
        self._ended = True
        self._say(hand.END)
        try:
            self._process.wait(CLOSE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._listener is not None:
            self._listener.join()
        self._hand.close()
        self._process = self._hand = self._listener = None

    def wish(self, value: float) -> float:
        """Open (> 0) or close it; return the wish that holds now. Never waits."""
        if value > self.hysteresis:
            self._set(OPEN)
        elif value < -self.hysteresis:
            self._set(CLOSED)
        return self.command

    def halt(self) -> None:
        """Let the fingers stand where they are until the next wish, which is followed whatever it is. Never waits."""
        # Said once: a hand that no longer reads would let the connection fill up, and then whoever says more waits.
        if self._wish is not None:
            self._wish = None
            self._say(hand.HALT)

    def _set(self, wish: float) -> None:
        if wish == self._wish:  # nothing is wished for at first, so the first wish is always followed
            return
        self.command = self._wish = wish
        self._say(hand.OPEN if wish == OPEN else hand.CLOSE)

    def _start(self) -> Connection:
        """Start the hand's process, with the packages that this one has; return our end of the connection."""
        ours, theirs = Pipe()
        words = [self.hostname, str(self.speed), str(self.force), str(theirs.fileno())]
        self._process = subprocess.Popen(
            [sys.executable, "-m", hand.__name__, *words],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # Ctrl-C is for the bridge, which ends this one in order
        )
        theirs.close()
        return ours

    def _say(self, word: bytes) -> None:
        """Send a word; that nobody hears it, the listener notices."""
        if self._hand is not None:
            with suppress(OSError):
                self._hand.send_bytes(word)

    def _listen(self) -> None:
        while self._next_state(SILENT_S) is not None:
            pass

    def _next_state(self, patience_s: float) -> dict[str, Any] | None:
        """Take the next state in and return it; None where there is none, and `fault` says why."""
        assert self._hand is not None
        try:
            if self._hand.poll(patience_s):
                state: dict[str, Any] = json.loads(self._hand.recv_bytes())
            else:
                state = {"fault": f"it has not answered for {patience_s:.0f} s; restart the hand"}
            if "fault" not in state:
                self.width, self.moving = _width(state["width"]), bool(state["moving"])
                state["max_width"], state["grasped"] = _width(state["max_width"]), bool(state["grasped"])
                return state
        except (EOFError, OSError):
            state = {"fault": "its process has ended"}
        except (ValueError, KeyError, TypeError) as error:
            state = {"fault": f"what it says cannot be ({type(error).__name__}: {error}); restart the hand"}
        self._fail(str(state["fault"]))
        return None

    def _fail(self, why: str) -> None:
        if not self._ended:
            self.fault = f"gripper of {self.hostname}: {why}"


def _width(value: Any) -> float:
    """Return a width between fingers, m.

    Raises:
        ValueError: it cannot be one.
    """
    width = float(value)
    if not (math.isfinite(width) and abs(width) < 1.0):  # a little below 0 is a matter of calibration
        raise ValueError(f"a width of {width} m")
    return width
