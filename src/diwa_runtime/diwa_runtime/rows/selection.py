"""From one message to the numbers that a stream selects, by their place in the message or by their names.

Works on anything with the fields of the ROS message as attributes: rclpy's messages and those read from a bag alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from operator import attrgetter
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from diwa_runtime.errors import InputError
from diwa_runtime.geometry import quaternion_to_euler
from diwa_runtime.spec import Spec
from diwa_runtime.stream_spec import StreamSpec

QUATERNION_TOLERANCE = 1e-2
"""How far a quaternion's norm may be from 1; beyond, its angles are NaN, so that the message counts as faulty."""

NAME_FIELDS = ("name", "names", "joint_names")
"""What messages call the list of names beside their values."""

Get = Callable[[Any], Any]
Read = Callable[[Any], "list[float] | None"]
About = TypeVar("About")


class NamesChangedError(InputError):
    """Values that are selected by their place, and the names beside them are not those of before."""


class _UnplacedError(InputError):
    """Which names a part stands for cannot be told yet."""


@dataclass(eq=False)
class Part:
    """What one path selects: `size` numbers of its field, None where no message has told yet how many."""

    path: str
    size: int | None = None

    def __post_init__(self) -> None:
        self.where, _, self.transform = self.path.partition("|")
        self.by_name = ":" in self.transform
        if self.transform == "euler":
            self.size = 3
        names = self.transform.partition(":")[2]
        self._get_names = attrgetter(f"{self.where.rpartition('.')[0]}.{names}".lstrip("."))

    def names_in(self, message: Any) -> list[str]:
        """Return the names beside the values of a part by name."""
        return list(self._get_names(message))


class Layout:
    """A field's names, and the parts of it that its streams give, one after the other.

    A part by name stands for the names at its own place. Where that is depends on how many numbers the others give.
    """

    def __init__(self, names: Sequence[str], parts: Sequence[Part]) -> None:
        self.names, self._parts = tuple(names), list(parts)

    def names_of(self, part: Part, found: Sequence[str]) -> tuple[str, ...]:
        """Return the names that a part by name stands for: those that the others leave it.

        Where a later part goes by name too, `found`, the names in a message, tell the two apart.

        Raises:
            _UnplacedError: the others have not told yet how many numbers they give.
        """
        at = self._parts.index(part)
        before, after = self._parts[:at], self._parts[at + 1 :]
        unplaced = _UnplacedError(f"{part.path!r} has no place before the field's other streams have brought something")
        if any(other.size is None for other in before):
            raise unplaced
        start = sum(other.size or 0 for other in before)
        if part.size is None and all(other.size is not None for other in after):
            part.size = max(0, len(self.names) - start - sum(other.size or 0 for other in after))
        if part.size is None and not any(other.by_name for other in after):
            raise unplaced
        if part.size is None:
            part.size = len(list(takewhile(set(found).__contains__, self.names[start:]))) or None
        return self.names[start : start + (part.size or 0)]


class Selection:
    """What a stream selects from its messages, parsed once.

    Attributes:
        parts: one for each of its paths.
        names: by path, the names that messages have beside values which are selected by their place.
    """

    def __init__(self, stream: StreamSpec) -> None:
        """Parse the stream's `select`; what is by name needs `lay` before it can be read."""
        self.stream = stream
        self.parts = [Part(path) for path in stream.select]
        self.names: dict[str, tuple[str, ...]] = {}
        self.lay(Layout((), self.parts))

    def lay(self, layout: Layout) -> None:
        """Take the layout of the field that the parts are of."""
        self._layout = layout
        self._reads: list[Read] = []

    def values(self, message: Any) -> NDArray[np.float64] | None:
        """Return the selected numbers (k,) float64, NaN for what cannot be an angle; None: it has none of the names.

        Raises:
            InputError: the message does not have a selected field, or not all of the names.
            NamesChangedError: see there.
        """
        numbers: list[float] = []
        try:
            if not self._reads and not self._is_prepared(message):
                return None
            for read in self._reads:
                found = read(message)
                if found is None:
                    return None
                numbers += found
            return np.array(numbers, dtype=np.float64)
        except (AttributeError, TypeError, ValueError) as error:
            kind = type(message).__name__
            raise InputError(
                f"{self.stream.topic}: cannot read {list(self.stream.select)} of a {kind} ({error})"
            ) from None

    def _is_prepared(self, message: Any) -> bool:
        """Learn from the first message that is this stream's how to read all of them; False: this one is not."""
        names = set(self._layout.names)
        if not all(names.intersection(part.names_in(message)) for part in self.parts if part.by_name):
            return False
        for part in self.parts:
            if part.size is None and not part.by_name:
                part.size = len(_flat(attrgetter(part.where)(message)))
        self._reads = [self._read_of(part, message) for part in self.parts]
        return True

    def _read_of(self, part: Part, message: Any) -> Read:
        get = attrgetter(part.where)
        if part.by_name:
            return _ByName(part, self._layout)
        if part.transform:
            return lambda message: _euler(get(message))
        get_names = _find_names(message, part.where)
        if get_names is None:
            return lambda message: _flat(get(message))
        return _ByPlace(part, get_names, self)


class _ByPlace:
    """Reads numbers in the order in which the message has them; where it names them, the names must stay the same."""

    def __init__(self, part: Part, get_names: Get, selection: Selection) -> None:
        self._where, self._get, self._get_names = part.where, attrgetter(part.where), get_names
        self._selection = selection

    def __call__(self, message: Any) -> list[float]:
        names, values = tuple(self._get_names(message)), _flat(self._get(message))
        if names and len(names) == len(values):
            before = self._selection.names.setdefault(self._where, names)
            if names != before:
                where = f"{self._selection.stream.topic}: {self._where!r}"
                raise NamesChangedError(names_changed(where, before, names))
        return values


class _ByName:
    """Reads a value array in the layout's order by the parallel array of names; the order found is kept."""

    def __init__(self, part: Part, layout: Layout) -> None:
        self._part, self._layout, self._get = part, layout, attrgetter(part.where)
        self._names: list[str] | None = None
        self._order: list[int] = []

    def __call__(self, message: Any) -> list[float] | None:
        names, values = self._part.names_in(message), _flat(self._get(message))
        if names != self._names:
            self._order = self._order_of(names)
            self._names = names
        if not self._order:
            return None
        if len(names) != len(values):
            raise ValueError(f"{len(names)} names for {len(values)} values")
        return [values[index] for index in self._order]

    def _order_of(self, names: list[str]) -> list[int]:
        wanted = self._layout.names_of(self._part, names)
        missing = [name for name in wanted if name not in names]
        if missing and len(missing) < len(wanted):
            elsewhere = [name for name in names if name in self._layout.names and name not in wanted]
            why = ", but one part's names stand together" if elsewhere else "; name those in the Spec"
            raise ValueError(f"no value named {', '.join(missing)}; it has {', '.join(elsewhere or names)}{why}")
        return [names.index(name) for name in wanted if not missing]


Selected = tuple[int, About, Any]
"""What the stream of this index takes of a message, of which this was told: its numbers (k,), of a camera the message,
or the InputError that says what is wrong with it."""


class Selector(Generic[About]):
    """Selects for all the streams that rows are made of.

    Attributes:
        selections: one for each stream; None for a camera, whose payload is the message.
    """

    def __init__(self, spec: Spec, streams: Sequence[StreamSpec]) -> None:
        """Select for these streams of `spec`."""
        cameras = {camera.name for camera in spec.cameras}
        self.selections = [None if stream.field in cameras else Selection(stream) for stream in streams]
        for field, names in (("proprio", spec.proprio), ("scene", spec.scene)):
            mine = [found for found in self.selections if found is not None and found.stream.field == field]
            layout = Layout(names, [part for selection in mine for part in selection.parts])
            for selection in mine:
                selection.lay(layout)
        self._waiting: list[tuple[int, Any, About]] = []

    def select(self, index: int, message: Any, about: About) -> list[Selected[About]]:
        """Return what is certain now that stream `index` has this message, of which `about` is told.

        Mostly that is one, of this message. It is none where the message has none of the stream's names, or where their
        place cannot be told before another stream has a message; then it is returned with that one's.

        Raises:
            NamesChangedError: see there.
        """
        if not self._waiting:
            try:
                return self._selected(index, message, about)
            except _UnplacedError:
                pass
        self._waiting.append((index, message, about))
        found: list[Selected[About]] = []
        are_left = len(self._waiting) + 1
        while len(self._waiting) < are_left:  # one that has its place may give another one its own
            are_left, waiting, self._waiting = len(self._waiting), self._waiting, []
            for item in waiting:
                try:
                    found += self._selected(*item)
                except _UnplacedError:
                    self._waiting.append(item)
        return found

    def forget(self) -> None:
        """Forget the messages that wait."""
        self._waiting.clear()

    def _selected(self, index: int, message: Any, about: About) -> list[Selected[About]]:
        selection = self.selections[index]
        if selection is None:
            return [(index, about, message)]
        try:
            value = selection.values(message)
        except (NamesChangedError, _UnplacedError):
            raise
        except InputError as error:
            return [(index, about, error)]
        return [] if value is None else [(index, about, value)]


def names_changed(values: str, before: Sequence[str], now: Sequence[str]) -> str:
    """Say that `values`, a topic and path, are selected by their place and not those of before, and what to do."""
    return (
        f"{values} is selected by its place, and the names beside it change from {', '.join(before)} to "
        f"{', '.join(now)}; select it by name, as 'position|position:name' does"
    )


def _find_names(message: Any, where: str) -> Get | None:
    """Return what reads the names beside the value at a path, or beside what that is in; None: there are none."""
    while where:
        where = where.rpartition(".")[0]
        for field in NAME_FIELDS:
            get = attrgetter(f"{where}.{field}".lstrip("."))
            try:
                names = get(message)
            except AttributeError:
                continue
            if not isinstance(names, str) and all(isinstance(name, str) for name in names):
                return get
    return None


def _flat(value: Any) -> list[float]:
    """Flatten a number, an array, or a point, vector or quaternion message."""
    if isinstance(value, (bool, int, float)):
        return [float(value)]
    if hasattr(value, "x") and hasattr(value, "y") and hasattr(value, "z"):
        return [value.x, value.y, value.z, *([value.w] if hasattr(value, "w") else [])]
    return np.asarray(value, dtype=np.float64).ravel().tolist()


def _euler(quaternion: Any) -> list[float]:
    values = _flat(quaternion)
    if len(values) != 4:
        raise ValueError("|euler needs a quaternion")
    norm = math.hypot(*values)
    if not abs(norm - 1) <= QUATERNION_TOLERANCE:
        return [math.nan] * 3
    return quaternion_to_euler(np.array(values)).tolist()
