"""Stretches of play as episodes: where they may start, where they end, and what counts as success."""

import dataclasses

import numpy as np
import pytest
from toy import DRAWER, SPEC, TASK, write_toy

from diwa_runtime.errors import InputError
from diwa_runtime.spec import Spec, TaskSpec
from diwa_trainer.dataset import Dataset, DatasetWriter
from diwa_trainer.samples.stretches import (
    check_marks,
    demonstration_stretches,
    demonstrations,
    play_stretches,
    start_rows,
)

LENGTH = 24


@pytest.fixture(scope="module")
def data(toy_data) -> Dataset:
    return Dataset.open(toy_data)


def draw_play(data, count=30, seed=0, episodes=None):
    like = demonstrations(data, TASK, 1)
    rng = np.random.default_rng(seed)
    return play_stretches(data, TASK, like, data.episodes if episodes is None else episodes, count, LENGTH, rng)


def without_scene(folder, lengths, marks=(), kind="play"):
    """A dataset as a real robot gives it: no scene, success by marks alone."""
    about = {"kind": kind, "task": TASK, "outcome": "success"} if kind == "demonstration" else {}
    with DatasetWriter(folder, SPEC, scene=False) as writer:
        for length in lengths:
            rows = {"stamp": np.arange(length), "proprio": np.zeros((length, 15), "f4")}
            writer.add_episode({**rows, "action": np.zeros((length, 7), "f4")}, marks=marks, **about)
    return Dataset.open(folder)


def test_demonstrations_are_labelled_from_where_the_drawer_has_moved_far_enough(data):
    for stretch, episode in zip(
        demonstration_stretches(data, TASK, demonstrations(data, TASK, 1)), demonstrations(data, TASK, 1), strict=True
    ):
        drawer = data.scene[episode.rows, DRAWER]
        np.testing.assert_array_equal(stretch.success, drawer - drawer[0] > 0.12)
        assert not stretch.success[0]
        assert stretch.success[-1]


def test_play_is_labelled_by_what_moved_since_the_stretch_began(data):
    for stretch in draw_play(data):
        drawer = data.scene[stretch.start : stretch.end, DRAWER]
        np.testing.assert_array_equal(stretch.success, drawer - drawer[0] > 0.12)


def test_stretches_of_play_start_as_demonstrations_do_and_never_cross_episodes(data):
    first = np.array([data.scene[episode.start, DRAWER] for episode in demonstrations(data, TASK, 1)])

    for stretch in draw_play(data):
        start = data.scene[stretch.start, DRAWER]
        assert first.min() - 0.012 <= start <= first.max() + 0.012
        owners = {e for e in data.episodes if e.start < stretch.end and stretch.start < e.end}
        assert len(owners) == 1
        assert owners.pop().kind == "play"
        assert 8 < len(stretch) <= LENGTH
        assert len(stretch.success) == len(stretch)


def test_play_gives_both_labels_where_it_has_both(data):
    stretches = draw_play(data, count=20)
    succeeded = sum(stretch.success.any() for stretch in stretches)

    assert 0 < succeeded <= 10
    assert len(stretches) - succeeded >= 10


def play_that_opens(folder, *opens_at):
    """A demonstration, and episodes of 40 rows of play in which the drawer jumps open at a row, or never (None)."""
    with DatasetWriter(folder, SPEC) as writer:
        for number, row in enumerate([5, *opens_at]):
            scene = np.zeros((40, 24), "f4")
            scene[row if row is not None else 40 :, DRAWER] = 0.2
            rows = {"stamp": np.arange(40), "proprio": np.zeros((40, 15), "f4"), "action": np.zeros((40, 7), "f4")}
            about = {} if number else {"kind": "demonstration", "task": TASK, "outcome": "success"}
            writer.add_episode({**rows, "scene": scene}, **about)
    return Dataset.open(folder)


@pytest.mark.parametrize(
    ("opens_at", "count", "succeeded", "failed"),
    [
        ([20], 8, 4, 4),
        ([20], 9, 4, 5),
        ([20, None, None], 40, 9, 31),  # as many as there are, and others in their place
        ([9], 8, 4, 0),
    ],
    ids=["both", "odd", "few succeed", "none fails"],
)
def test_half_of_the_stretches_succeed_if_that_many_do(tmp_path, opens_at, count, succeeded, failed):
    """In ten rows the drawer opens from the nine rows before it does."""
    data = play_that_opens(tmp_path / "data", *opens_at)
    like = demonstrations(data, TASK, 1)

    for seed in range(5):
        drawn = play_stretches(data, TASK, like, data.episodes, count, 10, np.random.default_rng(seed))
        said = [stretch.success.any() for stretch in drawn]
        assert (sum(said), len(said) - sum(said)) == (succeeded, failed)


def test_play_comes_from_the_given_episodes_alone(data):
    chosen = data.episodes_of(kind="play")[2:4]

    stretches = draw_play(data, episodes=chosen)

    assert stretches
    assert all(any(e.start <= s.start and s.end <= e.end for e in chosen) for s in stretches)


def test_play_repeats_with_the_seed(data):
    assert [s.start for s in draw_play(data, seed=3)] == [s.start for s in draw_play(data, seed=3)]
    assert [s.start for s in draw_play(data, seed=3)] != [s.start for s in draw_play(data, seed=4)]


def test_without_play_there_are_no_stretches_of_it(data):
    like = demonstrations(data, TASK, 1)

    assert draw_play(data, episodes=like) == []
    assert len(start_rows(data, TASK, like, like, 5, np.random.default_rng(0))) == 0


def test_without_a_scene_the_marks_say_what_succeeded(tmp_path):
    data = without_scene(tmp_path / "data", [20], marks=[(12, "close_drawer"), (15, TASK)], kind="demonstration")

    (stretch,) = demonstration_stretches(data, TASK, data.episodes)

    np.testing.assert_array_equal(stretch.success, np.arange(20) >= 15)


def test_without_a_scene_success_ends_where_the_opposite_was_marked(tmp_path):
    marks = [(9, TASK), (14, "turn_on_led"), (20, "close_drawer"), (31, TASK)]
    data = without_scene(tmp_path / "data", [40], marks=marks, kind="demonstration")

    (stretch,) = demonstration_stretches(data, TASK, data.episodes)

    expected = np.zeros(40, bool)
    expected[9:20] = expected[31:] = True
    np.testing.assert_array_equal(stretch.success, expected)


def test_without_a_scene_a_mark_before_a_stretch_does_not_count(tmp_path):
    data = without_scene(tmp_path / "data", [60], marks=[(10, TASK)])
    rng = np.random.default_rng(0)

    stretches = play_stretches(data, TASK, data.episodes, data.episodes, 40, 20, rng)

    for stretch in stretches:
        np.testing.assert_array_equal(
            stretch.success, (np.arange(stretch.start, stretch.end) >= 10) & (stretch.start <= 10)
        )
    assert any(stretch.success.any() for stretch in stretches)


def test_imagined_episodes_start_in_play_where_the_task_can_start(data):
    like = demonstrations(data, TASK, 1)
    first = data.scene[[episode.start for episode in like], DRAWER]

    rows = start_rows(data, TASK, like, data.episodes, 12, np.random.default_rng(0))

    assert len(set(rows)) == len(rows) == 12
    assert all(any(e.start <= row < e.end - 8 for e in data.episodes_of(kind="play")) for row in rows)
    assert (data.scene[rows, DRAWER] <= first.max() + 0.012).all()


def test_imagined_episodes_start_at_the_rows_of_play_nearest_to_the_first_frames(data):
    like = demonstrations(data, TASK, 1)
    tcp = data.proprio[:, :3]
    low, high = (bound([tcp[e.start] for e in like], axis=0) for bound in (np.min, np.max))

    (row,) = start_rows(data, TASK, like, data.episodes, 1, np.random.default_rng(0))

    def outside(of):
        return np.maximum(low - tcp[of], tcp[of] - high).max(-1) / 0.04

    possible = np.concatenate([np.arange(e.start, e.end - 8) for e in data.episodes_of(kind="play")])
    possible = possible[data.scene[possible, DRAWER] < 0.012]
    assert outside(row) <= np.sort(outside(possible))[8]  # one of the eight nearest


def starting(folder, shown, played, change=0.1) -> Dataset:
    """Two demonstrations and episodes of nine rows of play, by the hand's x and the scene that each stands still in."""
    spec = Spec(scene=("drawer", "cup_z", "ball_z", "ball_x"), tasks=(TaskSpec("lift", "cup_z", change),))
    with DatasetWriter(folder, spec) as writer:
        for number, (x, *scene) in enumerate([*shown, *played]):
            rows = {"stamp": np.arange(9), "proprio": np.zeros((9, 15), "f4"), "action": np.zeros((9, 7), "f4")}
            rows["proprio"][:, 0] = x
            about = {"kind": "demonstration", "task": "lift", "outcome": "success"} if number < len(shown) else {}
            writer.add_episode({**rows, "scene": np.tile(np.float32([*scene, 0]), (9, 1))}, **about)
    return Dataset.open(folder)


def taken(data, count, seed=0) -> list[int]:
    """Which episodes of play a start is taken from, in order; each has one row to give."""
    like = demonstrations(data, "lift", 1)
    rows = start_rows(data, "lift", like, data.episodes, count, np.random.default_rng(seed))
    return [int(row) // 9 - len(like) for row in rows]


@pytest.mark.parametrize("change", [0.1, -0.1])
def test_a_task_may_start_a_tenth_of_its_change_outside_of_where_demonstrations_do(tmp_path, change):
    heights = [0.285, 0.292, 0.3, 0.4, 0.408, 0.415]
    data = starting(tmp_path / "data", [(0, 0, 0.3, 0), (0, 0, 0.4, 0)], [(0, 0, z, 0) for z in heights], change)
    like = demonstrations(data, "lift", 1)

    stretches = play_stretches(data, "lift", like, data.episodes, 20, 9, np.random.default_rng(0))

    assert taken(data, 20) == [1, 2, 3, 4]
    assert sorted(stretch.start // 9 - 2 for stretch in stretches) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("near", "far"),
    [
        ((0.1, 0.3, 0, 0), (0.3, 0.1, 0, 0)),  # the drawer's values span twice as much, and so are half as far
        ((0, 0, 0, 9), (0.11, 0, 0, 0)),  # a free block that no task is about plays no part
        ((0.14, 0, 0, 0), (0, 0, 0.009, 0)),  # one that a task is about does
        ((0, 0, 0.009, 0), (0.15, 0, 0, 0)),  # a range of less than two centimetres counts as two
        ((0.15, 0.3, 0, 0), (0, 0.41, 0, 0)),  # the worst feature counts, not their mean
    ],
)
def test_how_near_a_row_is_to_the_first_frames_is_by_its_worst_feature_in_units_of_their_range(tmp_path, near, far):
    """The first frames span 0.1 of x, and 0.2 of the drawer: of eight rows and a farther one, that one is left."""
    data = starting(tmp_path / "data", [(0, 0, 0, 0), (0.1, 0.2, 0, 0)], [near] * 4 + [far] + [near] * 4)

    drawn = {episode for seed in range(40) for episode in taken(data, 1, seed)}

    assert drawn == {0, 1, 2, 3, 5, 6, 7, 8}


def test_an_arm_turned_the_other_way_does_not_look_like_a_first_frame(tmp_path):
    """An angle and its opposite have the same cosine."""
    with DatasetWriter(tmp_path / "data", SPEC) as writer:
        for yaw, kind in ((0.5, "demonstration"), (-0.5, "play"), (0.5, "play")):
            rows = {"stamp": np.arange(30), "proprio": np.zeros((30, 15), "f4"), "action": np.zeros((30, 7), "f4")}
            rows["proprio"][:, 5] = yaw
            about = {"kind": kind, "task": TASK, "outcome": "success"} if kind == "demonstration" else {"kind": kind}
            writer.add_episode({**rows, "scene": np.zeros((30, 24), "f4")}, **about)
    data = Dataset.open(tmp_path / "data")

    rows = start_rows(data, TASK, data.episodes[:1], data.episodes, 2, np.random.default_rng(0))

    assert (data.proprio[rows, 5] > 0).all()


def test_what_shows_a_task_is_its_successful_demonstrations_alone(tmp_path):
    shown = [("demonstration", TASK, "success"), ("demonstration", TASK, "failure"), ("demonstration", TASK, None)]
    others = [("demonstration", "close_drawer", "success"), ("play", None, None)]
    with DatasetWriter(tmp_path / "data", SPEC, scene=False) as writer:
        for kind, task, outcome in [*others, *shown]:
            rows = {"stamp": np.arange(9), "proprio": np.zeros((9, 15), "f4"), "action": np.zeros((9, 7), "f4")}
            writer.add_episode(rows, kind=kind, task=task, outcome=outcome)
    data = Dataset.open(tmp_path / "data")

    assert demonstrations(data, TASK, 1) == (data.episodes[2],)
    with pytest.raises(InputError, match="has 1 successful"):
        demonstrations(data, TASK, 2)


def test_without_a_scene_success_is_from_the_first_mark_within_a_stretch_on(tmp_path):
    data = without_scene(tmp_path / "data", [30], marks=[(5, TASK), (12, TASK), (20, TASK)])
    rng = np.random.default_rng(0)

    for stretch in play_stretches(data, TASK, data.episodes, data.episodes, 40, 9, rng):
        mark = min([mark for mark in (5, 12, 20) if mark >= stretch.start], default=30)
        assert stretch.success.tolist() == [row >= mark for row in range(stretch.start, stretch.end)]


def test_a_stretch_of_play_has_at_least_nine_rows_and_may_have_no_more(tmp_path):
    data = without_scene(tmp_path / "data", [12, 9, 8])

    drawn = play_stretches(data, TASK, data.episodes, data.episodes, 40, 11, np.random.default_rng(0))

    assert sorted((stretch.start, stretch.end) for stretch in drawn) == [(0, 11), (1, 12), (2, 12), (3, 12), (12, 21)]


def test_too_few_demonstrations_are_said_with_how_many_there_are(tmp_path):
    data = Dataset.open(write_toy(tmp_path / "data", play=1, demonstrations=3))

    with pytest.raises(InputError, match="has 3 successful demonstrations of open_drawer, needs 10"):
        demonstrations(data, TASK, 10)


def test_where_eyes_see_no_stretch_of_play_starts_as_demonstrations_end(data):
    """A code of three numbers, of which the sum of two says how far the drawer is out, stands in for the scene."""
    rng = np.random.default_rng(0)
    code = rng.standard_normal((len(data), 3))
    code[:, 1] = 10 * data.scene[:, DRAWER] - code[:, 0]
    seen = dataclasses.replace(SPEC, mode="vision")
    arrays = {name: array for name, array in data.arrays.items() if name != "scene"}
    blind = Dataset(data.folder, seen, data.episodes, arrays)

    stretches = draw_play(blind.with_seen(code.astype("f4")), count=200)
    rows = start_rows(blind.with_seen(code.astype("f4")), TASK, demonstrations(data, TASK, 1), data.episodes, 100, rng)

    starts = data.scene[[stretch.start for stretch in stretches], DRAWER]
    assert data.scene[:, DRAWER].max() > 0.15
    assert starts.max() < 0.12 > data.scene[rows, DRAWER].max()
    assert starts.max() > 0.05, "what lies between counts by which end it is nearer to"
    without = [stretch.start for stretch in draw_play(blind, count=200)]
    assert data.scene[without, DRAWER].max() > 0.15, "without eyes nothing is known of it"


@pytest.mark.parametrize("change", [-0.12, 0.5])
def test_marks_that_the_scene_contradicts_are_refused_with_what_the_scene_says(data, change):
    """The change has the wrong sign, or is more than any demonstration makes: each would be learned as a failure."""
    shown = demonstrations(data, TASK, 1)
    task = data.spec.task(TASK)

    check_marks(data, task, shown)
    said = rf"SUCCESS, none changes drawer by \{change:+g} and beyond, as the Spec asks \(in the median by \+0\.\d+ at"
    with pytest.raises(InputError, match=said):
        check_marks(data, dataclasses.replace(task, change=change), shown)


def test_of_marks_without_a_scene_nothing_can_be_told(tmp_path):
    data = without_scene(tmp_path, [20], kind="demonstration")
    check_marks(data, dataclasses.replace(data.spec.task(TASK), change=-5.0), demonstrations(data, TASK, 1))
