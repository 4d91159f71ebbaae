"""The robot's clock on the epoch of this machine."""

from __future__ import annotations

DRIFT_SEEN, DRIFT_NS = 150, 1_000_000
"""Each so many stamps (5 s), the robot's clock is followed by at most so much (200 ppm)."""


class RobotClock:
    """Maps the robot's clock to the epoch of this machine, anew for each connection; stamps never go back."""

    def __init__(self) -> None:
        self.newest_ns = 0
        self._offset_ns = 0
        self._least_ns, self._seen = 0, 0

    def start(self, robot_ns: int, epoch_ns: int) -> None:
        """Let the robot's `robot_ns` be `epoch_ns`, or just after the newest stamp."""
        self._offset_ns, self._seen = max(epoch_ns, self.newest_ns + 1) - robot_ns, 0

    def stamp(self, robot_ns: int, epoch_ns: int) -> int:
        """Return the stamp of a robot's time that was read at `epoch_ns`."""
        self.newest_ns = max(self.newest_ns, robot_ns + self._offset_ns)
        self._follow(epoch_ns - robot_ns - self._offset_ns)
        return self.newest_ns

    def _follow(self, late_ns: int) -> None:
        """Let the offset go slowly after the reading that came soonest; two quartzes part by a frame in 20 minutes."""
        self._least_ns = late_ns if not self._seen else min(self._least_ns, late_ns)
        self._seen += 1
        if self._seen == DRIFT_SEEN:
            self._offset_ns += max(-DRIFT_NS, min(DRIFT_NS, self._least_ns))
            self._seen = 0

    def hold(self, passed_ns: int) -> int:
        """Return a stamp for a robot whose clock cannot be read, that long after the newest one."""
        self.newest_ns += passed_ns
        return self.newest_ns
