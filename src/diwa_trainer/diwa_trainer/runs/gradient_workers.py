"""Gradients by several processes at once: each of its own batch, all at the same weights.

A second thread helps a small network little: most of an update is many short operations in a row. With a second process
an update takes about two thirds of the time. The updates then follow one another as ever, each with its own gradient,
so that a worker's gradient is of weights that are at most as many updates old as there are workers.
"""

from __future__ import annotations

import copy
import signal
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, multiprocessing, nn

from diwa_runtime.errors import ConfigError, DiwaError
from diwa_trainer.devices.device import Metrics, numbers
from diwa_trainer.runs.run import TrainState

Gradient = Callable[[nn.Module, int], Metrics]
"""Adds the gradient of an update, by its number, to the network's parameters; returns the update's metrics."""
STOP_S = 5.0
"""How long a worker that was told to end is waited for."""


class GradientWorkers:
    """Worker processes with a copy of a network in shared memory; use as a context manager.

    `begin` hands out the weights as they are, `gradients` then leaves one worker's gradient after another in the
    network's parameters. With no workers both do nothing. `gradients_with` is both, with the caller's own in front.
    """

    def __init__(self, count: int, model: nn.Module, make: Callable[[], Gradient], threads: int = 1) -> None:
        """Note what to start: `count` processes of `threads` threads that each call `make`, which is pickled."""
        self._count, self._model, self._make, self._threads = count, model, make, threads
        self._weights: nn.Module | None = None
        self._workers: list[tuple[BaseProcess, Connection[Any, Any], list[Tensor]]] = []

    def __enter__(self) -> GradientWorkers:
        if self._count:
            self._weights = copy.deepcopy(self._model).share_memory()
        try:
            for _ in range(self._count):
                self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    @torch.no_grad()
    def begin(self, update: int) -> None:
        """Let the workers compute the gradients of the updates of numbers `update` and up, at the weights as they are.

        Raises:
            DiwaError: a worker has died.
        """
        if self._weights is not None:
            for kept, current in zip(_learned(self._weights), _learned(self._model), strict=True):
                kept.copy_(current)
        for index, (_, connection, _) in enumerate(self._workers):
            try:
                connection.send(update + index)
            except OSError as error:
                raise _died() from error

    def gradients(self) -> Iterator[Metrics]:
        """Leave each worker's gradient in the network's parameters in turn, and yield its metrics.

        Raises:
            DiwaError: a worker has died.
        """
        for _, connection, gradients in self._workers:
            try:
                metrics: dict[str, float] = connection.recv()
            except (EOFError, OSError) as error:
                raise _died() from error
            for parameter, gradient in zip(_learned(self._model), gradients, strict=True):
                parameter.grad = gradient
            yield {name: torch.tensor(value) for name, value in metrics.items()}

    def gradients_with(self, own: Gradient, update: int) -> Iterator[Metrics]:
        """Leave the gradient of `update`, by `own`, in the parameters, then each worker's of the updates after it.

        All are at the weights as they are at first; who is given one may make its update before taking the next.

        Raises:
            DiwaError: a worker has died.
        """
        self.begin(update + 1)
        self._model.zero_grad(set_to_none=True)
        yield own(self._model, update)
        yield from self.gradients()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # not forked: a forked child cannot use torch's threads
        ours, theirs = context.Pipe()
        gradients = [torch.zeros_like(parameter).share_memory_() for parameter in _learned(self._model)]
        process = context.Process(
            target=_work, args=(theirs, self._weights, gradients, self._make, self._threads), daemon=True
        )
        process.start()
        theirs.close()  # ours alone is left here, so that a dead worker is an end of the file
        self._workers.append((process, ours, gradients))

    def _stop(self) -> None:
        for _, connection, _ in self._workers:
            connection.close()
        for process, _, _ in self._workers:
            process.join(STOP_S)
            if process.is_alive():
                process.kill()
                process.join()
        self._workers.clear()


def make_update(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    learning_rate: float,
    gradient_clip: float,
    state: TrainState,
    metrics: Metrics,
) -> Metrics:
    """One step of the optimiser with the gradient that the parameters hold; adds its norm to the metrics."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), gradient_clip)
    optimizer.step()
    state.step += 1
    return metrics | {"gradient_norm": norm}


def check_whole_rounds(config: Any) -> None:
    """Refuse a verb's `updates` or `save_every` at which its `workers` would stand in the middle of a round.

    Raises:
        ConfigError: names the setting and both numbers.
    """
    for name in ("updates", "save_every"):
        if getattr(config, name) % config.workers:
            raise ConfigError(f"{name} is {getattr(config, name)}, must be a multiple of workers ({config.workers})")


def _learned(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _died() -> DiwaError:
    return DiwaError("a worker process died, see above; the same command goes on, and workers 1 needs no other process")


def _work(
    connection: Connection[Any, Any],
    model: nn.Module,
    gradients: list[Tensor],
    make: Callable[[], Gradient],
    threads: int,
) -> None:
    """Compute gradients until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    torch.set_num_threads(threads)
    gradient = make()
    for parameter, shared in zip(_learned(model), gradients, strict=True):
        parameter.grad = shared
    while True:
        try:
            update = connection.recv()
        except (EOFError, ConnectionError):
            return
        for shared in gradients:
            shared.zero_()
        metrics = gradient(model, update)
        try:
            connection.send(numbers(metrics))
        except ConnectionError:
            return
