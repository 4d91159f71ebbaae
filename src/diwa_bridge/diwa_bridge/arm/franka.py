"""The arm, over franky: read it, send it velocities that run out by themselves, recover it, connect to it anew.

Whatever speaks Franka's protocol stands behind this class, an arm or a simulator of one. No ROS.
"""

from __future__ import annotations

import os
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from diwa_bridge.arm.limits import ArmLimits, limits_of
from diwa_bridge.arm.servo import ArmState
from diwa_runtime.errors import DiwaError, InputError, one_line
from diwa_runtime.geometry import quaternion_to_euler

Array = NDArray[np.float64]
Scheduling = tuple[int, os.sched_param]
Result = TypeVar("Result")

STOPS_WITHIN_S = 0.13
"""How long the way to standstill takes at most, at whatever share of the arm's dynamics; faster, it is not driven."""
VALID_MS = 100
"""How long a velocity is held. A process that freezes or dies leaves the arm at rest within 0.3 s."""
_KINDS = ("acceleration", "velocity")
CONNECT_S = 15.0
"""How long an arm may take to connect: libfranka itself waits for ever for one that takes the call and says nothing."""
JOIN_S = 1.0
"""How long a motion that was not followed up may take to end."""


class ArmError(DiwaError):
    """The arm refuses to move until it is recovered: a reflex, a stop button, a motion that was not accepted."""


class ArmLostError(ArmError):
    """Nothing is heard of the arm any more; only a new connection helps."""


class Condition(Enum):
    """What the arm says that it does."""

    READY = "ready"
    GUIDED = "guided by hand"
    REFLEX = "stopped by a reflex"
    USER_STOPPED = "stopped by its button (the light is not blue or green)"
    OTHER = "busy with itself"


@dataclass(frozen=True)
class Reading:
    """One state of the arm.

    Attributes:
        time_ns: on the robot's clock, which a lost connection stops.
        state: what the servo needs.
        quaternion: of the TCP (4,) as (x, y, z, w).
        joint_velocities: (7,) rad/s.
        condition: whether it can be commanded.
        errors: names of what is wrong, as Franka has them.
        success_rate: share of the last 100 commands that arrived in time; means something while it moves.
    """

    time_ns: int
    state: ArmState
    quaternion: Array
    joint_velocities: Array
    condition: Condition
    errors: tuple[str, ...]
    success_rate: float


class Arm:
    """A Franka arm.

    Attributes:
        hostname: of its control box.
        speed: share of the velocities, accelerations and jerks that the arm allows, which franky keeps to.
    """

    def __init__(self, hostname: str, speed: float, realtime: bool = False) -> None:
        """Say which arm; nothing is connected yet. With `realtime`, a kernel without PREEMPT_RT is refused."""
        self.hostname, self.speed, self._realtime = hostname, speed, realtime
        self._robot: Any = None
        self._model: Any = None
        self._limits: ArmLimits | None = None
        self._control_scheduling: Scheduling | None = None

    def connect(self) -> None:
        """Connect, or connect anew.

        Raises:
            ArmLostError: nobody answers there, or not within `CONNECT_S`.
            InputError: the kernel or the version of the arm does not fit, or it is of no known kind.
        """
        franky = franky_library()
        self.close()
        config = franky.RealtimeConfig.Enforce if self._realtime else franky.RealtimeConfig.Ignore
        factor = franky.RelativeDynamicsFactor(self.speed)

        def opened() -> tuple[Any, Scheduling, Any, str]:
            robot = franky.Robot(self.hostname, factor, realtime_config=config)
            return robot, _scheduling(), robot.model, _kind_of(robot)

        try:
            # Where it may, libfranka gives the thread that connects the highest real-time priority. All that it starts
            # would inherit that, the middleware's threads too, and one of them that spins stops the machine. To undo it
            # does not help: glibc remembers it, and tells it to the children. So it is a thread that ends then.
            self._robot, self._control_scheduling, self._model, kind = _within(CONNECT_S, opened)
            self._limits = self._bounded(limits_of(kind))
        except TimeoutError:
            raise ArmLostError(
                f"{self.hostname}: it takes the call and says nothing for {CONNECT_S:.0f} s; restart its control box"
            ) from None
        except ElementTree.ParseError as error:
            raise InputError(f"{self.hostname}: the model that it gives of itself cannot be read ({error})") from None
        except franky.IncompatibleVersionException as error:
            raise InputError(
                f"{self.hostname}: {one_line(error).rstrip(' .')}; an FR3 needs system 5.9.0 or newer, a Panda needs "
                "franky built on libfranka 0.9.2 (docs/hardware.md)"
            ) from None
        except franky.RealtimeException as error:
            raise InputError(
                f"{self.hostname}: {one_line(error).rstrip(' .')}; use a PREEMPT_RT kernel, or leave the parameter "
                "realtime at false"
            ) from None
        except franky.Exception as error:
            raise ArmLostError(f"{self.hostname}: {one_line(error)}; is it on, unlocked, and FCI enabled?") from None

    def close(self) -> None:
        """Let go of the connection; what moves comes to rest."""
        self._robot = self._model = None

    def limits(self) -> ArmLimits:
        """Return what is used of this arm: no more than it allows, and no faster than it can brake in `STOPS_WITHIN_S`.

        Raises:
            ArmLostError: not connected yet.
        """
        self._connected()
        assert self._limits is not None, "made by connect"
        return self._limits

    def _bounded(self, limits: ArmLimits) -> ArmLimits:
        """Return what is used of the arm's limits, and let franky keep to it."""
        used: dict[str, Any] = {}
        for part in ("translation", "rotation"):
            acceleration, velocity = (getattr(self._robot, f"{part}_{kind}_limit") for kind in _KINDS)
            most = min(getattr(limits, f"{part}_acceleration"), acceleration.max)
            fastest = min(getattr(limits, f"{part}_velocity"), velocity.max, STOPS_WITHIN_S * most)
            acceleration.set(most)
            velocity.set(fastest)
            # franky refuses what is a rounding error too fast.
            used |= {f"{part}_acceleration": most, f"{part}_velocity": 0.999 * fastest}
        return replace(limits, **used)

    def read(self) -> Reading:
        """Return the newest state.

        Raises:
            ArmLostError: the connection is gone.
        """
        franky = franky_library()
        try:
            state = self._connected().state
        except (franky.Exception, RuntimeError) as error:
            raise self._lost(error) from None
        quaternion = np.array(state.O_T_EE.quaternion, np.float64)
        return Reading(
            time_ns=state.time.to_msec() * 1_000_000,
            state=ArmState(
                position=np.array(state.O_T_EE.translation, np.float64),
                euler=quaternion_to_euler(quaternion),
                joints=np.array(state.q, np.float64),
                jacobian=np.array(self._model.zero_jacobian(franky.Frame.EndEffector, state), np.float64),
            ),
            quaternion=quaternion,
            joint_velocities=np.array(state.dq, np.float64),
            condition=_condition(state.robot_mode),
            errors=_names(state.current_errors) or _names(state.last_motion_errors),
            success_rate=float(state.control_command_success_rate),
        )

    def send(self, twist: Array, ease: float = 1.0) -> None:
        """Let the TCP move with a velocity (6,), m/s and rad/s, base frame, for `VALID_MS` unless another follows.

        Args:
            twist: the velocity.
            ease: share of the accelerations with which it is come to, and left again.

        Raises:
            ArmLostError: the connection is gone.
            ArmError: the arm does not take it.
        """
        franky = franky_library()
        velocity = franky.RobotVelocity(franky.Twist(twist[:3], twist[3:]))
        factor = franky.RelativeDynamicsFactor(1.0, ease, ease)
        motion = franky.CartesianVelocityMotion(velocity, franky.Duration(VALID_MS), factor)
        robot = self._connected()
        try:
            # The thread that sends a thousand commands a second is started here, and inherits what it needs.
            with nullcontext() if robot.is_in_control else _scheduled(self._control_scheduling):
                robot.move(motion, asynchronous=True)
        except franky.NetworkException as error:
            raise self._lost(error) from None
        except (franky.Exception, RuntimeError) as error:
            raise ArmError(one_line(error)) from None

    def settle(self) -> None:
        """Wait until the motion has run out; an arm that is let go of while it moves raises a reflex.

        Raises:
            ArmError: it ended in another way.
        """
        franky = franky_library()
        try:
            self._connected().join_motion(JOIN_S)
        except (franky.Exception, RuntimeError) as error:
            raise ArmError(one_line(error)) from None

    def recover(self) -> None:
        """Let the motion end and clear the errors.

        Raises:
            ArmLostError: the connection is gone.
            ArmError: the arm does not recover.
        """
        franky, robot = franky_library(), self._connected()
        try:
            with suppress(franky.ControlException):  # that is what is recovered from
                robot.join_motion(JOIN_S)
            if not robot.recover_from_errors():
                raise ArmError("the arm did not clear its errors")
        except franky.NetworkException as error:
            raise self._lost(error) from None
        except franky.Exception as error:
            raise ArmError(one_line(error)) from None

    def measure_communication(self, seconds: float = 0.5) -> float:
        """Command standstill for a while; return the share of commands that arrived in time.

        Raises:
            ArmError: the arm does not take it.
        """
        began, rate = time.monotonic(), 1.0
        while (passed := time.monotonic() - began) < seconds:
            self.send(np.zeros(6))
            time.sleep(0.02)
            if passed > seconds / 2:  # it is a share of the last hundred, which are there by then
                rate = min(rate, self.read().success_rate)
        return rate

    def _connected(self) -> Any:
        if self._robot is None:
            raise ArmLostError(f"{self.hostname}: not connected")
        return self._robot

    def _lost(self, error: Exception) -> ArmLostError:
        return ArmLostError(f"{self.hostname}: the connection is lost ({one_line(error)})")


def franky_library() -> Any:
    """Return franky.

    Raises:
        InputError: it is not installed.
    """
    try:
        import franky
    except ImportError as error:
        raise InputError(f"franky cannot be imported ({error}); install franky-control (docs/hardware.md)") from None
    return franky


def _within(limit_s: float, work: Callable[[], Result]) -> Result:
    """Return what `work` gives in a thread of its own, which ends with it.

    Raises:
        TimeoutError: it takes longer; then it goes on and nobody minds, also at the end of the process.
    """
    done: Future[Result] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # whatever it is, it belongs to who waits
            done.set_exception(error)

    threading.Thread(target=run, name="connect", daemon=True).start()
    return done.result(limit_s)


def _scheduling() -> Scheduling:
    """Return how this thread is scheduled: policy and parameters."""
    return os.sched_getscheduler(0), os.sched_getparam(0)


@contextmanager
def _scheduled(wanted: Scheduling | None) -> Iterator[None]:
    """Schedule this thread so for the block (None: as it is), and as before afterwards.

    By the kernel alone, behind glibc's back: the children of the block inherit it, no later ones do.
    """
    before = _scheduling()
    if wanted is not None:
        os.sched_setscheduler(0, *wanted)
    try:
        yield
    finally:
        if _scheduling() != before:
            os.sched_setscheduler(0, *before)


def _condition(mode: Any) -> Condition:
    return {
        "Idle": Condition.READY,
        "Move": Condition.READY,
        "Guiding": Condition.GUIDED,
        "Reflex": Condition.REFLEX,
        "UserStopped": Condition.USER_STOPPED,
    }.get(str(mode).rpartition(".")[2], Condition.OTHER)


def _names(errors: Any) -> tuple[str, ...]:
    """Return the names in franky's list of errors, which prints as ``["a", "b"]``."""
    return tuple(name for part in str(errors).strip("[]").split(",") if (name := part.strip().strip('"')))


def _kind_of(robot: Any) -> str:
    """Return what kind of arm it is, as `limits_of` knows it."""
    # Only libfranka 0.15 and newer, which is for the FR3, can be asked for a model. A build for the Panda cannot
    # connect to anything else; one in between can, and must not be used (docs/hardware.md): it would pass for that.
    return _name_of(robot.model_urdf) if hasattr(type(robot), "model_urdf") else "panda"


def _name_of(urdf: str) -> str:
    """Return the robot's name in a URDF, without anything behind it: ``fr3`` of ``fr3_v2``."""
    return ElementTree.fromstring(urdf).get("name", "").partition("_")[0]
