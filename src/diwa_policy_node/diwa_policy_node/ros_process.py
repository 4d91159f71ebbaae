"""A ROS process that is told to stop by Ctrl-C or SIGTERM while its topics still work, so that it can say goodbye."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import rclpy
import rclpy.utilities
from rclpy.executors import ExternalShutdownException
from rclpy.signals import SignalHandlerOptions


@contextmanager
def ros_process(args: Sequence[str] | None = None) -> Iterator[None]:
    """Initialise ROS with the command line `args` (None: the process's) for the block."""
    # rclpy's own handlers shut the topics down first.
    rclpy.init(args=list(args) if args is not None else None, signal_handler_options=SignalHandlerOptions.NO)
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
        rclpy.utilities.try_shutdown()


@contextmanager
def until_told() -> Iterator[None]:
    """Run the block until it ends or Ctrl-C, SIGTERM or a shutdown of ROS ends it."""
    with suppress(KeyboardInterrupt, ExternalShutdownException):
        yield


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
