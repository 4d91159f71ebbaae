"""Where a learning verb computes, and in what numbers.

Networks, optimisers' state and batches live on the device. What is drawn at random comes from generators of the CPU and
is moved, so that a seed gives the same draws anywhere. Weights are float32 always; `bfloat16` is for what a forward
pass computes between them, where that is safe.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from diwa_runtime.errors import ConfigError

CPU = torch.device("cpu")
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
            "has it, else float32"
        },
    )


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
    """Return the context in which a loss is computed: in the numbers that the settings mean on this device.

    `auto` is never bfloat16 on a CPU: it was measured (docs/devices.md) and brought nothing.
    """
    wanted = config.precision
    if wanted == "auto":
        can = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        wanted = "bfloat16" if can else "float32"
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted == "bfloat16")


def in_float32(like: Tensor) -> AbstractContextManager[object]:
    """Return a context in which nothing is computed in fewer bits, for what would not bear it."""
    kind = like.device.type
    if not (torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)):
        return nullcontext()
    return torch.autocast(kind, enabled=False)


def numbers(metrics: Mapping[str, Tensor]) -> dict[str, float]:
    """Read metrics off their device, all at once."""
    return dict(zip(metrics, torch.stack([value.double() for value in metrics.values()]).tolist(), strict=True))
