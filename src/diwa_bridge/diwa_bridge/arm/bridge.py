"""The robot behind its topics: commands in, states out, and everything that brings it to standstill. No ROS, no thread.

`poll` is called every few milliseconds and does what is due by the robot's own clock: the servo every 20 ms, a snapshot
each control period. Only connecting and recovering take long; they run in a thread of their own, while snapshots go on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from diwa_bridge.arm.franka import ArmError, ArmLostError, Condition, Reading
from diwa_bridge.arm.limits import ArmLimits, ServoLimits
from diwa_bridge.arm.servo import Servo, ServoStatus
from diwa_runtime.actions import motion_units
from diwa_runtime.command_gate import Command, CommandGate
from diwa_runtime.robot import RobotMode
from diwa_runtime.rows.streams import NANOSECONDS
from diwa_runtime.spec import ActionScale

Array = NDArray[np.float64]

REFUSED_BELOW, WARNED_BELOW = 0.90, 0.95
"""Share of commands that must arrive in time; Franka's own advice."""
TRIES, PAUSE_S = 3, 1.0
DRIFT_SEEN, DRIFT_NS = 150, 1_000_000
"""Each so many stamps (5 s), the robot's clock is followed by at most so much (200 ppm)."""


class ArmDriver(Protocol):
    """What is needed of an arm; `diwa_bridge.arm.franka.Arm` is one."""

    def connect(self) -> None:
        """Connect, or connect anew."""

    def close(self) -> None:
        """Let go."""

    def limits(self) -> ArmLimits:
        """Return what it allows."""

    def read(self) -> Reading:
        """Return the newest state."""

    def send(self, twist: Array, ease: float = 1.0) -> None:
        """Move with a velocity (6,) for a while, coming to it with a share of the accelerations."""

    def settle(self) -> None:
        """Wait until what moves has come to rest."""

    def recover(self) -> None:
        """Clear errors."""

    def measure_communication(self) -> float:
        """Return the share of commands that arrive in time."""


class GripperDriver(Protocol):
    """What is needed of a gripper; `diwa_bridge.arm.gripper.Gripper` is one."""

    width: float
    command: float
    fault: str

    def connect(self) -> None:
        """Connect, or connect anew."""

    def close(self) -> None:
        """Let go."""

    def wish(self, value: float) -> float:
        """Open or close; return the wish that holds."""

    def halt(self) -> None:
        """Let the fingers stand where they are."""


@dataclass(frozen=True)
class BridgeSnapshot:
    """One `diwa_runtime.robot_messages.RobotSnapshot`, and what goes out with it.

    Attributes:
        stamp_ns: robot's clock, on the epoch of this machine.
        mode: the robot's.
        answered_ns: stamp of the observation that the newest command taken in answers; 0 = none.
    """

    stamp_ns: int
    tcp_position: Array
    tcp_quaternion: Array
    joint_positions: Array
    joint_velocities: Array
    gripper_width: float
    gripper_command: float
    accepted_action: Array
    mode: RobotMode
    answered_ns: int


class RobotClock:
    """Maps the robot's clock to the epoch of this machine, anew for each connection; stamps never go back."""

    def __init__(self) -> None:
        self.newest_ns = 0
        self._offset_ns = 0
        self._least_ns, self._seen = 0, 0

    def start(self, robot_ns: int, epoch_ns: int) -> None:
        """Let the robot's `robot_ns` be `epoch_ns`, or just after the newest stamp."""
        self._offset_ns, self._seen = max(epoch_ns, self.newest_ns + 1) - robot_ns, 0

    def stamp(self, robot_ns: int, epoch_ns: int) -> int:
        """Return the stamp of a robot's time that was read at `epoch_ns`."""
        self.newest_ns = max(self.newest_ns, robot_ns + self._offset_ns)
        self._follow(epoch_ns - robot_ns - self._offset_ns)
        return self.newest_ns

    def _follow(self, late_ns: int) -> None:
        """Let the offset go slowly after the reading that came soonest; two quartzes part by a frame in 20 minutes."""
        self._least_ns = late_ns if not self._seen else min(self._least_ns, late_ns)
        self._seen += 1
        if self._seen == DRIFT_SEEN:
            self._offset_ns += max(-DRIFT_NS, min(DRIFT_NS, self._least_ns))
            self._seen = 0

    def hold(self, passed_ns: int) -> int:
        """Return a stamp for a robot whose clock cannot be read, that long after the newest one."""
        self.newest_ns += passed_ns
        return self.newest_ns


class Bridge:
    """An arm and its gripper as what commands go into and snapshots come out of.

    Attributes:
        mode: of the robot.
        fault: why it does not follow commands until it is recovered; "" = it does.
        servo: None before `start`.
        success_rate: share of commands that arrived in time when last measured or moving.
        gate: which commands may move it.
    """

    def __init__(
        self,
        arm: ArmDriver,
        gripper: GripperDriver | None,
        limits: Callable[[ArmLimits], ServoLimits],
        gate: CommandGate,
        scale: ActionScale,
        frozen_after_s: float = 0.1,
    ) -> None:
        """Say what is driven and how; `start` connects.

        Args:
            arm: the arm.
            gripper: None = there is none.
            limits: makes the servo's limits from the arm's.
            gate: holds the commands.
            scale: what an action of 1 means.
            frozen_after_s: after so long without a new state the arm counts as lost.
        """
        self._arm, self._gripper, self._limits = arm, gripper, limits
        self.gate, self._scale, self._frozen_after_ns = gate, scale, round(frozen_after_s * NANOSECONDS)
        self.mode, self.fault = RobotMode.FAULT, "not connected yet"
        self.servo: Servo | None = None
        self.success_rate = 0.0
        self._stopped = self._lost = self._moving = self._guided = False
        self._clock = RobotClock()
        self._reading: Reading | None = None
        self._advanced_ns = self._held_ns = self._acted_ns = 0
        self._servo_due_ns = self._state_due_ns = 0
        self._accepted: Array = np.zeros(6)
        self._answered_ns = 0
        self._closing = threading.Event()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="recover")
        self._work: Future[Reading] | None = None

    def start(self) -> None:
        """Connect, see how well commands arrive, and be ready for commands; the arm is still.

        An arm whose button is pressed, or that is guided by hand, begins in FAULT, so that guiding can be recorded.

        Raises:
            DiwaError: it cannot be.
        """
        self._arm.connect()
        limits = self._limits(self._arm.limits())
        self.servo = Servo(limits, self._scale)
        if self._gripper is not None:
            self._gripper.connect()
        reading = self._arm.read()
        if reading.condition in (Condition.USER_STOPPED, Condition.GUIDED):
            self._begin(reading)
            self.fault = ""
            self._fail(ArmError(f"the arm is {reading.condition.value}"))
        else:
            self._ready(self._recovered(tries=1))

    def close(self) -> None:
        """Bring the arm to rest and let go of it."""
        if self._work is None and not self._lost and self._moving:
            with suppress(ArmError):  # then it has stopped by itself
                self._arm.send(np.zeros(6), self._needed_servo().ease)
                self._arm.settle()
        self._closing.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._gripper is not None:
            self._gripper.close()
        self._arm.close()

    def stop(self) -> None:
        """Come to rest and stay there until `release`, also through a recovery."""
        self._stopped = True
        self._needed_servo().stop()
        self.gate.clear(self._clock.newest_ns)
        self._still_fingers()
        if not self.fault:
            self.mode = RobotMode.STOPPED

    def release(self) -> bool:
        """End a stop; False = there was none. What was commanded meanwhile stays undone."""
        if not self._stopped:
            return False
        self._stopped = False
        self._needed_servo().release()
        self.gate.clear(self._clock.newest_ns)
        if self.mode is RobotMode.STOPPED:
            self.mode = RobotMode.IDLE
        return True

    def recover(self) -> Future[Reading] | None:
        """Begin to recover from a fault, or to connect anew; None = there is none, or it goes on already.

        The future ends when the arm is ready, or with the reason why it is not; `poll` then takes note.
        """
        if not self.fault or self._work is not None:
            return None
        self._work = self._pool.submit(self._recovered)
        return self._work

    @property
    def outside(self) -> str:
        """Where the arm is beyond what it is allowed; "" = nowhere."""
        return "" if self._reading is None else self._needed_servo().outside(self._reading.state)

    @property
    def recovering(self) -> bool:
        """Whether that goes on, as far as `poll` knows."""
        return self._work is not None

    def offer(self, command: Command, now_ns: int, waited_ns: int = 0) -> str | None:
        """Take a command in; return why not, or None.

        Args:
            command: as received.
            now_ns: on the steady clock of this machine.
            waited_ns: for how long it had lain around then.
        """
        if self.fault and (self.mode is not RobotMode.GUIDED or self.recovering):  # guided: for the fingers
            return self.gate.refuse(f"the command of {command.source!r} came in FAULT")
        if waited_ns > self._silence_ns:
            return self.gate.refuse(f"the command of {command.source!r} lay around before it was heard")
        return self.gate.offer(command, now_ns)

    def poll(self, now_ns: int) -> BridgeSnapshot | None:
        """Do what is due; return a snapshot where one is.

        Args:
            now_ns: on the steady clock of this machine.
        """
        if self._work is not None:
            if not self._work.done():
                return self._held(now_ns)
            self._conclude(self._work)
        if self._lost:
            return self._held(now_ns)
        limits = self._needed_servo().limits
        try:
            reading = self._read(now_ns)
            if not self.fault:
                self._check(reading)
            if reading.time_ns >= self._servo_due_ns:
                self._servo_due_ns = _next(self._servo_due_ns, reading.time_ns, limits.period_s)
                self._act(reading, now_ns)
        except ArmError as error:
            self._fail(error)
            return self._held(now_ns)
        if reading.time_ns < self._state_due_ns:
            return None
        self._state_due_ns = _next(self._state_due_ns, reading.time_ns, 1 / limits.rate_hz)
        return self._snapshot(reading, self._clock.stamp(reading.time_ns, time.time_ns()), now_ns)

    def _read(self, now_ns: int) -> Reading:
        before, reading = self._reading, self._arm.read()
        state = reading.state
        measured = (state.position, state.euler, reading.quaternion, state.joints, state.jacobian.ravel())
        if not np.isfinite(np.concatenate(measured)).all():
            raise ArmError("the arm's state is not finite")
        if before is None or reading.time_ns != before.time_ns:
            self._advanced_ns = now_ns
        elif now_ns - self._advanced_ns > self._frozen_after_ns:
            raise ArmLostError(f"no new state for {self._frozen_after_ns / NANOSECONDS:g} s; the connection is lost")
        if before is not None and reading.time_ns < before.time_ns:  # connected anew, though not recovered
            self._start_clock(reading)
        self._reading = reading
        return reading

    def _check(self, reading: Reading) -> None:
        if reading.condition not in (Condition.READY, Condition.GUIDED):
            raise ArmError(f"the arm is {reading.condition.value}{_named(reading.errors)}")
        if self._gripper is not None and self._gripper.fault:
            raise ArmError(self._gripper.fault)

    def _act(self, reading: Reading, now_ns: int) -> None:
        """Do what is due each period of the servo."""
        servo, stalled = self._needed_servo(), now_ns - self._acted_ns > self._silence_ns
        self._acted_ns = now_ns
        if reading.condition is Condition.GUIDED:
            self._be_guided(reading)
        elif self.fault:
            self.mode = RobotMode.FAULT
        else:
            if stalled or self._guided:
                # The arm has come to rest, or was moved, meanwhile: nothing of before is followed up.
                servo.rest(reading.state)
                self.gate.clear(self._clock.newest_ns)
            self._follow(reading)
        self._guided = reading.condition is Condition.GUIDED

    def _be_guided(self, reading: Reading) -> None:
        """Send nothing; say how the hand moved the arm, in a fault too: a person holds it."""
        moved, command = self._needed_servo().rest(reading.state), self.gate.take()
        if self._guided:  # at first the target was still elsewhere than the arm
            self._accepted += moved
        self.mode, self._moving = RobotMode.STOPPED if self._stopped else RobotMode.GUIDED, False
        if command is not None and self._gripper is not None and not (self._stopped or self._gripper.fault):
            self._answered_ns = command.answers_ns
            self._gripper.wish(command.gripper)  # a hand that guides has none left for the fingers

    def _follow(self, reading: Reading) -> None:
        """Take in a command and send the velocity that follows it."""
        servo, command = self._needed_servo(), self.gate.take()
        if command is not None and not self._stopped:
            self._accepted += servo.command(command.motion, reading.state, reading.time_ns)
            self._answered_ns = command.answers_ns
            if self._gripper is not None:
                self._gripper.wish(command.gripper)
        twist = servo.tick(reading.state, reading.time_ns)
        still = RobotMode.STOPPED if self._stopped else RobotMode.IDLE
        self.mode = still if servo.status & (ServoStatus.SILENCE | ServoStatus.STOPPED) else RobotMode.MOVING
        moves = bool(twist.any())
        if moves or self._moving:  # standstill is said once; then the motion runs out
            self._arm.send(twist, servo.ease)
            self.success_rate = reading.success_rate if self._moving else self.success_rate
        self._moving = moves

    def _fail(self, error: ArmError) -> None:
        if not self.fault or isinstance(error, ArmLostError):
            self.fault = f"{error}; call robot/recover when it is safe"
        self.mode, self._moving = RobotMode.FAULT, False
        self._still_fingers()
        self._lost = self._lost or isinstance(error, ArmLostError)
        self.gate.clear(self._clock.newest_ns)

    def _recovered(self, tries: int = TRIES) -> Reading:
        """Return the state of an arm that is ready. Runs in a thread of its own, the only one that uses it then."""
        for left in range(tries - 1, -1, -1):
            try:
                return self._once_recovered()
            except ArmError as error:
                self._lost = self._lost or isinstance(error, ArmLostError)
                if not left or self._closing.wait(PAUSE_S):
                    raise
        raise AssertionError("a try returns or raises")

    def _once_recovered(self) -> Reading:
        if self._lost:
            self._arm.connect()
            self._lost = False
        if self._arm.read().condition is Condition.GUIDED:
            raise ArmError("the arm is guided by hand; let go of it first")
        self._arm.recover()
        if self._gripper is not None and self._gripper.fault:
            self._gripper.connect()
        reading = self._arm.read()
        self._check(reading)
        self.success_rate = self._arm.measure_communication()
        if self.success_rate < REFUSED_BELOW:
            raise ArmError(
                f"only {100 * self.success_rate:.0f} % of the commands arrive in time, {100 * REFUSED_BELOW:.0f} % "
                "must; use a cable to the arm alone, a performance governor, a real-time kernel"
            )
        return self._arm.read()

    def _conclude(self, work: Future[Reading]) -> None:
        self._work = None
        error = work.exception()
        if error is None:
            self._ready(work.result())
        elif isinstance(error, ArmError):
            self.fault = f"{error}; robot/recover did not help"
        else:
            raise error

    def _ready(self, reading: Reading) -> None:
        """Follow commands from now on, from where the arm is; it is still until it is commanded."""
        self._begin(reading)
        self.mode, self.fault = RobotMode.STOPPED if self._stopped else RobotMode.IDLE, ""

    def _begin(self, reading: Reading) -> None:
        """Forget what was before this reading."""
        self._needed_servo().rest(reading.state)
        self._reading, self._advanced_ns, self._guided = reading, time.monotonic_ns(), False
        self._start_clock(reading)
        self._accepted[:], self._answered_ns, self._moving = 0, 0, False
        self.gate.clear(self._clock.newest_ns)

    def _start_clock(self, reading: Reading) -> None:
        self._clock.start(reading.time_ns, time.time_ns())
        self._clock.stamp(reading.time_ns, time.time_ns())
        self._servo_due_ns = self._state_due_ns = reading.time_ns

    def _held(self, now_ns: int) -> BridgeSnapshot | None:
        """Return the last state with the fault, each control period, while the arm cannot be read."""
        if self._reading is None or now_ns - self._held_ns < NANOSECONDS / self._needed_servo().limits.rate_hz:
            return None
        still = self._clock.hold(now_ns - self._held_ns)
        return self._snapshot(self._reading, still, now_ns)

    def _snapshot(self, reading: Reading, stamp_ns: int, now_ns: int) -> BridgeSnapshot:
        accepted, self._accepted, self._held_ns = self._accepted, np.zeros(6), now_ns
        open_ = self._gripper.command if self._gripper is not None else 1.0
        return BridgeSnapshot(
            stamp_ns=stamp_ns,
            tcp_position=reading.state.position,
            tcp_quaternion=reading.quaternion,
            joint_positions=reading.state.joints,
            joint_velocities=np.zeros(7) if self._lost else reading.joint_velocities,
            gripper_width=self._gripper.width if self._gripper is not None else 0.0,
            gripper_command=open_,
            accepted_action=np.array([*(accepted / motion_units(self._scale)), open_]),
            mode=self.mode,
            answered_ns=self._answered_ns,
        )

    def _still_fingers(self) -> None:
        if self._gripper is not None:
            self._gripper.halt()

    @property
    def _silence_ns(self) -> int:
        return round(self._needed_servo().limits.silence_s * NANOSECONDS)

    def _needed_servo(self) -> Servo:
        assert self.servo is not None, "call start() first"
        return self.servo


def _next(due_ns: int, now_ns: int, period_s: float) -> int:
    """Return when it is due after `due_ns`; what was missed is not made up for."""
    period_ns = round(period_s * NANOSECONDS)
    return due_ns + period_ns if now_ns < due_ns + period_ns else now_ns + period_ns


def _named(errors: tuple[str, ...]) -> str:
    return f" ({', '.join(errors)})" if errors else ""
