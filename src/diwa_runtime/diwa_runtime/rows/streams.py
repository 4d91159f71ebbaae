"""From one stamped message to numbers: the part of the assembler that knows what messages look like.

Works on anything with the fields of the ROS message as attributes: rclpy's messages and those read from a bag alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diwa_runtime.errors import InputError, nearest
from diwa_runtime.geometry import quaternion_to_euler
from diwa_runtime.spec import Spec, StreamSpec

NANOSECONDS = 1_000_000_000
QUATERNION_TOLERANCE = 1e-2
"""How far a quaternion's norm may be from 1; beyond, its angles are NaN, so that the message counts as faulty."""

LARGEST = 1e9
"""No quantity of a robot is as large; sums of smaller ones, in units of the action scale, are finite in float32."""

ReadPart = Callable[[Any], Iterable[float]]


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
    return bool((np.abs(values) < LARGEST).all())  # nan is no less than anything


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


class Selection:
    """What a stream selects from its messages, parsed once."""

    def __init__(self, stream: StreamSpec, layout: Sequence[str]) -> None:
        """Parse the stream's `select`.

        Args:
            stream: with at least one path.
            layout: the field's names in the Spec's order, for ``path|values:names``.

        Raises:
            InputError: a path is not one.
        """
        self.stream = stream
        self._parts = [self._parse(path, tuple(layout)) for path in stream.select]

    def values(self, message: Any) -> NDArray[np.float64]:
        """Return the selected numbers (k,) float64; what cannot be an angle is NaN.

        Raises:
            InputError: the message does not have a selected field.
        """
        numbers: list[float] = []
        try:
            for part in self._parts:
                numbers.extend(part(message))
            return np.array(numbers, dtype=np.float64)
        except (AttributeError, TypeError, ValueError) as error:
            kind = type(message).__name__
            raise InputError(
                f"{self.stream.topic}: cannot read {list(self.stream.select)} of a {kind} ({error})"
            ) from None

    def _parse(self, path: str, layout: tuple[str, ...]) -> ReadPart:
        where, _, transform = path.partition("|")
        get = attrgetter(where)
        if not transform:
            return lambda message: _flat(get(message))
        if transform == "euler":
            return lambda message: _euler(get(message))
        values, colon, names = transform.partition(":")
        parent, _, last = where.rpartition(".")
        if not colon or values != last:
            raise InputError(
                f"{self.stream.topic}: {path!r} is no selection; use PATH, PATH|euler or PATH|values:names"
            )
        get_names = attrgetter(f"{parent}.{names}".lstrip("."))
        return _ByName(get, get_names, layout)


class _ByName:
    """Reads a value array in the order of `layout` by the parallel array of names; the order found is kept."""

    def __init__(self, get: Callable[[Any], Any], get_names: Callable[[Any], Any], layout: tuple[str, ...]) -> None:
        self._get, self._get_names, self._layout = get, get_names, layout
        self._names: list[str] | None = None
        self._order: list[int] = []

    def __call__(self, message: Any) -> list[float]:
        names, values = list(self._get_names(message)), _flat(self._get(message))
        if len(names) != len(values):
            raise ValueError(f"{len(names)} names for {len(values)} values")
        if names != self._names:
            self._order = self._order_of(names)
            self._names = names
        return [values[index] for index in self._order]

    def _order_of(self, names: list[str]) -> list[int]:
        missing = [name for name in self._layout if name not in names]
        if missing:
            raise ValueError(f"no value named {', '.join(missing)}")
        return [names.index(name) for name in self._layout]


def _flat(value: Any) -> list[float]:
    """Flatten a number, an array, or a point, vector or quaternion message."""
    if isinstance(value, (bool, int, float)):
        return [float(value)]
    if hasattr(value, "x") and hasattr(value, "y") and hasattr(value, "z"):
        return [value.x, value.y, value.z, *([value.w] if hasattr(value, "w") else [])]
    return [float(number) for number in np.asarray(value, dtype=np.float64).ravel()]


def _euler(quaternion: Any) -> list[float]:
    values = _flat(quaternion)
    if len(values) != 4:
        raise ValueError("|euler needs a quaternion")
    norm = math.hypot(*values)
    if not abs(norm - 1) <= QUATERNION_TOLERANCE:
        return [math.nan] * 3
    return quaternion_to_euler(np.array(values)).tolist()
