"""The launch file for real, where `launch_ros` is: it comes up, and whatever ends it, both processes end in order."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("launch_ros.actions", reason="launch is on no package registry; needs /opt/ros/jazzy")
pytest.importorskip("diwa_msgs.msg", reason="needs a built and sourced workspace (make test)")

import rclpy
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription, RegisterEventHandler
from launch.event_handlers import OnProcessExit, OnProcessStart
from launch.launch_description_sources import PythonLaunchDescriptionSource
from rclpy.action import ActionClient

from diwa_msgs.action import RunSkill
from diwa_runtime.toy_bundle import write_toy_bundle

pytestmark = pytest.mark.ros

LAUNCH_FILE = Path(__file__).resolve().parents[1] / "launch" / "sim.launch.py"
TIMEOUT_S = 60.0
DOMAIN = 1 + os.getpid() % 100


class Launch:
    """A launch that runs until it ends by itself or the test ends it.

    Attributes:
        pids: of the processes, by name.
        codes: with which they ended, in that order.
    """

    def __init__(self, **arguments: str) -> None:
        self.pids: dict[str, int] = {}
        self.codes: dict[str, int] = {}
        source = PythonLaunchDescriptionSource(str(LAUNCH_FILE))
        self._service = LaunchService(noninteractive=True)
        self._service.include_launch_description(
            LaunchDescription(
                [
                    RegisterEventHandler(OnProcessStart(on_start=lambda event, _: self._started(event))),
                    RegisterEventHandler(OnProcessExit(on_exit=lambda event, _: self._ended(event))),
                    IncludeLaunchDescription(source, launch_arguments=list(arguments.items())),
                ]
            )
        )

    def run(self, then: Callable[[Launch], object] | None = None) -> int:
        """Run to the end; when the policy node takes goals, call `then` (none: wait for the launch's own end)."""

        async def until_ended() -> int:
            running = asyncio.ensure_future(self._service.run_async())
            if then is not None:
                await asyncio.get_running_loop().run_in_executor(None, wait_for_the_action)
                then(self)
            return await asyncio.wait_for(running, TIMEOUT_S)

        return asyncio.run(until_ended())

    def stop(self) -> None:
        """Tell it to stop, as Ctrl-C does."""
        os.kill(os.getpid(), signal.SIGINT)

    def kill(self, name: str) -> None:
        """End one process without a chance to say goodbye."""
        os.kill(self.pids[name], signal.SIGKILL)

    def _started(self, event: Any) -> None:
        self.pids[event.process_name.rpartition("-")[0]] = event.pid

    def _ended(self, event: Any) -> None:
        self.codes[event.process_name.rpartition("-")[0]] = event.returncode


def wait_for_the_action() -> None:
    """Return when the policy node takes goals."""
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=DOMAIN)
    try:
        node = rclpy.create_node("launch_test", context=context)
        client, end = ActionClient(node, RunSkill, "run_skill"), time.monotonic() + TIMEOUT_S
        while not client.wait_for_server(0.2):
            assert time.monotonic() < end, "the policy node never took goals"
        client.destroy()
        node.destroy_node()
    finally:
        rclpy.shutdown(context=context)


@pytest.fixture(autouse=True)
def own_domain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(DOMAIN))
    monkeypatch.setenv("ROS_LOG_DIR", str(tmp_path / "log"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def skills(tmp_path: Path) -> str:
    write_toy_bundle(tmp_path / "skills" / "open_drawer")
    return "skills"


def test_the_policy_node_comes_up_by_itself_and_both_end_cleanly(skills: str) -> None:
    launch = Launch(policy="true", skills=skills, seed="7")
    assert launch.run(Launch.stop) == 0
    assert launch.codes == {"diwa_sim": 0, "diwa_policy": 0}


@pytest.mark.parametrize(("killed", "other"), [("diwa_sim", "diwa_policy"), ("diwa_policy", "diwa_sim")])
def test_when_one_dies_the_other_ends_cleanly(skills: str, killed: str, other: str) -> None:
    launch = Launch(policy="true", skills=skills)
    launch.run(lambda running: running.kill(killed))
    assert list(launch.codes.items()) == [(killed, -signal.SIGKILL), (other, 0)]


def test_a_bundle_that_cannot_be_used_ends_the_launch() -> None:
    launch = Launch(policy="true", skills="nowhere")
    launch.run()
    assert list(launch.codes.items()) == [("diwa_policy", 2), ("diwa_sim", 0)]


def test_without_the_argument_there_is_no_policy_node(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("diwa_sim: {ros__parameters: {start: nowhere}}\n", encoding="utf-8")
    launch = Launch(config=str(config))
    launch.run()
    assert launch.codes == {"diwa_sim": 2}, "the file stands over sim.yaml, and what it says is refused"
    launch = Launch(config=str(config), start="narrow", seed="-1")
    launch.run()
    assert launch.codes == {"diwa_sim": 2}
