"""A small stand-in for the launch API, of jazzy's signatures: it keeps what it is given and starts nothing."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

LAUNCH = Path(__file__).resolve().parents[1] / "launch"
FILES = {"sim": "sim.launch.py", "real": "real_robot.launch.py"}


@dataclass
class LaunchDescription:
    entities: list[Any]

    def get_launch_arguments(self) -> list[Any]:
        return [each for each in self.entities if isinstance(each, DeclareLaunchArgument)]


@dataclass
class LaunchContext:
    launch_configurations: dict[str, str]
    argv: list[str] = field(default_factory=list)
    event: Any = None

    def get_locals_as_dict(self) -> dict[str, Any]:
        return {"event": self.event}


@dataclass
class DeclareLaunchArgument:
    name: str
    default_value: str = field(kw_only=True)
    description: str = field(kw_only=True)


@dataclass
class OpaqueFunction:
    function: Callable[..., Any] = field(kw_only=True)


@dataclass
class SetEnvironmentVariable:
    name: str
    value: Any


@dataclass
class Shutdown:
    reason: str = field(kw_only=True)


@dataclass
class LaunchConfiguration:
    variable_name: str


@dataclass
class EnvironmentVariable:
    name: str
    default_value: str = field(kw_only=True)


@dataclass(kw_only=True)
class Node:
    package: str
    executable: str
    name: str
    exec_name: str
    parameters: list[Any]
    output: str
    ros_arguments: list[Any]
    on_exit: Any


@dataclass
class ParameterValue:
    value: Any
    value_type: Any = field(kw_only=True)


API = {
    "launch": [LaunchContext, LaunchDescription],
    "launch.actions": [DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable, Shutdown],
    "launch.substitutions": [EnvironmentVariable, LaunchConfiguration],
    "launch_ros": [],
    "launch_ros.actions": [Node],
    "launch_ros.parameter_descriptions": [ParameterValue],
}


class Launched:
    """What a launch file describes.

    Attributes:
        arguments: declared, by name.
        environment: the variables that it sets.
    """

    def __init__(self, path: Path) -> None:
        self._description = runpy.run_path(str(path))["generate_launch_description"]()
        entities = self._description.entities
        self.arguments = {each.name: each for each in entities if isinstance(each, DeclareLaunchArgument)}
        self.environment = {each.name: each.value for each in entities if isinstance(each, SetEnvironmentVariable)}
        self._functions = [each.function for each in entities if isinstance(each, OpaqueFunction)]

    def nodes(self, **given: str) -> dict[str, Any]:
        """Return the nodes, by name, when these arguments are given."""
        assert given.keys() <= self.arguments.keys()
        defaults = {name: argument.default_value for name, argument in self.arguments.items()}
        return self.visited(LaunchContext({**defaults, **given}))

    def commanded(self, *words: str, including: tuple[str, ...] = ()) -> dict[str, Any]:
        """Return the nodes when a command line says these words to a file that declares `including` besides ours."""
        given = dict(word.split(":=", 1) for word in words)
        others = [DeclareLaunchArgument(name, default_value="", description="") for name in including]
        root = LaunchDescription([*others, *self._description.entities])
        defaults = {argument.name: argument.default_value for argument in root.get_launch_arguments()}
        return self.visited(LaunchContext(defaults | given, list(words), SimpleNamespace(launch_description=root)))

    def visited(self, context: LaunchContext) -> dict[str, Any]:
        """Return the nodes in a context."""
        return {node.name: node for function in self._functions for node in function(context)}

    def parameters(self, node: str, **given: str) -> dict[str, Any]:
        """Return the parameters that the node is given over its files."""
        over = [each for each in self.nodes(**given)[node].parameters if isinstance(each, dict)]
        return {name: parameter.value for each in over for name, parameter in each.items()}


@pytest.fixture(params=FILES)
def robot(request: pytest.FixtureRequest) -> str:
    """Each robot, by what its parameter file is called."""
    return str(request.param)


@pytest.fixture
def launched(robot: str, monkeypatch: pytest.MonkeyPatch) -> Launched:
    """What the robot's launch file describes, read with the stand-in."""
    for name, classes in API.items():
        module = ModuleType(name)
        vars(module).update({each.__name__: each for each in classes})
        monkeypatch.setitem(sys.modules, name, module)
    return Launched(LAUNCH / FILES[robot])


class Declared(dict[str, Any]):
    """A node that only takes down which parameters are declared, with their defaults."""

    services = ()

    def declare_parameter(self, name: str, default: Any, _descriptor: Any) -> Any:
        self[name] = default
        return SimpleNamespace(value=default)


@pytest.fixture
def declared() -> dict[str, dict[str, Any]]:
    """Parameters and defaults that the nodes themselves declare, by the node's name."""
    pytest.importorskip("diwa_msgs.msg", reason="needs a built and sourced workspace (make test)")
    from diwa_bridge.arm import settings as arm
    from diwa_bridge.cameras import settings as cameras
    from diwa_bridge.teleop import node as teleop
    from diwa_policy_node import settings as policy
    from diwa_sim import node

    simulator = Declared()
    node.declare_settings(simulator)  # type: ignore[arg-type]
    assert simulator.keys() == node.TableSettings.__annotations__.keys()
    tables = {
        "diwa_bridge": arm.PARAMETERS,
        "diwa_cameras": cameras.PARAMETERS,
        "diwa_policy": policy.PARAMETERS,
        "diwa_teleop": teleop.PARAMETERS,
    }
    plain = {node: {name: each.default for name, each in table.items()} for node, table in tables.items()}
    return {"diwa_sim": dict(simulator), **plain}
