"""Snapshots as messages: what the assembler reads back is what the simulator observed and executed."""

import numpy as np
import pytest

from diwa_runtime import robot_messages as messages
from diwa_runtime.actions import HOLD_ACTION
from diwa_runtime.errors import InputError
from diwa_runtime.events import EventKind
from diwa_runtime.rows.live import LiveAssembler
from diwa_runtime.rows.streams import NANOSECONDS
from diwa_runtime.spec import ActionScale, Spec
from diwa_sim.bags import make_message, typestore
from diwa_sim.environment import PlayTable


def read_back(snapshots):
    """Rows of the assembler, fed with the messages' serialized bytes."""
    store, assembler = typestore(), LiveAssembler(Spec())
    rows = []
    for snapshot in snapshots:
        stamp = 10**18 + round(snapshot.stamp_s * 1e9)
        for (topic, kind), fields in (
            (messages.SCENE_STATE, messages.scene_state(snapshot.scene, stamp)),
            (messages.ROBOT_STATE, messages.robot_state(snapshot, stamp, ActionScale())),
        ):
            data = store.serialize_cdr(make_message(store, kind, fields), kind)
            rows += assembler.feed(topic, store.deserialize_cdr(data, kind), 0)
    return rows


def test_rows_from_messages_are_the_environments_observations_and_actions():
    env = PlayTable("open_drawer")
    rng = np.random.default_rng(0)
    env.reset(seed=3)
    snapshots = [env.snapshot()]
    for _ in range(12):
        env.step(rng.uniform(-1, 1, 7))
        snapshots.append(env.snapshot())

    rows = read_back(snapshots)

    assert len(rows) == len(snapshots)
    for row, snapshot in zip(rows, snapshots, strict=True):
        np.testing.assert_allclose(row.values["proprio"], snapshot.proprio(), atol=1e-6)
        np.testing.assert_array_equal(row.values["scene"], snapshot.scene.astype(np.float32))
        np.testing.assert_array_equal(row.executed, snapshot.accepted_action)
    np.testing.assert_array_equal(rows[0].executed, HOLD_ACTION)


def test_joint_states_name_every_position():
    env = PlayTable(None)
    env.reset(seed=0)

    fields = messages.joint_states(env.snapshot(), 5)

    assert len(fields["name"]) == len(fields["position"]) == len(fields["velocity"]) == 9
    np.testing.assert_allclose(fields["position"][7:].sum(), env.snapshot().gripper_width)


def test_an_event_of_play_has_no_task_and_an_unknown_seed_is_minus_one():
    assert messages.episode_event(EventKind.START, 3_000_000_007) == {
        "header": {"stamp": {"sec": 3, "nanosec": 7}, "frame_id": "base"},
        "kind": 1,
        "task": "",
        "seed": -1,
    }


def test_event_kinds_are_those_of_the_message_definition():
    constants = {name: value for name, _, value in typestore().fielddefs["diwa_msgs/msg/EpisodeEvent"][0]}

    assert constants == {kind.name: kind.value for kind in EventKind}


@pytest.mark.parametrize("seed", [2**63, -(2**63) - 1, 10**400])
def test_a_seed_beyond_its_field_is_one_line(seed):
    with pytest.raises(InputError, match=r"a seed of \d+ bits does not fit"):
        messages.episode_event(EventKind.START, 0, "open_drawer", seed)


def test_a_stamp_beyond_its_field_is_one_line():
    latest_ns = 2**31 * NANOSECONDS - 1
    assert messages.header(latest_ns)["stamp"] == {"sec": 2**31 - 1, "nanosec": 999_999_999}
    with pytest.raises(InputError, match="a stamp of 2147483648 s does not fit into a message"):
        messages.header(latest_ns + 1)


def test_a_picture_is_packed_with_the_quality_that_is_asked_for():
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    sizes = [len(messages.compressed_image(picture, 0, "static", quality)["data"]) for quality in (20, 60, 95)]
    assert sizes == sorted(set(sizes))
