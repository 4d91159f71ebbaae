"""The recurrent state-space model: its fast pass against the plain one, its samples, its KL."""

from __future__ import annotations

import plain_rssm
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, kl_divergence

from diwa_trainer.world.balanced_kl import balanced_kl
from diwa_trainer.world.rssm import RSSM, RSSMConfig
from diwa_trainer.world.rssm_sequence import draw

EMBEDDING, ACTION, FEATURES = 5, 3, 4
B, T = 3, 6


def make_rssm(unimix: float = 0.01, seed: int = 0, features: int = FEATURES) -> RSSM:
    torch.manual_seed(seed)
    config = RSSMConfig(deterministic=7, variables=4, classes=6, hidden=9, unimix=unimix)
    rssm = RSSM(config, EMBEDDING, ACTION, features).double()
    for parameter in rssm.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return rssm


def make_inputs(rssm: RSSM) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = {"embeddings": (B, T, EMBEDDING), "actions": (B, T, ACTION), "latent": (B, rssm.config.latent)}
    if rssm.shortcut is not None:
        shapes["features"] = (B, T, FEATURES)
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for name, shape in shapes.items()
    }


def named(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Inputs as the arguments of `observe`."""
    return {"previous_actions" if name == "actions" else name: value for name, value in inputs.items()}


def gradients(rssm: RSSM, inputs: dict[str, Tensor], *outputs: Tensor) -> dict[str, Tensor]:
    """Of a loss that weighs every output number differently, by all that it depends on."""
    generator = torch.Generator().manual_seed(2)
    loss = torch.zeros((), dtype=torch.float64)
    for output in outputs:
        loss = loss + (output * torch.randn(output.shape, generator=generator, dtype=torch.float64)).sum()
    of = dict(rssm.named_parameters()) | inputs
    found = zip(of, torch.autograd.grad(loss, list(of.values()), allow_unused=True), strict=True)
    return {name: gradient for name, gradient in found if gradient is not None}


def assert_same_gradients(ours: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert ours.keys() == expected.keys()
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


SHORTCUT = pytest.mark.parametrize("features", [0, FEATURES], ids=["plain", "shortcut"])


@SHORTCUT
@pytest.mark.parametrize("mode", [False, True], ids=["sampled", "mode"])
@pytest.mark.parametrize("unimix", [0.0, 0.01, 0.3])
def test_the_fast_pass_and_all_its_gradients_are_those_of_the_plain_one(
    unimix: float, mode: bool, features: int
) -> None:
    rssm = make_rssm(unimix, features=features)
    inputs = make_inputs(rssm)
    uniforms = torch.rand(B, T, rssm.config.variables, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    fast = rssm.observe(**named(inputs), generator=torch.Generator().manual_seed(3), mode=mode)
    plain = plain_rssm.observe(rssm, **named(inputs), uniforms=None if mode else uniforms)

    for name, output in vars(plain).items():
        torch.testing.assert_close(getattr(fast, name), output, rtol=0, atol=1e-9)
    ours, expected = (gradients(rssm, inputs, o.latents, o.posterior, o.prior) for o in (fast, plain))
    assert ours.keys() == dict(rssm.named_parameters()).keys() | inputs.keys()
    assert_same_gradients(ours, expected)


@SHORTCUT
@pytest.mark.parametrize("unimix", [0.0, 0.3])
def test_imagining_a_window_and_all_its_gradients_are_those_of_the_plain_loop(unimix: float, features: int) -> None:
    rssm = make_rssm(unimix, features=features)
    inputs = make_inputs(rssm)
    uniforms = torch.rand(B, T, rssm.config.variables, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    fast, index = rssm.imagine(inputs["latent"], inputs["actions"], torch.Generator().manual_seed(3))
    plain = plain_rssm.imagine(rssm, inputs["latent"], inputs["actions"], uniforms)

    torch.testing.assert_close(fast, plain, rtol=0, atol=1e-9)
    assert fast[..., rssm.config.deterministic :].gather(-1, index).eq(1).all()
    ours, expected = (gradients(rssm, inputs, latents) for latents in (fast, plain))
    assert not any("posterior" in name or "seen" in name for name in ours)
    assert_same_gradients(ours, expected)


def test_the_same_seed_gives_the_same_bits() -> None:
    rssm = make_rssm().float()
    inputs = {name: value.detach().float().requires_grad_() for name, value in make_inputs(rssm).items()}

    def run() -> list[Tensor]:
        observed = rssm.observe(**named(inputs), generator=torch.Generator().manual_seed(3))
        of = [*rssm.parameters(), *inputs.values()]
        loss = balanced_kl(observed.posterior, observed.prior, 0.8).sum() + observed.latents.square().sum()
        return [observed.latents, observed.posterior, observed.prior, *torch.autograd.grad(loss, of)]

    for first, second in zip(run(), run(), strict=True):
        assert torch.equal(first, second)


def test_variables_that_are_drawn_apart_share_one_draw_and_are_each_drawn_evenly() -> None:
    """Systematic sampling: of three variables of one feature, thirds of the unit interval are met once each."""
    rssm = make_rssm()
    assert rssm.config.variables >= 4
    rssm.drawn_with[:3], rssm.drawn_apart[:3] = 0, torch.tensor([0.0, 1 / 3, 2 / 3])
    drawn = rssm.uniforms(torch.Size([20_000]), torch.zeros(1), torch.Generator().manual_seed(0))

    thirds = (3 * drawn[:, :3]).floor().sort(-1).values
    assert torch.equal(thirds, torch.tensor([0.0, 1.0, 2.0]).expand(20_000, 3))
    assert drawn.amin() >= 0
    assert drawn.amax() < 1
    spread = drawn.sort(0).values[::2000]
    torch.testing.assert_close(spread, torch.linspace(0, 0.9, 10)[:, None].expand(spread.shape), atol=0.02, rtol=0)
    alone = torch.corrcoef(drawn[:, [0, 3]].T)[0, 1]
    assert abs(float(alone)) < 0.03


def test_files_that_say_nothing_of_it_have_every_variable_drawn_by_itself() -> None:
    rssm = make_rssm()
    older = {name: value for name, value in rssm.state_dict().items() if not name.startswith("drawn")}
    rssm.load_state_dict(older)
    assert rssm.drawn_with.tolist() == list(range(rssm.config.variables))
    assert not rssm.drawn_apart.any()


@torch.no_grad()
def test_files_without_motion_expect_what_they_did() -> None:
    """Models that were learned before there was `Shortcut.motion` go on as if it added nothing."""
    rssm = make_rssm()
    inputs = make_inputs(rssm)
    given = (inputs["embeddings"][:, 0, :7] @ torch.ones(EMBEDDING, 7, dtype=torch.float64), inputs["latent"])
    action = inputs["actions"][:, 0]
    moving = rssm.prior(*given, action)
    rssm.load_state_dict({name: value for name, value in rssm.state_dict().items() if ".motion." not in name})
    still = rssm.prior(*given, action)
    assert rssm.shortcut is not None
    for layer in (rssm.shortcut.motion[0], rssm.shortcut.motion[-1]):
        torch.nn.init.normal_(layer.weight)
    assert not torch.allclose(moving, still)
    rssm.shortcut.motion[-1].weight.zero_()
    torch.testing.assert_close(rssm.prior(*given, action), still)


@torch.no_grad()
def test_the_filter_goes_the_way_of_a_window_step_by_step() -> None:
    rssm = make_rssm()
    embeddings, actions, latent, features = make_inputs(rssm).values()
    window = rssm.observe(embeddings, actions, latent, mode=True, features=features).latents
    for t in range(T):
        latent = rssm.filter(embeddings[:, t], actions[:, t], latent, features[:, t])
        torch.testing.assert_close(latent, window[:, t], rtol=0, atol=1e-12)


@torch.no_grad()
def test_imagined_states_are_samples_of_the_prior() -> None:
    rssm = make_rssm(unimix=0.3)
    rows, size = 40_000, rssm.config.deterministic
    latent, action = (torch.randn(1, n, dtype=torch.float64).expand(rows, n) for n in (rssm.config.latent, ACTION))
    after = rssm.imagine_step(latent, action, torch.Generator().manual_seed(0))
    frequencies = after[:, size:].mean(0).unflatten(0, (rssm.config.variables, rssm.config.classes))
    prior = plain_rssm.mixed(rssm, plain_rssm.prior_logits(rssm, after[:1, :size], latent[:1], action[:1]))[0]
    deviation = (prior * (1 - prior) / rows).sqrt()
    assert ((frequencies - prior).abs() < 4 * deviation).all()


def test_the_gradient_of_an_imagined_step_goes_straight_through_its_sample() -> None:
    rssm = make_rssm()
    latent, action = torch.randn(2, rssm.config.latent).double(), torch.randn(2, ACTION).double()
    weights = torch.randn(2, rssm.config.latent).double()
    size, parameters = (
        rssm.config.deterministic,
        [p for n, p in rssm.named_parameters() if "posterior" not in n and "seen" not in n],
    )

    after = rssm.imagine_step(latent, action, torch.Generator().manual_seed(0))
    ours = torch.autograd.grad((after * weights).sum(), parameters, retain_graph=True)

    h = after[:, :size]
    probabilities = plain_rssm.mixed(rssm, plain_rssm.prior_logits(rssm, h, latent, action)).flatten(1)
    expected = torch.autograd.grad((torch.cat([h, probabilities], -1) * weights).sum(), parameters)
    assert after[:, size:].unflatten(1, (4, 6)).max(-1).values.allclose(torch.ones(2, 4).double())
    for gradient, of_probabilities in zip(ours, expected, strict=True):
        torch.testing.assert_close(gradient, of_probabilities)


def test_a_draw_takes_the_class_in_whose_share_the_uniform_lies() -> None:
    probabilities = torch.tensor([0.25, 0.0, 0.5, 0.25])
    uniforms = torch.tensor([0.0, 0.24, 0.25, 0.74, 0.75, 1 - 2**-24]).unsqueeze(-1)
    assert draw(probabilities.expand(6, 4), uniforms).tolist() == [0, 0, 2, 2, 3, 3]


def test_a_draw_never_leaves_the_classes_when_probabilities_sum_to_less_than_one() -> None:
    probabilities = torch.full((1, 4), 0.25 - 1e-6)
    assert draw(probabilities, torch.tensor([[1 - 2**-24]])).tolist() == [3]


@pytest.mark.parametrize("unimix", [0.01, 0.3])
def test_no_class_falls_below_its_share_of_the_uniform(unimix: float) -> None:
    rssm = make_rssm(unimix)
    torch.nn.init.normal_(rssm.prior_head[-1].bias, std=1000.0)  # a prior that is sure of itself
    embeddings, actions, latent, features = make_inputs(rssm).values()
    probabilities = rssm.observe(embeddings, actions, latent, mode=True, features=features).prior[0, 0].exp()
    floor = torch.tensor(unimix / rssm.config.classes, dtype=torch.float64)
    torch.testing.assert_close(probabilities.min(-1).values, floor.expand(rssm.config.variables))
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(rssm.config.variables, dtype=torch.float64))


def test_the_kl_and_its_gradients_are_shared_out_by_the_balance() -> None:
    generator = torch.Generator().manual_seed(0)
    posterior, prior = (
        torch.randn(B, T, 4, 6, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2)
    )
    weights = torch.rand(B, T, generator=generator, dtype=torch.float64)

    def reference(p: Tensor, q: Tensor) -> Tensor:
        return kl_divergence(*(Independent(Categorical(logits=logits), 1) for logits in (p, q)))

    kl = balanced_kl(posterior.log_softmax(-1), prior.log_softmax(-1), 0.8)
    to_posterior, to_prior = torch.autograd.grad((weights * kl).sum(), [posterior, prior])

    expected = reference(posterior, prior)
    full_to_posterior, full_to_prior = torch.autograd.grad((weights * expected).sum(), [posterior, prior])
    torch.testing.assert_close(kl, expected)
    torch.testing.assert_close(to_prior, 0.8 * full_to_prior)
    torch.testing.assert_close(to_posterior, 0.2 * full_to_posterior)
