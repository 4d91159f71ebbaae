from __future__ import annotations

import numpy as np
import pytest

from diwa_runtime.command_gate import Command, CommandGate

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
    assert gate.commander == ""


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
    assert gate.offer(command(sequence=1), 2) == "two publishers command as 'policy'"
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


def test_refusals_are_counted_by_reason(gate: CommandGate) -> None:
    gate.offer(command("teleop"), 0)
    for now_ns in (1, 2):
        gate.offer(command("policy"), now_ns)
    assert gate.refused == {"'policy' may not command while 'teleop' does": 2}
