"""How many messages are missing is told by the publishers' own counts."""

from __future__ import annotations

from diwa_sim.lost_messages import REMEMBERED, Losses


def lost(counts: list[int | None], publishers: int = 1) -> int:
    losses = Losses()
    assert sum(losses.add(count, publishers) for count in counts) == losses.count
    return losses.count


def test_gaps_are_losses_and_what_was_before_the_first_is_none() -> None:
    assert lost([700, 701, 702]) == 0
    assert lost([1, 2, 5, 6, 10]) == 5
    assert lost([None, None]) == 0, "a middleware that does not count"


def test_a_publisher_that_began_anew_has_lost_nothing() -> None:
    assert lost([8, 9, 1, 2, 3]) == 0
    assert lost([8, 9, 1, 2, 4]) == 1


def test_publishers_that_take_turns_are_told_apart() -> None:
    assert lost([5, 900, 6, 901, 7, 902], publishers=2) == 0
    assert lost([5, 900, 7, 903, 8], publishers=2) == 3
    assert lost([5, 5, 6, 6, 7, 7], publishers=2) == 0


def test_many_publishers_fill_no_memory() -> None:
    losses = Losses()
    for number in range(1000):
        losses.add(2_000_000 - 10 * number, 1000)
    assert len(losses._newest) == REMEMBERED
