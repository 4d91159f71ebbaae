"""The RSSM's pass over a whole window, with a backward pass of its own.

Autograd pays for each of T sequential steps: a graph of small nodes, and for each weight a small GEMM and an
accumulation. Here the backward pass walks the steps for the deltas alone, and each weight's gradient is one GEMM over
all T * B rows at the end. `benchmarks/plain_rssm.py` is the plain twin, a test holds every gradient against it.

Dimensions as in `rssm.py`, and N hidden units; inside, time comes first, so that a step is one contiguous block. Of a
normalised layer, `before` goes into the LayerNorm, `normed` comes out of it, `active` is the SiLU of that.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

NORM_EPS = 1e-3

_layer_norm_out = torch.ops.aten.native_layer_norm.out
_layer_norm_backward = torch.ops.aten.native_layer_norm_backward
_silu_out = torch.ops.aten.silu.out


class Weights(NamedTuple):
    """The weights that a step uses, as the modules of `RSSM` hold them; inputs' shares bring the missing biases."""

    stochastic_in: Tensor
    in_scale: Tensor
    in_shift: Tensor
    gru_input: Tensor
    gru_hidden: Tensor
    gru_input_bias: Tensor
    gru_hidden_bias: Tensor
    posterior_h: Tensor
    posterior_scale: Tensor
    posterior_shift: Tensor
    posterior_out: Tensor
    posterior_out_bias: Tensor


def observe_sequence(
    action_share: Tensor,
    embedding_share: Tensor,
    latent: Tensor,
    uniforms: Tensor | None,
    weights: Weights,
    *,
    classes: int,
    unimix: float,
) -> tuple[Tensor, Tensor]:
    """Filter windows.

    Args:
        action_share: (B, T, N), of the actions before the frames in what goes into the GRU's input layer.
        embedding_share: (B, T, N), of the frames in what goes into the posterior's hidden layer.
        latent: (B, Z) before the first frame.
        uniforms: (B, T, S) in [0, 1), which choose the states by `draw`; None takes the likeliest.
        weights: of the step.
        classes: C.
        unimix: share of the uniform that probabilities are mixed with.

    Returns:
        latents (B, T, Z), straight-through in the states, and the posterior's logits (B, T, S * C) before the mix.
    """
    time_first = (share.transpose(0, 1).contiguous() for share in (action_share, embedding_share))
    chosen = None if uniforms is None else uniforms.transpose(0, 1).contiguous()
    return _Sequence.apply(classes, unimix, chosen, *time_first, latent, *weights)


def draw(probabilities: Tensor, uniforms: Tensor, unimix: float) -> Tensor:
    """Draw classes (...) by inverse CDF from (..., C) mixed with a share `unimix` of a uniform; `uniforms` (...)."""
    classes = probabilities.shape[-1]
    bounds = probabilities[..., :-1].cumsum(-1)  # not the last: so rounding can never give class C
    if unimix:
        uniform = torch.arange(1, classes, dtype=bounds.dtype, device=bounds.device) / classes
        bounds = torch.lerp(bounds, uniform, unimix)
    return torch.searchsorted(bounds, uniforms.unsqueeze(-1), right=True).squeeze(-1)


class _Layer(NamedTuple):
    """LayerNorm and SiLU of all steps: (T, B, N), statistics (T, B, 1)."""

    before: Tensor
    normed: Tensor
    active: Tensor
    mean: Tensor
    rstd: Tensor

    @classmethod
    def empty(cls, like: Tensor) -> _Layer:
        """Make room for steps shaped as `like` (T, B, N)."""
        statistic = like[..., :1]
        return cls(*(torch.empty_like(like) for _ in range(3)), *(statistic.new_empty(statistic.shape) for _ in "mr"))

    def forward_step(self, t: int, scale: Tensor, shift: Tensor) -> Tensor:
        """Fill step t from its `before`; return what is active."""
        _layer_norm_out(
            self.before[t],
            scale.shape,
            scale,
            shift,
            NORM_EPS,
            out0=self.normed[t],
            out1=self.mean[t],
            out2=self.rstd[t],
        )
        return _silu_out(self.normed[t], out=self.active[t])


class _LayerDeltas:
    """The way back through a `_Layer`: deltas of its `normed` and `before`, (T, B, N)."""

    def __init__(self, layer: _Layer, scale: Tensor, shift: Tensor) -> None:
        self._layer, self._scale, self._shift = layer, scale, shift
        sigmoid = layer.normed.sigmoid()
        self._slope = torch.addcmul(sigmoid, layer.active, 1 - sigmoid)  # of SiLU
        self.normed, self.before = torch.empty_like(sigmoid), torch.empty_like(sigmoid)

    def step(self, t: int, d_active: Tensor) -> Tensor:
        """Fill step t from the delta of what was active; return the delta of `before`."""
        d_normed = torch.mul(d_active, self._slope[t], out=self.normed[t])
        self.before[t] = self._through_norm(d_normed, t, [True, False, False])[0]
        return self.before[t]

    def weight_gradients(self) -> tuple[Tensor, Tensor]:
        """Of the LayerNorm's scale and shift, once all steps are filled."""
        _, d_scale, d_shift = self._through_norm(self.normed, slice(None), [False, True, True])
        return d_scale, d_shift

    def _through_norm(self, d_normed: Tensor, at: int | slice, wanted: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
        layer, scale = self._layer, self._scale
        return _layer_norm_backward(
            d_normed, layer.before[at], scale.shape, layer.mean[at], layer.rstd[at], scale, self._shift, wanted
        )


class _Sequence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        classes: int,
        unimix: float,
        uniforms: Tensor | None,
        action_share: Tensor,
        embedding_share: Tensor,
        latent: Tensor,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor]:
        w = Weights(*weights)
        steps, batch, _ = action_share.shape
        size, stochastic = w.gru_hidden.shape[1], w.stochastic_in.shape[1]
        new = action_share.new_empty
        h, z = new(steps + 1, batch, size), action_share.new_zeros(steps + 1, batch, stochastic)
        h[0], z[0] = latent.split([size, stochastic], -1)
        into, posterior = _Layer.empty(action_share), _Layer.empty(embedding_share)
        gates, candidate = new(steps, batch, 2 * size), new(steps, batch, size)
        from_input, from_h = new(batch, 3 * size), new(steps, batch, 3 * size)
        logits = new(steps, batch, stochastic)
        probabilities = new(steps, batch, stochastic // classes, classes)
        first_classes = torch.arange(0, stochastic, classes, device=z.device)
        table = w.stochastic_in.t().contiguous()
        from_z = z[0] @ table
        for t in range(steps):
            torch.add(from_z, action_share[t], out=into.before[t])
            active = into.forward_step(t, w.in_scale, w.in_shift)
            torch.addmm(w.gru_input_bias, active, w.gru_input.t(), out=from_input)
            torch.addmm(w.gru_hidden_bias, h[t], w.gru_hidden.t(), out=from_h[t])
            torch.add(from_input[:, : 2 * size], from_h[t, :, : 2 * size], out=gates[t]).sigmoid_()
            reset, update = gates[t].chunk(2, -1)
            torch.addcmul(from_input[:, 2 * size :], reset, from_h[t, :, 2 * size :], out=candidate[t]).tanh_()
            torch.lerp(candidate[t], h[t], update, out=h[t + 1])
            torch.addmm(embedding_share[t], h[t + 1], w.posterior_h.t(), out=posterior.before[t])
            active = posterior.forward_step(t, w.posterior_scale, w.posterior_shift)
            torch.addmm(w.posterior_out_bias, active, w.posterior_out.t(), out=logits[t])
            torch.softmax(logits[t].view_as(probabilities[t]), -1, out=probabilities[t])
            chosen = probabilities[t].argmax(-1) if uniforms is None else draw(probabilities[t], uniforms[t], unimix)
            index = chosen + first_classes
            z[t + 1].scatter_(1, index, 1.0)
            from_z = F.embedding_bag(index, table, mode="sum")  # z[t + 1] @ table, as z is one-hot
        ctx.unimix = unimix
        ctx.save_for_backward(h, z, gates, candidate, from_h, probabilities, *into, *posterior, *weights)
        latents = torch.cat([h[1:], z[1:]], -1).transpose(0, 1).contiguous()
        return latents, logits.transpose(0, 1).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_latents: Tensor, d_logits: Tensor) -> tuple[Tensor | None, ...]:
        h, z, gates, candidate, from_h, probabilities, *rest = ctx.saved_tensors
        layers = len(_Layer._fields)
        into, posterior, w = _Layer(*rest[:layers]), _Layer(*rest[layers : 2 * layers]), Weights(*rest[2 * layers :])
        steps, size, stochastic = len(candidate), h.shape[-1], z.shape[-1]
        d_h, d_z = torch.zeros_like(h), torch.zeros_like(z)  # of the latent handed in at 0; steps before add to theirs
        d_h[1:], d_z[1:] = d_latents.transpose(0, 1).split([size, stochastic], -1)
        d_logits = d_logits.transpose(0, 1).contiguous()
        gru_factors = _gru_factors(h[:-1], gates, candidate, from_h[..., 2 * size :])
        d_gru = torch.empty_like(gru_factors)
        d_gru_input, d_gru_hidden = d_gru.flatten(2)[..., : 3 * size], d_gru.flatten(2)[..., size:]
        gru_input = w.gru_input.roll(size, 0)  # its rows in the order of the factors
        into_deltas = _LayerDeltas(into, w.in_scale, w.in_shift)
        posterior_deltas = _LayerDeltas(posterior, w.posterior_scale, w.posterior_shift)
        for t in range(steps - 1, -1, -1):
            d_state = d_z[t + 1].view_as(probabilities[t])
            d_state = torch._softmax_backward_data(d_state, probabilities[t], -1, d_state.dtype)
            d_logits[t].add_(d_state.flatten(1), alpha=1 - ctx.unimix)
            d_before = posterior_deltas.step(t, d_logits[t] @ w.posterior_out)
            d_h[t + 1].addmm_(d_before, w.posterior_h)
            torch.mul(gru_factors[t], d_h[t + 1].unsqueeze(1), out=d_gru[t])
            d_before = into_deltas.step(t, d_gru_input[t] @ gru_input)
            d_h[t].addcmul_(d_h[t + 1], gates[t, :, size:]).addmm_(d_gru_hidden[t], w.gru_hidden)
            d_z[t].addmm_(d_before, w.stochastic_in)
        d_weights = Weights(
            _outer(into_deltas.before, z[:-1]),
            *into_deltas.weight_gradients(),
            _outer(d_gru_input, into.active).roll(-size, 0),
            _outer(d_gru_hidden, h[:-1]),
            d_gru_input.sum((0, 1)).roll(-size, 0),
            d_gru_hidden.sum((0, 1)),
            _outer(posterior_deltas.before, h[1:]),
            *posterior_deltas.weight_gradients(),
            _outer(d_logits, posterior.active),
            d_logits.sum((0, 1)),
        )
        d_latent = torch.cat([d_h[0], d_z[0]], -1)
        return None, None, None, into_deltas.before, posterior_deltas.before, d_latent, *d_weights


def _gru_factors(h: Tensor, gates: Tensor, candidate: Tensor, candidate_from_h: Tensor) -> Tensor:
    """What a delta of the GRU's new state is multiplied with on its way to what went into the gates (T, B, 4, H).

    In this order: candidate, reset and update (the input's share of the three), candidate (the old state's share).
    """
    reset, update = gates.chunk(2, -1)
    d_candidate = (1 - update) * (1 - candidate.square())
    d_reset = d_candidate * candidate_from_h * reset * (1 - reset)
    d_update = (h - candidate) * update * (1 - update)
    return torch.stack([d_candidate, d_reset, d_update, d_candidate * reset], 2)


def _outer(deltas: Tensor, inputs: Tensor) -> Tensor:
    """Gradient of a weight (out, in), from deltas (T, B, out) and inputs (T, B, in) of all steps."""
    return deltas.flatten(0, 1).t() @ inputs.flatten(0, 1)
