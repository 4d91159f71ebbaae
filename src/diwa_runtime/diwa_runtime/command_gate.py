"""Which commands may move the robot: sound ones, from one commander at a time, each at most once. ROS-free."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from diwa_runtime.rows.streams import is_sound


@dataclass(frozen=True)
class Command:
    """One `EndEffectorDelta` as received.

    Attributes:
        motion: translation 3 (m) and rotation 3 (rad, Euler xyz).
        gripper: > 0 opens.
        source: who commands.
        answers_ns: stamp of the observation that it answers; 0 = none.
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
        commander: the active source; "" = none.
        refused: how many commands were refused, by reason.
    """

    silence_ns: int
    commander: str = ""
    refused: dict[str, int] = field(default_factory=dict)
    _waiting: Command | None = None
    _heard_ns: int = 0
    _sequence: int | None = None
    _not_before_ns: int = 0

    def offer(self, command: Command, now_ns: int) -> str | None:
        """Take `command` in, received at `now_ns`; return why not, or None."""
        reason = self._objection(command, now_ns)
        if reason is not None:
            return self.refuse(reason)
        self.commander, self._sequence, self._heard_ns = command.source, command.sequence, now_ns
        self._waiting = command
        return None

    def refuse(self, reason: str) -> str:
        """Count a refusal for a reason of the robot's; return the reason."""
        self.refused[reason] = self.refused.get(reason, 0) + 1
        return reason

    def take(self) -> Command | None:
        """Return the newest command not yet taken; None = hold."""
        command, self._waiting = self._waiting, None
        return command

    def clear(self, not_before_ns: int = 0) -> None:
        """Forget the commander and what waits; from now on refuse answers to observations before `not_before_ns`."""
        self.commander, self._waiting, self._sequence = "", None, None
        self._not_before_ns = not_before_ns

    def _objection(self, command: Command, now_ns: int) -> str | None:
        # Finiteness comes first: NaN passes every comparison and limiter behind it, and what is huge overflows there.
        values = np.array([*command.motion, command.gripper])
        if command.motion.shape != (6,) or not is_sound(values):
            return f"the command of {command.source!r} is not finite (or beyond 1e9)"
        if 0 < command.answers_ns < self._not_before_ns:
            return f"the command of {command.source!r} answers an observation from before the reset"
        if not self.commander or now_ns - self._heard_ns > self.silence_ns:
            return None
        if command.source != self.commander:
            return f"{command.source!r} may not command while {self.commander!r} does"
        # A publisher's own count only grows; two publishers under one name give it away.
        if command.sequence is not None and self._sequence is not None and command.sequence <= self._sequence:
            return f"two publishers command as {command.source!r}"
        return None
