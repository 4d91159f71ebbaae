from __future__ import annotations

from pathlib import Path

import pytest

from diwa_runtime import interfaces
from diwa_runtime.errors import InputError

ENUMERATED = {"RobotState": "MODE_FAULT", "EpisodeEvent": "DISCARD", "PolicyStatus": "STATE_FAULT"}


def test_every_message_of_the_contract_is_there() -> None:
    names = {name.removeprefix("diwa_msgs/msg/") for name in interfaces.message_definitions()}
    assert names == {"EndEffectorDelta", "EpisodeEvent", "PolicyStatus", "RobotState", "SceneState", "ShadowDivergence"}


def test_every_field_says_its_unit_or_meaning() -> None:
    for name, text in interfaces.message_definitions().items():
        for line in text.splitlines():
            if line.strip() and not line.startswith("#"):
                assert "#" in line, f"{name}: {line!r} has no comment"


@pytest.mark.parametrize(("message", "constant"), ENUMERATED.items())
def test_enumerations_are_constants(message: str, constant: str) -> None:
    assert f"{constant} =" in interfaces.message_definitions()[f"diwa_msgs/msg/{message}"]


def test_installed_definitions_are_found_through_the_ament_prefix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "share" / "diwa_msgs" / "msg"
    folder.mkdir(parents=True)
    (folder / "Only.msg").write_text("uint8 a  # no unit\n")
    monkeypatch.setattr(interfaces, "__file__", str(tmp_path / "elsewhere" / "a" / "b" / "interfaces.py"))
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    assert interfaces.message_definitions() == {"diwa_msgs/msg/Only": "uint8 a  # no unit\n"}


def test_missing_definitions_are_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interfaces, "__file__", str(tmp_path / "elsewhere" / "a" / "b" / "interfaces.py"))
    monkeypatch.delenv("AMENT_PREFIX_PATH", raising=False)
    with pytest.raises(InputError, match="source"):
        interfaces.message_definitions()


@pytest.mark.parametrize("kind", ["nowhere_msgs/msg/Arm", "Arm", "", "json/msg/Arm"])
def test_a_type_that_is_not_there_is_one_line(kind: str) -> None:
    with pytest.raises(InputError, match="no message type of that name here"):
        interfaces.message_class(kind)
