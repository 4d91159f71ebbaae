"""Which commands may move the robot: sound ones, from one commander at a time, each at most once. ROS-free."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from diwa_runtime.rows.streams import is_sound

LONGEST_SOURCE = 64
"""Characters of a commander's name, which ends in logs and diagnostics."""
MOST_REASONS = 16
"""Different reasons that are counted one by one: whoever changes its name all the time must fill no memory."""
OTHER_REASONS = "other reasons"


@dataclass(frozen=True)
class Command:
    """One `EndEffectorDelta` as received.

    Attributes:
        motion: translation 3 (m) and rotation 3 (rad, Euler xyz).
        gripper: > 0 opens.
        source: who commands.
        answers_ns: stamp of the observation that it answers; 0 = none, below 0 = a stamp that cannot be.
        sequence: how many its publisher had sent, itself included; None where the middleware does not say.
    """

    motion: NDArray[np.float64]
    gripper: float
    source: str
    answers_ns: int = 0
    sequence: int | None = None


@dataclass
class CommandGate:
    """Holds the newest acceptable command until it is taken.

    The first to command is the commander until it has been silent for `silence_ns`. Age is measured by receipt: a
    sender's clock decides nothing.

    Attributes:
        silence_ns: after so long without a command anybody may become the commander.
        commander: the active source; None = nobody.
        refused: how many commands were refused, by reason; at most `MOST_REASONS` reasons and `OTHER_REASONS`.
        shut: why no command is taken at all; "" = they are.
    """

    silence_ns: int
    commander: str | None = None
    refused: dict[str, int] = field(default_factory=dict)
    shut: str = ""
    _waiting: Command | None = None
    _heard_ns: int = 0
    _sequence: int | None = None
    _not_before_ns: int = 0

    def offer(self, command: Command, now_ns: int, unwilling: str = "") -> str | None:
        """Take `command` in, received at `now_ns`; return why not, or None.

        Args:
            command: as received.
            now_ns: on the steady clock.
            unwilling: what the robot itself has against it, as ``came in FAULT``; "" = nothing.
        """
        reason = self._objection(command, now_ns, unwilling)
        if reason is not None:
            self._count(reason)
            return reason
        self.commander, self._sequence, self._heard_ns = command.source, command.sequence, now_ns
        self._waiting = command
        return None

    def shut_for(self, why: str, not_before_ns: int = 0) -> None:
        """Take no command from now on, for this reason; "" = take them again, as after `clear`."""
        if why != self.shut:
            self.shut = why
            self.clear(not_before_ns)

    def take(self) -> Command | None:
        """Return the newest command not yet taken; None = hold."""
        command, self._waiting = self._waiting, None
        return command

    def clear(self, not_before_ns: int = 0) -> None:
        """Forget the commander and what waits; from now on refuse answers to observations before `not_before_ns`."""
        self.commander, self._waiting, self._sequence = None, None, None
        self._not_before_ns = not_before_ns

    def _count(self, reason: str) -> None:
        known = reason in self.refused or len(self.refused) < MOST_REASONS
        counted = reason if known else OTHER_REASONS
        self.refused[counted] = self.refused.get(counted, 0) + 1

    def _objection(self, command: Command, now_ns: int, unwilling: str) -> str | None:
        if why := unusable_source(command.source):
            return f"a command {why}"
        # Finiteness comes next: NaN passes every comparison and limiter behind it, and what is huge overflows there.
        values = np.array([*command.motion, command.gripper])
        if command.motion.shape != (6,) or not is_sound(values):
            return f"the command of {command.source!r} is not finite (or beyond 1e9)"
        if command.answers_ns < 0:
            return f"the command of {command.source!r} has a stamp that cannot be"
        if self.shut:
            return self.shut
        if unwilling:
            return f"the command of {command.source!r} {unwilling}"
        if 0 < command.answers_ns < self._not_before_ns:
            return f"the command of {command.source!r} answers an observation from before the reset"
        if self.commander is None or now_ns - self._heard_ns > self.silence_ns:
            return None
        if command.source != self.commander:
            return f"{command.source!r} may not command while {self.commander!r} does"
        # A publisher's own count only grows; two publishers under one name give it away.
        if command.sequence is not None and self._sequence is not None and command.sequence <= self._sequence:
            return f"two publishers command as {command.source!r}"
        return None


def unusable_source(source: str) -> str:
    """Say why a commander cannot be known by this name, as ``names no source; ...``; "" = it can."""
    if not source.strip():
        return "names no source; name your source, for the robot tells its commanders apart by it"
    if len(source) > LONGEST_SOURCE:
        return f"has a source of {len(source)} characters; name your source in {LONGEST_SOURCE} at most"
    if not source.isprintable():
        return "has a source with characters that do not print; name your source in letters"
    return ""
