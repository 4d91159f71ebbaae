"""Every number of the simulator's settings has bounds."""

import pytest
from bounded_settings import check_every_number_is_bounded

from diwa_runtime.errors import ConfigError
from diwa_sim.collect import CollectConfig


def test_every_number_is_bounded():
    check_every_number_is_bounded(CollectConfig)


def test_more_play_than_there_are_seeds_for_is_refused():
    with pytest.raises(ConfigError, match="play_steps are more than 500,000 episodes, for which there are no seeds"):
        CollectConfig("bags", play_steps=500_001, play_episode_steps=1)
