"""What a camera's stream does, judged without ROS and without a clock of its own: time is an argument."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from enum import Enum

import numpy as np

from diwa_bridge.cameras.source import Frame

SLEW = 0.01
"""How much slower or faster than the sensor stamps may run while they are put right: far more than two quartzes part by
(0.0002), and so little that stamps still grow, rates stay true and a second of load moves few ms."""
HOST_SLEW = SLEW / 2
"""How much slower than the host's clock ours may run; stamps must be able to follow."""


class HostClock:
    """The host's epoch as a time that never falls and never stands.

    Where the host's clock is set ahead it follows at once. Where that is set back it goes on from where it was and runs
    slower until the two meet, be it for hours: the robot's stamps do the same, whoever assembles judges freshness by
    its own clock, and no frame has to wait until the host's clock has passed the newest stamp.

    Attributes:
        ahead_ns: how far it stands ahead of the host's clock.
    """

    def __init__(self) -> None:
        self.ahead_ns = 0
        self._steady_ns = self._offset_ns = 0

    def now_ns(self, steady_ns: int, epoch_ns: int) -> int:
        """Return the time, of the steady clock's and the host's reading."""
        told_ns = epoch_ns - steady_ns
        self._offset_ns = max(told_ns, self._offset_ns - round(HOST_SLEW * (steady_ns - self._steady_ns)))
        self._steady_ns, self.ahead_ns = steady_ns, self._offset_ns - told_ns
        return steady_ns + self._offset_ns


class SensorClock:
    """Maps a sensor's clock to the host's epoch by one offset; its stamps grow, also over a restart.

    A frame comes late and never early, so the offset is the least (arrival - stamp) of the last frames. The first ones
    set it, then it is slewed after them: two quartzes part by a frame in ten minutes. A sensor that counts in the
    host's epoch already (librealsense's global time) is believed, until its clock or the host's is set.

    A step of either clock is followed at once where it is certain: a frame that comes too early, or too late after the
    sensor went back. One that only comes late may be the load's, until all of a window do. A stamp is thus never
    `STEP_NS` beyond its arrival, and after any step new stamps pass the newest one within that time.

    Attributes:
        jumps: how often a clock was set.
        refused: frames without a stamp, for it would not have grown, or the clock did not settle when it should.
    """

    SETTLING = 5
    """Frames that must agree; meanwhile the exposure settles too."""
    WINDOW = 30
    """Frames of which the soonest is the measure."""
    STEP_NS = 500_000_000
    """Of which no drift and hardly any load is capable."""
    SAME_EPOCH_NS = 1_000_000_000

    def __init__(self) -> None:
        self.jumps = self.refused = self._newest_ns = 0
        self.restart()

    def restart(self) -> None:
        """Settle anew: the stream begins again."""
        self._delays: deque[int] = deque(maxlen=self.WINDOW)
        self._sensor_ns = self._offset_ns = self._usual_ns = 0
        self._settled = self._believed = False

    def stamp_ns(self, sensor_ns: int, arrival_ns: int) -> int | None:
        """Return the frame's time in the host's epoch; None while the clock settles, or if the time did not grow.

        Args:
            sensor_ns: the sensor's stamp.
            arrival_ns: when the frame came, in the host's epoch; never falls.
        """
        passed_ns, self._sensor_ns = sensor_ns - self._sensor_ns, sensor_ns
        self._delays.append(arrival_ns - sensor_ns)
        if not self._settled:
            self._settle()
            return None
        self._follow(passed_ns)
        stamp_ns = sensor_ns + self._offset_ns
        if stamp_ns <= self._newest_ns:
            self.refused += 1
            return None
        self._newest_ns = stamp_ns
        return stamp_ns

    def _settle(self) -> None:
        last = list(self._delays)[-self.SETTLING :]
        if len(last) < self.SETTLING:
            return
        if max(last) - min(last) > self.STEP_NS:
            self.refused += 1
            return
        least = min(last)
        self._settled, self._believed = True, -self.STEP_NS < least < self.SAME_EPOCH_NS
        self._offset_ns, self._usual_ns = (0, max(least, 0)) if self._believed else (least, 0)
        self._delays = deque(last, self.WINDOW)

    def _follow(self, passed_ns: int) -> None:
        usual_ns = self._offset_ns + self._usual_ns
        late_ns, least_ns = self._delays[-1] - usual_ns, min(self._delays) - usual_ns
        if late_ns < -self.STEP_NS or (late_ns > self.STEP_NS and passed_ns <= 0):
            self._step(late_ns)
        elif least_ns > self.STEP_NS:
            self._step(least_ns)
        elif not self._believed:
            most_ns = round(SLEW * max(passed_ns, 0))
            self._offset_ns += max(-most_ns, min(most_ns, least_ns))

    def _step(self, late_ns: int) -> None:
        self._offset_ns += late_ns
        self._believed = False
        self.jumps += 1
        self._delays = deque([self._delays[-1]], self.WINDOW)


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
        damaged: that were no picture: empty, grey, of another type.
        refused: that had no time: the stamp would not have grown, or the sensor's clock did not settle.
        losses: how often the stream broke off.
        clock_jumps: how often the sensor's clock, or the host's, was set.
    """

    frames: int = 0
    dropped: int = 0
    skipped: int = 0
    damaged: int = 0
    refused: int = 0
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
            if self.age_s(now_s) > self.limits.reopen_after_s:  # it was opened, and then whoever reads it waits
                return CameraState.SILENT, f"no frame since it was opened {self.age_s(now_s):.1f} s ago"
            return CameraState.STARTING, CameraState.STARTING.value
        if self.age_s(now_s) > self.limits.silent_after_s:
            return CameraState.SILENT, f"no frame for {self.age_s(now_s):.1f} s"
        if now_s - self._changed_s > self.limits.frozen_after_s:
            return CameraState.FROZEN, f"one and the same image for {now_s - self._changed_s:.1f} s"
        return CameraState.LIVE, CameraState.LIVE.value
