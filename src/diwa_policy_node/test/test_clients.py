"""The command lines: `run_skill` and `twin_episodes` as processes against nodes of the test's."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("diwa_msgs.msg", reason="needs a built and sourced workspace (make test)")
pytest.importorskip("rclpy")

from policy_rig import PATIENT, Rig, node_environment, write_skill
from ros_rig import hangup_heard

from diwa_policy_node import twin_episodes
from diwa_runtime.errors import DiwaError
from diwa_runtime.robot import Outcome
from diwa_sim.node import SimulatorNode

pytestmark = pytest.mark.ros

Process = subprocess.Popen[str]


@pytest.fixture
def start_client() -> Iterator[Callable[..., Process]]:
    """Start a client as a process of its own, which is gone when the test ends."""
    processes: list[Process] = []

    def start(module: str, *arguments: str) -> Process:
        code = f"from diwa_policy_node.{module} import main; main()"
        with hangup_heard():
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-c", code, *arguments],
                    env=node_environment(),
                    text=True,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                )
            )
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def said(rig: Rig, process: Process) -> tuple[int, str, str]:
    """Turn the executor until the process has ended; return its code and what it said."""
    rig.spin_until(lambda: process.poll() is not None)
    assert process.stdout is not None
    assert process.stderr is not None
    return process.returncode, process.stdout.read(), process.stderr.read()


@pytest.mark.parametrize(
    ("arguments", "judge_bias", "code", "line"),
    [
        (("open_drawer",), 10.0, 0, "SUCCESS after 2 steps: open_drawer achieved, by the bundle's own reward\n"),
        (("open_drawer", "--timeout", "0.2"), -10.0, 2, "error: TIMEOUT after 7 steps: 'open_drawer' was not achieved"),
        (("fly",), -10.0, 2, "error: REFUSED after 0 steps: no skill 'fly' (there are open_drawer)\n"),
        ((), -10.0, 2, "skill"),
    ],
    ids=["success", "timeout", "unknown", "none named"],
)
def test_run_skill_says_how_it_ended(
    make_rig: Callable[..., Rig],
    start_client: Callable[..., Process],
    tmp_path: Path,
    arguments: tuple[str, ...],
    judge_bias: float,
    code: int,
    line: str,
) -> None:
    rig = make_rig(write_skill(tmp_path, judge_bias=judge_bias), **PATIENT)
    rig.robot()
    rig.bring_up()
    ended, out, error = said(rig, start_client("client", *arguments))
    assert ended == code
    assert line in (error if code else out)
    assert "Traceback" not in error


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP], ids=["Ctrl-C", "its terminal is closed"])
def test_a_client_that_is_told_to_stop_cancels_the_goal(
    make_rig: Callable[..., Rig], start_client: Callable[..., Process], tmp_path: Path, number: int
) -> None:
    rig = make_rig(write_skill(tmp_path), **PATIENT)
    robot = rig.robot()
    policy = rig.bring_up()
    process = start_client("client", "open_drawer")
    rig.spin_until(lambda: len(robot.commands) > 5)
    process.send_signal(number)
    code, _, error = said(rig, process)
    assert (code, error) == (130, "interrupted\n")
    assert policy.goals.last is not None
    assert policy.goals.last.outcome is Outcome.CANCELLED


def test_run_skill_without_a_node_is_one_line(
    make_rig: Callable[..., Rig], start_client: Callable[..., Process]
) -> None:
    code, _, error = said(make_rig(None), start_client("client", "open_drawer", "--wait", "0.2"))
    assert (code, error.count("\n")) == (2, 1)
    assert "no policy node serves run_skill" in error


def test_twin_episodes_counts_what_the_simulator_says_seed_by_seed(
    make_rig: Callable[..., Rig], start_client: Callable[..., Process], tmp_path: Path
) -> None:
    rig = make_rig(write_skill(tmp_path / "skills", judge_bias=10.0), allow_far_start=True, **PATIENT)
    simulator: Any = rig.add(SimulatorNode(context=rig.context))
    simulator._seed = 40
    simulator.start()
    rig.bring_up()
    against = tmp_path / "evaluation.json"
    ends = [{"seed": 40, "success": False}, {"seed": 41, "success": True}]
    offline = {"seeds": [40, 41], "successes": 1, "episodes": 2, "interval95": [0.1, 0.9], "episodes_detail": ends}
    against.write_text(json.dumps(offline))
    output = tmp_path / "episodes.json"
    flags = ("--skill", "open_drawer", "--episodes", "2", "--output", str(output), "--against", str(against))
    code, out, error = said(rig, start_client("twin_episodes", *flags))
    assert code == 0, error
    report = json.loads(output.read_text())
    assert report["seeds"] == [40, 41]
    assert report["successes"] == 0, "the bundle believes in its success, the simulator does not"
    assert {episode["outcome"] for episode in report["episodes_detail"]} == {"SUCCESS"}
    assert "0 of 2; offline 1 of 2 [10, 90] %: outside; 1 of 2 episodes ended alike" in out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--episodes", "0"], "episodes is 0, must be at least 1"),
        (["--against", "nowhere.json"], "nowhere.json: cannot be read"),
        (["--against", __file__], "test_clients.py: cannot be read"),
        (["--output", "/etc/passwd"], "passwd: is there already and no result of twin_episodes"),
    ],
)
def test_twin_episodes_says_what_is_wrong_before_it_runs_any(tmp_path: Path, arguments: list[str], line: str) -> None:
    with pytest.raises(DiwaError, match=line):
        twin_episodes.run(["--skill", "open_drawer", "--output", str(tmp_path / "out.json"), *arguments])
