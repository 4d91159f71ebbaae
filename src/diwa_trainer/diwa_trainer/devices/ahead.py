"""The next batch is read while the current one is learned from."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Generic, TypeVar

import numpy as np

Made = TypeVar("Made")


class Ahead(Generic[Made]):
    """Makes batches in a thread, one ahead; use as a context manager.

    `rng` follows as batches are taken, not as they are made: a checkpoint between two updates holds what the next
    batch is drawn from, and a run keeps its course.
    """

    def __init__(self, make: Callable[[np.random.Generator], Made], rng: np.random.Generator, ahead: bool) -> None:
        """Note how to make a batch; without `ahead` each is made when it is taken, with no thread."""
        self._is_ahead = ahead
        self._make, self._rng, self._ahead = make, rng, copy.deepcopy(rng)
        self._pool = ThreadPoolExecutor(1)
        self._next: Future[tuple[Made, Any]] | None = None

    def __enter__(self) -> Ahead[Made]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def take(self) -> Made:
        """Return the next batch; errors of its making are raised here."""
        if not self._is_ahead:
            return self._make(self._rng)
        made, after = (self._next or self._pool.submit(self._one)).result()
        self._next = self._pool.submit(self._one)
        self._rng.bit_generator.state = after
        return made

    def _one(self) -> tuple[Made, Any]:
        made = self._make(self._ahead)
        return made, self._ahead.bit_generator.state
