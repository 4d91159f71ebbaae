"""The launch file, with a stand-in for the launch API: what it declares and names is documented and exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

PACKAGE = Path(__file__).resolve().parents[1]
FILES = {"sim": "sim.launch.py", "real": "real_robot.launch.py"}
README = (PACKAGE / "README.md").read_text(encoding="utf-8")
EVERYTHING = {
    "sim": {"policy": "true", "devices": "gamepad"},
    "real": {"policy": "true", "devices": "gamepad", "cameras": "true"},
}
LAUNCH_ONLY = {"policy", "config", "log_level"}


def table(robot: str) -> dict[str, tuple[str, str]]:
    """Return the README's table of a launch file's arguments: default and meaning, by name."""
    section = README.partition(f"## Arguments of `{FILES[robot]}`")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (?:`(.*?)`|none) \| (.*) \|$", section, re.MULTILINE)
    return {name: (default, about) for name, default, about in rows}


def base_parameters(robot: str) -> dict[str, dict[str, Any]]:
    """Return the parameters of the robot's own file, by node."""
    files = yaml.safe_load((PACKAGE / "config" / f"{robot}.yaml").read_text(encoding="utf-8"))
    return {node: each["ros__parameters"] for node, each in files.items()}


def owner_of(argument: str, nodes: Any, declared: dict[str, dict[str, Any]]) -> str | None:
    return next((node for node in nodes if argument in declared[node]), None)


def test_each_robot_has_a_launch_file_that_fits_a_page() -> None:
    paths = {path.name: path for path in (PACKAGE / "launch").glob("*.launch.py")}
    assert sorted(paths) == sorted(FILES.values()), "a new one needs these tests too"
    for path in paths.values():
        assert len(path.read_text(encoding="utf-8").splitlines()) < 80


def test_the_readme_names_the_arguments_and_their_meaning(robot: str, launched: Any) -> None:
    documented = table(robot)
    assert list(documented) == list(launched.arguments)
    assert {n: about for n, (_, about) in documented.items()} == {
        n: a.description for n, a in launched.arguments.items()
    }


@pytest.mark.ros
def test_the_readme_says_what_holds_without_arguments(
    robot: str, launched: Any, declared: dict[str, dict[str, Any]]
) -> None:
    nodes = launched.nodes(**EVERYTHING[robot])
    for name, (default, _) in table(robot).items():
        node, argument = owner_of(name, nodes, declared), launched.arguments[name]
        if node is None or name == "devices":
            assert default == argument.default_value, name
            continue
        assert argument.default_value == "", f"{name}: a default of the launch file's would hide the parameter files"
        value = base_parameters(robot).get(node, {}).get(name, declared[node][name])
        shown = "" if value == [""] else str(value).lower() if isinstance(value, bool) else str(value)
        assert default == shown, name


def test_the_package_files_and_executables_exist(robot: str, launched: Any) -> None:
    for node in launched.nodes(**EVERYTHING[robot]).values():
        setup = (PACKAGE.parent / node.package / "setup.py").read_text(encoding="utf-8")
        assert f'"{node.executable} = ' in setup, node
        assert node.parameters[0] == str(PACKAGE / "config" / f"{robot}.yaml")
        assert node.package in (PACKAGE / "package.xml").read_text(encoding="utf-8")


@pytest.mark.ros
def test_the_built_workspace_has_them_too(robot: str, launched: Any) -> None:
    packages = pytest.importorskip("ament_index_python.packages")
    try:
        share = Path(packages.get_package_share_directory("diwa_bringup"))
    except packages.PackageNotFoundError:
        pytest.skip("needs a built and sourced workspace (make test)")
    for folder in ("launch", "config"):
        names = {path.name for path in (PACKAGE / folder).glob("*.*")}
        assert {path.name for path in (share / folder).iterdir()} >= names, folder
    for node in launched.nodes(**EVERYTHING[robot]).values():
        prefix = Path(packages.get_package_prefix(node.package))
        assert (prefix / "lib" / node.package / node.executable).is_file(), node


@pytest.mark.ros
def test_every_parameter_is_one_of_its_node(robot: str, launched: Any, declared: dict[str, dict[str, Any]]) -> None:
    values = {name: "1" for name in launched.arguments if name not in ("config", "policy", "cameras")}
    values |= EVERYTHING[robot]
    owned, nodes = 0, launched.nodes(**values)
    for node in nodes:
        given = launched.parameters(node, **values).keys()
        owned += len(given)
        assert given <= declared[node].keys()
    switches = {"cameras"} if robot == "real" else set()
    assert owned == len(values.keys() - LAUNCH_ONLY - switches)
    for node, parameters in base_parameters(robot).items():
        assert node in nodes
        for name, value in parameters.items():
            assert type(value) is type(declared[node][name]), name
            assert value != declared[node][name], f"{name} is the node's own default; the file says differences only"


@pytest.mark.parametrize("switch", ["policy", "cameras", "devices"])
def test_a_node_that_is_not_asked_for_is_not_started(robot: str, launched: Any, switch: str) -> None:
    if switch == "cameras" and robot == "sim":
        pytest.skip("the simulator's node has cameras of its own")
    without = {name: text for name, text in EVERYTHING[robot].items() if name != switch}
    gone = launched.nodes(**EVERYTHING[robot]).keys() - launched.nodes(**without).keys()
    assert gone == {{"policy": "diwa_policy", "cameras": "diwa_cameras", "devices": "diwa_teleop"}[switch]}
    if switch != "devices":
        with pytest.raises(ValueError, match=f"{switch}:=maybe"):
            launched.nodes(**{**without, switch: "maybe"})


@pytest.mark.ros
def test_an_argument_has_its_parameters_type(robot: str, launched: Any, declared: dict[str, dict[str, Any]]) -> None:
    texts = {bool: "true", int: "4", float: "4", str: "narrow", list: "a"}
    for node in launched.nodes(**EVERYTHING[robot]):
        own = {name: value for name, value in declared[node].items() if name in launched.arguments}
        asked = EVERYTHING[robot] | {name: texts[type(value)] for name, value in own.items()}
        given = launched.parameters(node, **asked)
        assert {name: type(value) for name, value in given.items()} == {n: type(v) for n, v in own.items()}


@pytest.mark.parametrize(
    ("text", "folders"),
    [
        ("a", ["a"]),
        ("a,b", ["a", "b"]),
        ("[a, b/c d]", ["a", "b/c d"]),
        ("a, 7", ["a", "7"]),
        ("[2026]", ["2026"]),
        ("[]", [""]),
        ("[a", ["[a"]),
        ("@a", ["@a"]),
    ],
)
def test_skills_reach_the_node_as_strings(launched: Any, text: str, folders: list[str]) -> None:
    (parameters,) = [
        each for each in launched.nodes(policy="true", skills=text)["diwa_policy"].parameters if isinstance(each, dict)
    ]
    assert (parameters["skills"].value, parameters["skills"].value_type) == (folders, list[str])


@pytest.mark.parametrize("name", ["monday, am", "[old]", "bags (copy)", "[a, b", "7"])
def test_a_folder_that_is_there_is_one_folder_whatever_its_name(launched: Any, tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    for argument, node, text in (
        ("skills", "diwa_policy", str(tmp_path / name)),
        ("devices", "diwa_teleop", f"script:{tmp_path / name}"),
    ):
        asked = {"policy": "true", argument: text}
        assert launched.parameters(node, **asked)[argument] == [text]


@pytest.mark.parametrize("text", ["null", "2026-99-99", "2026-01-01", "{a: 1}", "{", "[1", "[1]", "@a"])
def test_what_is_no_plain_value_reaches_the_node_as_text(robot: str, launched: Any, text: str) -> None:
    """It says by the parameter's name what is wrong with it; launch would not."""
    node, name = {"sim": ("diwa_sim", "seed"), "real": ("diwa_bridge", "speed")}[robot]
    assert launched.parameters(node, **{name: text}) == {name: text}
    with pytest.raises(ValueError, match="policy:="):
        launched.nodes(policy=text)


@pytest.mark.parametrize(
    ("text", "wanted"), [("", False), ("false", False), ("[]", False), ("@a", True), ("a: b", True)]
)
def test_tele_operation_is_wanted_when_a_device_is_named(launched: Any, text: str, wanted: bool) -> None:
    assert ("diwa_teleop" in launched.nodes(devices=text)) == wanted


@pytest.mark.parametrize("robot", ["sim"])
def test_play_is_an_empty_task(launched: Any) -> None:
    assert launched.parameters("diwa_sim", task="''") == {"task": ""}


def test_arguments_stand_over_the_users_file_and_that_over_the_base(robot: str, launched: Any, tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.touch()
    argument, first = {"sim": ("seed", "diwa_sim"), "real": ("speed", "diwa_bridge")}[robot]
    node = launched.nodes(config=str(config), **{argument: "1"})[first]
    assert node.parameters[:-1] == [str(PACKAGE / "config" / f"{robot}.yaml"), str(config)]
    assert node.parameters[-1].keys() == {argument}
    with pytest.raises(FileNotFoundError, match="config:=nowhere"):
        launched.nodes(config="nowhere")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("sped:=0.05", "sped:=0.05: there is no such argument, did you mean speed:=?"),
        ("realtime:=true", "realtime:=true: there is no such argument; other parameters go into a file, config:=FILE"),
        ("workspace_low:=[0.3, 0.0, 0.1]", "workspace_low:=[0.3, 0.0, 0.1]: there is no such argument"),
        ("seed:=4", "seed:=4: there is no such argument"),
    ],
)
@pytest.mark.parametrize("robot", ["real"])
def test_an_argument_that_is_none_is_refused_with_the_nearest(launched: Any, word: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)) as error:
        launched.commanded("hostname:=10.1.1.1", word)
    assert "\n" not in str(error.value)


def test_what_launch_reads_itself_and_what_an_including_file_declares_passes(launched: Any) -> None:
    words = ["log_level:=debug", "launch-prefix:=nice", "sigkill_timeout:=20", "ros_namespace:=left"]
    assert launched.commanded(*words).keys() == launched.nodes().keys()
    assert (
        launched.commanded(*words, "camera_height:=2", including=("camera_height",)).keys() == launched.nodes().keys()
    )
    first = next(iter(launched.nodes()))
    node = launched.commanded("shelf:=2", including=("shelf",))[first]
    assert all(isinstance(each, str) for each in node.parameters), "it is no parameter of ours"


def test_the_robot_is_told_to_stop_last_and_one_end_is_the_end_of_all(robot: str, launched: Any) -> None:
    nodes = launched.nodes(**EVERYTHING[robot])
    assert next(iter(nodes)) == {"sim": "diwa_sim", "real": "diwa_bridge"}[robot]
    assert next(iter(launched.nodes())) == next(iter(nodes)), "and it is always there"
    assert [node.on_exit.reason for node in nodes.values()] == [f"{name} ended" for name in nodes]


def test_an_address_stays_a_text(launched: Any, robot: str) -> None:
    if robot == "real":
        assert launched.parameters("diwa_bridge", hostname="10.1") == {"hostname": "10.1"}


def test_an_environment_that_is_set_stays(launched: Any) -> None:
    assert launched.environment.keys() == {"ROS_AUTOMATIC_DISCOVERY_RANGE", "FASTDDS_BUILTIN_TRANSPORTS"}
    for name, value in launched.environment.items():
        assert value.name == name
        assert f"| `{name}` | `{value.default_value}` |" in README
