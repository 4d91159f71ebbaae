"""What a camera's stream does, judged without ROS and without a clock of its own: time is an argument."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import numpy as np

from diwa_bridge.cameras import Frame


class SensorClock:
    """Maps a sensor's clock to the host's epoch by one offset, fixed when the stream starts.

    The offset is the least (arrival - stamp) of the first frames, for a frame comes late and never early. A sensor that
    counts in the host's epoch already (librealsense's global time) is believed.
    """

    SETTLING = 5
    """Frames; meanwhile the exposure settles too."""
    WINDOW = 30
    """Frames that must all come late until the clock is blamed and not the load."""
    JUMP_NS = 50_000_000
    SAME_EPOCH_NS = 1_000_000_000

    def __init__(self) -> None:
        self.jumps = 0
        self.restart()

    def restart(self) -> None:
        """Settle anew: the stream begins again."""
        self._seen: list[int] = []
        self._offset_ns = self._usual_ns = 0
        self._settled = False

    def stamp_ns(self, sensor_ns: int, arrival_ns: int) -> int | None:
        """Return the frame's time in the host's epoch; None while the clock settles."""
        self._seen.append(arrival_ns - sensor_ns - self._offset_ns)
        if not self._settled:
            self._settle()
            return None
        # Earlier than can be is a jump at once; later is one only if it stays so.
        if self._seen[-1] < self._usual_ns - self.JUMP_NS:
            self._follow(self._seen[-1])
        elif len(self._seen) >= self.WINDOW:
            if (least := min(self._seen)) > self._usual_ns + self.JUMP_NS:
                self._follow(least)
            self._seen.clear()
        return sensor_ns + self._offset_ns

    def _settle(self) -> None:
        if len(self._seen) < self.SETTLING:
            return
        least = min(self._seen)
        if abs(least) < self.SAME_EPOCH_NS:
            self._usual_ns = least
        else:
            self._offset_ns = least
        self._settled = True
        self._seen.clear()

    def _follow(self, late_ns: int) -> None:
        self._offset_ns += late_ns - self._usual_ns
        self.jumps += 1
        self._seen.clear()


class CameraState(Enum):
    """How a camera is."""

    STARTING = "no frame yet"
    LIVE = "live"
    FROZEN = "one and the same image"
    SILENT = "no frames"
    LOST = "lost"


@dataclass(frozen=True)
class WatchLimits:
    """When a stream counts as ill, and how it is begun again.

    Attributes:
        frozen_after_s: of identical bytes.
        silent_after_s: without a frame.
        reopen_after_s: without a frame until the source is closed and opened; also what the first frame may take.
        back_off_s: waits between tries to open, the last one for ever.
    """

    frozen_after_s: float = 1.0
    silent_after_s: float = 0.5
    reopen_after_s: float = 3.0
    back_off_s: tuple[float, ...] = (0.2, 0.5, 1.0, 2.0, 5.0)

    def back_off(self, tries: int) -> float:
        """Return how long to wait after so many tries, s."""
        return self.back_off_s[min(tries, len(self.back_off_s) - 1)]


@dataclass
class Counts:
    """What a stream has done so far.

    Attributes:
        frames: that came.
        dropped: that the camera counted and that did not come.
        skipped: that nobody took before the next one came.
        losses: how often the stream broke off.
        clock_jumps: how often the sensor's clock left the host's.
    """

    frames: int = 0
    dropped: int = 0
    skipped: int = 0
    losses: int = 0
    clock_jumps: int = 0


class Watch:
    """Counts, and tells how a stream is; times are monotonic, s."""

    def __init__(self, limits: WatchLimits) -> None:
        self.limits, self.counts = limits, Counts()
        self._lost: str | None = "not opened yet"
        self._heard_s = self._changed_s = -math.inf
        self._last: Frame | None = None

    def opened(self, now_s: float) -> None:
        """The source is open; frames should come."""
        self._lost, self._last, self._heard_s = None, None, now_s

    def lost(self, why: str) -> None:
        """The source is gone, or could not be opened."""
        self.counts.losses += self._lost is None
        self._lost = why

    def saw(self, frame: Frame, now_s: float) -> None:
        """A frame came."""
        if self._last is not None:
            self.counts.dropped += max(frame.number - self._last.number - 1, 0)
        if self._last is None or not np.array_equal(frame.image, self._last.image):
            self._changed_s = now_s
        self.counts.frames += 1
        self._last, self._heard_s = frame, now_s

    def age_s(self, now_s: float) -> float:
        """Return how long ago the last frame came, or the source was opened."""
        return now_s - self._heard_s

    def state(self, now_s: float) -> tuple[CameraState, str]:
        """Return the state and a line about it."""
        if self._lost is not None:
            return CameraState.LOST, self._lost
        if self._last is None:
            return CameraState.STARTING, CameraState.STARTING.value
        if self.age_s(now_s) > self.limits.silent_after_s:
            return CameraState.SILENT, f"no frame for {self.age_s(now_s):.1f} s"
        if now_s - self._changed_s > self.limits.frozen_after_s:
            return CameraState.FROZEN, f"one and the same image for {now_s - self._changed_s:.1f} s"
        return CameraState.LIVE, CameraState.LIVE.value
