"""Every command that a page shows: its files, executables, arguments, parameters and flags exist."""

from __future__ import annotations

import importlib
import json
import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from diwa_runtime.spec import Spec

ROOT = Path(__file__).resolve().parents[3]
PAGES = [
    ROOT / "README.md",
    *(ROOT / "docs").glob("*.md"),
    *(ROOT / "src").glob("*/README.md"),
    ROOT / "docker/README.md",
]
FILES = {"sim": "sim.launch.py", "real": "real_robot.launch.py"}
EVERYTHING = {
    "sim": {"policy": "true", "devices": "gamepad"},
    "real": {"policy": "true", "devices": "gamepad", "cameras": "true"},
}


def commands(*start: str) -> Iterator[tuple[Path, list[str]]]:
    """Yield the words of each command that begins so, from code blocks and from code within the text."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        found = re.findall(r"^ {4,}(\S.*)$", text, re.MULTILINE)
        for code in [*found, *re.findall(r"`([^`\n]+)`", text)]:
            words = shlex.split(code, comments=True) if code.startswith(start[0]) else []
            if tuple(words[: len(start)]) == start:
                yield page, words[len(start) :]


def test_every_launch_argument_is_one_of_its_file(robot: str, launched: Any) -> None:
    shown = [
        (page, words[1:]) for page, words in commands("ros2", "launch", "diwa_bringup") if words[0] == FILES[robot]
    ]
    assert shown
    for page, words in shown:
        assert {word.partition(":=")[0] for word in words} <= launched.arguments.keys(), (page.name, words)


@pytest.mark.ros
def test_every_executable_and_parameter_is_there(
    robot: str, launched: Any, declared: dict[str, dict[str, Any]]
) -> None:
    nodes = {(node.package, node.executable): name for name, node in launched.nodes(**EVERYTHING[robot]).items()}
    for page, (package, executable, *words) in commands("ros2", "run"):
        if not package.startswith("diwa_"):
            continue
        setup = (ROOT / "src" / package / "setup.py").read_text(encoding="utf-8")
        assert f'"{executable} = ' in setup or package == "diwa_trainer", (page.name, executable)
        if (package, executable) in nodes:
            given = {word.partition(":=")[0] for before, word in pairwise(words) if before == "-p"}
            assert given <= declared[nodes[package, executable]].keys(), (page.name, words)


def test_every_flag_is_one_of_its_verb() -> None:
    main = pytest.importorskip("diwa_trainer.__main__")
    help_text = importlib.import_module("diwa_runtime.config.help").help_text
    shown = [*commands("ros2", "run", "diwa_trainer"), *commands("python", "-m", "diwa_trainer")]
    assert {words[0] for _, words in shown} >= {*main.VERBS} - {"pipeline", "evaluate"}
    for page, (verb, *words) in shown:
        if verb in main.VERBS:
            settings = getattr(importlib.import_module(f"diwa_trainer.verbs.{verb}"), main.VERBS[verb])
            known = re.findall(r"^  (--\S+)", help_text(settings, {}), re.MULTILINE)
            into = tuple(name.removesuffix("NAME") for name in known if name.endswith(".NAME"))
            flags = {word for word in words if word.startswith("--") and not word.startswith(into)}
            assert flags <= {*known, "--help"}, (page.name, words)


def test_the_spec_that_a_page_shows_is_one() -> None:
    page = (ROOT / "docs" / "your_robot.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^    \{\n.*?^    \}\n", page, re.MULTILINE | re.DOTALL)
    spec = Spec.from_json(json.loads(shown))
    assert (spec.mode, spec.scene, [task.name for task in spec.tasks]) == (
        "vision", ("drawer",), ["open_drawer", "close_drawer"]
    )  # fmt: skip
