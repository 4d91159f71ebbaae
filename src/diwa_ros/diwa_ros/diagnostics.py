"""One status for `/diagnostics`, and whether something happens as often as it should."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

SLOW, WELL_AGAIN = 0.9, 0.95
"""Share of the rate below which something is slow, and from which on it is no more."""


def diagnostic(node: str, name: str, level: bytes, text: str, values: Mapping[str, Any]) -> DiagnosticStatus:
    """Return the status of a node's part `name`; numbers with three digits.

    Args:
        node: its `diwa_ros.peers.full_name`: all robots of a network say their statuses on one topic.
        name: the part.
        level: one of DiagnosticStatus.
        text: one line.
        values: by name.
    """
    pairs = [
        KeyValue(key=key, value=f"{value:.3g}" if isinstance(value, float) else str(value))
        for key, value in values.items()
    ]
    return DiagnosticStatus(level=level, name=f"{node}: {name}", message=text, hardware_id=node, values=pairs)


class Pace:
    """How often something happens, beside how often it should; what is slow is said once when it begins to be.

    Attributes:
        wanted_hz: how often it should.
        rate_hz: how often it did between the last two looks; 0 before.
        slow: the line with both figures; "" = often enough, or not known yet.
    """

    def __init__(self, what: str, wanted_hz: float, logger: Any, now_s: float | None = None) -> None:
        """Say what is counted, where it is logged, and since when; None: since the first look."""
        self._what, self.wanted_hz, self._logger = what, wanted_hz, logger
        self.rate_hz, self.slow = 0.0, ""
        self._before = None if now_s is None else (0, now_s)
        self._is_begun = False

    def look(self, count: int, now_s: float, *, judged: bool = True) -> None:
        """Take how often it has happened so far.

        Args:
            count: that often.
            now_s: when, on any clock; where that has not grown, the time begins anew.
            judged: False while it is known why it is slow, and said elsewhere.
        """
        before, self._before = self._before, (count, now_s)
        if before is None or now_s <= before[1]:
            return
        self.rate_hz = (count - before[0]) / (now_s - before[1])
        was_slow, self.slow = self.slow, ""
        is_start, self._is_begun = not self._is_begun, True
        if is_start or not judged:
            return
        if self.rate_hz < (WELL_AGAIN if was_slow else SLOW) * self.wanted_hz:
            self.slow = f"{self._what} at {self.rate_hz:.1f} Hz instead of {self.wanted_hz:.4g}"
        if self.slow and not was_slow:
            self._logger.warning(self.slow)
        elif was_slow and not self.slow:
            self._logger.info(f"{self._what} at {self.rate_hz:.1f} Hz again")
