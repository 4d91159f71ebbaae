"""Which Python the scripts take, and what set-up says before it begins."""

import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ENV = Path(__file__).parents[3] / "scripts" / "env.bash"
SYSTEM_ROS = Path("/opt/ros/jazzy/setup.bash")
pytestmark = pytest.mark.skipif(SYSTEM_ROS.exists(), reason="the system's Python is the one for the system's ROS")


@pytest.fixture
def workspace(tmp_path):
    """A workspace without an environment, and a PATH that has Pythons which only say their name."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ENV, tmp_path / "scripts")
    (tmp_path / "bin").mkdir()
    return tmp_path


def put(path: Path, works: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\nexit {0 if works else 127}\n")
    path.chmod(0o755)


def chosen(workspace: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": f"{workspace}/bin:/usr/bin:/bin", **variables}
    command = ["bash", "-c", "source scripts/env.bash && base_python"]
    return subprocess.run(command, cwd=workspace, env=environment, text=True, capture_output=True, check=False)


def test_the_first_python_that_starts_and_that_ros_has_wheels_for_is_taken(workspace):
    put(workspace / "bin" / "python3.11", works=False)  # as a version manager's name of one that is not chosen
    put(workspace / "bin" / "python3.13")
    put(workspace / "bin" / "python3.12")

    assert chosen(workspace).stdout.strip() == str(workspace / "bin" / "python3.12")


def test_a_python_that_is_named_is_taken_or_missed_by_name(workspace):
    put(workspace / "bin" / "python3.11")
    put(workspace / "bin" / "mine")

    assert chosen(workspace, PYTHON="mine").stdout.strip() == str(workspace / "bin" / "mine")
    missing = chosen(workspace, PYTHON="python9")
    assert missing.returncode != 0
    assert "there is no Python python9" in missing.stderr


def test_what_the_environment_was_made_with_stays(workspace):
    put(workspace / "bin" / "python3.11")
    venv.create(workspace / ".venv", symlinks=True)

    found = Path(chosen(workspace).stdout.strip())

    assert found.resolve() == Path(sys.executable).resolve()
    assert workspace / ".venv" not in found.parents


@pytest.mark.parametrize(
    ("version", "ros"), [("(3, 10)", "none"), ("(3, 11)", "wheels"), ("(3, 13)", "wheels"), ("(3, 14)", "none")]
)
def test_ros_comes_as_wheels_for_the_pythons_that_it_has_wheels_for(workspace, version, ros):
    python = workspace / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -c "import sys; sys.version_info = {version}; $2"\n')
    python.chmod(0o755)
    command = ["bash", "-c", f"source scripts/env.bash && which_ros {python}"]

    found = subprocess.run(command, cwd=workspace, text=True, capture_output=True, check=True)

    assert found.stdout.strip() == ros


def test_setup_says_what_it_installs_where_and_how_large_before_the_first_of_it(workspace):
    for name in ("setup", "system-packages", "relocate_ros_wheels.py"):
        shutil.copy(ENV.parent / name, workspace / "scripts")
    shutil.copytree(ENV.parents[1] / "requirements", workspace / "requirements")
    for name, line in {
        "dpkg-query": "exit 1",  # nothing is installed
        "id": "echo 0",
        "apt-get": f"echo apt-get >>{workspace}/began",
        "mine": f'case $2 in venv) echo venv >>{workspace}/began; exit 3 ;; *) exec {sys.executable} "$@" ;; esac',
    }.items():
        put(workspace / "bin" / name)
        (workspace / "bin" / name).write_text(f"#!/bin/sh\n{line}\n")
    environment = {"PATH": f"{workspace}/bin:/usr/bin:/bin", "PYTHON": "mine"}

    said = subprocess.run(
        ["scripts/setup"], cwd=workspace, env=environment, text=True, capture_output=True, check=False
    )

    assert (workspace / "began").read_text().split() == ["apt-get", "apt-get", "venv"], said.stderr
    head, apt, pip, *later = said.stdout.splitlines()
    assert head == "setup will install:"
    assert "into the system" in apt
    assert "GB" in apt
    assert "libegl1" in apt
    assert f"into {workspace}/.venv, 2.1 GB" in pip
    assert later[0].startswith("installing system packages")
