"""What is drawn at random: on the generator's device, then moved, so that a seed gives the same numbers anywhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Part:
    """A generator of whose draws for a whole batch only some rows are taken, by one of many processes.

    Attributes:
        generator: the same in every process.
        size: of the whole batch.
        rows: which of it are this process's.
    """

    generator: torch.Generator
    size: int
    rows: slice | Tensor


Source = torch.Generator | Part | None
"""What draws; None: torch's own generator of the CPU."""


def uniform(shape: tuple[int, ...], source: Source, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Draw from [0, 1); rows first."""
    return _draw(torch.rand, shape, source, device, dtype)


def normal(shape: tuple[int, ...], source: Source, device: torch.device) -> Tensor:
    """Draw from the standard normal distribution; rows first."""
    return _draw(torch.randn, shape, source, device)


def seeded(rng_seed: int, device: torch.device) -> torch.Generator:
    """Return a generator on a graphics card, for what is too much to draw on the CPU and move; else on the CPU."""
    return torch.Generator(device if device.type == "cuda" else "cpu").manual_seed(rng_seed)


def _draw(
    how: Callable[..., Tensor],
    shape: tuple[int, ...],
    source: Source,
    device: torch.device,
    dtype: torch.dtype | None = None,
) -> Tensor:
    generator, rows = (source.generator, source.rows) if isinstance(source, Part) else (source, slice(None))
    whole = (source.size, *shape[1:]) if isinstance(source, Part) else shape
    where = None if generator is None else generator.device
    return how(whole, generator=generator, dtype=dtype, device=where)[rows].to(device)
