"""What marks make of a bag: episodes, their outcomes and seeds, and which marks are of episodes before it."""

import numpy as np
import pytest

from diwa_runtime.events import NO_SEED, EventKind
from diwa_trainer.ingest.marks import Event, Span, cut, without_stale
from diwa_trainer.ingest.parts import parts_of

TASK, OTHER = "open_drawer", "turn_on_led"
S, F = EventKind.SUCCESS, EventKind.FAILURE


def only(task: str, *marks: tuple[EventKind, str]) -> Span:
    """Cut one episode of a task ("" is play) with these marks."""
    kinds = [(EventKind.START, task), *marks, (EventKind.END, "")]
    (span,) = cut(Event(stamp, kind, about) for stamp, (kind, about) in enumerate(kinds, 1)).spans
    return span


@pytest.mark.parametrize(
    ("task", "marks", "outcome"),
    [
        (TASK, [], None),
        (TASK, [(S, TASK)], "success"),
        (TASK, [(F, TASK)], "failure"),
        (TASK, [(S, "")], "success"),
        (TASK, [(F, "")], "failure"),
        (TASK, [(S, OTHER)], None),
        (TASK, [(F, OTHER)], None),
        (TASK, [(S, TASK), (F, OTHER)], "success"),
        (TASK, [(F, TASK), (S, OTHER)], "failure"),
        (TASK, [(S, TASK), (F, TASK)], "failure"),
        (TASK, [(F, TASK), (S, TASK)], "success"),
        ("", [(F, "")], None),
        ("", [(F, TASK)], None),
        ("", [(S, "")], None),
        ("", [(S, TASK)], None),
    ],
)
def test_the_last_mark_of_the_demonstrated_task_is_the_outcome(task, marks, outcome):
    assert only(task, *marks).outcome == outcome


def test_every_success_that_names_a_task_is_kept_with_its_time():
    """START is at 1 ns, so the marks are at 2, 3, ..."""
    marks = [(S, OTHER), (F, OTHER), (S, ""), (S, TASK)]

    assert only(TASK, *marks).marks == ((2, OTHER), (4, TASK), (5, TASK))
    assert only("", *marks).marks == ((2, OTHER), (5, TASK))


@pytest.mark.parametrize(
    ("task", "mark", "lost"),
    [
        ("", (S, ""), 1),
        ("", (F, TASK), 1),
        (TASK, (F, OTHER), 1),
        ("", (S, TASK), 0),
        (TASK, (S, OTHER), 0),
        (TASK, (F, ""), 0),
    ],
)
def test_a_mark_that_says_nothing_is_counted(task, mark, lost):
    events = [(EventKind.START, task), mark, (EventKind.END, "")]

    stray = cut(Event(stamp, kind, about) for stamp, (kind, about) in enumerate(events, 1)).stray

    assert stray == ({f"mark {mark[0].name} of no task, or of another than is demonstrated": 1} if lost else {})


@pytest.mark.parametrize(("said", "seed"), [(NO_SEED, None), (0, 0), (7, 7)])
def test_a_start_without_a_seed_is_of_an_unknown_one(said, seed):
    (span,) = cut([Event(1, EventKind.START, TASK, said)]).spans

    assert span.seed == seed


@pytest.mark.parametrize(("over", "kept"), [(EventKind.END, 1), (EventKind.DISCARD, 1), (EventKind.SUCCESS, 3)])
@pytest.mark.parametrize(("first", "heard"), [(2, 3), (3, None)])
def test_marks_of_episodes_that_were_over_before_a_bag_are_left_out(over, kept, first, heard):
    """One that is over at the very time of the first message is the bag's."""
    events = [Event(stamp, kind, TASK) for stamp, kind in ((1, EventKind.START), (2, over), (4, EventKind.START))]

    assert len(without_stale(events, first)) == (heard or kept)


class Part:
    """As much of `Rows` as marks are laid on."""

    def __init__(self, *stamps):
        self.stamp = np.array(stamps)

    def __len__(self):
        return len(self.stamp)


@pytest.mark.parametrize(
    ("stamp", "rows"),
    [(10, [[0], []]), (25, [[2], []]), (31, [[], []]), (99, [[], []]), (100, [[], [0]]), (120, [[], [2]])],
    ids=["the first row", "between two", "in the gap", "just before a part", "a part's first row", "the last row"],
)
def test_a_mark_is_of_the_row_at_or_after_it_in_its_own_part(stamp, rows):
    found = parts_of([Part(10, 20, 30), Part(100, 110, 120)], Span(0, 200, marks=((stamp, TASK),)), max_gap=15)
    assert [[row for row, _ in about["marks"]] for _, about in found] == rows


@pytest.mark.parametrize(("after", "rows"), [(15, [2]), (16, [])])
def test_a_mark_after_the_last_row_is_its_within_the_longest_gap(after, rows):
    ((_, about),) = parts_of([Part(10, 20, 30)], Span(0, 200, marks=((30 + after, TASK),)), max_gap=15)
    assert [row for row, _ in about["marks"]] == rows
