"""Who else is on the robot's topics: a second robot, a second policy node, one that was started anew."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("diwa_msgs.msg", reason="needs a built and sourced workspace (make test)")
pytest.importorskip("rclpy")

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from policy_rig import PATIENT, FakeRobot, Rig, write_skill
from rclpy.action import ActionServer, CancelResponse
from rclpy.lifecycle import TransitionCallbackReturn

from diwa_msgs.action import RunSkill
from diwa_msgs.msg import EndEffectorDelta
from diwa_policy_node import client as client_module
from diwa_policy_node import node as node_module
from diwa_policy_node.client import SkillClient
from diwa_policy_node.node import PolicyNode
from diwa_policy_node.robot_link import Losses
from diwa_runtime.errors import InputError
from diwa_runtime.robot import Outcome
from diwa_runtime.rows.streams import NANOSECONDS

pytestmark = pytest.mark.ros


class OtherPolicy:
    """Serves `run_skill` on the rig's peer, takes every goal and never ends one."""

    def __init__(self, rig: Rig) -> None:
        self.goals: list[Any] = []
        self.cancelled = 0
        self._server: ActionServer | None = ActionServer(
            rig.peer,
            RunSkill,
            "run_skill",
            execute_callback=lambda _: RunSkill.Result(),
            handle_accepted_callback=self.goals.append,
            cancel_callback=self._on_cancel,
        )

    def _on_cancel(self, _: Any) -> CancelResponse:
        self.cancelled += 1
        return CancelResponse.ACCEPT

    def close(self) -> None:
        if self._server is not None:
            self._server.destroy()
            self._server = None


@pytest.fixture
def serve() -> Iterator[Callable[[Rig], OtherPolicy]]:
    """Make other policies, which are gone when the test ends: the middleware would go on listing them."""
    made: list[OtherPolicy] = []

    def start(rig: Rig) -> OtherPolicy:
        made.append(OtherPolicy(rig))
        return made[-1]

    yield start
    for other in made:
        other.close()


@pytest.fixture
def skills(tmp_path: Path) -> Path:
    return write_skill(tmp_path)


def status_of(rig: Rig, name: str) -> Any:
    """The newest status of that name; None: there was none yet."""
    return next((status for status in reversed(rig.diagnostics) if status.name == name), None)


def test_a_second_robot_on_the_same_topics_ends_the_goal_and_is_named(
    make_rig: Callable[..., Rig], skills: Path
) -> None:
    rig = make_rig(skills, **PATIENT)
    robot = rig.robot()
    rig.bring_up()
    handle = rig.send()
    rig.spin_until(lambda: len(robot.commands) > 3)

    zombie = rig.add(FakeRobot(context=rig.context, namespace="/", cli_args=["--ros-args", "-r", "__node:=zombie"]))

    outcome, reason = rig.result(handle)
    assert outcome is Outcome.FAULT
    assert "is published by /fake_robot and /zombie; only one may" in reason
    assert rig.run()[0] is Outcome.REFUSED
    rig.spin_until(lambda: (s := status_of(rig, "diwa_policy: streams")) is not None and s.level == s.ERROR)
    assert "/zombie" in status_of(rig, "diwa_policy: streams").message
    rig.executor.remove_node(zombie)
    rig.nodes.remove(zombie)
    zombie.destroy_node()
    rig.spin_until(lambda: rig.peer.count_publishers("robot/spec") == 1)
    assert rig.run(timeout=0.2)[0] is Outcome.TIMEOUT, "with one robot all is as before"


def test_a_second_policy_node_takes_no_goals_while_the_first_does(
    make_rig: Callable[..., Rig], skills: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rig = make_rig(skills, **PATIENT)
    rig.robot()
    rig.bring_up()
    options = rig.options(skills=[str(skills)], log_folder="", **PATIENT)
    second = rig.add(PolicyNode(namespace="/", cli_args=["--ros-args", "-r", "__node:=second"], **options))
    rig.spin_until(lambda: second.robot.spec is not None and second.count_publishers("run_skill/_action/status"))
    assert second.trigger_configure() is TransitionCallbackReturn.SUCCESS
    rig.spin_until(lambda: not second.runner.observations.watch.silent(time.monotonic_ns(), 0.5))
    assert second.trigger_activate() is TransitionCallbackReturn.FAILURE
    assert "/diwa_policy serves run_skill already; only one policy node may" in capfd.readouterr().err
    assert rig.run(timeout=0.2)[0] is Outcome.TIMEOUT
    second.cleanup()


def test_of_two_policies_that_took_one_goal_the_one_that_gives_up_calls_the_other_off(
    make_rig: Callable[..., Rig],
    serve: Callable[[Rig], OtherPolicy],
    skills: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    rig = make_rig(skills, **PATIENT)
    robot = rig.robot()
    policy = rig.bring_up()
    with monkeypatch.context() as blind:  # both came up before they could hear of one another
        blind.setattr(policy.goals, "others", list)
        other = serve(rig)
        rig.spin_until(lambda: policy.count_publishers("run_skill/_action/status") == 2)
        handle = rig.send()
        rig.spin_until(lambda: other.goals and len(robot.commands) > 3)
    commands = rig.peer.create_publisher(EndEffectorDelta, "robot/command", 10)
    rig.spin_until(lambda: commands.get_subscription_count() >= 2)
    commands.publish(EndEffectorDelta(source="policy", gripper=1.0))
    outcome, reason = rig.result(handle)
    assert outcome is Outcome.FAULT
    assert "'a second policy' commands the robot too" in reason
    said = capfd.readouterr().err
    assert "the arm does what 'a second policy' says" in said
    assert "the arm holds" not in said.split("FAULT after")[1]
    rig.spin_until(lambda: other.cancelled == 1)


def test_an_operator_who_takes_over_cancels_nobody_elses_goal(make_rig: Callable[..., Rig], skills: Path) -> None:
    rig = make_rig(skills, **PATIENT)
    robot = rig.robot()
    policy = rig.bring_up()
    called_off: list[bool] = []
    policy.goals.call_others_off = lambda: called_off.append(True)  # type: ignore[method-assign]
    handle = rig.send()
    rig.spin_until(lambda: len(robot.commands) > 3)
    commands = rig.peer.create_publisher(EndEffectorDelta, "robot/command", 10)
    rig.spin_until(lambda: commands.get_subscription_count() >= 2)
    commands.publish(EndEffectorDelta(source="teleop", gripper=1.0))
    assert rig.result(handle)[0] is Outcome.FAULT
    assert not called_off


def ask_for(rig: Rig, **transition: Any) -> bool:
    changes = rig.peer.create_client(ChangeState, "diwa_policy/change_state")
    rig.spin_until(changes.service_is_ready)
    answer = changes.call_async(ChangeState.Request(transition=Transition(**transition)))
    rig.spin_until(answer.done)
    return bool(answer.result().success)


@pytest.mark.parametrize(
    "transition",
    [{"id": Transition.TRANSITION_CONFIGURE}, {"id": 77}, {"label": "configure"}, {"label": "fly"}],
    ids=str,
)
def test_a_transition_that_cannot_be_is_answered_with_no_and_ends_no_goal(
    make_rig: Callable[..., Rig], skills: Path, transition: dict[str, Any]
) -> None:
    rig = make_rig(skills, **PATIENT)
    robot = rig.robot()
    rig.bring_up()
    handle = rig.send()
    rig.spin_until(lambda: len(robot.commands) > 3)
    assert ask_for(rig, **transition) is False
    commanded = len(robot.commands)
    rig.spin_until(lambda: len(robot.commands) > commanded)
    handle.cancel_goal_async()
    assert rig.result(handle)[0] is Outcome.CANCELLED
    assert ask_for(rig, id=Transition.TRANSITION_DEACTIVATE) is True


def test_an_exception_of_the_nodes_own_ends_the_goal_and_not_the_node(
    make_rig: Callable[..., Rig], skills: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = make_rig(skills, **PATIENT)
    robot = rig.robot()
    policy = rig.bring_up()
    handle = rig.send()
    rig.spin_until(lambda: len(robot.commands) > 3)

    def broken(_: PolicyNode) -> None:
        raise RuntimeError("a callback's")

    monkeypatch.setattr(node_module, "spin_until_told", broken)
    policy.spin()
    outcome, reason = rig.result(handle)
    assert outcome is Outcome.FAULT
    assert "a fault of the policy node's own" in reason
    assert rig.run(timeout=0.2)[0] is Outcome.TIMEOUT, "the next goal runs"


def test_a_client_learns_within_seconds_that_its_node_was_started_anew(
    make_rig: Callable[..., Rig], serve: Callable[[Rig], OtherPolicy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a kill: the middleware still lists a server, and the new one has never heard of the goal."""
    monkeypatch.setattr(client_module, "QUIET_S", 0.3)
    rig = make_rig(None)
    first = serve(rig)
    asker = SkillClient(context=rig.context)
    turned = spin_with(rig, asker, monkeypatch)
    asker.wait(5.0)

    def start_anew() -> None:
        if first.goals and len(turned) == 3:
            first.close()
            serve(rig)

    turned.on_turn = start_anew
    with pytest.raises(InputError, match=r"does not know the goal any more; was it started anew|is gone"):
        asker.run(RunSkill.Goal(skill="open_drawer"))
    asker.destroy_node()


def test_a_client_of_a_node_that_says_nothing_any_more_ends(
    make_rig: Callable[..., Rig], serve: Callable[[Rig], OtherPolicy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "LOST_S", 0.5)
    monkeypatch.setattr(client_module, "ANSWER_S", 1.0)
    rig = make_rig(None)
    dead = serve(rig)
    asker = SkillClient(context=rig.context)
    spin_with(rig, asker, monkeypatch)
    asker.wait(5.0)
    with pytest.raises(InputError, match="the policy node is gone; a robot that is not commanded holds"):
        asker.run(RunSkill.Goal(skill="open_drawer"))
    assert len(dead.goals) == 1
    asker.destroy_node()


class Turns(list[float]):
    """Counts the waits of a client; `on_turn` may do something at each."""

    on_turn: Callable[[], None] = staticmethod(lambda: None)


def spin_with(rig: Rig, asker: SkillClient, monkeypatch: pytest.MonkeyPatch) -> Turns:
    """Let a client in this process wait by turning the rig's executor, in which its node and all others are."""
    rig.executor.add_node(asker)
    turns = Turns()

    def spin_until(_: Any, reached: Callable[[], bool], limit_s: float, interruptible: bool = True) -> bool:
        del interruptible
        end = time.monotonic() + limit_s
        turns.append(limit_s)
        turns.on_turn()
        while not reached():
            if time.monotonic() > end:
                return False
            rig.executor.spin_once(timeout_sec=0.05)
        return True

    monkeypatch.setattr(client_module, "spin_until", spin_until)
    return turns


def test_losses_are_counted_by_the_senders_own_count() -> None:
    losses = Losses()
    assert [losses.before(number) for number in (7, 8, 11, 12, 3, 4, None, 9, 10)] == [0, 0, 2, 0, 0, 0, 0, 0, 0]


def test_a_state_that_is_lost_on_its_way_ends_the_goal(make_rig: Callable[..., Rig], skills: Path) -> None:
    rig = make_rig(skills, **PATIENT)
    robot = rig.robot()
    policy = rig.bring_up()
    handle = rig.send()
    rig.spin_until(lambda: len(rig.feedback) > 3)
    subscription = next(one for one in policy.subscriptions if one.topic_name == "/robot/state")
    info = {"received_timestamp": time.time_ns(), "publication_sequence_number": 1_000_000}
    subscription.callback(robot.states[-1], info)
    outcome, reason = rig.result(handle)
    assert outcome is Outcome.FAULT
    assert "messages of robot/state were lost on their way" in reason


def test_a_burst_of_states_is_added_up_whole(make_rig: Callable[..., Rig], skills: Path) -> None:
    """A robot at 1 kHz says in a moment what a queue of ten would lose."""
    rig = make_rig(skills, **PATIENT)
    rig.robot()
    policy = rig.bring_up()
    subscription = next(one for one in policy.subscriptions if one.topic_name == "/robot/state")
    assert subscription.qos_profile.depth >= 1000 * 0.2, "a fifth of a second of 1 kHz, after which the goal ends"


def test_a_robot_at_half_the_specs_rate_is_refused_with_both_rates(make_rig: Callable[..., Rig], skills: Path) -> None:
    rig = make_rig(skills, **PATIENT)
    robot = rig.robot()
    robot.period_ns = round(NANOSECONDS / 15)
    rig.bring_up()
    rig.spin_until(lambda: len(robot.states) > 40)
    outcome, reason = rig.run()
    assert outcome is Outcome.REFUSED
    assert "robot/state comes at 15.0 Hz, the Spec has 30" in reason
    rig.spin_until(lambda: (s := status_of(rig, "diwa_policy: streams")) is not None and s.level == s.WARN)


def test_in_a_namespace_the_node_says_so_in_the_diagnostics(make_rig: Callable[..., Rig], skills: Path) -> None:
    """Two robots with one name each on a topic that all share cannot be told apart."""
    rig = make_rig(None)
    options = rig.options(skills=[str(skills)], log_folder="")
    rig.add(PolicyNode(namespace="left", **options))
    rig.spin_until(lambda: status_of(rig, "left/diwa_policy: skill") is not None)
    assert status_of(rig, "left/diwa_policy: skill").hardware_id == "left/diwa_policy"
