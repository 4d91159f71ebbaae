"""Where the recordings reach: cells against a search through all points, and what leaves them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from toy import DRAWER

from diwa_runtime.spec import TCP_POSITION, TaskSpec
from diwa_trainer.dataset import Dataset
from diwa_trainer.policy.support import Cells, Recorded, Support, SupportConfig, outside, recorded_rows

COORDINATES = st.floats(-0.5, 0.5, width=32)


@given(
    arrays.arrays(np.float32, st.tuples(st.integers(1, 12), st.just(3)), elements=COORDINATES),
    arrays.arrays(np.float32, (8, 3), elements=st.floats(-2, 2, width=32)),
)
@settings(max_examples=60)
def test_a_cell_is_visited_where_a_point_lies_in_it_or_in_a_neighbour_along_one_axis(points, asked):
    size, spread = np.array([0.1, 0.2, 0.05]), np.array([True, True, False])
    asked = np.concatenate([asked, points, points + np.float32([0.1, 0, 0]), points + np.float32([0, 0, 0.05])])
    cells, where = np.floor(points / size), np.floor(asked / size)

    def near(cell):
        apart = np.abs(cells - cell)
        return bool(((apart.sum(1) == 0) | ((apart.sum(1) == 1) & (apart[:, spread].sum(1) == 1))).any())

    expected = [near(cell) for cell in where]
    assert Cells(points, size, spread).contain(torch.from_numpy(asked)).tolist() == expected


def around_a_handle(rows=60_000, seed=0):
    """Play with a drawer whose handle is at x = its value: hands go anywhere but there, and the drawer stands still."""
    rng = np.random.default_rng(seed)
    hands = rng.uniform([0, 0, 0], [0.24, 0.1, 0.1], (rows, 3)).astype(np.float32)
    values = rng.uniform(0, 0.24, rows).astype(np.float32)
    around = np.abs(hands[:, 0] - values) > 0.06
    return hands[around], values[around]


def at_the_handle(rows=6000, seed=1):
    """Play that pulls the drawer: the hand is at the handle and the drawer moves, opening."""
    rng = np.random.default_rng(seed)
    values = rng.uniform(0, 0.24, rows).astype(np.float32)
    hands = np.column_stack([values, *rng.uniform(0.04, 0.06, (2, rows))]).astype(np.float32)
    return hands, values


def support_of(*parts, scene=True):
    hands, values, changes = (np.concatenate(column) for column in zip(*parts, strict=True))
    recorded = Recorded(hands, values, changes) if scene else Recorded(hands, None, None)
    return Support(recorded, TaskSpec("open", "drawer", 0.12), SupportConfig(levels=4))


def still(hands, values):
    return hands, values, np.zeros(len(hands), np.float32)


def opening(hands, values):
    return hands, values, np.full(len(hands), 0.04, np.float32)


def reached(support, hand, value, change):
    hand, value, change = (torch.tensor([number]) for number in (hand, value, change))
    return bool(support.contains(hand, value, change))


HANDLE = [0.13, 0.05, 0.05]


def test_a_light_that_is_decoded_a_little_beyond_on_and_off_is_on_and_off():
    """Lights are 0 and 1 in recordings; off was never recorded with the hand at x = 0.2, on never at x = 0."""
    off, on = np.zeros((50, 3), np.float32), np.tile(np.float32([0.2, 0, 0]), (50, 1))
    recorded = Recorded(np.concatenate([off, on]), np.repeat(np.float32([0, 1]), 50), np.zeros(100, np.float32))
    support = Support(recorded, TaskSpec("turn_on", "light", 0.5), SupportConfig())
    for decoded in (-0.2, 0.0, 0.4):
        assert reached(support, [0.0, 0, 0], decoded, 0.0)
        assert not reached(support, [0.2, 0, 0], decoded, 0.0)
    finer = Support(recorded, TaskSpec("turn_on", "light", 0.5), SupportConfig(levels=8))
    assert reached(finer, [0.0, 0, 0], 0.4, 0.0), "what is on or off has two parts, whatever the setting"
    for decoded in (0.6, 1.0, 1.2):
        assert reached(support, [0.2, 0, 0], decoded, 0.0)
        assert not reached(support, [0.0, 0, 0], decoded, 0.0)


def test_a_hand_that_goes_where_play_only_went_around_is_outside():
    """The hand's place was visited, but never while the drawer stood there: a hand that goes through the handle."""
    support = support_of(still(*around_a_handle()))
    hands_alone = support_of(still(*around_a_handle()), scene=False)
    assert reached(hands_alone, HANDLE, 0.135, 0.0)
    assert reached(support, HANDLE, 0.02, 0.0)
    assert not reached(support, HANDLE, 0.135, 0.0)


def test_a_part_that_moves_where_play_never_touched_it_is_outside():
    """Of two plays the one that pulled the drawer bears that it opens at the handle; neither that it does elsewhere."""
    untouched = support_of(still(*around_a_handle()), still(*at_the_handle()))
    pulled = support_of(still(*around_a_handle()), opening(*at_the_handle()))
    assert not reached(untouched, HANDLE, 0.135, 0.04)
    assert reached(pulled, HANDLE, 0.135, 0.04)
    assert not reached(pulled, HANDLE, 0.135, -0.04)
    assert not reached(pulled, [0.12, 0.05, 0.01], 0.02, 0.04)
    assert reached(pulled, [0.12, 0.05, 0.01], 0.02, 0.01), "a decoded value that jitters does not move"


def test_what_moved_within_a_chunk_is_known_from_a_chunk_after_an_episode_s_start(toy_data):
    data = Dataset.open(toy_data)
    recorded = recorded_rows(data, "drawer", 4)
    for episode in data.episodes:
        for row in range(episode.start, episode.end):
            if row - episode.start < 4:
                assert np.isnan(recorded.changes[row])
            else:
                assert recorded.changes[row] == data.scene[row, DRAWER] - data.scene[row - 4, DRAWER]
    assert recorded_rows(data, None, 4).values is None


class Hand:
    """Proprio that is where the hand is."""

    def __len__(self):
        return 3

    def physical(self, features, name):
        return features[..., TCP_POSITION.index(name)]


class Transparent:
    """A world model of which a latent is what is decoded: where the hand is, and the drawer."""

    decode = staticmethod(lambda latent: latent)

    def __init__(self):
        self.proprio = Hand()
        self.scene_features = SimpleNamespace(physical=lambda features, _: features[..., 0])


@pytest.mark.parametrize(
    ("path", "left"),
    [
        ([9.0, 0, 0, 0, 0], False),
        ([0, 9.0, 0, 0, 0], True),
        ([0, 0, 0, 9.0, 0], True),
        ([0, 0, 0, 0, 9.0], True),
        ([0, 0, 0, 0, 0], False),
    ],
)
def test_a_path_has_left_where_any_of_its_actions_led_outside(path, left):
    """Where it began was judged with the chunk before, or is recorded."""
    support = Support(
        Recorded(np.zeros((1, 3), np.float32), None, None), TaskSpec("open", "drawer", 0.12), SupportConfig()
    )
    latents = torch.zeros(1, len(path), 3)
    latents[0, :, 0] = torch.tensor(path)
    assert outside(Transparent(), support)(latents).tolist() == [left]


def test_a_path_along_which_the_drawer_moves_is_judged_by_its_end():
    """The hand rests at the handle; the drawer was recorded to move there by a third of the change a chunk, opening."""
    hands, values = np.zeros((20, 3), np.float32), np.linspace(0, 0.24, 20, dtype=np.float32)
    support = Support(
        Recorded(hands, values, np.full(20, 0.04, np.float32)), TaskSpec("open", "drawer", 0.12), SupportConfig()
    )
    paths = torch.zeros(3, 5, 4)
    paths[0, :, 3] = torch.linspace(0.0, 0.04, 5)
    paths[1, :, 3] = torch.linspace(0.04, 0.0, 5)
    paths[2, 1:4, 3] = 0.04
    judged = outside(Transparent(), support)(paths)
    assert judged.tolist() == [False, True, True], "opening was recorded; closing was not, and standing still was not"
