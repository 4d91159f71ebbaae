"""A ROS process that is told to stop while its topics still work, so that it can say goodbye.

By Ctrl-C, by SIGTERM, or by SIGHUP, which comes when its terminal is closed or the connection to it is lost.

The handlers raise nothing: an exception out of one lands in the middle of whatever runs, and rclpy's C++ turns a
KeyboardInterrupt into a RuntimeError. They leave a mark, and the loops here look at it between two callbacks.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import rclpy
import rclpy.utilities
from rclpy.clock import Clock, ClockType
from rclpy.executors import Executor, ExternalShutdownException
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from diwa_runtime.errors import ConfigError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TURN_S = 0.1
"""No loop waits longer than this before it looks whether it was told to stop."""
AGAIN_S = 1.0
"""Who tells a process to stop again after this long means at once. Sooner, it is one wish that came twice, as when
Ctrl-C goes to a launch file and to its processes."""

_told_at: float | None = None


def told_to_stop() -> bool:
    """Whether one of `SIGNALS` came in this `ros_process`; outside of one never."""
    return _told_at is not None


@contextmanager
def ros_process(args: Sequence[str] | None = None) -> Iterator[None]:
    """Initialise ROS with the command line `args` (None: the process's) for the block.

    Raises:
        ConfigError: ROS cannot read the arguments.
        KeyboardInterrupt: told to stop a second time, `AGAIN_S` or more after the first.
    """
    global _told_at
    try:
        # rclpy's own handlers shut the topics down first.
        rclpy.init(args=list(args) if args is not None else None, signal_handler_options=SignalHandlerOptions.NO)
    except (RuntimeError, UnicodeError) as error:  # rcl's own kinds are private; it takes UTF-8 alone
        raise ConfigError(f"ROS does not take these arguments: {error}") from None
    # What started this process in the background of a shell has it ignore Ctrl-C, and nohup SIGHUP; that stays so.
    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _tell) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _told_at = None  # the next one here, or nodes without one, are not told
        rclpy.utilities.try_shutdown()


def spin_until_told(node: Node, finished: Callable[[], bool] = lambda: False) -> None:
    """Run callbacks until told to stop, a shutdown of ROS, or `finished()`; none is cut short."""
    # Nothing else ends a wait for messages that never come; a timer costs less than a limit to each wait.
    turn = node.create_timer(TURN_S, _nothing, clock=Clock(clock_type=ClockType.STEADY_TIME))
    try:
        with _executor_of(node) as executor, suppress(ExternalShutdownException):
            while node.context.ok() and not told_to_stop() and not finished():
                executor.spin_once()
    finally:
        node.destroy_timer(turn)


def spin_until(node: Node, reached: Callable[[], bool], limit_s: float, interruptible: bool = True) -> bool:
    """Run callbacks until `reached()` or for `limit_s` seconds; return whether it was reached.

    Args:
        node: whose callbacks.
        reached: looked at between callbacks.
        limit_s: on the wall.
        interruptible: False for what must be done although the process was told to stop.

    Raises:
        KeyboardInterrupt: the process was told to stop.
    """
    end = time.monotonic() + limit_s
    with _executor_of(node) as executor:
        while not reached():
            if interruptible and told_to_stop():
                raise KeyboardInterrupt
            left = end - time.monotonic()
            if left <= 0:
                return False
            executor.spin_once(timeout_sec=min(TURN_S, left))
    return True


@contextmanager
def _executor_of(node: Node) -> Iterator[Executor]:
    """Lend the process's executor, with the node in it."""
    executor = rclpy.get_global_executor()
    executor.add_node(node)
    try:
        yield executor
    finally:
        executor.remove_node(node)


def _tell(*_: Any) -> None:
    global _told_at
    now = time.monotonic()
    if _told_at is not None and now - _told_at > AGAIN_S:
        raise KeyboardInterrupt
    if _told_at is None:
        _told_at = now


def _nothing() -> None:
    pass
