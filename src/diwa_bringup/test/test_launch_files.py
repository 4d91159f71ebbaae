"""The launch file, with a stand-in for the launch API: what it declares and names is documented and exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

PACKAGE = Path(__file__).resolve().parents[1]
LAUNCH_FILE = PACKAGE / "launch" / "sim.launch.py"
README = (PACKAGE / "README.md").read_text(encoding="utf-8")


def table() -> dict[str, tuple[str, str]]:
    """Return the README's table of the launch file's arguments: default and meaning, by name."""
    section = README.partition(f"## Arguments of `{LAUNCH_FILE.name}`")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (?:`(.*?)`|none) \| (.*) \|$", section, re.MULTILINE)
    return {name: (default, about) for name, default, about in rows}


def base_parameters(node: str) -> dict[str, Any]:
    files = yaml.safe_load((PACKAGE / "config" / "sim.yaml").read_text(encoding="utf-8"))
    parameters: dict[str, Any] = files[node]["ros__parameters"]
    return parameters


def owner_of(argument: str, declared: dict[str, dict[str, Any]]) -> str | None:
    return next((node for node, parameters in declared.items() if argument in parameters), None)


def test_there_is_one_launch_file_and_it_fits_a_page() -> None:
    assert sorted((PACKAGE / "launch").glob("*.py")) == [LAUNCH_FILE], "a new one needs these tests too"
    assert len(LAUNCH_FILE.read_text(encoding="utf-8").splitlines()) < 80


def test_the_readme_names_the_arguments_and_their_meaning(launched: Any) -> None:
    documented = table()
    assert list(documented) == list(launched.arguments)
    assert {n: about for n, (_, about) in documented.items()} == {
        n: a.description for n, a in launched.arguments.items()
    }


@pytest.mark.ros
def test_the_readme_says_what_holds_without_arguments(launched: Any, declared: dict[str, dict[str, Any]]) -> None:
    for name, (default, _) in table().items():
        node, argument = owner_of(name, declared), launched.arguments[name]
        if node is None:
            assert default == argument.default_value, name
            continue
        assert argument.default_value == "", f"{name}: a default of the launch file's would hide the parameter files"
        value = base_parameters(node).get(name, declared[node][name])
        shown = "" if value == [""] else str(value).lower() if isinstance(value, bool) else str(value)
        assert default == shown, name


def test_the_package_files_and_executables_exist(launched: Any) -> None:
    for node in launched.nodes().values():
        setup = (PACKAGE.parent / node.package / "setup.py").read_text(encoding="utf-8")
        assert f'"{node.executable} = ' in setup, node
        assert node.parameters == [str(PACKAGE / "config" / "sim.yaml")], "nothing given, nothing over the file"
        assert node.package in (PACKAGE / "package.xml").read_text(encoding="utf-8")


@pytest.mark.ros
def test_the_built_workspace_has_them_too(launched: Any) -> None:
    packages = pytest.importorskip("ament_index_python.packages")
    try:
        share = Path(packages.get_package_share_directory("diwa_bringup"))
    except packages.PackageNotFoundError:
        pytest.skip("needs a built and sourced workspace (make test)")
    for folder in ("launch", "config"):
        names = {path.name for path in (PACKAGE / folder).glob("*.*")}
        assert {path.name for path in (share / folder).iterdir()} >= names, folder
    for node in launched.nodes().values():
        prefix = Path(packages.get_package_prefix(node.package))
        assert (prefix / "lib" / node.package / node.executable).is_file(), node


@pytest.mark.ros
def test_every_parameter_is_one_of_its_node(launched: Any, declared: dict[str, dict[str, Any]]) -> None:
    values = {name: "1" for name in launched.arguments if name != "config"}
    owned = 0
    for node, parameters in declared.items():
        given = launched.parameters(node, **values).keys()
        owned += len(given)
        assert given <= parameters.keys()
        for name, value in base_parameters(node).items():
            assert type(value) is type(parameters[name]), name
            assert value != parameters[name], f"sim.yaml: {name} is the node's own default; it says differences only"
    launch_only = {"policy", "config", "log_level"}
    assert owned == len(values.keys() - launch_only)
    files = yaml.safe_load((PACKAGE / "config" / "sim.yaml").read_text(encoding="utf-8"))
    assert files.keys() == declared.keys() == launched.nodes().keys()


@pytest.mark.ros
def test_an_argument_has_its_parameters_type(launched: Any, declared: dict[str, dict[str, Any]]) -> None:
    texts = {bool: "true", int: "4", float: "4", str: "narrow", list: "a"}
    for node, parameters in declared.items():
        own = {name: value for name, value in parameters.items() if name in launched.arguments}
        given = launched.parameters(node, **{name: texts[type(value)] for name, value in own.items()})
        assert {name: type(value) for name, value in given.items()} == {n: type(v) for n, v in own.items()}


@pytest.mark.parametrize(
    ("text", "folders"),
    [("a", ["a"]), ("a,b", ["a", "b"]), ("[a, b/c d]", ["a", "b/c d"]), ("a, 7", ["a", "7"]), ("[2026]", ["2026"])],
)
def test_skills_reach_the_node_as_strings(launched: Any, text: str, folders: list[str]) -> None:
    (parameters,) = [each for each in launched.nodes(skills=text)["diwa_policy"].parameters if isinstance(each, dict)]
    assert (parameters["skills"].value, parameters["skills"].value_type) == (folders, list[str])


def test_play_is_an_empty_task(launched: Any) -> None:
    assert launched.parameters("diwa_sim", task="''") == {"task": ""}


def test_arguments_stand_over_the_users_file_and_that_over_the_base(launched: Any, tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.touch()
    node = launched.nodes(config=str(config), seed="3")["diwa_sim"]
    assert node.parameters[:-1] == [str(PACKAGE / "config" / "sim.yaml"), str(config)]
    assert node.parameters[-1].keys() == {"seed"}
    with pytest.raises(FileNotFoundError, match="config:=nowhere"):
        launched.nodes(config="nowhere")


def test_the_policy_node_is_asked_for_and_told_to_stop_first(launched: Any) -> None:
    simulator, policy = launched.nodes().values()
    assert (simulator.name, policy.name) == ("diwa_sim", "diwa_policy")
    assert simulator.condition is None
    assert policy.condition.predicate_expression.variable_name == "policy"
    assert [node.on_exit.reason for node in (simulator, policy)] == ["diwa_sim ended", "diwa_policy ended"]


def test_an_environment_that_is_set_stays(launched: Any) -> None:
    assert launched.environment.keys() == {"ROS_AUTOMATIC_DISCOVERY_RANGE", "FASTDDS_BUILTIN_TRANSPORTS"}
    for name, value in launched.environment.items():
        assert value.name == name
        assert f"| `{name}` | `{value.default_value}` |" in README
