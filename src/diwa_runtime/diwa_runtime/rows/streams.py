"""Which streams rows are made of, and when each of their messages was.

Works on anything with the fields of the ROS message as attributes: rclpy's messages and those read from a bag alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diwa_runtime.errors import InputError, nearest
from diwa_runtime.rows.selection import Selection
from diwa_runtime.spec import Spec
from diwa_runtime.stream_spec import StreamSpec

__all__ = ["LARGEST", "NANOSECONDS", "Selection", "is_sound", "nanoseconds_of", "stamp_of", "streams_of"]

NANOSECONDS = 1_000_000_000
LARGEST = 1e9
"""No quantity of a robot is as large; sums of smaller ones, in units of the action scale, are finite in float32."""


def streams_of(spec: Spec, fields: Iterable[str]) -> tuple[StreamSpec, ...]:
    """Return the Spec's streams that feed these fields, in the Spec's order.

    Raises:
        InputError: a field has no stream.
    """
    wanted = tuple(fields)
    fed = {stream.field for stream in spec.streams}
    for name in wanted:
        if name not in fed:
            raise InputError(f"Spec: no stream feeds {name!r}{nearest(name, fed)}")
    return tuple(stream for stream in spec.streams if stream.field in wanted)


def is_sound(values: NDArray[Any]) -> bool:
    """Say whether all of these can be a robot's numbers: finite, and below `LARGEST`."""
    return not values.size or bool(np.abs(values).max() < LARGEST)  # nan is the largest, and no less than anything


def stamp_of(message: Any, stream: StreamSpec, receipt_ns: int) -> int:
    """Return the message's time on its stream's timeline, ns.

    Raises:
        InputError: the stream goes by the sensor's clock and the message has no header.
    """
    if stream.timeline == "receipt":
        return receipt_ns
    try:
        stamp = message.header.stamp
    except AttributeError:
        raise InputError(f"{stream.topic}: messages have no header; give the stream timeline 'receipt'") from None
    return nanoseconds_of(stamp)


def nanoseconds_of(stamp: Any) -> int:
    """Return a builtin_interfaces/Time in ns."""
    return stamp.sec * NANOSECONDS + stamp.nanosec
