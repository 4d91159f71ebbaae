"""Which of a bag's topics is which of the Spec's: what says most of a topic's name is meant."""

import itertools

import pytest

from diwa_runtime.errors import InputError
from diwa_trainer.ingest.topics import TopicNames

TYPE = "sensor_msgs/msg/JointState"


@pytest.mark.parametrize("names", itertools.permutations(["joint_states", "gripper/joint_states"]))
@pytest.mark.parametrize("topics", itertools.permutations(["/left/joint_states", "/left/gripper/joint_states"]))
def test_of_names_that_fit_the_longest_is_meant_in_whatever_order_they_stand(names, topics):
    found = TopicNames(dict.fromkeys(names, TYPE))

    assert {found.of(topic, TYPE) for topic in topics} == set(names)
    assert found.found == {"joint_states": "/left/joint_states", "gripper/joint_states": "/left/gripper/joint_states"}


def test_two_topics_of_one_name_are_two_robots():
    found = TopicNames({"joint_states": TYPE})
    assert found.of("/left/joint_states", TYPE) == "joint_states"
    assert found.of("/left/joints", TYPE) is None

    with pytest.raises(InputError, match="both /left/joint_states and /right/joint_states could be 'joint_states'"):
        found.of("/right/joint_states", TYPE)
