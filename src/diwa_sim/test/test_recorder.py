"""The recorder over real topics: what it could not record is said."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("diwa_msgs.msg", reason="needs a built and sourced workspace (make test)")
rclpy = pytest.importorskip("rclpy")

import yaml  # noqa: E402
from ros_rig import RosRig, rigs  # noqa: E402

from diwa_msgs.msg import RobotState  # noqa: E402
from diwa_runtime.errors import ConfigError  # noqa: E402
from diwa_sim.bags import BagWriter  # noqa: E402
from diwa_sim.recorder import LOST_KEY, Recorder  # noqa: E402

pytestmark = pytest.mark.ros


@pytest.fixture
def make_rig() -> Iterator[Callable[..., RosRig]]:
    yield from rigs(RosRig)


def test_messages_that_did_not_come_are_counted_and_noted_in_the_bag(
    make_rig: Callable[..., RosRig], tmp_path: Path
) -> None:
    rig = make_rig("robot")
    states = rig.peer.create_publisher(RobotState, "robot/state", 10)
    with BagWriter(tmp_path / "bag") as bag:
        recorder: Any = rig.add(Recorder(bag, context=rig.context))
        rig.spin_until(lambda: "/robot/state" in recorder.counts and states.get_subscription_count())
        write = next(s.callback for s in recorder.subscriptions if s.topic_name == "/robot/state")
        for number in (3, 4, 9, 10):
            write(bytes(256), {"received_timestamp": number, "publication_sequence_number": number})
        recorder.say_lost()
    assert recorder.lost == {"/robot/state": 4}
    metadata = yaml.safe_load((tmp_path / "bag" / "metadata.yaml").read_text())
    assert json.loads(metadata["rosbag2_bagfile_information"]["custom_data"][LOST_KEY]) == {"/robot/state": 4}


def test_a_topic_that_was_asked_for_and_never_spoke_is_named(make_rig: Callable[..., RosRig], tmp_path: Path) -> None:
    rig = make_rig("robot")
    with BagWriter(tmp_path / "bag") as bag:
        recorder: Any = rig.add(Recorder(bag, ["robot/stat"], context=rig.context))
        recorder.subscribe_to_new()
    assert recorder.silent == ["/robot/stat"]


@pytest.mark.parametrize("name", ["robot state", "1st", "a//b", ""])
def test_a_name_that_no_topic_can_have_is_one_line(make_rig: Callable[..., RosRig], tmp_path: Path, name: str) -> None:
    rig = make_rig("robot")
    with pytest.raises(ConfigError, match="--topics: "), BagWriter(tmp_path / "bag") as bag:
        Recorder(bag, [name], context=rig.context)
