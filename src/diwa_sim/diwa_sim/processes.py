"""Jobs done in processes of their own, a few at a time, so that Ctrl-C ends them all tidily."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def results_of(do: Callable[[Job], Result], jobs: Sequence[Job], workers: int) -> Iterator[Result]:
    """Do each job, at most `workers` at a time; yield what comes of it as soon as it is done.

    Args:
        do: does one; with more than one worker it is pickled, with the job and the result.
        jobs: what to do.
        workers: with one, or for one job, no process is started.
    """
    if workers == 1 or len(jobs) <= 1:
        yield from map(do, jobs)
        return
    # Forked processes would share OpenGL and the parent's threads: start fresh ones.
    context = multiprocessing.get_context("spawn")
    waiting, running = iter(jobs), set[Future[Result]]()
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context) as pool:
        try:
            while True:
                # No more than can run at once: what a pool has queued it does not take back.
                with _interrupts_held():
                    free = workers - len(running)
                    running |= {pool.submit(_work, do, job) for job in islice(waiting, free)}
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        except (KeyboardInterrupt, GeneratorExit):
            # Ctrl-C reaches the workers too; a signal to this process alone does not.
            for worker in multiprocessing.active_children():
                if worker.pid is not None:
                    os.kill(worker.pid, signal.SIGINT)
            raise


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back. Processes started meanwhile are born so: none prints a traceback while it loads or idles."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(do: Callable[[Job], Result], job: Job) -> Result:
    """Do one job in a worker, which hears Ctrl-C meanwhile, once: a second may not cut short the tidying up."""

    def interrupt(*_: Any) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    try:
        return do(job)
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
