"""Which checkpoint is kept, whether it is to be trusted, and what real episodes make of imagination."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diwa_trainer.policy.verdict import Candidate, Tally, calibrate, choose, standard_error

EPISODES = 256


def candidates(*success, outside=0.0):
    return [Candidate(10 * i, share, outside, float(i)) for i, share in enumerate(success)]


@pytest.mark.parametrize(
    ("success", "iteration", "decision"),
    [
        ([0.5, 0.7, 0.9, 0.8], 20, "accept"),
        ([0.5, 0.89, 0.9, 0.9], 10, "accept"),
        ([0.5, 0.85, 0.9], 20, "accept"),
        ([0.5, 0.57, 0.6], 20, "accept"),
        ([0.5, 0.52, 0.55], 0, "reject"),
        ([0.5, 0.1, 0.2], 0, "reject"),
        ([0.5], 0, "reject"),
        ([0.0, 0.0, 0.0], 0, "reject"),
    ],
    ids=[
        "the best",
        "the first as good",
        "not worse than that",
        "the first that is clear",
        "within chance",
        "worse",
        "none",
        "hopeless",
    ],
)
def test_the_earliest_of_the_best_is_kept_where_it_clearly_beats_the_base(success, iteration, decision):
    verdict = choose(candidates(*success), EPISODES)
    assert (verdict.chosen.iteration, verdict.decision) == (iteration, decision)
    assert len(verdict.candidates) == len(success)


def test_a_policy_that_leaves_the_recordings_asks_for_more_of_them():
    assert choose(candidates(0.5, 0.9, outside=0.24), EPISODES).decision == "accept"
    verdict = choose(candidates(0.5, 0.9, outside=0.26), EPISODES)
    assert (verdict.decision, verdict.chosen.iteration) == ("collect", 10)
    assert "26%" in verdict.why


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.integers(2, 1000))
def test_what_is_kept_is_the_base_or_clearly_better(success, episodes):
    verdict = choose(candidates(*success), episodes)
    chosen, best = verdict.chosen, max(success)
    if chosen.iteration:
        assert chosen.success >= best - standard_error(best, episodes)
        assert chosen.success > success[0]
    else:
        assert verdict.decision == "reject"
        assert best < success[0] + 2 * math.hypot(*(standard_error(one, episodes) for one in (success[0], best)))


def test_without_real_episodes_the_rate_is_the_imagined_one():
    (base, chosen) = candidates(0.5, 0.9)
    found = calibrate(base, chosen, None, None)
    assert found.rate == pytest.approx(0.9)
    assert found.interval95[0] < 0.75
    assert not found.warnings


@pytest.mark.parametrize("imagined", [0.0, 1.0])
def test_imagined_success_alone_is_never_certain(imagined):
    (base, chosen) = candidates(0.5, imagined)
    low, high = calibrate(base, chosen, None, None).interval95
    assert high - low > 0.005


def test_where_the_base_policy_is_kept_its_real_episodes_are_those_of_the_kept_one():
    (base,) = candidates(0.8)
    tried = Tally(30, 100)
    assert calibrate(base, base, None, tried) == calibrate(base, base, tried, tried)
    assert calibrate(base, base, None, tried).rate == pytest.approx(0.3, abs=0.05)
    assert calibrate(base, base, Tally(2, 5), tried) == calibrate(base, base, tried, tried), "the one of more episodes"
    few = Tally(0, 8)  # as many as imagination's prior is worth
    assert calibrate(base, base, None, few).rate == pytest.approx(base.success / 2), "they count once"


def test_real_episodes_outweigh_imagination():
    (base, chosen) = candidates(0.5, 0.95)
    few, many = (calibrate(base, chosen, Tally(n // 2, n), None) for n in (10, 200))
    assert few.rate == pytest.approx((0.95 * 8 + 5) / 18)
    assert many.rate == pytest.approx(0.5, abs=0.03)
    assert many.interval95[1] - many.interval95[0] < few.interval95[1] - few.interval95[0]
    low, high = many.interval95
    assert low == pytest.approx(many.rate - 1.96 * math.sqrt(0.25 / 208), abs=0.01)
    assert high == pytest.approx(many.rate + 1.96 * math.sqrt(0.25 / 208), abs=0.01)


@pytest.mark.parametrize(
    ("imagined", "won", "warned", "direction"), [(0.5, 17, True, 1), (0.8, 10, True, -1), (0.5, 11, False, 0)]
)
def test_what_imagination_is_wrong_about_the_base_is_taken_off_the_chosen(imagined, won, warned, direction):
    (base, chosen) = candidates(imagined, 0.85)
    found = calibrate(base, chosen, None, Tally(won, 20))
    assert bool(found.warnings) == warned
    if direction:
        assert math.copysign(1, found.rate - 0.85) == direction
    else:
        assert found.rate == pytest.approx(0.85, abs=0.03)
