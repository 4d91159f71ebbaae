"""Bringing an arm back: connect anew where the connection is lost, clear errors, see how well commands arrive."""

from __future__ import annotations

import threading
from concurrent.futures import Future

from diwa_bridge.arm.drivers import ArmDriver, GripperDriver
from diwa_bridge.arm.franka import ArmError, ArmLostError, Condition, Reading

REFUSED_BELOW, WARNED_BELOW = 0.90, 0.95
"""Share of commands that must arrive in time; Franka's own advice."""
TRIES, PAUSE_S = 3, 1.0
CLOSE_S = 20.0
"""How long what goes on may take to end: longer than connecting to arm or hand may."""


def not_ready(reading: Reading, gripper: GripperDriver | None) -> str:
    """Say why an arm in this state, or its gripper, cannot be used; "" = both can."""
    if reading.condition not in (Condition.READY, Condition.GUIDED):
        errors = f" ({', '.join(reading.errors)})" if reading.errors else ""
        return f"the arm is {reading.condition.value}{errors}"
    return "" if gripper is None else gripper.fault


class Recovery:
    """Recovers an arm and its gripper, in a thread of its own, the only one that uses them then.

    Attributes:
        lost: whether only a new connection helps.
        success_rate: share of commands that arrived in time when last measured.
        work: the recovery that goes on; None = none does.
    """

    def __init__(self, arm: ArmDriver, gripper: GripperDriver | None) -> None:
        self._arm, self._gripper = arm, gripper
        self.lost = False
        self.success_rate = 0.0
        self.work: Future[Reading] | None = None
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self) -> Future[Reading]:
        """Recover in the background; the future ends when the arm is ready, or with the reason why it is not."""
        self.work = work = Future[Reading]()

        def run() -> None:
            try:
                work.set_result(self.recovered())
            except BaseException as error:  # whatever it is, it belongs to who waits
                work.set_exception(error)

        self._thread = threading.Thread(target=run, name="recover", daemon=True)
        self._thread.start()
        return work

    def recovered(self, tries: int = TRIES) -> Reading:
        """Return the state of an arm that is ready.

        Raises:
            ArmError: it cannot be, after so many tries.
        """
        for left in range(tries - 1, -1, -1):
            try:
                return self._once_recovered()
            except ArmError as error:
                self.lost = self.lost or isinstance(error, ArmLostError)
                if not left or self._closing.wait(PAUSE_S):
                    raise
        raise AssertionError("a try returns or raises")

    def close(self) -> bool:
        """Wait for what goes on, for `CLOSE_S` at most; it tries no more. Return whether it has ended."""
        self._closing.set()
        if self._thread is None:
            return True
        self._thread.join(CLOSE_S)
        return not self._thread.is_alive()

    def _once_recovered(self) -> Reading:
        if self.lost:
            self._arm.connect()
            self.lost = False
        if self._arm.read().condition is Condition.GUIDED:
            raise ArmError("the arm is guided by hand; let go of it first")
        self._arm.recover()
        if self._gripper is not None and self._gripper.fault:
            self._gripper.connect()
        if why := not_ready(self._arm.read(), self._gripper):
            raise ArmError(why)
        self.success_rate = self._arm.measure_communication()
        if self.success_rate < REFUSED_BELOW:
            raise ArmError(
                f"only {100 * self.success_rate:.0f} % of the commands arrive in time, {100 * REFUSED_BELOW:.0f} % "
                "must; use a cable to the arm alone, a performance governor, a real-time kernel"
            )
        return self._arm.read()
