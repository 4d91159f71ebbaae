"""What of docker/ holds without an engine: what it names exists, and nothing in it is of one machine."""

from __future__ import annotations

import fnmatch
import os
import re
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from source_imports import imports

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "docker"
DOCKERFILE = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
COMPOSE = sorted(FOLDER.glob("compose*.yaml"))
PACKAGES = {
    "robot": ("diwa_runtime", "diwa_ros", "diwa_policy_node", "diwa_bridge"),
    "sim": ("diwa_runtime", "diwa_ros", "diwa_sim"),
    "trainer": ("diwa_runtime", "diwa_sim", "diwa_trainer"),
}
DISTRIBUTIONS = {"cv2": "opencv-python-headless", "yaml": "PyYAML", "franky": "franky-control"}
"""Of imports whose distribution has another name."""
COMES_WITH = {"lz4": "rosbags", "backports": "rosbags"}
OF_ONE_MACHINE = re.compile(
    r"\w+://\S+|(?<![\w.-])/(?:work|tmp|root|mnt|srv|media|usr/local|home/(?!diwa)|opt/(?!ros/jazzy))[\w./-]*"
)
"""Addresses, and folders that an image or another machine does not have."""


def is_ignored(path: str) -> bool:
    """Whether .dockerignore keeps a path out: the last pattern that matches it, or a folder that it is in, decides."""
    parts = Path(path).parts
    prefixes = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
    ignored = False
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!")
        patterns = [pattern, pattern.removeprefix("**/")]
        # Docker's * does not cross a slash.
        if any(
            fnmatch.fnmatch(prefix, each) and (each.startswith("**") or prefix.count("/") == each.count("/"))
            for prefix in prefixes
            for each in patterns
        ):
            ignored = not line.startswith("!")
    return ignored


def copied() -> list[str]:
    """What the Dockerfile copies from the workspace."""
    lines = re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
    return [source for line in lines for source in line.split()[:-1]]


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    assert len(copied()) > 5
    for source in copied():
        assert (ROOT / source).exists(), source
        inside = [source] if (ROOT / source).is_file() else [f"{source}/{p.name}" for p in (ROOT / source).iterdir()]
        assert not all(is_ignored(each) for each in inside), source


def test_what_a_checkout_collects_stays_out() -> None:
    for kept_out in (".git/HEAD", ".venv/bin/python", "build/x", "install/x", "log/x", "runs/demo/x", "bags/x",
                     "src/diwa_sim/test/test_node.py", "src/diwa_sim/diwa_sim/__pycache__/x.pyc"):  # fmt: skip
        assert is_ignored(kept_out), kept_out
    assert not is_ignored("src/diwa_sim/diwa_sim/node.py")


def test_stages_copy_from_stages() -> None:
    stages = re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.MULTILINE)
    known = {name for _, name in stages}
    assert {base for base, _ in stages} <= known | {"${BASE}"}
    assert set(re.findall(r"--from=(\S+)", DOCKERFILE)) <= known
    assert known >= PACKAGES.keys()


@pytest.fixture(params=COMPOSE, ids=lambda path: path.name)
def compose(request: pytest.FixtureRequest) -> Any:
    return yaml.safe_load(request.param.read_text(encoding="utf-8"))


def test_compose_builds_each_image_as_its_role(compose: Any) -> None:
    for name, service in compose["services"].items():
        build = service["build"]
        role = build["target"]
        assert role in PACKAGES, name
        assert (service["image"], build["args"]["ROLE"]) == (f"diwa-{role}", role), name
        assert (FOLDER / build["context"]).resolve() == ROOT
        assert (ROOT / build["dockerfile"]).is_file()
        assert {f"ARG {argument}" for argument in build["args"]} <= set(re.findall(r"ARG \w+", DOCKERFILE)), name


def test_compose_names_services_and_volumes_that_exist(compose: Any) -> None:
    services = compose["services"]
    for name, service in services.items():
        shared = [service.get(key, "") for key in ("network_mode", "ipc")]
        others = {*service.get("depends_on", {}), *(s.removeprefix("service:") for s in shared if "service:" in s)}
        assert others <= services.keys(), name
        for condition in service.get("depends_on", {}).values():
            assert condition == {"condition": "service_healthy"}, name
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert source in compose["volumes"] or source.startswith("/dev"), (name, volume)


def commands(compose: Any) -> Iterator[list[str]]:
    yield from (service["command"] for service in compose["services"].values() if "command" in service)
    yield from (yaml.safe_load(line) for line in re.findall(r"^CMD (\[.*\])$", DOCKERFILE, re.MULTILINE))


def test_what_is_started_exists_and_has_these_parameters(compose: Any) -> None:
    for words in commands(compose):
        if words[0] == "python":
            continue
        _, package, _, folder, executable = words[0].split("/")
        assert folder == package
        assert f'"{executable} = ' in (ROOT / "src" / package / "setup.py").read_text(encoding="utf-8"), words[0]
        sources = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "src" / package / package).rglob("*.py"))
        for name in (word.partition(":=")[0] for before, word in pairwise(words) if before == "-p"):
            assert re.search(rf"\b{name}\b", sources), name


def test_health_checks_ask_for_topics_that_their_node_has(compose: Any) -> None:
    tests = [s["healthcheck"]["test"] for s in compose["services"].values() if "test" in s.get("healthcheck", {})]
    tests += [
        ["CMD", *yaml.safe_load(line)] for line in re.findall(r"^HEALTHCHECK .*CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    ]
    assert len(tests) > 3
    for words in tests:
        assert words[:4] == ["CMD", "/diwa/docker/entrypoint", "python", "docker/healthy.py"]
        assert words[4] in ("robot/state", "policy/status")


@pytest.mark.parametrize("path", [p for p in FOLDER.iterdir() if p.is_file()], ids=lambda path: path.name)
def test_nothing_is_of_one_machine(path: Path) -> None:
    assert not OF_ONE_MACHINE.findall(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["images", "entrypoint"])
def test_scripts_are_executable_and_whole(name: str) -> None:
    assert os.access(FOLDER / name, os.X_OK)
    subprocess.run(["bash", "-n", FOLDER / name], check=True)


def required(path: Path) -> set[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return {re.split("[=<>]", line)[0].lower() for line in lines if line and not line.startswith(("#", "-c"))}


@pytest.mark.parametrize("role", PACKAGES)
def test_a_role_has_what_its_packages_import(role: str) -> None:
    names = required(ROOT / f"requirements/{role}.txt")
    pinned = required(ROOT / "requirements/base.txt")
    assert names <= pinned | required(ROOT / "requirements/dev.txt")
    for path in sources(role):
        for name in imports(path):
            distribution = COMES_WITH.get(name, DISTRIBUTIONS.get(name, name.replace("_", "-"))).lower()
            assert distribution in names or distribution not in pinned, (path.name, name)


def sources(role: str) -> Iterator[Path]:
    for package in PACKAGES[role]:
        yield from (ROOT / "src" / package / package).rglob("*.py")
    if role == "robot":  # records, where there is no rosbag2
        yield from (ROOT / "src/diwa_sim/diwa_sim" / f"{name}.py" for name in ("__init__", "recorder", "bags"))


@pytest.mark.parametrize(
    ("command", "variable", "says"),
    [
        ("scripts/setup", "DIWA_ROLE=robots", "must be robot, sim or trainer"),
        ("docker/images build", "ENGINE=lxc", "must be docker, podman or buildah"),
    ],
)
def test_a_name_that_is_none_is_one_line(command: str, variable: str, says: str) -> None:
    name, _, value = variable.partition("=")
    done = subprocess.run(command.split(), cwd=ROOT, env={**os.environ, name: value}, capture_output=True, text=True)
    assert done.returncode == 2
    assert variable in done.stderr
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
