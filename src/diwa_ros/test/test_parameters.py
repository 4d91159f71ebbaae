"""Parameters as a table: what a file says reaches the node in the default's type, or is one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")

from rcl_interfaces.msg import Parameter as RosParameter
from rcl_interfaces.msg import ParameterValue
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.node import Node
from ros_rig import RosRig

from diwa_ros.parameters import Parameter, declared
from diwa_ros.process import ros_process
from diwa_runtime.errors import ConfigError

pytestmark = pytest.mark.ros

TABLE = {
    "folders": Parameter([""], "some folders"),
    "speed": Parameter(0.1, "how fast", 0.0, 1.0),
    "count": Parameter(3, "how many", 1, 9),
    "corner": Parameter([0.1, 0.2], "where", -1.0, 1.0),
    "sizes": Parameter([1, 2], "how large", 1, 9),
}
DEFAULTS = {"corner": [0.1, 0.2], "sizes": [1, 2]}


def from_file(tmp_path: Path, text: str) -> dict[str, Any]:
    import rclpy

    path = tmp_path / "parameters.yaml"
    path.write_text(f"table:\n  ros__parameters: {text}\n", encoding="utf-8")
    with ros_process(args=["node", "--ros-args", "--params-file", str(path)]):
        node = rclpy.create_node("table")
        try:
            return declared(node, TABLE)
        finally:
            node.destroy_node()


def test_what_the_file_leaves_out_is_the_default(tmp_path: Path) -> None:
    found = {name: list(v) if name in DEFAULTS else v for name, v in from_file(tmp_path, "{speed: 0.5}").items()}
    assert found == {"folders": [""], "speed": 0.5, "count": 3, **DEFAULTS}


def test_an_empty_list_is_a_list(tmp_path: Path) -> None:
    assert from_file(tmp_path, "{folders: []}")["folders"] == []


@pytest.mark.parametrize(
    "text",
    [
        "{speed: 2.0}", "{count: 0}", "{speed: fast}", "{count: 2.5}", "{speed: .nan}", "{speed: .inf}",
        "{corner: [0.0, .nan]}", "{corner: [0.0, 2.0]}", "{sizes: [1, 10]}",
    ],
)  # fmt: skip
def test_what_cannot_be_is_named_with_its_meaning(tmp_path: Path, text: str) -> None:
    name = text[1:].partition(":")[0]
    with pytest.raises(ConfigError, match=rf"table: parameter {name} \({TABLE[name].about}\)"):
        from_file(tmp_path, text)


class Caller(RosRig):
    """Who sets parameters of a node over its services."""

    def __init__(self) -> None:
        super().__init__("stranger")
        self.node = self.add(Node("table", context=self.context))
        declared(self.node, TABLE)
        declared(self.node, {"late": Parameter(1, "declared later")})

    def ask(self, kind: Any, name: str, *parameters: Any) -> Any:
        client = self.peer.create_client(kind, f"table/{name}")
        self.spin_until(client.service_is_ready)
        answer = client.call_async(kind.Request(parameters=list(parameters)))
        self.spin_until(answer.done)
        return answer.result()


def test_whatever_a_stranger_sets_the_node_answers_and_goes_on() -> None:
    rig = Caller()
    try:
        for number in (99, 2, 255):
            wish = RosParameter(name="count", value=ParameterValue(type=number, integer_value=7))
            answer = rig.ask(SetParameters, "set_parameters", wish, wish)
            assert [result.successful for result in answer.results] == [False, False]
            assert not rig.ask(SetParametersAtomically, "set_parameters_atomically", wish).result.successful
        assert "there is no type 255" in answer.results[0].reason
        assert rig.node.get_parameter("count").value == 3
    finally:
        rig.close()
