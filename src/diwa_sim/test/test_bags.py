"""Bags of the simulator: whole or not at all, readable up to the last chunk when killed, the same for the same seed."""

import errno
import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from rosbags.rosbag2 import Reader, Writer

from diwa_runtime.config import load_config
from diwa_runtime.errors import ConfigError, InputError, StorageError
from diwa_runtime.events import EventKind
from diwa_runtime.files import remove_orphans, written_whole
from diwa_runtime.robot_messages import ROBOT_STATE
from diwa_runtime.spec import ActionScale, Spec, TaskSpec
from diwa_sim.__main__ import main
from diwa_sim.bags import BagWriter, kept_on_failure, typestore
from diwa_sim.collect import CollectConfig
from diwa_sim.collection import collect, plan
from diwa_sim.environment import PlayTable
from diwa_sim.snapshot import Snapshot
from diwa_trainer.ingest.bags import Bag, find_bags, reader_of
from diwa_trainer.ingest.hand import Hand
from diwa_trainer.ingest.ingestion import ingest

CHUNK_BYTES, RECORD_HEAD_BYTES = 2**20, 31
DISK_BYTES = 5 * CHUNK_BYTES // 2
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
        "/camera/static/device": 1,
    }
    metadata = yaml.safe_load((tmp_path / "play" / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert metadata["relative_file_paths"] == ["play.mcap"]
    assert metadata["custom_data"] == {"who": "test"}
    assert [path.name for path in tmp_path.iterdir()] == ["play"]


def test_a_bag_of_another_spec_has_its_names_and_its_units(tmp_path):
    """As of another simulator: the rows that come of it have its scene, and the actions that were taken."""
    scale = ActionScale(translation_m=0.05, rotation_rad=0.5)
    spec = Spec(cameras=(), scene=("lid", "lamp"), tasks=(TaskSpec("open_lid", "lid", 0.5),), action_scale=scale)
    with BagWriter(tmp_path / "play", spec=spec) as bag:
        for number in range(5):
            bag.write_snapshot(replace(snapshot(number), scene=np.array([0.25, 1.0])), stamp_of(number))

    dataset = ingest([tmp_path / "play"], tmp_path / "dataset", spec, report=lambda _: None)

    np.testing.assert_allclose(dataset.scene, [[0.25, 1.0]] * len(dataset))
    np.testing.assert_allclose(dataset.action[:-1, :6], 0.5, rtol=1e-6)


def fill(folder, snapshots, place=written_whole, error=None):
    with BagWriter(folder, place=place) as bag:
        for number in range(snapshots):
            bag.write_snapshot(snapshot(number, {"static": NOISE_IMAGE}), stamp_of(number))
        if error is not None:
            raise error


def fill_a_small_disk(folder, snapshots, place, limit, connection):
    # The kernel itself refuses, as on a full disk: also what is left in buffers when the file is closed.
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        fill(folder, snapshots, place)
    except BaseException as error:
        connection.send((type(error), str(error)))
    else:
        connection.send(None)


def on_a_small_disk(folder, snapshots, place, limit=DISK_BYTES):
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=fill_a_small_disk, args=(folder, snapshots, place, limit, sender))
    child.start()
    answer = receiver.recv()
    child.join()
    return answer


def robot_states(bag):
    return [message for message in bag.messages() if message.channel.topic == f"/{ROBOT_STATE[0]}"]


def test_a_bag_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fill(tmp_path / "play", 300, error=KeyboardInterrupt())

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("snapshots", "limit"),
    [(100_000, DISK_BYTES), (120, DISK_BYTES), (1, 26_000)],
    ids=["chunk", "last chunk", "index"],
)
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, snapshots, limit):
    kind, message = on_a_small_disk(tmp_path / "play", snapshots, written_whole, limit)

    assert kind is StorageError
    assert "play: could not be written (File too large)" in message
    assert list(tmp_path.iterdir()) == []


def test_a_bag_that_cannot_be_opened_is_said_and_leaves_nothing(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Writer, "open", refuse)
    for place in (written_whole, kept_on_failure):
        with pytest.raises(StorageError, match=r"play: could not be written \(No space left"):
            fill(tmp_path / "play", 1, place)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["a bag", "notes", "a file", "a link to nothing"])
def test_a_bag_is_never_written_over(tmp_path, what):
    place = tmp_path / "play"
    if what == "a bag":
        fill(place, 1)
    elif what == "notes":
        place.mkdir()
        (place / "NOTES.md").write_text("mine")
    elif what == "a file":
        place.write_text("mine")
    else:
        place.symlink_to("unplugged")
    before = sorted(tmp_path.rglob("*"))

    with pytest.raises(InputError, match="play: is there already; a bag is never written over"):
        fill(place, 1)

    assert sorted(tmp_path.rglob("*")) == before


def test_collect_leaves_the_orphans_of_others_alone(tmp_path):
    config = small(tmp_path)
    for name in ("play_000", "film"):
        (tmp_path / f".{name}.{2**22}.partial").write_text("half")

    collect(config)

    assert [path.name for path in tmp_path.glob(".*")] == [f".film.{2**22}.partial"]


def test_a_full_disk_keeps_a_recording_and_says_where(tmp_path):
    kind, message = on_a_small_disk(tmp_path / "live", 100_000, kept_on_failure)

    assert kind is StorageError
    assert "live: could not be written (File too large); what was recorded is kept" in message
    assert "\n" not in message
    (kept,) = find_bags([Path(message.partition("--bags ")[2])])
    assert len(robot_states(kept)) >= (DISK_BYTES - CHUNK_BYTES) // bytes_of_a_snapshot(tmp_path / "x") - 1


@pytest.mark.parametrize("moment", ["while recording", "while closing"])
def test_an_interrupted_recording_is_kept_and_said(tmp_path, monkeypatch, moment):
    def interrupted(_):
        raise KeyboardInterrupt

    if moment == "while closing":
        monkeypatch.setattr("diwa_sim.bags.onto_disk", interrupted)
    with pytest.raises(KeyboardInterrupt, match=r"kept up to its last whole chunk: ingest --bags (?P<bag>.*)") as error:
        fill(tmp_path / "live", 150, kept_on_failure, KeyboardInterrupt() if moment == "while recording" else None)

    assert remove_orphans(tmp_path) == 0
    (kept,) = find_bags([Path(str(error.value).partition("--bags ")[2])])
    lost = CHUNK_BYTES // bytes_of_a_snapshot(tmp_path / "x") + 1 if moment == "while recording" else 0
    assert len(robot_states(kept)) >= 150 - lost


def test_a_recording_of_nothing_leaves_nothing_when_interrupted(tmp_path):
    with pytest.raises(KeyboardInterrupt, match="nothing was recorded"):
        fill(tmp_path / "live", 0, kept_on_failure, KeyboardInterrupt())

    assert list(tmp_path.iterdir()) == []


def test_a_recording_that_ends_well_is_whole_under_its_name(tmp_path):
    fill(tmp_path / "live", 5, kept_on_failure)

    assert [path.name for path in tmp_path.iterdir()] == ["live"]
    assert sorted(path.name for path in (tmp_path / "live").iterdir()) == ["live.mcap", "metadata.yaml"]


def write_until_killed(folder, connection):
    with BagWriter(folder) as bag:
        for number in range(100_000):
            bag.write_snapshot(snapshot(number, {"static": NOISE_IMAGE}), stamp_of(number))
            connection.send(number)


@pytest.mark.parametrize("point", [0, *np.random.default_rng(12).integers(1, 500, 20).tolist()])
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
    states = robot_states(bag)
    assert len(states) >= point - CHUNK_BYTES // bytes_of_a_snapshot(tmp_path) - 1
    for number, message in enumerate(states):
        read = reader_of(message.channel)(message.data)
        assert read.gripper_width == 0.01 * number, "no message is missing or shifted before the cut"
    assert len(bag.losses) == 1
    # A writer that is killed before its first chunk was full may have put nothing on the disk.
    assert ("was cut off" if left.stat().st_size else "is empty (0 bytes)") in bag.losses[0]


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


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"play_steps": 60}, "demonstrations_turn_on_led: was collected with other play_steps, play_episode_steps, "),
        ({"play_steps": 80}, "play_001: was collected with other play_steps, play_episode_steps or episodes_per_bag;"),
        ({"demonstrations": 2}, "turn_on_led: was collected with another number of demonstrations;"),
        ({"seed": 1}, "play_000: was collected with another seed;"),
        ({"noise": 0.5}, "turn_on_led: was collected with noise = 0.25, now it is 0.5;"),
        ({"play_without": ("led",)}, "play_000: was collected with play_without = [], now it is ['led'];"),
    ],
    ids=lambda value: "" if isinstance(value, str) else " ".join(value),
)
def test_collect_says_in_the_users_words_what_other_settings_there_were(collected, changes, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        collect(small(collected, **changes))


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    folder = tmp_path_factory.mktemp("collected")
    collect(small(folder))
    return folder


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"play_noise": ()}, "play_noise must name at least one level"),
        ({"play_noise": (0.1, -0.3)}, "play_noise must not be negative, not -0.3"),
        (
            {"play_without": ("lid",)},
            "play_without has 'lid', which no task is of; there are bulb, drawer, led, slider",
        ),
        ({"play_without": ("led", "bulb", "drawer", "slider")}, "leaves play nothing to do"),
        ({"start": 2.5}, "a number from 0 to 2, not 2.5"),
        ({"start": "wid"}, "did you mean 'wide'"),
    ],
)
def test_collect_refuses_what_cannot_be(changes, said):
    with pytest.raises(ConfigError, match=said):
        CollectConfig("bags", **changes)


def test_play_is_made_of_what_the_settings_say():
    play = CollectConfig("bags", play_noise=(0.4,), play_without=("led",)).play
    assert (play.noise, play.without) == ((0.4,), ("led",))


def test_a_start_is_a_name_or_a_number_on_the_command_line_and_in_a_file(tmp_path):
    (tmp_path / "far.yaml").write_text("start: 1.5\n")
    for argv, start in ((["--config", str(tmp_path / "far.yaml")], 1.5), (["--start", "0.5"], 0.5), ([], "wide")):
        assert load_config(CollectConfig, ["--output", "bags", *argv]).start == start


def start_collecting(folder):
    command = [sys.executable, "-m", "diwa_sim", "collect", "--output", folder, "--episodes-per-bag", "200"]
    settings = ["--workers", "2", "--play-steps", "1000000", "--demonstrations", "0"]
    return subprocess.Popen([*command, *settings], stderr=subprocess.PIPE, text=True, start_new_session=True)


def children_of(pid):
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


@pytest.mark.parametrize("tell", [os.killpg, os.kill], ids=["Ctrl-C", "one process"])
@pytest.mark.parametrize("moment", ["loading", "writing"])
def test_collect_with_workers_ends_at_once_when_interrupted(tmp_path, tell, moment):
    process = start_collecting(tmp_path / "bags")
    try:
        if moment == "loading":  # a process that tracks resources, and two workers
            wait_until(lambda: len(children_of(process.pid)) == 3)
        else:
            wait_until(lambda: len([*tmp_path.glob("bags/.play_*/*/*.mcap")]) == 2)
        tell(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=15)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130
    assert said == "interrupted\n"
    assert [*tmp_path.glob("bags/*")] == []


def wait_until(reached):
    end = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < end, "what the test waits for did not come"
        time.sleep(0.01)


def test_collect_says_in_one_line_that_the_physics_diverged(tmp_path, monkeypatch, capsys):
    def place_badly(env, start):
        place(env, start)
        env._data.qvel[0] = 1e12

    place = PlayTable._place
    monkeypatch.setattr(PlayTable, "_place", place_badly)
    monkeypatch.chdir(tmp_path)  # MuJoCo logs where it stands
    assert main(["collect", "--output", "bags", "--workers", "1"]) == 2
    assert capsys.readouterr().err.startswith("error: the physics diverged in step 1 of the episode with seed 1000000")
    assert list((tmp_path / "bags").iterdir()) == []


def test_collect_refuses_an_unknown_task_with_the_nearest():
    with pytest.raises(Exception, match="did you mean 'open_drawer'"):
        CollectConfig("bags", tasks=("open_draw",))


def test_how_the_table_s_hand_follows_is_told_and_what_is_wrong_with_its_actions_found(tmp_path):
    collect(CollectConfig(tmp_path / "bags", play_steps=1000, demonstrations=2, tasks=("open_drawer",), workers=1))
    dataset = ingest([tmp_path / "bags"], tmp_path / "data", PlayTable().contract, report=lambda _: None)
    hand, actions = Hand.of(dataset), dataset.action.copy()
    assert not list(hand.warnings())
    assert 0.9 < hand.following.gain < 1.05
    assert 0.05 < hand.contacts / hand.rows < 0.35, "play presses on things"

    def said(wrong):
        dataset.arrays["action"] = wrong
        return list(Hand.of(dataset).warnings())

    (late,) = said(np.roll(actions, -1, axis=0))
    assert "begins to move a row after its action" in late
    (early,) = said(np.roll(actions, 1, axis=0))
    assert "begins to move a row before its action" in early
    (large,) = said(actions / 0.02)
    assert '"scale": "normalised"' in large
    assert len(said(np.roll(actions, -1, axis=0) / 0.02)) == 2
