"""Our commands on `robot/command`, told from those of somebody else under our name. ROS-free."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

KEPT = 64
SILENT_S = 0.5
"""As long as the robot waits before another may command."""


class OwnCommands:
    """Remembers what was sent until it is heard; what is heard and was not sent is somebody else's."""

    def __init__(self, source: str) -> None:
        """Command as `source`."""
        self._source = source
        self._sent: deque[Any] = deque(maxlen=KEPT)
        self._foreign_s = -math.inf

    def sent(self, command: Any) -> None:
        """Take note of an `EndEffectorDelta` that goes out."""
        self._sent.append(command)

    def heard(self, command: Any, now_s: float) -> None:
        """Take note of one that was heard; commands under other names are the robot's business."""
        if command.source != self._source:
            return
        if command in self._sent:
            self._sent.remove(command)
        else:
            self._foreign_s = now_s

    def doubled(self, now_s: float) -> str:
        """Say that somebody else commands under our name; "" = nobody has for a while."""
        if now_s - self._foreign_s > SILENT_S:
            return ""
        return f"somebody else commands as {self._source!r}; give each its own name (parameter source)"
