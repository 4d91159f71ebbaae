"""The simulator in place of the robot and, with `policy:=true`, the policy node; when one ends, so does the other."""

from pathlib import Path
from typing import Any, NamedTuple

import yaml
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable, Shutdown
from launch.conditions import IfCondition
from launch.substitutions import EnvironmentVariable, LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

BASE = Path(__file__).absolute().parents[1] / "config" / "sim.yaml"
SIMULATOR, POLICY = "diwa_sim", "diwa_policy"
ENVIRONMENT = {  # What is set already stays.
    "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    # Fast DDS's own default loses images.
    "FASTDDS_BUILTIN_TRANSPORTS": "LARGE_DATA?max_msg_size=2MB&sockets_size=4MB&non_blocking=false",
}


class Argument(NamedTuple):
    """One argument: of the launch, or a parameter of `node`, which stays as the files have it where none is given."""

    name: str
    default: str
    about: str
    node: str = ""


ARGUMENTS = (
    Argument("policy", "false", "start the policy node too"),
    Argument("config", "", "a file of parameters over config/sim.yaml"),
    Argument("log_level", "info", "of both nodes: debug, info, warn, error or fatal"),
    Argument("task", "", "what counts as success in the simulator; \"''\" = play", SIMULATOR),
    Argument("start", "", "spread of the start states: narrow, medium, wide or far", SIMULATOR),
    Argument("seed", "", "of the first episode; each reset takes the next", SIMULATOR),
    Argument("cameras", "", "render and publish both cameras", SIMULATOR),
    Argument("rate_factor", "", "simulated seconds in a second", SIMULATOR),
    Argument("skills", "", "folders, as A,B or [A, B]: each a bundle, or one that bundles lie in", POLICY),
    Argument("shadow", "", "say what would be done, and command nothing", POLICY),
    Argument("autostart", "", "configure and activate the policy node as soon as the robot is there", POLICY),
)


def read(name: str, text: str) -> ParameterValue:
    """Read a parameter as YAML would; what does not fit, the node refuses by its name."""
    if name == "skills":
        folders = yaml.safe_load(text) if text.startswith("[") else text.split(",")
        return ParameterValue([str(folder).strip() for folder in folders], value_type=list[str])
    value = yaml.safe_load(text)
    value = float(value) if name == "rate_factor" and type(value) is int else value
    return ParameterValue(value, value_type=type(value))


def nodes(context: LaunchContext) -> list[Node]:
    """Return both nodes; the one that starts last is told to stop first."""

    def node(package: str, name: str, **options: Any) -> Node:
        texts = {a.name: context.launch_configurations[a.name] for a in ARGUMENTS if a.node == name}
        given = {argument: read(argument, text) for argument, text in texts.items() if text}
        options |= {"output": "screen", "ros_arguments": ["--log-level", LaunchConfiguration("log_level")]}
        options |= {"name": name, "exec_name": name, "on_exit": Shutdown(reason=f"{name} ended")}
        return Node(package=package, executable="node", parameters=[*files, given] if given else files, **options)

    files = [str(BASE), *filter(None, [context.launch_configurations["config"]])]
    if not Path(files[-1]).is_file():
        raise FileNotFoundError(f"config:={files[-1]}: no such file")

    policy = IfCondition(LaunchConfiguration("policy"))
    return [node("diwa_sim", SIMULATOR), node("diwa_policy_node", POLICY, condition=policy)]


def generate_launch_description() -> LaunchDescription:
    """Describe it to `ros2 launch`."""
    environment = [SetEnvironmentVariable(n, EnvironmentVariable(n, default_value=v)) for n, v in ENVIRONMENT.items()]
    arguments = [DeclareLaunchArgument(a.name, default_value=a.default, description=a.about) for a in ARGUMENTS]
    return LaunchDescription([*environment, *arguments, OpaqueFunction(function=nodes)])
