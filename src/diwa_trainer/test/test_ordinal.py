"""Scales that a world model starts from: who codes what, how finely, and that it reads off what it saw."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy import SPEC

from diwa_trainer.dataset import Dataset, Episode
from diwa_trainer.world.observations import action_at, observation_at
from diwa_trainer.world.ordinal import apportion, scales
from diwa_trainer.world.rssm import RSSMConfig
from diwa_trainer.world.world_model import WorldModel, WorldModelConfig

SIZES = RSSMConfig(deterministic=16, variables=32, classes=32, hidden=16)


@pytest.fixture(scope="module")
def data(toy_data):
    return Dataset.open(toy_data)


@pytest.fixture(scope="module")
def untrained(data):
    torch.manual_seed(0)
    model = WorldModel(SPEC, WorldModelConfig(rssm=SIZES, hidden=16))
    model.fit_features(data)
    return model.requires_grad_(False)


@given(st.lists(st.floats(0.01, 10.0), min_size=1, max_size=20), st.integers(1, 64))
def test_variables_are_shared_out_as_the_shares_say(shares, variables):
    counts = Counter(apportion(shares, variables))

    assert counts.total() == variables
    for larger, smaller in ((a, b) for a in range(len(shares)) for b in range(len(shares)) if shares[a] > shares[b]):
        assert counts[larger] >= counts[smaller]


def test_shares_that_divide_are_met_exactly():
    assert apportion([2.0, 1.0, 1.0], 8) == [0, 0, 0, 0, 1, 1, 2, 2]


def test_shares_are_rounded_to_the_nearest():
    """D'Hondt's method would give the first six and the last none."""
    assert Counter(apportion([5.3, 0.9, 0.8], 7)) == {0: 5, 1: 1, 2: 1}


def test_the_scales_of_a_feature_span_its_range_and_fill_each_others_gaps():
    marks = scales([0, 0, 1], torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 3.0]), 5)

    together = torch.cat([marks[0], marks[1]]).sort().values
    torch.testing.assert_close(together.diff(), torch.full((9,), 0.25))
    torch.testing.assert_close(together.mean(), torch.tensor(0.0))
    torch.testing.assert_close(marks[2], torch.linspace(0, 3, 5))


def test_before_any_training_a_latent_says_where_the_hand_is(untrained, data):
    rows = np.arange(0, 60, 20)[:, None] + np.arange(12)
    observation = observation_at(data, rows)

    latents = untrained.observe(observation, action_at(data, rows), mode=True).latents

    for axis in "xyz":
        column = untrained.proprio.names.index(f"tcp_{axis}")
        seen, said = untrained.features(observation)[..., column], untrained.decode(latents)[..., column]
        assert (seen - said).abs().max() < 0.3
        assert (seen - said).abs().max() < 0.2 * (seen.max() - seen.min())


def test_scales_span_what_was_recorded_and_a_little_more_but_not_for_the_sake_of_single_rows(data):
    """Of 4,000 rows that lie evenly in a range, and of two of them that lie far out of it."""
    rows = {"proprio": np.zeros((4000, 15), "f4"), "scene": np.zeros((4000, 24), "f4")}
    rows["proprio"][:, 0] = np.linspace(-0.2, 0.2, 4000)
    rows["proprio"][[100, 3900], 0] = -0.45, 0.45
    model = WorldModel(SPEC, WorldModelConfig(rssm=SIZES, hidden=16)).requires_grad_(False)
    model.fit_features(Dataset(data.folder, SPEC, [Episode(0, 4000)], {**rows, "stamp": np.arange(4000)}))

    column = model.proprio.names.index("tcp_x")
    marks = model.read.weight[column] * (model.read.weight[column] != 0).view(32, 32).any(1).sum()
    ends = [float(end) * float(model.proprio.std[column]) for end in (marks.min(), marks.max())]
    assert ends == pytest.approx([-0.2, 0.2], abs=0.03)
    assert -ends[0] > 0.2
    assert ends[1] > 0.2
    still, coarse = (model.read.weight[model.proprio.names.index(name)] for name in ("tcp_y", "joint_1"))
    assert still.abs().max() > 0, "a feature that never varied has a scale too"
    assert not coarse.any(), "one of a small share has none"


def test_before_any_training_it_expects_that_nothing_changes(untrained, data):
    rows = np.arange(0, 300, 5)[:, None]
    observation = observation_at(data, rows)
    latent = untrained.observe(observation, action_at(data, rows), mode=True).latents[:, 0]

    after = untrained.rssm.imagine_step(latent, torch.zeros(len(latent), 7), torch.Generator().manual_seed(0))

    column = untrained.feature_names.index("drawer")
    before, expected = untrained.decode(latent)[:, column], untrained.decode(after)[:, column]
    assert np.corrcoef(before, expected)[0, 1] > 0.95
    assert not untrained.rssm.shortcut.action.weight.any(), "whatever is done"
    assert not untrained.rssm.shortcut.hidden.weight.any()
    added = untrained.decoder(latent)
    assert added.mean(0).abs().max() < 0.1, "and the decoder's network adds next to nothing to what is read"


def test_scales_are_only_where_it_starts(untrained, data):
    torch.manual_seed(0)
    model = WorldModel(SPEC, untrained.config)
    model.fit_features(data)
    rows = np.arange(4)[:, None] * 20 + np.arange(6)

    loss, _ = model.loss(observation_at(data, rows), action_at(data, rows), torch.Generator().manual_seed(0))
    loss.backward()

    assert model.rssm.shortcut is not None
    shortcut = model.rssm.shortcut
    for layer in (shortcut.seen, shortcut.before, shortcut.action, shortcut.hidden, shortcut.motion[-1], model.read):
        assert layer.weight.grad.abs().max() > 0


def test_the_scales_of_a_feature_are_drawn_apart_in_equal_steps(untrained):
    owners = [untrained.feature_names[i] for i in apportion([s for p in untrained._parts for s in p.shares], 32)]
    of_hand = [i for i, name in enumerate(owners) if name == "tcp_x"]
    alone = [i for i, name in enumerate(owners) if owners.count(name) == 1]

    assert len(of_hand) > 2
    assert set(untrained.rssm.drawn_with[of_hand].tolist()) == {of_hand[0]}
    expected = torch.arange(len(of_hand)) / len(of_hand)
    torch.testing.assert_close(untrained.rssm.drawn_apart[of_hand], expected)
    assert untrained.rssm.drawn_with[alone].tolist() == alone
    assert not untrained.rssm.drawn_apart[alone].any()
