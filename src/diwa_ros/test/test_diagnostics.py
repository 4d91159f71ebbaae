"""What is slower than it should be is said once when it begins, with its figure, and once when it is over."""

from __future__ import annotations

import pytest

pytest.importorskip("diagnostic_msgs.msg", reason="needs ROS's messages (make test)")

from diagnostic_msgs.msg import DiagnosticStatus

from diwa_ros.diagnostics import Pace, diagnostic

pytestmark = pytest.mark.ros


class Log(list[str]):
    def warning(self, text: str) -> None:
        self.append(f"WARN {text}")

    def info(self, text: str) -> None:
        self.append(f"INFO {text}")


def paced(log: Log, rates: list[float], **options: bool) -> Pace:
    """Let 30 Hz be wanted, and so many happen in each second."""
    pace, count = Pace("robot/state", 30.0, log, now_s=0.0), 0.0
    for second, rate in enumerate(rates, 1):
        count += rate
        pace.look(round(count), second, **options)
    return pace


def test_what_is_slow_is_said_once_with_its_figure_and_once_when_it_is_over() -> None:
    log = Log()
    assert paced(log, [30, 30, 15, 14, 28]).slow == "robot/state at 28.0 Hz instead of 30", "not well again yet"
    assert log == ["WARN robot/state at 15.0 Hz instead of 30"]
    log.clear()
    assert paced(log, [30, 15, 15, 30, 30]).slow == ""
    assert log == ["WARN robot/state at 15.0 Hz instead of 30", "INFO robot/state at 30.0 Hz again"]


@pytest.mark.parametrize("rates", [[3, 30, 30], [30, 28, 29, 27], [300, 300]], ids=["start", "a little", "faster"])
def test_a_start_and_a_little_less_are_not_slow(rates: list[float]) -> None:
    log = Log()
    assert paced(log, rates).slow == ""
    assert log == []


def test_what_is_said_elsewhere_and_a_clock_that_does_not_grow_are_no_slowness() -> None:
    log = Log()
    assert paced(log, [30, 1, 1], judged=False).slow == ""
    pace = Pace("robot/state", 30.0, log)
    for count, now_s in ((100, 9.0), (130, 10.0), (131, 2.0), (161, 3.0), (161, 3.0)):
        pace.look(count, now_s)
    assert (pace.slow, pace.rate_hz, log) == ("", 30.0, [])


def test_a_status_has_its_nodes_whole_name_twice() -> None:
    status = diagnostic("left/diwa_bridge", "arm", DiagnosticStatus.OK, "idle", {"speed": 0.1234567, "mode": "idle"})
    assert (status.name, status.hardware_id) == ("left/diwa_bridge: arm", "left/diwa_bridge")
    assert [(pair.key, pair.value) for pair in status.values] == [("speed", "0.123"), ("mode", "idle")]
