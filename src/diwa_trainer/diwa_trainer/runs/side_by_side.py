"""Processes side by side, so many at a time; who is asked to stop asks them, and waits for their last checkpoint."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from diwa_trainer.runs.run import STOP_SIGNALS

LOOK_S = 0.1
"""How often the processes are looked at."""
Told = Callable[[str, int], None]
"""Is told by name how a process ended: its exit code."""


def start_process(command: Sequence[str], log: Path | None = None) -> subprocess.Popen[bytes]:
    """Start a process in a group of its own; what it says is added to `log`, None: goes where ours goes.

    In our group Ctrl-C on the terminal would reach it once by itself and once through us, and asked twice it stops
    without a checkpoint.
    """
    if log is None:
        return subprocess.Popen(command, process_group=0)
    with log.open("ab") as said:
        return subprocess.Popen(command, process_group=0, stdout=said, stderr=subprocess.STDOUT)


def side_by_side(
    names: Sequence[str],
    start: Callable[[str], subprocess.Popen[bytes]],
    workers: int,
    ended: Told = lambda _name, _code: None,
) -> list[str]:
    """Run a process for each name, `workers` at a time; return those that failed, in the order of `names`.

    Ctrl-C, or SIGTERM, asks them to end at their next whole step, and a second one to end at once.

    Raises:
        KeyboardInterrupt: it was asked to stop; each process has kept its last checkpoint.
    """
    waiting, running, failed = list(names), dict[str, subprocess.Popen[bytes]](), list[str]()
    with requests_to_stop() as asked:
        passed_on = 0
        while running or (waiting and not asked):
            while waiting and len(running) < workers and not asked:
                name = waiting.pop(0)
                running[name] = start(name)
            if len(asked) > passed_on:
                passed_on = len(asked)
                for process in running.values():
                    process.send_signal(signal.SIGINT)  # does nothing to one that has ended
            time.sleep(LOOK_S)
            for name in [name for name, process in running.items() if process.poll() is not None]:
                code = running.pop(name).returncode
                ended(name, code)
                failed += [name] if code else []
    if asked:
        raise KeyboardInterrupt(STOPPED)
    return sorted(failed, key=list(names).index)


STOPPED = "each keeps its last checkpoint; the same command goes on"


@contextlib.contextmanager
def requests_to_stop() -> Iterator[list[int]]:
    """Give a list that grows with each Ctrl-C and SIGTERM, instead of an exception that may land anywhere."""
    asked: list[int] = []
    before = {number: signal.signal(number, lambda number, _: asked.append(number)) for number in STOP_SIGNALS}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
