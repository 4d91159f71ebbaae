"""The RSSM's pass over a whole window, with a backward pass of its own.

Autograd pays for each of T sequential steps: a graph of small nodes, and for each weight a small GEMM and an
accumulation. Here the backward pass walks the steps for the deltas alone, and each weight's gradient is one GEMM over
all T * B rows at the end. `benchmarks/plain_rssm.py` is the plain twin, a test holds every gradient against it.

Dimensions as in `rssm.py`, and N hidden units; inside, time comes first, so that a step is one contiguous block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from diwa_trainer.world.one_hot import one_hot_weight_gradient

NORM_EPS = 1e-3

_layer_norm_backward = torch.ops.aten.native_layer_norm_backward.default
_sigmoid_backward = torch.ops.aten.sigmoid_backward.default
_softmax_backward = torch.ops.aten._softmax_backward_data.default
_tanh_backward = torch.ops.aten.tanh_backward.default


class Weights(NamedTuple):
    """The weights of a step: into the GRU, the GRU, and the head that gives the state's logits; shares hold biases."""

    stochastic_in: Tensor
    in_scale: Tensor
    in_shift: Tensor
    gru_input: Tensor
    gru_hidden: Tensor
    gru_input_bias: Tensor
    gru_hidden_bias: Tensor
    head_h: Tensor
    head_scale: Tensor
    head_shift: Tensor
    head_out: Tensor


@torch.compiler.disable  # which would write out every step: minutes, and slower
def latent_sequence(
    action_share: Tensor,
    head_share: Tensor,
    logit_share: Tensor,
    latent: Tensor,
    uniforms: Tensor | None,
    weights: Weights,
    *,
    classes: int,
    unimix: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Advance a latent through the steps of a window.

    Args:
        action_share: (B, T, N), of the actions before the frames in what goes into the GRU's input layer.
        head_share: (B, T, N), of all but the deterministic state in what goes into the head's hidden layer.
        logit_share: (B, T, S * C), of all but the head and the state before in the logits.
        latent: (B, Z) before the first step.
        uniforms: (B, T, S) in [0, 1), which choose the states by `draw`; None takes the likeliest.
        weights: of a step.
        classes: C.
        unimix: share of the uniform that probabilities are mixed with.

    Returns:
        deterministic states (B, T, H), one-hots (B, T, S * C), straight-through, the head's logits (B, T, S * C) before
        the mix, and where the one-hots are one (B, T, S) int64, counted over all S * C.
    """
    time_first = (share.transpose(0, 1).contiguous() for share in (action_share, head_share, logit_share))
    chosen = None if uniforms is None else uniforms.transpose(0, 1).contiguous()
    return _Sequence.apply(classes, unimix, chosen, *time_first, latent, *weights)


def draw(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """Draw classes (...) by inverse CDF from probabilities (..., C) with uniforms (..., 1) in [0, 1)."""
    index = torch.searchsorted(probabilities.cumsum(-1), uniforms, right=True).squeeze(-1)
    return index.clamp_(max=probabilities.shape[-1] - 1)  # rounding can leave the last bound below 1


def mix(probabilities: Tensor, unimix: float) -> Tensor:
    """Mix probabilities (..., C) with a share `unimix` of a uniform, so that none is zero: one operation does it."""
    return torch.rsub(probabilities, unimix / probabilities.shape[-1], alpha=unimix - 1)


class _Window:
    """A buffer over time (T, ...), and the views of its steps: made at once, they cost a third of indexing."""

    def __init__(self, whole: Tensor) -> None:
        self.whole, self.at = whole, whole.unbind(0)


class _Layer:
    """LayerNorm, then SiLU, step by step; `before` (T, B, N) is filled by the caller."""

    def __init__(self, before: Tensor, scale: Tensor, shift: Tensor) -> None:
        self.before, self._scale, self._shift = _Window(before), scale, shift
        self._after: list[tuple[Tensor, ...]] = []

    def forward(self, t: int) -> Tensor:
        """Return what is active (B, N) at step t."""
        normed, mean, rstd = torch.native_layer_norm(
            self.before.at[t], self._scale.shape, self._scale, self._shift, NORM_EPS
        )
        active = F.silu(normed)
        self._after.append((mean, rstd, normed, active))
        return active

    def saved(self) -> tuple[Tensor, ...]:
        """Return what the way back needs, each over all steps: before, mean, rstd, normed, active."""
        return self.before.whole, *map(torch.stack, zip(*self._after, strict=True))


class _LayerBackward:
    """The way back through a `_Layer`: deltas of what was normed and of what was before, (T, B, N)."""

    def __init__(self, saved: Sequence[Tensor], scale: Tensor, shift: Tensor) -> None:
        before, mean, rstd, normed, self.active = saved
        sigmoid = normed.sigmoid()
        self._slope = _Window(torch.addcmul(sigmoid, self.active, 1 - sigmoid))  # of SiLU
        self._before, self._mean, self._rstd = _Window(before), _Window(mean), _Window(rstd)
        self._scale, self._shift = scale, shift
        self._d_normed = _Window(torch.empty_like(normed))
        self._d_before: dict[int, Tensor] = {}

    def backward(self, t: int, d_active: Tensor) -> Tensor:
        """Return the delta of `before` at step t from that of what was active."""
        d_normed = torch.mul(d_active, self._slope.at[t], out=self._d_normed.at[t])
        before, mean, rstd, scale = self._before.at[t], self._mean.at[t], self._rstd.at[t], self._scale
        d_before, _, _ = _layer_norm_backward(
            d_normed, before, scale.shape, mean, rstd, scale, self._shift, (True, False, False)
        )
        self._d_before[t] = d_before
        return d_before

    def deltas(self) -> Tensor:
        """Return the deltas of `before` (T, B, N), once all steps are done."""
        return torch.stack([self._d_before[t] for t in range(len(self._d_before))])

    def weight_gradients(self) -> tuple[Tensor, Tensor]:
        """Return the gradients of scale and shift, once all steps are done."""
        before, mean, rstd, scale = self._before.whole, self._mean.whole, self._rstd.whole, self._scale
        _, d_scale, d_shift = _layer_norm_backward(
            self._d_normed.whole, before, scale.shape, mean, rstd, scale, self._shift, (False, True, True)
        )
        return d_scale, d_shift


class _Sequence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        classes: int,
        unimix: float,
        uniforms: Tensor | None,
        action_share: Tensor,
        head_share: Tensor,
        logit_share: Tensor,
        latent: Tensor,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        w = Weights(*weights)
        steps, batch, hidden = action_share.shape
        size, stochastic = w.gru_hidden.shape[1], w.stochastic_in.shape[1]
        variables = stochastic // classes
        room = action_share.new_empty
        h, z = _Window(room(steps + 1, batch, size)), _Window(action_share.new_zeros(steps + 1, batch, stochastic))
        h.whole[0], z.whole[0] = latent.split([size, stochastic], -1)
        into = _Layer(room(steps, batch, hidden), w.in_scale, w.in_shift)
        head = _Layer(room(steps, batch, hidden), w.head_scale, w.head_shift)
        from_h, from_input = _Window(room(steps, batch, 3 * size)), room(batch, 3 * size)
        gates, candidate = _Window(room(steps, batch, 2 * size)), _Window(room(steps, batch, size))
        logits, probabilities = (_Window(room(steps, batch, variables, classes)) for _ in range(2))
        flat_logits = _Window(logits.whole.flatten(2))
        from_h_gates, from_h_candidate = map(_Window, from_h.whole.split([2 * size, size], -1))
        input_gates, input_candidate = from_input.split([2 * size, size], -1)
        reset, update = map(_Window, gates.whole.chunk(2, -1))
        action_shares, head_shares, logit_shares = map(_Window, (action_share, head_share, logit_share))
        chosen_by = None if uniforms is None else _Window(uniforms.unsqueeze(-1))
        first_classes = torch.arange(0, stochastic, classes, device=z.whole.device)
        stochastic_in = w.stochastic_in.t().contiguous()  # rows are summed up below
        gru_input, gru_hidden, head_h, head_out = (x.t() for x in (w.gru_input, w.gru_hidden, w.head_h, w.head_out))
        from_z = z.at[0] @ stochastic_in
        chosen = []
        for t in range(steps):
            torch.add(from_z, action_shares.at[t], out=into.before.at[t])
            torch.addmm(w.gru_input_bias, into.forward(t), gru_input, out=from_input)
            torch.addmm(w.gru_hidden_bias, h.at[t], gru_hidden, out=from_h.at[t])
            torch.add(input_gates, from_h_gates.at[t], out=gates.at[t]).sigmoid_()
            torch.addcmul(input_candidate, reset.at[t], from_h_candidate.at[t], out=candidate.at[t]).tanh_()
            torch.lerp(candidate.at[t], h.at[t], update.at[t], out=h.at[t + 1])
            torch.addmm(head_shares.at[t], h.at[t + 1], head_h, out=head.before.at[t])
            torch.addmm(logit_shares.at[t], head.forward(t), head_out, out=flat_logits.at[t])
            torch.softmax(logits.at[t], -1, out=probabilities.at[t])
            if chosen_by is None:
                index = logits.at[t].argmax(-1)
            else:
                index = draw(mix(probabilities.at[t], unimix), chosen_by.at[t])
            chosen.append(index.add_(first_classes))
            z.at[t + 1].scatter_(1, index, 1.0)
            from_z = F.embedding_bag(index, stochastic_in, mode="sum")  # z[t + 1] @ stochastic_in, for a one-hot
        ctx.unimix = unimix
        index = torch.stack(chosen)
        parts = (h, z, gates, candidate, from_h_candidate, probabilities)
        saved = (*(part.whole for part in parts), *into.saved(), *head.saved(), *weights)
        ctx.save_for_backward(index, *saved)
        index = index.transpose(0, 1)
        ctx.mark_non_differentiable(index)
        return h.whole[1:].transpose(0, 1), z.whole[1:].transpose(0, 1), flat_logits.whole.transpose(0, 1), index

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *d_outputs: Tensor) -> tuple[Tensor | None, ...]:
        index, h, z, gates, candidate, candidate_from_h, probabilities, *layers = ctx.saved_tensors
        w = Weights(*layers[10:])
        into = _LayerBackward(layers[:5], w.in_scale, w.in_shift)
        head = _LayerBackward(layers[5:10], w.head_scale, w.head_shift)
        steps, size = len(candidate), h.shape[-1]
        # A step adds to the deltas of the latent before it; the first is that of the latent handed in.
        d_h, d_z = _Window(torch.zeros_like(h)), _Window(torch.zeros_like(z))
        d_logits = _Window(torch.empty_like(z[1:]))
        for window, d_output in zip((d_h.whole[1:], d_z.whole[1:], d_logits.whole), d_outputs[:3], strict=True):
            window.copy_(d_output.transpose(0, 1))
        d_states = _Window(d_z.whole.unflatten(-1, probabilities.shape[2:]))
        states, update = _Window(probabilities), _Window(gates[..., size:])
        factors = _Window(_gru_factors(h[:-1], gates, candidate, candidate_from_h))
        d_gru = _Window(torch.empty_like(factors.whole))
        d_gru_input = _Window(d_gru.whole.flatten(2)[..., : 3 * size])
        d_gru_hidden = _Window(d_gru.whole.flatten(2)[..., size:])
        gru_input = w.gru_input.roll(size, 0)  # rows in the order of the factors
        for t in range(steps - 1, -1, -1):
            through = _softmax_backward(d_states.at[t + 1], states.at[t], -1, probabilities.dtype)
            d_logits.at[t].add_(through.flatten(1), alpha=1 - ctx.unimix)
            d_before = head.backward(t, d_logits.at[t] @ w.head_out)
            d_now = d_h.at[t + 1].addmm_(d_before, w.head_h)
            torch.mul(factors.at[t], d_now.unsqueeze(1), out=d_gru.at[t])
            d_h.at[t].addcmul_(d_now, update.at[t]).addmm_(d_gru_hidden.at[t], w.gru_hidden)
            d_before = into.backward(t, d_gru_input.at[t] @ gru_input)
            d_z.at[t].addmm_(d_before, w.stochastic_in)
        d_into, d_head = into.deltas(), head.deltas()
        d_weights = Weights(
            _one_hots_gradient(d_into, z[0], index),
            *into.weight_gradients(),
            _outer(d_gru_input.whole, into.active).roll(-size, 0),
            _outer(d_gru_hidden.whole, h[:-1]),
            d_gru_input.whole.sum((0, 1)).roll(-size, 0),
            d_gru_hidden.whole.sum((0, 1)),
            _outer(d_head, h[1:]),
            *head.weight_gradients(),
            _outer(d_logits.whole, head.active),
        )
        d_latent = torch.cat([d_h.at[0], d_z.at[0]], -1)
        return None, None, None, d_into, d_head, d_logits.whole, d_latent, *d_weights


def _one_hots_gradient(deltas: Tensor, first: Tensor, index: Tensor) -> Tensor:
    """Of a weight on the states before: from deltas (T, B, N), the states handed in (B, S * C), and where those of the
    steps (T, B, S) are one.
    """
    of_first = deltas[0].t() @ first
    return of_first + one_hot_weight_gradient(deltas[1:].flatten(0, 1), index[:-1].flatten(0, 1), first.shape[1])


def _gru_factors(h: Tensor, gates: Tensor, candidate: Tensor, candidate_from_h: Tensor) -> Tensor:
    """What a delta of the GRU's new state is multiplied with on its way to what went into the gates (T, B, 4, H).

    In this order: candidate, reset and update (the input's share of the three), candidate (the old state's share).
    """
    reset, update = gates.chunk(2, -1)
    d_candidate = _tanh_backward(1 - update, candidate)
    d_reset = _sigmoid_backward(d_candidate * candidate_from_h, reset)
    d_update = _sigmoid_backward(h - candidate, update)
    return torch.stack([d_candidate, d_reset, d_update, d_candidate * reset], 2)


def _outer(deltas: Tensor, inputs: Tensor) -> Tensor:
    """Gradient of a weight (out, in), from deltas (T, B, out) and inputs (T, B, in) of all steps."""
    return deltas.flatten(0, 1).t() @ inputs.flatten(0, 1)
