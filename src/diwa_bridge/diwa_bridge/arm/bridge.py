"""The robot behind its topics: commands in, states out, and everything that brings it to standstill. No ROS, no thread.

`poll` is called every few milliseconds and does what is due by the robot's own clock: the servo every 20 ms, a snapshot
each control period. Only connecting and recovering take long; they run in a thread of their own, while snapshots go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress

import numpy as np

from diwa_bridge.arm.clock import RobotClock
from diwa_bridge.arm.drivers import ArmDriver, GripperDriver
from diwa_bridge.arm.franka import ArmError, ArmLostError, Condition, Reading
from diwa_bridge.arm.limits import ArmLimits, ServoLimits
from diwa_bridge.arm.recovery import Recovery, not_ready
from diwa_bridge.arm.servo import Servo, ServoStatus
from diwa_bridge.arm.snapshots import BridgeSnapshot, Snapshots
from diwa_runtime.command_gate import Command, CommandGate
from diwa_runtime.errors import DiwaError, one_line
from diwa_runtime.robot import RobotMode
from diwa_runtime.rows.selection import QUATERNION_TOLERANCE
from diwa_runtime.rows.streams import NANOSECONDS, is_sound
from diwa_runtime.spec import ActionScale


class Bridge:
    """An arm and its gripper as what commands go into and snapshots come out of.

    Attributes:
        mode: of the robot.
        fault: why it does not follow commands until it is recovered; "" = it does.
        servo: None before `start`.
        gate: which commands may move it.
        stalls: how often nothing was done for longer than the servo's `silence_s`.
        stalled_s: for how long it was the last time.
    """

    def __init__(
        self,
        arm: ArmDriver,
        gripper: GripperDriver | None,
        limits: Callable[[ArmLimits], ServoLimits],
        gate: CommandGate,
        scale: ActionScale,
        frozen_after_s: float,
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
        self.gate, self._frozen_after_ns = gate, round(frozen_after_s * NANOSECONDS)
        self.mode, self.fault = RobotMode.FAULT, "not connected yet"
        self.servo: Servo | None = None
        self.stalls, self.stalled_s = 0, 0.0
        self._recovery = Recovery(arm, gripper)
        self._snapshots = Snapshots(scale, gripper)
        self._clock = RobotClock()
        self._scale = scale
        self._stopped = self._moving = self._guided = False
        self._reading: Reading | None = None
        self._advanced_ns = self._held_ns = self._acted_ns = 0
        self._servo_due_ns = self._state_due_ns = 0

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
            self._ready(self._recovery.recovered(tries=1))

    def close(self) -> None:
        """Bring the arm to rest and let go of it.

        A recovery that does not end keeps arm and gripper, which are still then, until the process ends.
        """
        if not self.recovering and not self._recovery.lost and self._moving:
            with suppress(ArmError):  # then it has stopped by itself
                self._arm.send(np.zeros(6), self._needed_servo().ease)
                self._arm.settle()
        if not self._recovery.close():
            return
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

    def shut_for(self, why: str) -> None:
        """Take no command from now on, for this reason, and come to rest; "" = take them again."""
        self.gate.shut_for(why, self._clock.newest_ns)

    def recover(self) -> Future[Reading] | None:
        """Begin to recover from a fault, or to connect anew; None = there is none, or it goes on already.

        The future ends when the arm is ready, or with the reason why it is not; `poll` then takes note.
        """
        return None if not self.fault or self.recovering else self._recovery.begin()

    @property
    def success_rate(self) -> float:
        """Share of commands that arrived in time when last measured or moving."""
        return self._recovery.success_rate

    @property
    def outside(self) -> str:
        """Where the arm is beyond what it is allowed; "" = nowhere."""
        return "" if self._reading is None else self._needed_servo().outside(self._reading.state)

    @property
    def recovering(self) -> bool:
        """Whether that goes on, as far as `poll` knows."""
        return self._recovery.work is not None

    def offer(self, command: Command, now_ns: int, waited_ns: int = 0) -> str | None:
        """Take a command in; return why not, or None.

        Args:
            command: as received.
            now_ns: on the steady clock of this machine.
            waited_ns: for how long it had lain around then.
        """
        unwilling = ""
        if self.fault and (self.mode is not RobotMode.GUIDED or self.recovering):  # guided: for the fingers
            unwilling = "came in FAULT"
        elif waited_ns > self._silence_ns:
            unwilling = "lay around before it was heard"
        return self.gate.offer(command, now_ns, unwilling)

    def poll(self, now_ns: int) -> BridgeSnapshot | None:
        """Do what is due; return a snapshot where one is.

        Args:
            now_ns: on the steady clock of this machine.
        """
        if (work := self._recovery.work) is not None:
            if not work.done():
                return self._held(now_ns)
            self._conclude(work)
        if self._recovery.lost:
            return self._held(now_ns)
        limits = self._needed_servo().limits
        try:
            reading = self._read(now_ns)
            if not self.fault and (why := not_ready(reading, self._gripper)):
                raise ArmError(why)
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
        if not is_sound(np.concatenate([*measured, reading.joint_velocities])):
            raise ArmError("the arm's state is not finite (or beyond 1e9)")
        if not abs(float(np.linalg.norm(reading.quaternion)) - 1) <= QUATERNION_TOLERANCE:
            raise ArmError("the arm's state has an orientation that is none")
        if before is None or reading.time_ns != before.time_ns:
            self._advanced_ns = now_ns
        elif now_ns - self._advanced_ns > self._frozen_after_ns:
            raise ArmLostError(f"no new state for {self._frozen_after_ns / NANOSECONDS:g} s; the connection is lost")
        if before is not None and reading.time_ns < before.time_ns:  # connected anew, though not recovered
            self._start_clock(reading)
        self._reading = reading
        return reading

    def _act(self, reading: Reading, now_ns: int) -> None:
        """Do what is due each period of the servo."""
        servo, guided = self._needed_servo(), reading.condition is Condition.GUIDED
        passed_ns, self._acted_ns = now_ns - self._acted_ns, now_ns
        if (stalled := passed_ns > self._silence_ns) and passed_ns != now_ns:  # the first time there is no before
            self.stalls, self.stalled_s = self.stalls + 1, passed_ns / NANOSECONDS
        if self._guided and not guided:
            self._snapshots.add(servo.rest(reading.state))  # the last bit of the hand's way
        if guided:
            self._be_guided(reading)
        elif self.fault:
            self.mode = RobotMode.FAULT
        else:
            if stalled or self._guided:
                # The arm has come to rest, or was moved, meanwhile: nothing of before is followed up.
                servo.rest(reading.state)
                self.gate.clear(self._clock.newest_ns)
            self._follow(reading)
        self._guided = guided

    def _be_guided(self, reading: Reading) -> None:
        """Send nothing; say how the hand moved the arm, in a fault too: a person holds it."""
        moved, command = self._needed_servo().rest(reading.state), self.gate.take()
        if self._guided:  # at first the target was still elsewhere than the arm
            self._snapshots.add(moved)
        self.mode, self._moving = RobotMode.STOPPED if self._stopped else RobotMode.GUIDED, False
        if command is not None and self._gripper is not None and not (self._stopped or self._gripper.fault):
            self._snapshots.answered_ns = command.answers_ns
            self._gripper.wish(command.gripper)  # a hand that guides has none left for the fingers

    def _follow(self, reading: Reading) -> None:
        """Take in a command and send the velocity that follows it."""
        servo, command = self._needed_servo(), self.gate.take()
        if command is not None and not self._stopped:
            self._snapshots.add(servo.command(command.motion, reading.state, reading.time_ns))
            self._snapshots.answered_ns = command.answers_ns
            if self._gripper is not None:
                self._gripper.wish(command.gripper)
        twist = servo.tick(reading.state, reading.time_ns)
        still = RobotMode.STOPPED if self._stopped else RobotMode.IDLE
        self.mode = still if servo.status & (ServoStatus.SILENCE | ServoStatus.STOPPED) else RobotMode.MOVING
        moves = bool(twist.any())
        if moves or self._moving:  # standstill is said once; then the motion runs out
            self._arm.send(twist, servo.ease)
            if self._moving:
                self._recovery.success_rate = reading.success_rate
        self._moving = moves

    def _fail(self, error: ArmError) -> None:
        if not self.fault or isinstance(error, ArmLostError):
            self.fault = f"{error}; call robot/recover when it is safe"
        self.mode, self._moving = RobotMode.FAULT, False
        self._still_fingers()
        self._recovery.lost = self._recovery.lost or isinstance(error, ArmLostError)
        self.gate.clear(self._clock.newest_ns)

    def _conclude(self, work: Future[Reading]) -> None:
        self._recovery.work = None
        error = work.exception() or self._another_arm()
        if error is None:
            self._ready(work.result())
        else:  # also a fault of ours: an arm that stands still and says why is better than a process that ends
            what = str(error) if isinstance(error, DiwaError) else f"{type(error).__name__}: {one_line(error)}"
            self.fault = f"{what}; robot/recover did not help"

    def _another_arm(self) -> DiwaError | None:
        """Say why the limits are no more those of the arm that answers, as where its address was given to another."""
        try:
            same = self._limits(self._arm.limits()) == self._needed_servo().limits
        except DiwaError as error:
            return error
        return None if same else ArmError("another kind of arm answers now; start the bridge anew")

    def _ready(self, reading: Reading) -> None:
        """Follow commands from now on, from where the arm is; it is still until it is commanded."""
        self._begin(reading)
        self.mode, self.fault = RobotMode.STOPPED if self._stopped else RobotMode.IDLE, ""

    def _begin(self, reading: Reading) -> None:
        """Forget what was before this reading."""
        self._needed_servo().rest(reading.state)
        self._reading, self._advanced_ns, self._guided = reading, time.monotonic_ns(), False
        self._start_clock(reading)
        # What was executed before and not said yet goes out with the next state.
        self._snapshots.answered_ns = 0
        self._moving, self._acted_ns = False, 0
        self.gate.clear(self._clock.newest_ns)

    def _start_clock(self, reading: Reading) -> None:
        self._clock.start(reading.time_ns, time.time_ns())
        self._clock.stamp(reading.time_ns, time.time_ns())
        self._servo_due_ns = self._state_due_ns = reading.time_ns

    def _held(self, now_ns: int) -> BridgeSnapshot | None:
        """Return the last state with the fault, each control period, while the arm cannot be read."""
        period_ns = round(NANOSECONDS / self._needed_servo().limits.rate_hz)
        passed_ns = now_ns - self._held_ns if self._held_ns else period_ns  # at first there is no state before
        if self._reading is None or passed_ns < period_ns:
            return None
        still = self._clock.hold(passed_ns)
        return self._snapshot(self._reading, still, now_ns)

    def _snapshot(self, reading: Reading, stamp_ns: int, now_ns: int) -> BridgeSnapshot:
        self._held_ns = now_ns
        return self._snapshots.take(reading, stamp_ns, self.mode, lost=self._recovery.lost)

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
