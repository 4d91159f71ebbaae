"""The assembler on live topics: the same rows as from a bag, as soon as they are certain."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from diwa_runtime.errors import InputError
from diwa_runtime.rows.assembler import Assembler
from diwa_runtime.rows.images import decode_image
from diwa_runtime.rows.row import Fault, Row
from diwa_runtime.rows.selection import Selected, Selector
from diwa_runtime.rows.streams import stamp_of
from diwa_runtime.spec import Spec


class LiveAssembler:
    """The assembler for live topics: messages in as they come, rows out as soon as they are certain.

    Attributes:
        topics: message type by topic: what to subscribe to.
        faults: messages that were refused, so far.
    """

    def __init__(self, spec: Spec, fields: Iterable[str] | None = None) -> None:
        """Make one; arguments as for `Assembler`."""
        self._assembler = Assembler(spec, fields)
        self._cameras = {camera.name: camera for camera in spec.cameras}
        self._selector: Selector[tuple[int, int]] = Selector(spec, self._assembler.streams)
        self.topics = {stream.topic: stream.type for stream in self._assembler.streams}

    @property
    def faults(self) -> list[Fault]:
        """The messages that were refused since the last reset."""
        return self._assembler.faults

    def counts(self) -> dict[str, int]:
        """How many rows were held or are missing, how many messages were left out, by why, since the last reset."""
        made = self._assembler
        return {
            "held": made.held,
            "missing": made.missing.total(),
            "repeated": made.repeated.total(),
            "late": made.late.total(),
            "alone": made.alone.total(),
            "faulty": len(made.faults),
        }

    def reset(self) -> None:
        """Forget everything, as before an episode."""
        self._assembler.reset()
        self._selector.forget()

    def feed(self, topic: str, message: Any, receipt_ns: int, received_ns: int | None = None) -> list[Row]:
        """Take one message and return the rows that it makes certain, images decoded.

        Args:
            topic: as the Spec names it.
            message: with the fields of the ROS message as attributes.
            receipt_ns: when it was received, on the clock of the day as in a bag.
            received_ns: the same on the clock that `Row.received` is to be on; None: on that one.

        Raises:
            InputError: its clock went back, it lacks a selected field or name, or an image cannot be decoded.
        """
        received = receipt_ns if received_ns is None else received_ns
        for index, stream in enumerate(self._assembler.streams):
            if stream.topic == topic:
                about = (stamp_of(message, stream, receipt_ns), received)
                self._take(self._selector.select(index, message, about))
            elif stream.timeline == "receipt":
                self._assembler.advance(index, receipt_ns)
        return [self._decoded(row) for row in self._assembler.rows()]

    def _take(self, found: Sequence[Selected[tuple[int, int]]]) -> None:
        for index, (stamp, received), value in found:
            if isinstance(value, InputError):
                raise value
            self._assembler.feed(index, stamp, value, received)

    def finish(self) -> list[Row]:
        """Return the rows that are left when nothing more will come."""
        return [self._decoded(row) for row in self._assembler.rows(final=True)]

    def _decoded(self, row: Row) -> Row:
        images = {n: decode_image(row.values[n], camera) for n, camera in self._cameras.items() if n in row.values}
        return replace(row, values={**row.values, **images})
