"""The launch files for real, where `launch_ros` is: they come up, and whatever ends one, all processes end in order."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("launch_ros.actions", reason="launch is on no package registry; needs /opt/ros/jazzy")
pytest.importorskip("diwa_msgs.msg", reason="needs a built and sourced workspace (make test)")

import rclpy
from lifecycle_msgs.srv import GetState
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from toy_bundle import write_toy_bundle

from diwa_msgs.action import RunSkill
from diwa_msgs.msg import PolicyStatus

pytestmark = pytest.mark.ros

LAUNCH = Path(__file__).resolve().parents[1] / "launch"
TIMEOUT_S = 60.0
DOMAIN = 1 + os.getpid() % 100
AS_ROS2_LAUNCH_DOES = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

path, *arguments = sys.argv[1:]
pairs = [tuple(argument.split(":=", 1)) for argument in arguments]
service = LaunchService(argv=arguments, noninteractive=True)
included = IncludeLaunchDescription(PythonLaunchDescriptionSource(path), launch_arguments=pairs)
service.include_launch_description(LaunchDescription([included]))
sys.exit(service.run())
"""
INCLUDES = """
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, SetLaunchConfiguration
from launch.launch_description_sources import PythonLaunchDescriptionSource


def generate_launch_description():
    included = IncludeLaunchDescription(PythonLaunchDescriptionSource({path!r}), launch_arguments=[("seed", "7")])
    shelf = DeclareLaunchArgument("shelf", default_value="1")
    return LaunchDescription([shelf, SetLaunchConfiguration("lamp", "on"), included])
"""


class Launch:
    """A launch in a process of its own; what it says goes into a file."""

    def __init__(self, output: Path, launch_file: str = "sim.launch.py", **arguments: str) -> None:
        self._output = output
        words = [f"{name}:={value}" for name, value in arguments.items()]
        command = [sys.executable, "-c", AS_ROS2_LAUNCH_DOES, str(LAUNCH / launch_file), *words]
        with output.open("w") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)

    def said(self, pattern: str) -> list[Any]:
        """Return what `re.findall` finds in what was said so far."""
        return re.findall(pattern, self._output.read_text(encoding="utf-8"))

    def wait(self) -> list[tuple[str, int]]:
        """Wait for the end; return the nodes' exit codes in the order in which they ended."""
        self.process.wait(TIMEOUT_S)
        ended = self.said(r"\[([a-z_]+)-\d+\]: process has (?:finished cleanly|died) \[pid \d+(?:, exit code (-?\d+))?")
        return [(name, int(code or 0)) for name, code in ended]

    def wait_until_active(self) -> None:
        """Return when the policy node takes goals, is through with its transition to that, and has noticed."""
        context = rclpy.Context()
        rclpy.init(context=context, domain_id=DOMAIN)
        node, executor = rclpy.create_node("launch_test", context=context), SingleThreadedExecutor(context=context)
        executor.add_node(node)
        action, state = ActionClient(node, RunSkill, "run_skill"), node.create_client(GetState, "diwa_policy/get_state")
        try:
            self._spin_until(executor, lambda: action.server_is_ready() and state.service_is_ready())
            answer = state.call_async(GetState.Request())
            self._spin_until(executor, answer.done)
            assert answer.result().current_state.label == "active"
            statuses: list[PolicyStatus] = []
            node.create_subscription(PolicyStatus, "policy/status", statuses.append, 10)
            self._spin_until(executor, lambda: len(statuses) > 2)
        finally:
            action.destroy()
            executor.shutdown()
            node.destroy_node()
            rclpy.shutdown(context=context)

    def _spin_until(self, executor: SingleThreadedExecutor, reached: Callable[[], bool]) -> None:
        end = time.monotonic() + TIMEOUT_S
        while not reached():
            assert time.monotonic() < end, "what the test waits for did not come"
            assert self.process.poll() is None, self._output.read_text(encoding="utf-8")
            executor.spin_once(timeout_sec=0.05)

    def kill(self, node: str) -> None:
        """End one process without a chance to say goodbye."""
        (pid,) = self.said(rf"\[{node}-\d+\]: process started with pid \[(\d+)\]")
        os.kill(int(pid), signal.SIGKILL)

    def close(self) -> None:
        """Leave no process behind."""
        for pid in self.said(r"process started with pid \[(\d+)\]"):
            if Path(f"/proc/{pid}").exists():
                os.kill(int(pid), signal.SIGKILL)
        self.process.kill()
        self.process.wait()


@pytest.fixture
def make_launch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Launch]]:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(DOMAIN))
    monkeypatch.setenv("ROS_LOG_DIR", str(tmp_path / "log"))
    monkeypatch.chdir(tmp_path)
    launches: list[Launch] = []

    def make(*launch_file: str, **arguments: str) -> Launch:
        launches.append(Launch(tmp_path / f"said_{len(launches)}.txt", *launch_file, **arguments))
        return launches[-1]

    yield make
    for launch in launches:
        launch.close()


@pytest.fixture
def skills(tmp_path: Path) -> str:
    write_toy_bundle(tmp_path / "skills" / "open_drawer")
    return "skills"


def test_it_comes_up_by_itself_and_ends_in_order(make_launch: Callable[..., Launch], skills: str) -> None:
    launch = make_launch(policy="true", skills=skills, seed="7")
    launch.wait_until_active()
    launch.process.send_signal(signal.SIGINT)
    assert sorted(launch.wait()) == [("diwa_policy", 0), ("diwa_sim", 0)]
    assert launch.said(r"sending signal '(\w+)' to process\[(\w+)-") == [
        ("SIGINT", "diwa_policy"),
        ("SIGINT", "diwa_sim"),
    ]
    assert launch.process.returncode == 0


@pytest.mark.parametrize(("killed", "other"), [("diwa_sim", "diwa_policy"), ("diwa_policy", "diwa_sim")])
def test_when_one_dies_the_other_ends_cleanly(
    make_launch: Callable[..., Launch], skills: str, killed: str, other: str
) -> None:
    launch = make_launch(policy="true", skills=skills)
    launch.wait_until_active()
    launch.kill(killed)
    assert launch.wait() == [(killed, -signal.SIGKILL), (other, 0)]


def test_a_bundle_that_cannot_be_used_ends_it(make_launch: Callable[..., Launch]) -> None:
    launch = make_launch(policy="true", skills="nowhere")
    assert launch.wait() == [("diwa_policy", 2), ("diwa_sim", 0)]
    assert launch.said("error: (.*)") == ["diwa_policy could not be configured; the reason stands above"]
    assert launch.said("nowhere: no bundle there")


def test_an_argument_stands_over_the_users_file(make_launch: Callable[..., Launch], tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("diwa_sim: {ros__parameters: {start: nowhere}}\n", encoding="utf-8")
    launch = make_launch(config=str(config))
    assert launch.wait() == [("diwa_sim", 2)], "no policy node unless asked for"
    assert launch.said("error: start 'nowhere' is not one of narrow")
    launch = make_launch(config=str(config), start="elsewhere")
    assert launch.wait() == [("diwa_sim", 2)]
    assert launch.said("error: start 'elsewhere' is not one of narrow")


def test_an_argument_that_nobody_declares_ends_it_before_anything_starts(make_launch: Callable[..., Launch]) -> None:
    launch = make_launch("real_robot.launch.py", hostname="127.0.0.99", sped="0.05")
    assert launch.wait() == []
    assert launch.process.returncode == 1
    assert len(launch.said(r"\[ERROR\].*: sped:=0.05: there is no such argument, did you mean speed:=\?; .*")) == 1
    assert not launch.said("process started")


def test_a_file_that_includes_ours_has_arguments_of_its_own(make_launch: Callable[..., Launch], tmp_path: Path) -> None:
    lab = tmp_path / "lab.launch.py"
    lab.write_text(INCLUDES.format(path=str(LAUNCH / "sim.launch.py")), encoding="utf-8")
    launch = make_launch(str(lab), shelf="2", start="nowhere")
    assert launch.wait() == [("diwa_sim", 2)], "so far it comes: the simulator is started, and refuses its parameter"
    launch = make_launch(str(lab), shelf="2", star="far")
    assert launch.wait() == []
    assert launch.said(r"star:=far: there is no such argument, did you mean start:=\?")


def test_nobody_at_the_robots_address_is_one_line_and_the_end(make_launch: Callable[..., Launch]) -> None:
    pytest.importorskip("franky")
    launch = make_launch("real_robot.launch.py", hostname="127.0.0.99")
    assert launch.wait() == [("diwa_bridge", 2)]
    assert len(launch.said("error: 127.0.0.99: ")) == len(launch.said(r"(?m)^\[diwa_bridge-\d+\] ")) == 1


@pytest.mark.parametrize("text", ["null", "{"])
def test_what_cannot_be_is_refused_by_its_name(make_launch: Callable[..., Launch], text: str) -> None:
    launch = make_launch("real_robot.launch.py", speed=text)
    assert launch.wait() == [("diwa_bridge", 2)]
    assert launch.said(r"error: diwa_bridge: parameter speed .* to '(.*?)' of type 'STRING'") == [text]
