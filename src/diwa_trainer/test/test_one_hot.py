"""Layers of one-hots by index against the product that they stand for."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from diwa_trainer.world.one_hot import one_hot_linear, one_hot_weight_gradient

S, C, OUT = 3, 4, 5


@pytest.fixture
def index() -> torch.Tensor:
    """Classes of (2, 6) rows; the last class of the last variable is never chosen."""
    drawn = torch.randint(0, C - 1, (2, 6, S), generator=torch.Generator().manual_seed(0))
    return drawn + torch.arange(0, S * C, C)


def test_the_layer_and_its_gradients_are_the_products(index: torch.Tensor) -> None:
    one_hot = torch.zeros(2, 6, S * C, dtype=torch.float64).scatter(-1, index, 1.0).requires_grad_()
    weight, d_result = torch.randn(OUT, S * C).double().requires_grad_(), torch.randn(2, 6, OUT).double()

    ours, expected = one_hot_linear(one_hot, index, weight), F.linear(one_hot, weight)

    torch.testing.assert_close(ours, expected)
    gradients = (torch.autograd.grad(result, [one_hot, weight], d_result) for result in (ours, expected))
    for gradient, of_product in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, of_product)


def test_a_class_that_no_row_has_gets_no_gradient(index: torch.Tensor) -> None:
    gradient = one_hot_weight_gradient(torch.ones(12, OUT), index.flatten(0, 1), S * C)
    assert not gradient[:, -1].any()
    assert gradient.sum() == 12 * S * OUT


def test_no_rows_give_no_gradient() -> None:
    gradient = one_hot_weight_gradient(torch.ones(0, OUT), torch.zeros(0, S, dtype=torch.int64), S * C)
    assert gradient.shape == (OUT, S * C)
    assert not gradient.any()
