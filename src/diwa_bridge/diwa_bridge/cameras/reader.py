"""Reads one camera in a thread: stamps in the host's epoch, the newest frames, and a lost source opened again."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from diwa_bridge.cameras.source import CameraLost, Frame, Source, is_picture
from diwa_bridge.cameras.watch import CameraState, Counts, HostClock, SensorClock, Watch, WatchLimits
from diwa_runtime.errors import DiwaError, one_line
from diwa_runtime.rows.streams import NANOSECONDS

READ_S = 0.1
"""No read waits longer than this where the source can help it, so that the reader can be stopped."""
HELD = 3
"""Frames that wait while whoever takes them is busy; then the oldest is skipped."""
TEMPERATURE_EVERY_S = 5.0
GOODBYE_S = 2.0
"""How long a reader is waited for; OpenCV may block for longer, and the thread dies with the process."""


@dataclass(frozen=True)
class Status:
    """How a camera is, and a line about it.

    Attributes:
        age_s: since the last frame came.
        ahead_s: how far the stamps stand ahead of the host's clock, because that was set back.
        temperature_c: None where it is unknown.
    """

    state: CameraState
    text: str
    age_s: float
    ahead_s: float
    counts: Counts
    temperature_c: float | None


@dataclass
class Reader:
    """Reads one source in a thread of its own and holds the newest frames.

    Attributes:
        source: read by nobody else.
        limits: of the watch.
        on_frame: called in the thread after each new frame; must be quick.
    """

    source: Source
    limits: WatchLimits = field(default_factory=WatchLimits)
    on_frame: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self._watch, self._clock, self._host = Watch(self.limits), SensorClock(), HostClock()
        self._newest: deque[Frame] = deque(maxlen=HELD)
        self._tries = 0
        self._temperature_c: float | None = None
        self._temperature_at_s = -math.inf
        self._is_open = False
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"camera {self.source.name}", daemon=True)

    def start(self) -> None:
        """Open the source and read from now on; a camera that is not there yet is waited for.

        Raises:
            DiwaError: the source can never work as it was asked for.
        """
        try:
            self._open()
        except CameraLost as lost:
            self._lose(lost)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and close the source."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(GOODBYE_S)

    def take(self) -> Frame | None:
        """Return the oldest of the newest frames, stamped in the host's epoch, once; None when all were taken."""
        with self._lock:
            return self._newest.popleft() if self._newest else None

    def status(self) -> Status:
        """Return how the camera is now."""
        now_s = time.monotonic()
        with self._lock:
            state, text = self._watch.state(now_s)
            age_s, ahead_s = self._watch.age_s(now_s), self._host.ahead_ns / NANOSECONDS
            return Status(state, text, age_s, ahead_s, replace(self._watch.counts), self._temperature_c)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                if not self._is_open:
                    if self._stopping.wait(self.limits.back_off(self._tries)):
                        break
                    self._tries += 1
                    self._open()
                self._read()
            # Also what a person could mend: a camera that comes back at a slower port must not end the others.
            except (CameraLost, DiwaError) as lost:
                self._lose(lost)
            except Exception as error:  # the edge to drivers: a thread that ended would leave a camera dead for good
                self._lose(CameraLost(f"{self.source.name}: {type(error).__name__}: {one_line(error)}"))
        self.source.close()

    def _open(self) -> None:
        self.source.open()
        with self._lock:
            self._clock.restart()
            self._watch.opened(time.monotonic())
        self._is_open = True

    def _lose(self, why: Exception) -> None:
        self._is_open = False
        self.source.close()
        with self._lock:
            self._watch.lost(str(why))

    def _read(self) -> None:
        frame = self.source.read(READ_S)
        # In this order a pause between the two does not look like a host's clock that was set ahead.
        epoch_ns, steady_ns = time.time_ns(), time.monotonic_ns()
        now_s = steady_ns / NANOSECONDS
        if frame is not None and not is_picture(frame.image):
            with self._lock:
                self._watch.counts.damaged += 1
            frame = None  # as if it had not come: who sends nothing else is silent, and is opened again
        if frame is None:
            if self._watch.age_s(now_s) > self.limits.reopen_after_s:
                raise CameraLost(f"{self.source.name}: no frame for {self.limits.reopen_after_s:g} s")
            return
        self._tries = 0
        if now_s - self._temperature_at_s > TEMPERATURE_EVERY_S:
            self._temperature_c, self._temperature_at_s = self.source.temperature_c(), now_s
        with self._lock:
            self._watch.saw(frame, now_s)
            stamp_ns = self._clock.stamp_ns(frame.stamp_ns, self._host.now_ns(steady_ns, epoch_ns))
            self._watch.counts.clock_jumps, self._watch.counts.refused = self._clock.jumps, self._clock.refused
            if stamp_ns is None:
                return
            self._watch.counts.skipped += len(self._newest) == HELD
            self._newest.append(replace(frame, stamp_ns=stamp_ns))
        self.on_frame()
