from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

import pytest

from diwa_runtime.cli import run_verb
from diwa_runtime.errors import DiwaError, InputError


def raiser(error: BaseException) -> object:
    def verb(argv: Sequence[str]) -> None:  # noqa: ARG001
        raise error

    return verb


def test_arguments_reach_the_verb_and_the_end_is_zero(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[str] = []
    assert run_verb(seen.extend, ["--seed", "3"]) == 0
    assert seen == ["--seed", "3"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("error", [DiwaError("bag: cut\nrecord it again"), InputError("bag: cut record it again")])
def test_a_fault_that_a_person_can_mend_is_one_line_and_exit_2(
    error: DiwaError, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_verb(raiser(error), []) == 2
    assert capsys.readouterr().err == "error: bag: cut record it again\n"


@pytest.mark.parametrize(
    ("interrupt", "line"),
    [
        (KeyboardInterrupt(), "interrupted\n"),
        (KeyboardInterrupt("update 400 is kept"), "interrupted: update 400 is kept\n"),
    ],
)
def test_ctrl_c_is_one_line_and_exit_130(
    interrupt: KeyboardInterrupt, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_verb(raiser(interrupt), []) == 130
    assert capsys.readouterr().err == line


def test_a_lack_of_memory_is_one_line_and_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_verb(raiser(MemoryError()), []) == 2
    assert capsys.readouterr().err.startswith("error: there is not enough memory")


def test_a_name_that_is_no_text_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_verb(lambda _: print("runs/\udcff"), []) == 0
    assert run_verb(raiser(DiwaError("runs/\udcff: not there")), []) == 2
    said = capsys.readouterr()
    assert (said.out, said.err) == ("runs/\\udcff\n", "error: runs/\\udcff: not there\n")


def test_a_fault_of_ours_is_let_through() -> None:
    with pytest.raises(ZeroDivisionError):
        run_verb(raiser(ZeroDivisionError()), [])


@pytest.mark.parametrize("lines", [1, 100_000], ids=["short", "long"])
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_output_that_nobody_reads_ends_a_verb_in_silence(unbuffered: str, lines: int) -> None:
    """As after `--help | head -1`."""
    program = (
        f"import sys; from diwa_runtime.cli import run_verb; sys.exit(run_verb(lambda _: print('x\\n' * {lines})))"
    )
    settings = {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": unbuffered}
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | settings
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()  # long before Python has started and writes
    assert (process.stderr.read(), process.wait()) == (b"", 141)
    process.stderr.close()


def test_another_pipe_that_broke_is_a_fault() -> None:
    with pytest.raises(BrokenPipeError):
        run_verb(raiser(BrokenPipeError()), [])
