"""Where a world model of numbers starts: each discrete variable as an ordered scale of one feature.

Left to itself a model spends most of a short training on finding some code in which 32 choices of 32 say where the hand
is. Here it begins with one: the classes of a variable are marks along one feature's range, the posterior is sharpest at
the marks next to what is seen, several variables of one feature have their marks staggered, and the decoder reads off
the mean of the marks chosen. All of it is a starting point: every weight is learned from there on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from diwa_trainer.world.rssm import RSSM

SHARPNESS = 0.5
"""Deviation of the bell over a scale's marks, in distances between marks: half a mark, and a drawn state reads off what
was seen without bias, and moves with it everywhere (dithering)."""
NETWORK_SHARE = 0.3
"""Factor on the first weights of what the networks add to the scales' logits."""


def apportion(shares: Sequence[float], variables: int) -> list[int]:
    """Say which feature each of `variables` codes, by the features' shares (Webster's method), in order of features."""
    counts = [0] * len(shares)
    for _ in range(variables):
        counts[max(range(len(shares)), key=lambda i: shares[i] / (counts[i] + 0.5))] += 1
    return [i for i, count in enumerate(counts) for _ in range(count)]


def scales(owners: Sequence[int], low: Tensor, high: Tensor, classes: int) -> Tensor:
    """Return the marks (S, C) of each variable's scale, in standardised units.

    `owners` (S) as from `apportion`; features go from `low` to `high`, (F,) each. The scales of one feature are
    shifted against each other by equal parts of the distance between two marks.
    """
    rows = []
    for variable, feature in enumerate(owners):
        of, nth = owners.count(feature), variable - owners.index(feature)
        marks = torch.linspace(float(low[feature]), float(high[feature]), classes)
        rows.append(marks + ((nth + 0.5) / of - 0.5) * (marks[1] - marks[0]))
    return torch.stack(rows)


@torch.no_grad()
def start_as_scales(rssm: RSSM, read: nn.Linear, owners: Sequence[int], marks: Tensor) -> None:
    """Set the first weights of an RSSM with a shortcut, and of `read` (S * C -> F), to those of scales.

    Variable s then codes feature ``owners[s]`` by `marks` (S, C): posterior and prior logits are those of a bell around
    what is seen, or expected; what is expected is what was. The variables after those, if there are more, begin as any
    network does, and code no feature. Features after the RSSM's, if `read` has more, are not read off at first.
    """
    assert rssm.shortcut is not None
    features, coded = rssm.shortcut.seen.in_features, marks.numel()
    variance = (SHARPNESS * (marks[:, 1:2] - marks[:, :1])).square()
    owner = nn.functional.one_hot(torch.tensor(owners), features).float()
    # A bell's logarithm, less what all classes share: x * mark / variance - mark^2 / (2 variance).
    slope = torch.einsum("sc,sf->scf", marks / variance, owner).flatten(0, 1)
    offset = (-marks.square() / (2 * variance)).flatten()
    mean_mark = torch.einsum("sc,sf->fsc", marks, owner / owner.sum(0).clamp(min=1)).flatten(1)
    shortcut, prior_out = rssm.shortcut, cast(nn.Linear, rssm.prior_head[-1])
    for into in (shortcut.seen, shortcut.expected):
        into.weight.zero_()[:coded].copy_(slope)
    for out_of in (shortcut.before, read):
        out_of.weight.zero_()[:features, :coded].copy_(mean_mark)
    for network in (rssm.posterior_out, prior_out):
        network.weight[:coded].mul_(NETWORK_SHARE)
        network.bias[:coded].copy_(offset)
    shortcut.still()
    for variable, feature in enumerate(owners):
        first, of = owners.index(feature), owners.count(feature)
        rssm.drawn_with[variable], rssm.drawn_apart[variable] = first, (variable - first) / of
