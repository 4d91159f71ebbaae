"""What holds for the whole workspace: who may import whom, and that every installed executable exists."""

from __future__ import annotations

import ast
import runpy
import xml.etree.ElementTree as ElementTree
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest
import setuptools
from source_imports import imports

SOURCES = Path(__file__).resolve().parents[2]
PYTHON_PACKAGES = ("diwa_runtime", "diwa_ros", "diwa_sim", "diwa_policy_node", "diwa_bridge", "diwa_trainer")
LAUNCH_PACKAGE = "diwa_bringup"
"""Launch files and parameters, and no Python package of its own."""
ROS = {"rclpy", "diwa_msgs", "rosidl_runtime_py", "ament_index_python"}
FORBIDDEN = {
    "diwa_runtime": ROS
    | {
        "torch",
        "rosbags",
        "mujoco",
        "gymnasium",
        "diwa_ros",
        "diwa_sim",
        "diwa_policy_node",
        "diwa_bridge",
        "diwa_trainer",
    },
    "diwa_ros": {"torch", "rosbags", "mujoco", "gymnasium", "diwa_sim", "diwa_trainer"},
    "diwa_sim": {"torch", "diwa_trainer"},
    "diwa_policy_node": {"torch", "rosbags", "mujoco", "gymnasium", "diwa_sim", "diwa_trainer"},
    "diwa_bridge": {"torch", "rosbags", "mujoco", "gymnasium", "diwa_sim", "diwa_policy_node", "diwa_trainer"},
    "diwa_trainer": ROS | {"mujoco", "diwa_ros", "diwa_sim", "diwa_policy_node", "diwa_bridge"},
}
ROS_MODULES = {
    "diwa_ros": {"process.py", "parameters.py", "diagnostics.py", "qos.py", "peers.py"},
    "diwa_bridge": {
        *(f"{room}/{module}.py" for room in ("arm", "cameras") for module in ("node", "settings")),
        "teleop/node.py",
        "teleop/stop_call.py",
    },
    "diwa_sim": {"hands.py", "node.py", "recorder.py"},
    "diwa_policy_node": {
        "node.py",
        "settings.py",
        "messages.py",
        "diagnostics.py",
        "client.py",
        "goal_server.py",
        "robot_link.py",
        "twin_episodes.py",
    },
}
"""The only modules of a package that may import ROS."""


def test_imports_are_read_wherever_they_stand_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text("import os.path, numpy as np\nfrom . import here\ndef later():\n    from torch.nn import Linear\n")

    assert imports(path) == {"os", "numpy", "torch"}


@pytest.mark.parametrize("package", PYTHON_PACKAGES)
def test_imports_point_one_way(package: str) -> None:
    folder = SOURCES / package / package
    paths = sorted(folder.rglob("*.py"))
    assert paths
    for path in paths:
        ros = set() if path.relative_to(folder).as_posix() in ROS_MODULES.get(package, set()) else ROS
        assert not imports(path) & (FORBIDDEN[package] | ros), path


def test_launch_files_name_executables_only() -> None:
    paths = sorted((SOURCES / LAUNCH_PACKAGE / "launch").glob("*.py"))
    assert paths
    allowed = {"collections", "difflib", "launch", "launch_ros", "pathlib", "runpy", "typing", "yaml"}
    for path in paths:
        assert imports(path) <= allowed, path
    assert not list((SOURCES / LAUNCH_PACKAGE).glob("*/__init__.py")), "it has no Python package"


def setup_arguments(package: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", lambda **given: arguments.update(given))
    monkeypatch.chdir(SOURCES / package)
    runpy.run_path("setup.py")
    return arguments


@pytest.mark.parametrize("package", [*PYTHON_PACKAGES, LAUNCH_PACKAGE])
def test_setup_agrees_with_the_package_file(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = setup_arguments(package, monkeypatch)
    manifest = ElementTree.parse(SOURCES / package / "package.xml").getroot()
    assert (manifest.findtext("name"), manifest.findtext("version")) == (arguments["name"], arguments["version"])
    assert arguments["extras_require"]["test"] == ["pytest"], "without it colcon test runs nothing and says OK"
    assert (package in arguments["packages"]) == (package != LAUNCH_PACKAGE)
    assert (SOURCES / package / "resource" / package).exists()


@pytest.mark.parametrize("package", ["diwa_sim", "diwa_policy_node", "diwa_bridge", "diwa_trainer"])
def test_every_executable_names_a_function(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = setup_arguments(package, monkeypatch)["entry_points"]["console_scripts"]
    assert scripts
    for script in scripts:
        module, _, function = script.partition("=")[2].strip().partition(":")
        tree = ast.parse((SOURCES / package / Path(*module.split("."))).with_suffix(".py").read_text(encoding="utf-8"))
        defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
        assigned = {target.id for target in targets if isinstance(target, ast.Name)}
        assert function in defined | assigned, script


def rooms_imported(package: str) -> dict[str, set[str]]:
    """By room (a folder, or a module beside the folders), the other rooms of its package that it imports."""
    folder = SOURCES / package / package
    found: dict[str, set[str]] = {}
    for path in folder.rglob("*.py"):
        parts = path.relative_to(folder).with_suffix("").parts
        room = found.setdefault(parts[0], set())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(f"{package}."):
                room.add(node.module.split(".")[1])
            elif isinstance(node, ast.ImportFrom) and node.module == package:
                room.update(alias.name for alias in node.names)
    return {room: others - {room} for room, others in found.items()}


@pytest.mark.parametrize("package", PYTHON_PACKAGES)
def test_rooms_of_a_package_do_not_import_one_another_in_a_circle(package: str) -> None:
    TopologicalSorter(rooms_imported(package)).prepare()
