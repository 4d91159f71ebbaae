"""Where a learning verb computes, and in what numbers.

Networks, optimisers' state and batches live on the device. What is drawn at random comes from generators of the CPU and
is moved, so that a seed gives the same draws anywhere. Weights are float32 always; `bfloat16` is for what a forward
pass computes between them, where that is safe.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from diwa_runtime.errors import ConfigError, one_line

CPU = torch.device("cpu")
GAIN = 1.3
"""How many times quicker bfloat16 must be on a CPU for `auto` to mean it: it costs digits."""
Metrics = dict[str, Tensor]
"""Numbers of an update by name, left on the device until `numbers` reads them."""


@dataclass(frozen=True, kw_only=True)
class OnDevice:
    """Settings of a verb that learns: where."""

    device: Literal["auto", "cpu", "cuda"] = field(
        default="auto",
        metadata={"help": "where networks compute; auto: on a graphics card if torch has one", "identity": False},
    )


@dataclass(frozen=True, kw_only=True)
class Computing(OnDevice):
    """Settings of a verb that trains large networks: where, and in what numbers."""

    precision: Literal["auto", "float32", "bfloat16"] = field(
        default="auto",
        metadata={
            "help": "of what networks compute between their float32 weights; auto: bfloat16 on a graphics card that "
            "has it, and on a CPU where that is measured to be quicker"
        },
    )
    compile: bool = field(
        default=False,
        metadata={"help": "have torch.compile, which needs a C++ compiler, make the loss", "identity": False},
    )


Settings = TypeVar("Settings", bound=Computing)


def choose_device(config: OnDevice, workers: int = 1) -> torch.device:
    """Return the device that a verb's settings mean; several `workers` share gradients in the CPU's memory.

    Raises:
        ConfigError: they ask for a graphics card, and torch has none, or for workers beside it.
    """
    there = torch.cuda.is_available()
    if config.device == "cuda" and workers > 1:
        raise ConfigError(f"workers is {workers}, must be 1 with device 'cuda': workers are processes of the CPU")
    if config.device == "cuda" and not there:
        raise ConfigError(
            "device is 'cuda', but torch finds no graphics card that it can use; give --device cpu, or see that driver "
            "and torch are CUDA's"
        )
    return torch.device("cuda") if there and config.device != "cpu" and workers == 1 else CPU


def autocast(config: Computing, device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which a loss is computed, in the numbers that `settled` settings say."""
    return torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16")


def settled(config: Settings, device: torch.device, product: tuple[int, int, int] | None = None) -> Settings:
    """Return a verb's settings with `auto` precision made `bfloat16` where that is meant.

    On a CPU: bfloat16 where `product`, a matrix product of what is most of the work (rows, inputs, outputs), then takes
    far less time, forward and backward, as with units for it. The check takes half a second. No product: float32.
    """
    if config.precision != "auto":
        return config
    if device.type == "cuda":
        wins = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        wins = product is not None and _seconds(product, bfloat16=True) * GAIN < _seconds(product)
    return replace(config, precision="bfloat16") if wins else config


def _seconds(product: tuple[int, int, int], *, bfloat16: bool = False) -> float:
    """The least time of a product's forward and backward pass, within a quarter of a second or three passes."""
    rows, inputs, outputs = product
    x, weight = torch.ones(rows, inputs), torch.ones(outputs, inputs, requires_grad=True)
    taken: list[float] = []
    while len(taken) < 3 or sum(taken) < 0.25:
        began = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            y = torch.nn.functional.linear(x, weight)
        y.sum().backward()
        taken.append(time.perf_counter() - began)
    return min(taken)


def compiled(config: Computing, loss: Callable[..., Any]) -> Callable[..., Any]:
    """Return a loss, compiled if the settings say so.

    Raises:
        ConfigError: by the first call, torch cannot compile here, as without a compiler.
    """
    if not config.compile:
        return loss
    made = torch.compile(loss, dynamic=False)

    def call(*inputs: Any, **named: Any) -> Any:
        try:
            return made(*inputs, **named)
        except torch._dynamo.exc.BackendCompilerFailed as error:
            reason = one_line(error.inner_exception)[:120]
            raise ConfigError(f"compile: torch cannot ({reason}); install a C++ compiler, or leave it out") from error

    return call


def in_float32(like: Tensor) -> AbstractContextManager[object]:
    """Return a context in which nothing is computed in fewer bits, for what would not bear it."""
    kind = like.device.type
    if not (torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)):
        return nullcontext()
    return torch.autocast(kind, enabled=False)


def fits(size_bytes: int, device: torch.device) -> bool:
    """Say whether so much may lie on a graphics card for good: in half of the memory that it has free."""
    return device.type == "cuda" and size_bytes <= torch.cuda.mem_get_info(device)[0] // 2


def numbers(metrics: Mapping[str, Tensor]) -> dict[str, float]:
    """Read metrics off their device, all at once."""
    return dict(zip(metrics, torch.stack([value.double() for value in metrics.values()]).tolist(), strict=True))
