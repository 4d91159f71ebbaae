"""Every number of the clients' settings and of the nodes' parameters has bounds."""

import importlib

import pytest

pytest.importorskip("rclpy")

from bounded_settings import check_every_number_is_bounded

from diwa_policy_node.client import RunSkillConfig
from diwa_policy_node.twin_episodes import TwinEpisodesConfig

pytestmark = pytest.mark.ros


@pytest.mark.parametrize("cls", [RunSkillConfig, TwinEpisodesConfig])
def test_every_number_is_bounded(cls):
    check_every_number_is_bounded(cls)


@pytest.mark.parametrize(
    "module",
    [
        "diwa_policy_node.settings",
        "diwa_sim.node",
        "diwa_bridge.arm.settings",
        "diwa_bridge.cameras.settings",
        "diwa_bridge.teleop.node",
    ],
)
def test_every_parameter_that_is_a_number_has_bounds_and_a_default_within(module):
    parameters = importlib.import_module(module).PARAMETERS
    for name, parameter in parameters.items():
        first = parameter.default[0] if isinstance(parameter.default, list) else parameter.default
        if isinstance(first, int | float) and not isinstance(first, bool):
            assert parameter.low is not None, name
            assert parameter.high is not None, name
            assert parameter.odd(parameter.default) is None, name
            assert parameter.odd(float("nan")) is not None, name
