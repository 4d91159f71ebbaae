"""What marks make of a bag: episodes, their outcomes and seeds, and which marks are of episodes before it."""

import pytest

from diwa_runtime.events import NO_SEED, EventKind
from diwa_trainer.ingest.marks import Event, Span, cut, without_stale

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
