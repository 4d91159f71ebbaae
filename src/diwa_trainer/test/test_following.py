"""How the hand follows its actions is learned from motion, and where it does not follow is found, row by row."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from diwa_runtime.actions import HOLD_ACTION
from diwa_runtime.spec import ActionScale, Spec
from diwa_trainer.dataset import Dataset, DatasetWriter
from diwa_trainer.dataset.following import (
    LAGS,
    Motion,
    contact_rows,
    dataset_contact_rows,
    learn_following,
    motion_in,
)

SCALE = ActionScale()
RESPONSE = {0: 0.45, 1: 0.35, 2: 0.1}
"""About the play table's."""


def wandering(seed: int, rows: int = 400) -> np.ndarray:
    """Actions (T, 7) that resemble their neighbours, as hands' do."""
    noise = np.random.default_rng(seed).standard_normal((rows, 7))
    for t in range(1, rows):
        noise[t] = 0.9 * noise[t - 1] + np.sqrt(1 - 0.9**2) * noise[t]
    noise[:, 6] = 1.0
    return (0.5 * noise).astype(np.float32)


def followed(actions: np.ndarray, response: dict[int, float], stuck: np.ndarray | None = None) -> np.ndarray:
    """Positions (T, 3) of a hand with that response by lag, which does not move after the rows where it is stuck."""
    asked = actions[:, :3].astype(float) * SCALE.translation_m
    moved = np.zeros_like(asked)
    for lag, share in response.items():
        for t in range(len(asked)):
            if 0 <= t - lag < len(asked):
                moved[t] += share * asked[t - lag]
    if stuck is not None:
        moved[stuck] = 0.0
    moved += np.random.default_rng(9).normal(0, 1e-5, moved.shape)
    return np.concatenate([np.zeros((1, 3)), np.cumsum(moved, 0)[:-1]])


def recorded(response: dict[int, float], factor: float = 1.0, episodes: int = 4) -> list[Motion]:
    made = [wandering(seed) for seed in range(episodes)]
    return [motion_in(followed(actions, response), factor * actions, SCALE) for actions in made]


@pytest.mark.parametrize("shift", [-2, -1, 0, 1, 2])
@pytest.mark.parametrize("factor", [1.0, 50.0])
def test_lag_and_gain_are_those_of_the_hand_however_alike_neighbouring_actions_are(shift, factor):
    found = learn_following(recorded({lag + shift: share for lag, share in RESPONSE.items()}, factor))

    assert found is not None
    assert found.lag == shift
    assert found.gain == pytest.approx(0.9 / factor, rel=0.01)
    expected = [RESPONSE.get(lag - shift, 0.0) / factor for lag in LAGS]
    np.testing.assert_allclose(found.response, expected, atol=0.01 / factor)
    assert found.explained > 0.99


@pytest.mark.parametrize("time_constant", [0.5, 2.0, 8.0])
def test_a_slow_arm_is_not_late(time_constant):
    """Its motion is spread over many rows, but begins in the row of the action."""
    after = np.arange(60) / time_constant
    share = np.diff(1 - (1 + after) * np.exp(-after))  # of a critically damped arm, in rows
    found = learn_following(recorded(dict(enumerate(share))))
    assert found is not None
    assert found.lag == 0


@pytest.mark.parametrize("delay", [6, 7])
def test_an_arm_that_answers_later_than_can_be_told_is_late_all_the_same(delay):
    found = learn_following(recorded({delay: 0.9}))
    assert found is not None
    assert found.lag == LAGS[-1]


@pytest.mark.parametrize(("time_constant", "held"), [(6.0, 40), (8.0, 40), (10.0, 20), (20.0, 20)])
def test_a_slow_arm_is_not_late_where_commands_are_held_for_long(time_constant, held):
    """As by keys: the rows after an action ask for the same, so most of its motion seems to come late."""
    rng, after = np.random.default_rng(0), np.arange(80) / time_constant
    share = dict(enumerate(np.diff(1 - (1 + after) * np.exp(-after))))  # critically damped
    made = []
    for _ in range(6):
        actions = np.repeat(rng.uniform(-1, 1, (600 // held, 7)), held, axis=0).astype(np.float32)
        positions = followed(actions, share) + rng.normal(0, 2e-4, (len(actions), 3))
        made.append(motion_in(positions, actions, SCALE))
    found = learn_following(made)
    assert found is not None
    assert found.lag in (0, 1)


@pytest.mark.parametrize("time_constant", [8.0, 20.0])
def test_an_arm_that_creeps_after_its_command_is_not_late(time_constant):
    """First order: most of its motion comes later than can be told, but some of it in the row of the action."""
    found = learn_following(recorded({lag: np.exp(-lag / time_constant) / time_constant for lag in range(80)}))
    assert found is not None
    assert found.lag == 0


def test_stamps_that_are_off_by_a_part_of_a_row_are_not_a_row_off():
    found = learn_following(recorded({-1: 0.05, 0: 0.43, 1: 0.32, 2: 0.1}))
    assert found is not None
    assert found.lag == 0


def test_a_hand_that_trembles_a_thousandth_of_a_millimetre_follows_nothing():
    found = learn_following(recorded(RESPONSE))
    assert found is not None
    assert found.is_clear
    assert not dataclasses.replace(found, usual_m=1e-6).is_clear


@pytest.mark.parametrize("share", [0.1, 0.7])
def test_rows_in_which_the_hand_is_held_are_found_and_do_not_count_as_its_gain(share):
    rng = np.random.default_rng(3)
    held = [np.repeat(rng.random(40) < share, 10) for _ in range(4)]  # ten rows at a time
    motions = [
        motion_in(followed(actions, RESPONSE, stuck), actions, SCALE)
        for actions, stuck in zip(map(wandering, range(4)), held, strict=True)
    ]

    found = learn_following(motions)

    assert found is not None
    assert found.gain == pytest.approx(0.9, rel=0.03)
    assert found.lag == 0
    said, truth = np.concatenate([contact_rows(m, found) for m in motions]), np.concatenate(held)
    assert truth[said].mean() > 0.93
    asks = np.concatenate([np.linalg.norm(asked, axis=1) for asked, _ in motions]) > 0.01
    assert said[truth & asks].mean() > 0.85


def test_where_nothing_is_asked_for_and_after_the_last_row_nothing_can_be_told():
    found = learn_following(recorded(RESPONSE))
    assert found is not None
    still = np.tile(HOLD_ACTION, (20, 1))
    still[:, 0] = 0.02  # a hundredth of what is usual is no motion either
    assert not contact_rows(motion_in(np.zeros((20, 3)), still, SCALE), found).any()
    pressed = still + np.array([1, 0, 0, 0, 0, 0, 0], np.float32)
    np.testing.assert_array_equal(
        contact_rows(motion_in(np.zeros((20, 3)), pressed, SCALE), found), [*[True] * 19, False]
    )


def test_a_hand_that_follows_by_more_than_half_is_in_no_contact_up_to_the_end_of_an_episode():
    found = learn_following(recorded({0: 1.0}))
    assert found is not None
    steady = np.tile(HOLD_ACTION, (20, 1))
    steady[:, 0] = 1
    for share, contact in ((0.6, False), (0.4, True)):
        motion = motion_in(followed(steady, {0: share}), steady, SCALE)
        np.testing.assert_array_equal(contact_rows(motion, found), [*[contact] * 19, False])


@pytest.mark.parametrize("rows", [1, 2, 3, 5])
def test_episodes_too_short_to_tell_and_hands_that_never_move_are_no_error(rows):
    actions = wandering(0, rows)
    assert learn_following([motion_in(np.zeros((rows, 3)), actions, SCALE)]) is None
    assert learn_following([motion_in(np.ones((400, 3)), np.tile(HOLD_ACTION, (400, 1)), SCALE)]) is None
    assert learn_following([]) is None
    found = learn_following(recorded(RESPONSE))
    assert found is not None
    assert contact_rows(motion_in(np.zeros((rows, 3)), actions, SCALE), found).shape == (rows,)


def test_a_hand_that_moves_by_itself_follows_nothing(tmp_path):
    rng = np.random.default_rng(0)
    rows = {"stamp": np.arange(400), "proprio": rng.normal(0, 0.01, (400, 15)).cumsum(0), "action": wandering(1)}
    rows["proprio"] = rows["proprio"].astype(np.float32)
    with DatasetWriter(tmp_path / "data", Spec(scene=(), tasks=())) as writer:
        writer.add_episode({**rows, "scene": np.zeros((400, 0), np.float32)})

    found = learn_following([motion_in(rows["proprio"][:, :3], rows["action"], SCALE)])

    assert found is not None
    assert not found.is_clear
    data = Dataset.open(tmp_path / "data")
    assert not dataset_contact_rows(data, data.episodes).any()
    assert all(following.is_clear for following in (learn_following(recorded(RESPONSE)),) if following)


def test_what_many_rows_say_is_learned_from_some_of_them(monkeypatch):
    motions = recorded(RESPONSE, episodes=20)
    monkeypatch.setattr("diwa_trainer.dataset.following.FIT_ROWS", 1000)
    found = learn_following(motions)
    assert found is not None
    assert 300 < found.rows <= 1200
    assert found.gain == pytest.approx(0.9, rel=0.01)


def test_a_dataset_s_rows_are_told_one_by_one_and_no_episode_by_its_neighbours(tmp_path):
    stuck = np.zeros(400, bool)
    stuck[100:140] = True
    spec = Spec(scene=(), tasks=())
    with DatasetWriter(tmp_path / "data", spec) as writer:
        for seed in range(3):
            actions = wandering(seed)
            proprio = np.zeros((400, 15), np.float32)
            proprio[:, :3] = followed(actions, RESPONSE, stuck if seed == 1 else None)
            proprio[:, :3] += 5.0 * seed  # a jump between episodes is no motion
            rows = {"stamp": np.arange(400), "proprio": proprio, "action": actions}
            writer.add_episode({**rows, "scene": np.zeros((400, 0), np.float32)})
    data = Dataset.open(tmp_path / "data")
    said = dataset_contact_rows(data, data.episodes)

    inside, outside = np.flatnonzero(stuck) + 400, np.setdiff1d(np.arange(1200), np.flatnonzero(stuck) + 400)
    assert said[inside].mean() > 0.7
    assert said[outside].sum() <= 2


def test_contacts_of_episodes_that_are_not_chosen_are_not_looked_for_and_the_others_do_not_depend_on_them(tmp_path):
    def contacts(gain):
        """Three episodes with a hand that is stuck for 40 rows; in the last one it moves `gain` times as far."""
        stuck = np.zeros(400, bool)
        stuck[100:140] = True
        folder = tmp_path / str(gain)
        with DatasetWriter(folder, Spec(scene=(), tasks=())) as writer:
            for seed in range(3):
                actions, proprio = wandering(seed), np.zeros((400, 15), np.float32)
                proprio[:, :3] = followed(actions, RESPONSE, stuck) * (gain if seed == 2 else 1)
                rows = {"stamp": np.arange(400), "proprio": proprio, "action": actions}
                writer.add_episode({**rows, "scene": np.zeros((400, 0), np.float32)})
        data = Dataset.open(folder)
        return dataset_contact_rows(data, data.episodes[:2]), dataset_contact_rows(data, data.episodes)

    (usual, all_usual), (other, all_other) = contacts(1), contacts(40)

    assert usual[100:140].mean() > 0.7
    assert not usual[800:].any()
    assert all_usual[800:].any()
    np.testing.assert_array_equal(usual, other)
    assert (all_usual[:800] != all_other[:800]).any(), "which would change them"
