"""Between plain fields and ROS messages; knows no message package, so that it needs no ROS itself."""

from __future__ import annotations

import array
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np

from diwa_runtime.command_gate import Command
from diwa_runtime.rows.streams import NANOSECONDS, nanoseconds_of

Message = TypeVar("Message")


def filled(message: Message, fields: Mapping[str, Any]) -> Message:
    """Set the fields of a ROS message, nested ones too, from what the functions of plain fields give; return it."""
    for name, value in fields.items():
        if isinstance(value, dict):
            filled(getattr(message, name), value)
        elif isinstance(value, np.ndarray) and value.dtype == np.uint8:
            # rclpy checks each element of an ndarray: 79 ms for an image, against 0.1 ms for an array.
            setattr(message, name, array.array("B", value.tobytes()))
        else:
            setattr(message, name, value)
    return message


def answered(response: Message, success: bool, text: str) -> Message:
    """Fill the response of a std_srvs/Trigger; return it."""
    return filled(response, {"success": success, "message": text})


def stamp_ns_of(message: Any) -> int | None:
    """Return the stamp in a message's header, ns; None = one that cannot be, for nobody's clock says it.

    What is not checked here comes out of the node again, and a sum of seconds and too many nanoseconds may then be
    more than a message can hold.
    """
    stamp = message.header.stamp
    return nanoseconds_of(stamp) if stamp.sec >= 0 and stamp.nanosec < NANOSECONDS else None


def command_of(message: Any, sequence: int | None) -> Command:
    """Turn an `EndEffectorDelta` into a command; `sequence` is its publisher's count, None where unknown."""
    translation, rotation, stamp_ns = message.translation, message.rotation, stamp_ns_of(message)
    motion = [translation.x, translation.y, translation.z, rotation.x, rotation.y, rotation.z]
    return Command(
        motion=np.array(motion, dtype=np.float64),
        gripper=message.gripper,
        source=message.source,
        answers_ns=-1 if stamp_ns is None else stamp_ns,
        sequence=sequence,
    )
