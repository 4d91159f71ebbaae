"""Bags of the simulator: whole or not at all, readable up to the last chunk when killed, the same for the same seed."""

import errno
import multiprocessing
import os
import signal

import numpy as np
import pytest
import yaml
from rosbags.rosbag2 import Reader, Writer

from diwa_runtime.errors import ConfigError, StorageError
from diwa_runtime.events import EventKind
from diwa_runtime.robot_messages import ROBOT_STATE
from diwa_sim.bags import BagWriter, typestore
from diwa_sim.collect import CollectConfig, collect, plan
from diwa_sim.snapshot import Snapshot
from diwa_trainer.bags import Bag, find_bags, reader_of

CHUNK_BYTES, RECORD_HEAD_BYTES = 2**20, 31
NOISE_IMAGE = np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8)


def snapshot(number, images=None):
    return Snapshot(
        stamp_s=number / 30,
        tcp_position=np.zeros(3),
        tcp_quaternion=np.array([0.0, 0, 0, 1]),
        tcp_euler=np.zeros(3),
        joint_positions=np.arange(7.0),
        joint_velocities=np.zeros(7),
        gripper_width=0.01 * number,
        gripper_command=1.0,
        scene=np.arange(24.0),
        accepted_action=np.full(7, 0.5, np.float32),
        images=images or {},
    )


def stamp_of(number):
    return 10**18 + round(number * 1e9 / 30)


def test_a_bag_is_one_that_ros_reads_with_all_topics(tmp_path):
    with BagWriter(tmp_path / "play", notes={"who": "test"}) as bag:
        bag.write_event(EventKind.START, stamp_of(0), None, 7)
        for number in range(5):
            bag.write_snapshot(snapshot(number, {"static": NOISE_IMAGE}), stamp_of(number))

    with Reader(tmp_path / "play") as reader:
        counts = {connection.topic: connection.msgcount for connection in reader.connections}
        assert reader.start_time == stamp_of(0)
    assert counts == {
        "/episode/event": 1,
        "/robot/state": 5,
        "/joint_states": 5,
        "/scene/state": 5,
        "/camera/static/image/compressed": 5,
    }
    metadata = yaml.safe_load((tmp_path / "play" / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert metadata["relative_file_paths"] == ["play.mcap"]
    assert metadata["custom_data"] == {"who": "test"}
    assert [path.name for path in tmp_path.iterdir()] == ["play"]


def test_a_bag_that_fails_leaves_nothing(tmp_path):
    def write_and_fail():
        with BagWriter(tmp_path / "play") as bag:
            bag.write_snapshot(snapshot(0), stamp_of(0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_fail()

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", ["write", "close", "open"])
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, monkeypatch, method):
    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Writer, method, refuse)
    message = r"play: could not be written \(No space left"
    with pytest.raises(StorageError, match=message), BagWriter(tmp_path / "play") as bag:
        bag.write_snapshot(snapshot(0), stamp_of(0))

    assert list(tmp_path.iterdir()) == []


def write_until_killed(folder, connection):
    with BagWriter(folder) as bag:
        for number in range(100_000):
            bag.write_snapshot(snapshot(number, {"static": NOISE_IMAGE}), stamp_of(number))
            connection.send(number)


@pytest.mark.parametrize("point", np.random.default_rng(12).integers(1, 500, 20).tolist())
def test_f12_a_killed_writer_loses_at_most_its_last_chunk(tmp_path, point):
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=write_until_killed, args=(tmp_path / "play", sender))
    child.start()
    while receiver.recv() < point:
        pass
    os.kill(child.pid, signal.SIGKILL)
    child.join()

    (left,) = tmp_path.glob(".play.*.partial/play/play.mcap")
    bag = Bag(left, "play", (left,))
    robot_states = [message for message in bag.messages() if message.channel.topic == f"/{ROBOT_STATE[0]}"]
    assert len(robot_states) >= point - CHUNK_BYTES // bytes_of_a_snapshot(tmp_path) - 1
    for number, message in enumerate(robot_states):
        read = reader_of(message.channel)(message.data)
        assert read.gripper_width == 0.01 * number, "no message is missing or shifted before the cut"
    assert len(bag.losses) == 1
    assert "was cut off" in bag.losses[0]


def bytes_of_a_snapshot(folder):
    with BagWriter(folder / "one") as bag:
        bag.write_snapshot(snapshot(0, {"static": NOISE_IMAGE}), stamp_of(0))
    (written,) = find_bags([folder / "one"])
    return sum(len(message.data) + RECORD_HEAD_BYTES for message in written.messages())


# --- collect ----------------------------------------------------------------------------------------------------


def small(output, **changes):
    settings = {"play_steps": 90, "play_episode_steps": 30, "episodes_per_bag": 2, "demonstrations": 1}
    return CollectConfig(output, **{**settings, "tasks": ("turn_on_led",), "workers": 1, **changes})


def read_all(folder):
    store = typestore()
    with Reader(folder) as reader:
        return [
            (connection.topic, stamp, repr(store.deserialize_cdr(data, connection.msgtype)))
            for connection, stamp, data in reader.messages()
        ]


def test_collect_plans_every_step_and_no_seed_twice(tmp_path):
    config = CollectConfig(
        tmp_path, play_steps=1000, play_episode_steps=320, episodes_per_bag=2, tasks=("turn_on_led",)
    )

    jobs = plan(config)

    play = [job for job in jobs if job.task is None]
    assert [job.name for job in jobs] == ["play_000", "play_001", "demonstrations_turn_on_led"]
    assert [job.lengths for job in play] == [(320, 320), (320, 40)]
    seeds = [seed for job in play for seed in job.seeds]
    assert len(set(seeds)) == len(seeds) == 4
    assert max(seeds) < jobs[2].seeds[0]
    assert min(seeds) >= 1_000_000, "lower seeds are for evaluation"
    assert max(jobs[2].seeds) < min(plan(CollectConfig(tmp_path, seed=1))[0].seeds)


def test_collect_is_the_same_for_the_same_seed_and_skips_what_is_done(tmp_path, capsys):
    collect(small(tmp_path / "a"))
    collect(small(tmp_path / "b"))
    kept = (tmp_path / "a" / "play_000" / "play_000.mcap").stat().st_mtime_ns
    (tmp_path / "a" / "play_001" / "play_001.mcap").unlink()
    (tmp_path / "a" / "play_001" / "metadata.yaml").unlink()
    (tmp_path / "a" / "play_001").rmdir()

    written = collect(small(tmp_path / "a"))

    assert [summary.name for summary in written] == ["play_001"]
    assert (tmp_path / "a" / "play_000" / "play_000.mcap").stat().st_mtime_ns == kept
    for name in ("play_000", "play_001", "demonstrations_turn_on_led"):
        assert read_all(tmp_path / "a" / name) == read_all(tmp_path / "b" / name), name
    assert "2 were there already" in capsys.readouterr().err


def test_collect_refuses_bags_of_other_settings_and_names_them(tmp_path):
    collect(small(tmp_path / "a", demonstrations=0, play_steps=30))

    with pytest.raises(ConfigError, match="play_000: was collected with start = wide, now it is narrow"):
        collect(small(tmp_path / "a", demonstrations=0, play_steps=30, start="narrow"))


def test_collect_refuses_an_unknown_task_with_the_nearest():
    with pytest.raises(Exception, match="did you mean 'open_drawer'"):
        CollectConfig("bags", tasks=("open_draw",))
