"""Intervals and the paired test against published values and brute force."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diwa_trainer.evaluation.statistics import discordant, mcnemar, wilson_interval


@pytest.mark.parametrize(
    ("successes", "episodes", "expected"),
    [  # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0000, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_interval_is_the_published_one(successes, episodes, expected):
    assert wilson_interval(successes, episodes) == pytest.approx(expected, abs=5e-5)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_interval_bounds_solve_the_score_equation(counts):
    """Wilson's bounds are the rates p at which |observed - p| is exactly z standard errors of p."""
    successes, episodes = counts
    for bound in wilson_interval(successes, episodes):
        if 0 < bound < 1:
            error = math.sqrt(bound * (1 - bound) / episodes)
            assert abs(successes / episodes - bound) / error == pytest.approx(1.959964, rel=1e-5)
        else:
            assert bound == successes / episodes


def test_interval_narrows_with_less_confidence_and_more_episodes():
    wide, less_sure, more = wilson_interval(5, 10), wilson_interval(5, 10, 0.8), wilson_interval(50, 100)
    assert wide[0] < less_sure[0] < less_sure[1] < wide[1]
    assert wide[0] < more[0] < more[1] < wide[1]


@pytest.mark.parametrize("arguments", [(1, 0), (0, 0), (3, 2), (-1, 2), (1, 2, 1.0), (1, 2, 0.0)])
def test_impossible_counts_are_refused(arguments):
    with pytest.raises(ValueError):
        wilson_interval(*arguments)


def coin_flips(gained: int, lost: int) -> float:
    """Probability that fair coins for the discordant pairs fall at least as unevenly: every sequence, counted."""
    flips = itertools.product([True, False], repeat=gained + lost)
    uneven = [abs(2 * sum(sequence) - gained - lost) >= abs(gained - lost) for sequence in flips]
    return sum(uneven) / len(uneven)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (3, 3), (5, 1), (0, 7), (9, 2), (6, 4)])
def test_p_is_that_of_fair_coins(gained, lost):
    before = [True] * 4 + [False] * gained + [True] * lost + [False] * 3
    after = [True] * 4 + [True] * gained + [False] * lost + [False] * 3
    assert discordant(before, after) == (gained, lost)
    assert mcnemar(before, after) == pytest.approx(coin_flips(gained, lost))
    assert mcnemar(after, before) == mcnemar(before, after)


def test_p_of_a_large_gain_is_exact():
    assert mcnemar([False] * 40, [True] * 40) == pytest.approx(2 * 0.5**40)


def test_unpaired_results_are_refused():
    with pytest.raises(ValueError, match="shapes"):
        mcnemar([True], [True, False])
