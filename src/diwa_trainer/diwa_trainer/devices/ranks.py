"""Many processes that learn as one (`torchrun`): each computes its share of a batch, gradients are averaged.

Every process draws the whole batch with the same generators and takes every N-th row of it, from its own number on. So
N processes learn what one would learn from the same batch, up to rounding.
"""

from __future__ import annotations

import contextlib
import datetime
import gc
import math
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable
from torch.nn.parallel import DistributedDataParallel

from diwa_runtime.cli import EXIT_BAD_INPUT, EXIT_INTERRUPTED
from diwa_runtime.errors import ConfigError, DiwaError
from diwa_trainer.devices.device import OnDevice, choose_device, numbers
from diwa_trainer.devices.draws import Part

LONGEST_WAIT = datetime.timedelta(days=1)
"""How long a process waits for the others: one of them measures and writes while they do."""
_ENDED = ("onnection closed by peer", "onnection reset by peer", "roken pipe", "Read error", "Write error")
"""What torch says, as a RuntimeError like any other, when another process of the group is gone."""


@dataclass(frozen=True)
class Share:
    """Which rows of a batch are this process's: those from `rank` on, in steps of `count`."""

    rank: int = 0
    count: int = 1

    @property
    def rows(self) -> slice:
        """Of a whole batch."""
        return slice(self.rank, None, self.count)

    @property
    def is_first(self) -> bool:
        """Whether it is this process that writes and prints."""
        return self.rank == 0

    def every(self, step: int) -> slice:
        """Which of this process's rows are among every `step`-th row of the whole batch."""
        first = next((row for row in range(step) if (self.rank + self.count * row) % step == 0), None)
        return slice(0) if first is None else slice(first, None, step // math.gcd(self.count, step))

    def part(self, generator: torch.Generator, size: int) -> torch.Generator | Part:
        """Return what draws this share of what `generator` draws for a batch of `size` rows."""
        return generator if self.count == 1 else Part(generator, size, self.rows)

    def gather(self, rows: Tensor) -> Tensor:
        """Return the whole batch (B, ...) of all processes' rows (B / N, ...); gradients go back to their owners."""
        if self.count == 1:
            return rows
        gathered: Tensor = _Gather.apply(rows, self)
        return gathered

    def going(self, generator: torch.Generator, goes: Tensor) -> Part:
        """Return what draws for those of this process's rows that go on: bool (B / N,).

        It is drawn for the whole batch, ended rows too, so that a row's draws do not depend on when others end.
        """
        size = len(goes) * self.count
        return Part(generator, size, torch.arange(size)[self.rows][goes.cpu()])

    def numbers(self, metrics: Mapping[str, Tensor]) -> dict[str, float]:
        """Read metrics off their device, all at once: the processes' mean."""
        if self.count == 1:
            return numbers(metrics)
        values = torch.stack([value.double() for value in metrics.values()])
        distributed.all_reduce(values)
        return dict(zip(metrics, (values / self.count).tolist(), strict=True))

    def any(self, flag: bool) -> bool:
        """Return whether any process says so; all of them get the same answer."""
        if self.count == 1:
            return flag
        said = torch.tensor(int(flag))
        distributed.all_reduce(said, distributed.ReduceOp.MAX)
        return bool(said)

    def wait(self) -> None:
        """Wait until all processes are here."""
        self.any(False)

    def averaging(self, network: nn.Module, loss: Callable[..., Any]) -> Callable[..., Any]:
        """Return `loss` of a network, such that the gradients of its backward pass are the processes' mean."""
        if self.count == 1:
            return loss
        return DistributedDataParallel(_Objective(network, loss), forward_sync_buffers=False)


ALONE = Share()


class _Objective(nn.Module):
    """A network with its loss as `forward`, by which DistributedDataParallel finds out what to average."""

    def __init__(self, network: nn.Module, loss: Callable[..., Any]) -> None:
        super().__init__()
        self.network, self._loss = network, loss

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self._loss(*inputs, **named)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, share: Share) -> Tensor:
        ctx.share = share
        parts = [torch.empty_like(rows) for _ in range(share.count)]
        distributed.all_gather(parts, rows.contiguous())
        return torch.stack(parts, 1).flatten(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        whole = gradient.contiguous()
        distributed.all_reduce(whole)
        return whole[ctx.share.rows], None


@contextlib.contextmanager
def joined(config: OnDevice, *shared: str, workers: int = 1) -> Iterator[tuple[torch.device, Share]]:
    """Join the other processes that `torchrun` has started, if any; give this one's device and share.

    Args:
        config: a verb's settings.
        shared: names of those settings that are shared out, such as ``"batch"``.
        workers: the verb's.

    Raises:
        ConfigError: the settings ask for a device that is not there, or cannot be shared out.
        DiwaError: another process has ended.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield choose_device(config, workers), ALONE
        return
    share, place = Share(int(os.environ["RANK"]), count), int(os.environ.get("LOCAL_RANK", "0"))
    with _quiet_but_one(place), contextlib.ExitStack() as stack:
        for name in shared:
            if getattr(config, name) % count:
                raise ConfigError(f"{name} is {getattr(config, name)}, must be a multiple of the {count} processes")
        if workers > 1:
            raise ConfigError(
                f"workers is {workers}, must be 1 with {count} processes of torchrun: they are the workers"
            )
        device = choose_device(config)
        backend = "gloo"
        if device.type == "cuda":
            device, backend = torch.device("cuda", place), "cpu:gloo,cuda:nccl"
            torch.cuda.set_device(device)
        try:
            distributed.init_process_group(backend, timeout=LONGEST_WAIT)
            stack.callback(_leave)
            yield device, share
        except BaseException as error:
            traceback.clear_frames(error.__traceback__)  # they hold what `_leave` is to end
            if not (isinstance(error, RuntimeError) and any(words in str(error) for words in _ENDED)):
                raise
            raise DiwaError(
                f"another of the {count} processes has ended; the same command goes on from the last checkpoint"
            ) from error


def _leave() -> None:
    """End this process's part in the group with all that belongs to it; what is left until the end hangs there."""
    gc.collect()
    distributed.destroy_process_group()


@contextlib.contextmanager
def _quiet_but_one(place: int) -> Iterator[None]:
    """Let one process of a machine print, and say what a person can mend."""
    if place == 0:
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nothing, contextlib.redirect_stdout(nothing):
        try:
            yield
        except DiwaError:
            sys.exit(EXIT_BAD_INPUT)
        except KeyboardInterrupt:
            sys.exit(EXIT_INTERRUPTED)
