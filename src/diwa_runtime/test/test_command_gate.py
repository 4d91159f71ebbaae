from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diwa_runtime.command_gate import LONGEST_SOURCE, MOST_REASONS, OTHER_REASONS, Command, CommandGate

SILENCE_NS = 500


def command(source: str = "policy", sequence: int | None = None, answers_ns: int = 0, x: float = 0.01) -> Command:
    return Command(np.array([x, 0, 0, 0, 0, 0]), 1.0, source, answers_ns, sequence)


@pytest.fixture
def gate() -> CommandGate:
    return CommandGate(SILENCE_NS)


def test_a_command_is_given_once_and_the_newest_wins(gate: CommandGate) -> None:
    assert gate.offer(command(x=0.01), 0) is None
    assert gate.offer(command(x=0.02), 1) is None
    taken = gate.take()
    assert taken is not None
    assert taken.motion[0] == 0.02
    assert gate.take() is None


@pytest.mark.parametrize(
    "wrong",
    [
        Command(np.array([np.nan, 0, 0, 0, 0, 0]), 1.0, "policy"),
        Command(np.array([0, 0, 0, 0, 0, np.inf]), 1.0, "policy"),
        Command(np.zeros(6), np.nan, "policy"),
        Command(np.array([0, 1e307, 0, 0, 0, 0]), 1.0, "policy"),
        Command(np.zeros(6), -1e307, "policy"),
        Command(np.zeros(5), 1.0, "policy"),
    ],
    ids=["nan", "inf", "gripper", "huge", "huge gripper", "size"],
)
def test_an_unsound_command_is_refused_and_moves_nothing(gate: CommandGate, wrong: Command) -> None:
    assert gate.offer(wrong, 0) == "the command of 'policy' is not finite (or beyond 1e9)"
    assert gate.take() is None
    assert gate.commander is None


def test_a_second_source_is_refused_until_the_first_is_silent(gate: CommandGate) -> None:
    gate.offer(command("teleop"), 0)
    assert gate.offer(command("policy", x=0.05), SILENCE_NS) == "'policy' may not command while 'teleop' does"
    taken = gate.take()
    assert taken is not None
    assert taken.source == "teleop"
    assert gate.offer(command("policy"), SILENCE_NS + 1) is None
    assert gate.commander == "policy"


def test_two_publishers_under_one_name_are_found_out_by_their_counts(gate: CommandGate) -> None:
    gate.offer(command(sequence=7), 0)
    assert gate.offer(command(sequence=8), 1) is None
    for sequence in (1, 8):
        assert gate.offer(command(sequence=sequence), 2) == "two publishers command as 'policy'"
    assert gate.offer(command(sequence=9), 3) is None


def test_a_publisher_that_started_anew_commands_again_after_the_silence(gate: CommandGate) -> None:
    gate.offer(command(sequence=7), 0)
    assert gate.offer(command(sequence=1), SILENCE_NS + 1) is None


def test_after_a_reset_nothing_old_is_executed(gate: CommandGate) -> None:
    gate.offer(command(), 0)
    gate.clear(not_before_ns=1000)
    assert gate.take() is None
    assert gate.offer(command("teleop", answers_ns=999), 1) is not None
    assert gate.offer(command("teleop", answers_ns=1000), 2) is None
    assert gate.offer(command("teleop"), 3) is None, "one that answers no observation is not from before it"


def test_refusals_are_counted_by_reason(gate: CommandGate) -> None:
    gate.offer(command("teleop"), 0)
    for now_ns in (1, 2):
        gate.offer(command("policy"), now_ns)
    assert gate.refused == {"'policy' may not command while 'teleop' does": 2}


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("", "names no source; name your source"),
        (" \t\u00a0", "names no source"),
        ("p" * (LONGEST_SOURCE + 1), "of 65 characters"),
        ("p" * 10**6, "of 1000000 characters"),
        ("policy\n[ERROR] all is well", "do not print"),
        ("\x1b[2J", "do not print"),
        ("poli\u202ecy", "do not print"),
        ("policy\x00", "do not print"),
    ],
    ids=["empty", "blank", "long", "huge", "two lines", "escape", "right to left", "zero"],
)
def test_a_commander_without_a_name_of_its_own_is_refused(gate: CommandGate, source: str, said: str) -> None:
    reason = gate.offer(command(source), 0)
    assert reason is not None
    assert said in reason
    assert len(reason) < 200, "it ends in a log"
    assert reason.isprintable()
    assert gate.take() is None
    assert gate.commander is None
    assert gate.refused == {reason: 1}


@pytest.mark.parametrize("source", ["policy", "tele op", "Füße 手", "p" * LONGEST_SOURCE])
def test_any_name_that_prints_will_do(gate: CommandGate, source: str) -> None:
    assert gate.offer(command(source), 0) is None
    assert gate.commander == source


def test_an_unnamed_commander_moves_nothing_before_during_or_after_a_named_one(gate: CommandGate) -> None:
    for now_ns in range(3):
        assert gate.offer(command(""), now_ns) is not None
    assert gate.offer(command("teleop"), 3) is None
    assert gate.offer(command(""), 4) is not None
    taken = gate.take()
    assert taken is not None
    assert taken.source == "teleop"


def test_a_stamp_that_cannot_be_is_refused(gate: CommandGate) -> None:
    assert gate.offer(command(answers_ns=-1), 0) == "the command of 'policy' has a stamp that cannot be"
    assert gate.take() is None


def test_while_it_is_shut_it_takes_nothing_and_what_waited_is_forgotten(gate: CommandGate) -> None:
    gate.offer(command(), 0)
    gate.shut_for("two robots", not_before_ns=100)
    assert gate.take() is None
    assert gate.offer(command("teleop"), 1) == "two robots"
    gate.shut_for("two robots", not_before_ns=200)
    gate.shut_for("", not_before_ns=300)
    assert gate.offer(command(answers_ns=299), 2) is not None, "it answers what it may have seen of another robot"
    assert gate.offer(command(answers_ns=300), 3) is None
    assert gate.refused["two robots"] == 1


def test_what_the_robot_itself_has_against_it_is_said_with_the_name(gate: CommandGate) -> None:
    assert gate.offer(command(), 0, "came in FAULT") == "the command of 'policy' came in FAULT"
    assert gate.take() is None


def test_whoever_changes_its_name_all_the_time_fills_no_memory(gate: CommandGate) -> None:
    gate.offer(command("teleop"), 0)
    for number in range(10_000):
        gate.offer(command(f"stranger {number}"), 1)
    assert len(gate.refused) == MOST_REASONS + 1
    assert sum(gate.refused.values()) == 10_000
    assert gate.refused[OTHER_REASONS] == 10_000 - MOST_REASONS


TEXTS = st.one_of(st.text(max_size=5), st.sampled_from(["policy", "teleop", "", " "]))
NUMBERS = st.one_of(st.floats(-0.02, 0.02), st.floats())


@given(st.lists(st.tuples(TEXTS, NUMBERS, NUMBERS, st.integers(-2, 5), st.integers(0, 300)), max_size=30))
def test_whatever_is_offered_only_a_named_finite_lonely_command_is_given(
    offers: list[tuple[str, float, float, int, int]],
) -> None:
    gate, now_ns, commander, heard_ns = CommandGate(SILENCE_NS), 0, None, 0
    for source, x, gripper, answers_ns, passed_ns in offers:
        now_ns += passed_ns
        refused = gate.offer(Command(np.array([x, 0, 0, 0, 0, 0]), gripper, source, answers_ns), now_ns)
        taken = gate.take()
        assert (taken is None) == (refused is not None)
        if taken is not None:
            assert source.strip()
            assert abs(x) < 1e9
            assert abs(gripper) < 1e9
            assert commander in (None, source) or now_ns - heard_ns > SILENCE_NS
            commander, heard_ns = source, now_ns
