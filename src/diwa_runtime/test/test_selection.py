"""Selection: numbers by their place in a message, or by the names that stand at a stream's own place in the layout."""

from types import SimpleNamespace

import numpy as np
import pytest

from diwa_runtime.errors import InputError
from diwa_runtime.rows.selection import NamesChangedError, Selector
from diwa_runtime.spec import Spec, TaskSpec
from diwa_runtime.stream_spec import StreamSpec

POSE = StreamSpec("proprio", "pose", "x/msg/Pose", ("position",))
WIDTH = StreamSpec("proprio", "width", "x/msg/Width", ("width",))
JOINTS = StreamSpec("proprio", "joint_states", "x/msg/Joints", ("position|position:name",))
TCP = ("tcp_x", "tcp_y", "tcp_z")


def selector(*streams, proprio=(*TCP, "j1", "j2", "j3")):
    spec = Spec(proprio=proprio, scene=("drawer",), tasks=(TaskSpec("open", "drawer", 0.1),), streams=streams)
    return Selector(spec, streams)


def joints(**values):
    return SimpleNamespace(name=list(values), position=np.array(list(values.values())))


def pose():
    return SimpleNamespace(position=SimpleNamespace(x=0.1, y=0.2, z=0.3))


def selected(found):
    return [(index, value.tolist()) for index, _, value in found]


@pytest.mark.parametrize(
    ("message", "values"),
    [
        (joints(j1=1, j2=2, j3=3), [1, 2, 3]),
        (joints(j3=3, j1=1, j2=2), [1, 2, 3]),
        (joints(finger=9, j3=3, tcp_x=8, j1=1, j2=2, drawer=7), [1, 2, 3]),
    ],
    ids=["in order", "another order", "more names, also of other parts"],
)
def test_a_part_by_name_takes_the_names_at_its_own_place(message, values):
    streams = selector(POSE, JOINTS)
    streams.select(0, pose(), None)

    assert selected(streams.select(1, message, None)) == [(1, values)]


def test_what_comes_before_its_place_is_known_waits_and_is_not_lost():
    streams = selector(POSE, JOINTS)

    assert streams.select(1, joints(j2=2, j1=1, j3=3), "first") == []
    assert streams.select(1, joints(j1=4, j2=5, j3=6), "second") == []
    found = streams.select(0, pose(), "third")

    assert [(index, about) for index, about, _ in found] == [(0, "third"), (1, "first"), (1, "second")]
    assert selected(found)[1:] == [(1, [1, 2, 3]), (1, [4, 5, 6])]


def test_the_place_between_other_parts_is_what_they_leave():
    streams = selector(POSE, JOINTS, WIDTH, proprio=(*TCP, "j1", "j2", "width"))
    streams.select(0, pose(), None)
    streams.select(2, SimpleNamespace(width=0.08), None)

    assert selected(streams.select(1, joints(width=9, j2=2, j1=1), None)) == [(1, [1, 2])]


def test_two_parts_by_name_are_told_apart_by_what_their_messages_name():
    fingers = StreamSpec("proprio", "joint_states", "x/msg/Joints", ("position|position:name",))
    streams = selector(POSE, JOINTS, fingers, proprio=(*TCP, "j1", "j2", "f1"))
    streams.select(0, pose(), None)
    arm, hand = joints(j2=2, j1=1), joints(f1=5)
    found = [streams.select(index, message, None) for message in (hand, arm, hand) for index in (1, 2)]

    assert [value for part in found for value in selected(part)] == [(1, [1, 2]), (2, [5]), (2, [5])]


def test_a_message_with_none_of_the_names_is_not_this_streams_message():
    streams = selector(POSE, JOINTS)
    streams.select(0, pose(), None)

    assert streams.select(1, joints(finger_1=1, finger_2=2), None) == []
    assert streams.select(1, joints(), None) == []


@pytest.mark.parametrize(
    ("proprio", "message", "word"),
    [
        ((*TCP, "j1", "j2", "j3"), joints(j1=1, j3=3), "no value named j2; it has j1, j3; name those in the Spec"),
        ((*TCP, "j1", "tool", "j3"), joints(j1=1, j3=3), "no value named tool"),
        ((*TCP, "j1", "tool", "j3", "j2"), joints(j1=1, j2=2, j3=3), "no value named tool"),
    ],
)
def test_a_message_that_lacks_some_of_the_names_says_which(proprio, message, word):
    streams = selector(POSE, JOINTS, proprio=proprio)
    streams.select(0, pose(), None)
    ((_, _, error),) = streams.select(1, message, None)

    assert isinstance(error, InputError)
    assert word in str(error)


def test_names_that_do_not_stand_together_are_said():
    streams = selector(POSE, JOINTS, WIDTH, proprio=(*TCP, "j1", "width", "j2"))
    streams.select(0, pose(), None)
    streams.select(2, SimpleNamespace(width=0.08), None)
    ((_, _, error),) = streams.select(1, joints(j1=1, j2=2), None)

    assert "no value named width; it has j2, but one part's names stand together" in str(error)


def test_names_beside_values_that_are_selected_by_place_must_not_change():
    by_place = StreamSpec("proprio", "joint_states", "x/msg/Joints", ("position",))
    streams = selector(POSE, by_place)
    streams.select(1, joints(j1=1, j2=2, j3=3), None)
    streams.select(1, joints(j1=4, j2=5, j3=6), None)

    with pytest.raises(
        NamesChangedError, match=r"joint_states: 'position' .* from j1, j2, j3 to j1, j3, j2; select it"
    ):
        streams.select(1, joints(j1=7, j3=8, j2=9), None)
    assert streams.selections[1].names == {"position": ("j1", "j2", "j3")}


def test_names_above_the_values_count_too():
    nested = StreamSpec("proprio", "controller", "x/msg/State", ("actual.positions",))
    streams = selector(POSE, nested)
    state = SimpleNamespace(joint_names=["a", "b", "c"], actual=SimpleNamespace(positions=[1.0, 2.0, 3.0]))
    streams.select(1, state, None)

    with pytest.raises(NamesChangedError, match="from a, b, c to a, c, b"):
        streams.select(1, SimpleNamespace(joint_names=["a", "c", "b"], actual=state.actual), None)
