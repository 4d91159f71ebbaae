"""The profile for `ros2 bag record`: its topics are the contract's, and latched ones are asked for as such."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from diwa_runtime import events
from diwa_runtime.cameras import device_topic
from diwa_runtime.robot import SPEC_TOPIC
from diwa_runtime.stream_spec import DEFAULT_STREAMS

PACKAGE = Path(__file__).resolve().parents[1]
DOCS = PACKAGE.parents[1] / "docs"
POLICIES = {
    "history": {"keep_last"},
    "reliability": {"reliable", "best_effort"},
    "durability": {"volatile", "transient_local"},
}
NOT_RECORDED = {"/clock"}
"""A player makes its own."""


def config(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((PACKAGE / "config" / name).read_text(encoding="utf-8"))
    return found


def topics_of_the_contract() -> dict[str, str]:
    """Return what the nodes' pages list as topics, with the rest of the row."""
    topics = {}
    for page in ("simulator_node.md", "bridge.md", "policy_node.md"):
        section = (DOCS / page).read_text(encoding="utf-8").partition("\n## Topics")[2].partition("\n## ")[0]
        for names, row in re.findall(r"^\| (.*?`) ?(?:\(\w+\) )?(\|.*)$", section.replace("*", "{static,wrist}"), re.M):
            for name in [] if "std_srvs" in row else re.findall(r"`([\w/{},]+)`", names):
                for camera in ("static", "wrist"):
                    topics["/" + name.replace("{static,wrist}", camera).lstrip("/")] = row
    return topics


def recorded() -> list[str]:
    topics: list[str] = config("record.yaml")["rosbag2_recorder"]["ros__parameters"]["record"]["topics"]
    return topics


def test_every_topic_of_the_contract_is_recorded_into_mcap() -> None:
    assert set(recorded()) == topics_of_the_contract().keys() - NOT_RECORDED
    assert len(recorded()) == len(set(recorded()))
    needed = {stream.topic for stream in DEFAULT_STREAMS} | {events.TOPIC, SPEC_TOPIC}
    assert {f"/{topic}" for topic in needed} <= set(recorded()), "ingest needs these"
    assert config("record.yaml")["rosbag2_recorder"]["ros__parameters"]["storage"] == {"storage_id": "mcap"}


def test_latched_topics_and_cameras_are_asked_for_as_what_they_are() -> None:
    overrides, contract = config("qos_overrides.yaml"), topics_of_the_contract()
    latched = {topic for topic, row in contract.items() if "latched" in row}
    cameras = {topic for topic in contract if topic.endswith("/image/compressed")}
    assert overrides.keys() == latched | cameras
    devices = {f"/{device_topic(camera)}" for camera in ("static", "wrist")}
    assert latched == {f"/{SPEC_TOPIC}", f"/{events.TOPIC}", *devices}
    for topic, policy in overrides.items():
        assert policy.keys() == {*POLICIES, "depth"}, topic
        assert all(policy[name] in values for name, values in POLICIES.items()), topic
        assert (policy["durability"] == "transient_local") == (topic in latched), topic
        assert (policy["reliability"] == "best_effort") == (topic in cameras), topic


def test_the_readmes_command_records_the_same() -> None:
    readme = (PACKAGE / "README.md").read_text(encoding="utf-8")
    command = readme.partition("    ros2 bag record ")[2].partition("\n\n")[0].replace("\\\n", " ")
    assert command.partition("--topics")[2].split() == recorded()
    assert "--storage mcap" in command
    for name in re.findall(r"config/(\w+\.yaml)", readme):
        assert (PACKAGE / "config" / name).is_file()
