"""Which messages stand in their place in time, one rule at a time; `newest` and `sure` are what rows wait for."""

from __future__ import annotations

import pytest

from diwa_runtime.errors import InputError
from diwa_runtime.rows.order import ALONE, KEPT, LATE, Judgement, StampOrder, Verdict

GAP = 100


def judged(*stamps: int) -> tuple[StampOrder, list[Judgement]]:
    order = StampOrder("robot/state", GAP)
    return order, [order.judge(stamp) for stamp in stamps]


@pytest.mark.parametrize(("step", "sure"), [(GAP, 1000 + GAP), (GAP + 1, 1000)])
def test_a_message_beyond_the_longest_gap_is_not_sure_until_the_next_comes(step: int, sure: int) -> None:
    order, _ = judged(1000, 1000 + step)
    assert (order.newest, order.sure) == (1000 + step, sure)


@pytest.mark.parametrize("stamp", [-1, 2**63])
def test_what_no_file_can_hold_is_no_time(stamp: int) -> None:
    order, found = judged(1000, stamp)
    assert (found[1], order.newest) == (ALONE, 1000)


@pytest.mark.parametrize(
    ("stamps", "verdict"),
    [((5000, 4000), ALONE), ((5000, 10_005, 5001), ALONE), ((5000, 10_011, 5001), ALONE)],
    ids=["the second earlier", "late between", "on time between"],
)
def test_only_two_in_a_row_that_go_on_far_behind_are_a_clock_that_went_back(
    stamps: tuple[int, ...], verdict: Judgement
) -> None:
    _, found = judged(10_000, 10_010, *stamps)
    assert found[-1] == verdict


def test_a_clock_that_went_back_and_goes_on_is_refused() -> None:
    with pytest.raises(InputError, match=r"time goes backwards by 0\.000005 s at message 4"):
        judged(10_000, 10_010, 5000, 5001)


@pytest.mark.parametrize(
    ("stamp", "judgement"), [(1060, Judgement(Verdict.KEPT, withdrawn=1150)), (1090, LATE), (1151, KEPT)]
)
def test_a_jump_stood_alone_where_the_next_fits_better_to_what_was_before(stamp: int, judgement: Judgement) -> None:
    _, found = judged(1000, 1150, stamp)
    assert found[-1] == judgement
