"""How a ROS process is told to stop: nothing is cut short, topics work until the end, a second time means at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from diwa_runtime.errors import ConfigError

pytest.importorskip("rclpy")

from ros_rig import hangup_heard

from diwa_ros import process
from diwa_ros.process import ros_process, spin_until, spin_until_told, told_to_stop

pytestmark = pytest.mark.ros

BOTH = pytest.mark.parametrize("number", process.SIGNALS, ids=lambda number: number.name)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Fail a test that leaves other handlers behind than it found."""
    with hangup_heard():
        before = {number: signal.getsignal(number) for number in process.SIGNALS}
        assert process._tell not in before.values(), "left behind by another test"
        yield
        after = {number: signal.getsignal(number) for number in process.SIGNALS}
        for number, handler in before.items():
            signal.signal(number, handler)
        assert after == before


def make_node(name: str = "told") -> Any:
    import rclpy

    return rclpy.create_node(name)


@BOTH
def test_the_callback_that_runs_is_finished_and_topics_still_work(number: signal.Signals) -> None:
    from std_msgs.msg import String

    done: list[str] = []
    with ros_process(args=[]):
        node = make_node()
        publisher = node.create_publisher(String, "goodbye", 1)

        def callback() -> None:
            signal.raise_signal(number)
            done.append("after the signal")

        node.create_timer(0.01, callback)
        spin_until_told(node)
        publisher.publish(String(data="goodbye"))  # fails where the context is shut down
        node.destroy_node()
    assert done == ["after the signal"]


def test_a_node_that_hears_nothing_ends_all_the_same() -> None:
    with ros_process(args=[]):
        node = make_node()
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()
        spin_until_told(node)
        assert told_to_stop()
        node.destroy_node()


@pytest.mark.parametrize(
    ("argument", "said"), [("devices:=[a:b]", "devices"), ("folder:=\udcff", "surrogates")], ids=["YAML", "no UTF-8"]
)
def test_arguments_that_ros_cannot_read_are_one_error(argument: str, said: str) -> None:
    with (
        pytest.raises(ConfigError, match=rf"does not take these arguments.*{said}"),
        ros_process(args=["node", "--ros-args", "-p", argument]),
    ):
        pass
    with ros_process(args=[]):
        assert not told_to_stop()


def test_a_process_is_told_anew_each_time() -> None:
    with ros_process(args=[]):
        signal.raise_signal(signal.SIGTERM)
        assert told_to_stop()
    assert not told_to_stop(), "nodes of the same process that need no ros_process would stop"
    with ros_process(args=[]):
        assert not told_to_stop()


def test_the_same_wish_twice_cuts_no_goodbye_short(monkeypatch: pytest.MonkeyPatch) -> None:
    with ros_process(args=[]):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert told_to_stop()
        monkeypatch.setattr(process, "AGAIN_S", -1.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_process_in_the_background_goes_on_ignoring_ctrl_c() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with ros_process(args=[]):
            signal.raise_signal(signal.SIGINT)
            assert not told_to_stop()
    finally:
        signal.signal(signal.SIGINT, before)


def test_waiting_ends_when_reached_or_too_late_or_told() -> None:
    with ros_process(args=[]):
        node = make_node()
        ticks: list[int] = []
        node.create_timer(0.01, lambda: ticks.append(1))
        assert spin_until(node, lambda: len(ticks) > 2, 10.0)
        assert not spin_until(node, lambda: False, 0.05)
        # Once: told again, the handler itself would raise.
        node.create_timer(0.01, lambda: None if told_to_stop() else signal.raise_signal(signal.SIGTERM))
        with pytest.raises(KeyboardInterrupt):
            spin_until(node, lambda: False, 10.0)
        count = len(ticks)
        assert spin_until(node, lambda: len(ticks) > count, 10.0, interruptible=False), "what must be done is done"
        node.destroy_node()
