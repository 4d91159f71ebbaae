"""What the launch files share: a robot, simulated or real, with cameras, policy node and tele-operation as asked for.

When one node ends, so do the others; the one that starts last is told to stop first, so the robot's goes last.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable, Shutdown
from launch.substitutions import EnvironmentVariable, LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

CONFIG = Path(__file__).absolute().parents[1] / "config"
SIMULATOR, BRIDGE, CAMERAS = "diwa_sim", "diwa_bridge", "diwa_cameras"
POLICY, TELEOP = "diwa_policy", "diwa_teleop"
ENVIRONMENT = {  # What is set already stays.
    "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    # Fast DDS's own default loses images.
    "FASTDDS_BUILTIN_TRANSPORTS": "LARGE_DATA?max_msg_size=2MB&sockets_size=4MB&non_blocking=false",
}


class Started(NamedTuple):
    """A node that a launch file starts, in the order of `NODES`; `asked` is the argument that asks for it, if any."""

    robots: str
    package: str
    executable: str
    asked: str = ""


NODES = {
    SIMULATOR: Started("sim", "diwa_sim", "node"),
    BRIDGE: Started("real", "diwa_bridge", "node"),
    CAMERAS: Started("real", "diwa_bridge", "cameras", "cameras"),
    POLICY: Started("sim real", "diwa_policy_node", "node", "policy"),
    TELEOP: Started("sim real", "diwa_bridge", "teleop", "devices"),
}


class Argument(NamedTuple):
    """One argument: of the launch, or a parameter of `node`, which stays as the files have it where none is given."""

    name: str
    default: str
    about: str
    node: str = ""
    robots: str = "sim real"


ARGUMENTS = (
    Argument("policy", "false", "start the policy node too"),
    Argument("config", "", "a file of parameters over the launch file's own"),
    Argument("log_level", "info", "of all nodes: debug, info, warn, error or fatal"),
    Argument("hostname", "", "of the arm's control box", BRIDGE),
    Argument("speed", "", "share of the arm's velocities and accelerations that is used", BRIDGE),
    Argument("gripper", "", "whether the arm has a Franka hand", BRIDGE),
    Argument("task", "", "what counts as success in the simulator; \"''\" = play", SIMULATOR),
    Argument("start", "", "spread of the start states: narrow, medium, wide or far", SIMULATOR),
    Argument("seed", "", "of the first episode; each reset takes the next", SIMULATOR),
    Argument("cameras", "", "render and publish both cameras", SIMULATOR),
    Argument("scene", "", "publish `scene/state`; false: as an arm without a tracker", SIMULATOR),
    Argument("cameras", "false", "start the cameras too", robots="real"),
    Argument("static_source", "", "realsense:SERIAL, file:PATH or opencv:INDEX", CAMERAS),
    Argument("wrist_source", "", "the same, of the camera on the hand", CAMERAS),
    Argument("rate_factor", "", "simulated seconds in a second", SIMULATOR),
    Argument("skills", "", "folders, as A,B or [A, B]: each a bundle, or one that bundles lie in", POLICY),
    Argument("shadow", "", "say what would be done, and command nothing", POLICY),
    Argument("autostart", "", "configure and activate the policy node as soon as the robot is there", POLICY),
    Argument("devices", "", "tele-operate, with gamepad, spacemouse or script:FILE, as A,B; none = not", TELEOP),
    Argument("tasks", "", "what is demonstrated, as A,B", TELEOP),
)
LISTS = {"skills", "devices", "tasks"}
PLACES = {"skills", "devices"}
"""Lists of folders and files: one that is there as it is written is one, whatever brackets and commas its name has."""
LAUNCHS_OWN = {
    "launch-prefix", "launch-prefix-filter", "emulate_tty", "sigterm_timeout", "sigkill_timeout", "ros_namespace",
}  # fmt: skip
"""What launch itself reads off the command line."""


def plain(text: str) -> Any:
    """Return what YAML makes of a text, a plain value or a list; anything else, or no YAML at all, stays the text."""
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):  # a date that is none is a ValueError
        return text
    return value if isinstance(value, bool | int | float | str | list) else text


def read(name: str, text: str) -> ParameterValue:
    """Read a parameter as YAML would; what does not fit, the node refuses by its name."""
    value = text if name == "hostname" else plain(text)
    if name in LISTS:
        named = name in PLACES and Path(text.removeprefix("script:")).exists()
        parts = [text] if named else value if isinstance(value, list) else text.split(",")
        # To a node an empty list would be no value at all.
        return ParameterValue([str(part).strip() for part in parts] or [""], value_type=list[str])
    value = text if isinstance(value, list) else value
    value = float(value) if name in ("rate_factor", "speed") and type(value) is int else value
    return ParameterValue(value, value_type=type(value))


def is_wanted(started: Started, texts: dict[str, str]) -> bool:
    """Whether a node is asked for: always, by a switch, or by naming what it is to use."""
    if not started.asked:
        return True
    value = plain(texts[started.asked] or "false")
    if started.asked not in LISTS and not isinstance(value, bool):
        raise ValueError(f"{started.asked}:={texts[started.asked]}: must be true or false")
    return bool(value)


def check_given(context: LaunchContext, names: Iterable[str]) -> None:
    """Refuse an argument that neither we declare nor a launch file that includes us; launch takes it in silence.

    Only the command line is looked at: what another launch file sets is its own business.
    """
    launched = getattr(context.get_locals_as_dict().get("event"), "launch_description", None)
    if launched is None:  # included later on, by a timer for example: who else declares what cannot be seen
        return
    known = {*names, *LAUNCHS_OWN, *(argument.name for argument in launched.get_launch_arguments())}
    for word in context.argv:
        if (name := word.partition(":=")[0]) not in known:
            meant = "".join(f", did you mean {close}:=?" for close in get_close_matches(name, names, 1))
            raise ValueError(f"{word}: there is no such argument{meant}; other parameters go into a file, config:=FILE")


def describe(robot: str) -> LaunchDescription:
    """Describe the stack around a robot, ``sim`` or ``real``, to `ros2 launch`."""
    started = {name: each for name, each in NODES.items() if robot in each.robots.split()}
    arguments = [a for a in ARGUMENTS if robot in a.robots.split() and (not a.node or a.node in started)]

    def node(name: str, files: list[str], texts: dict[str, str]) -> Node:
        given = {a.name: read(a.name, texts[a.name]) for a in arguments if a.node == name and texts[a.name]}
        return Node(
            package=started[name].package,
            executable=started[name].executable,
            name=name,
            exec_name=name,
            output="screen",
            ros_arguments=["--log-level", LaunchConfiguration("log_level")],
            parameters=[*files, given] if given else files,
            on_exit=Shutdown(reason=f"{name} ended"),
        )

    def nodes(context: LaunchContext) -> list[Node]:
        check_given(context, [argument.name for argument in arguments])
        texts = context.launch_configurations
        files = [str(CONFIG / f"{robot}.yaml"), *filter(None, [texts["config"]])]
        if not Path(files[-1]).is_file():
            raise FileNotFoundError(f"config:={files[-1]}: no such file")
        return [node(name, files, texts) for name, each in started.items() if is_wanted(each, texts)]

    environment = [SetEnvironmentVariable(n, EnvironmentVariable(n, default_value=v)) for n, v in ENVIRONMENT.items()]
    declared = [DeclareLaunchArgument(a.name, default_value=a.default, description=a.about) for a in arguments]
    return LaunchDescription([*environment, *declared, OpaqueFunction(function=nodes)])
