"""The folded diffusion policy against its plain twin, the published constants, and densities written out."""

import pytest
import torch
import torch.nn.functional as F
from plain_diffusion import plain_policy, plain_schedule
from torch.distributions import Normal

from diwa_runtime.bundle.session import NOISE_LIMIT
from diwa_trainer.deploy.graphs import PolicyGraph
from diwa_trainer.policy.diffusion import DiffusionConfig, DiffusionPolicy, Schedule, draw_noise, sample
from diwa_trainer.policy.mish import mish

LATENT, ROWS = 12, 6
CONFIG = DiffusionConfig(hidden=32)
POSTERIOR_STD = [  # the cosine schedule, K = 20, t = 0..19
    0, 0.0758, 0.1232, 0.1617, 0.1952, 0.2257, 0.2546, 0.2827, 0.3107, 0.3392,
    0.3690, 0.4007, 0.4354, 0.4744, 0.5194, 0.5734, 0.6412, 0.7310, 0.8573, 0.9965,
]  # fmt: skip


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make_policy(seed, config=CONFIG):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return DiffusionPolicy(config, LATENT)


@pytest.fixture
def policies():
    return make_policy(1), make_policy(2)


@pytest.fixture
def latent():
    return torch.randn(ROWS, LATENT, generator=seeded(3))


def noise_for(config=CONFIG):
    return draw_noise(config, (ROWS, config.denoising_steps + 1), seeded(4))


def test_schedule_has_the_published_deviations():
    torch.testing.assert_close(Schedule(20).posterior_std, torch.tensor(POSTERIOR_STD), atol=5e-5, rtol=0)


@pytest.mark.parametrize("floors", [{}, {"exploration_std": 0.3, "deterministic_std": 0.2}])
def test_exploring_floors_every_deviation_and_deployment_ends_without_noise(floors):
    policy = make_policy(0, DiffusionConfig(hidden=32, **floors))
    floored = [max(std, floors.get("exploration_std", 0.1)) for std in POSTERIOR_STD]
    deployed = [0, *(max(std, floors.get("deterministic_std", 1e-3)) for std in POSTERIOR_STD[1:])]
    torch.testing.assert_close(policy.exploration_std(), torch.tensor(floored), atol=5e-5, rtol=0)
    torch.testing.assert_close(policy.evaluation_std(), torch.tensor(deployed), atol=5e-5, rtol=0)


@pytest.mark.parametrize("explore", [True, False], ids=["explore", "deployed"])
@pytest.mark.parametrize("finetuned_steps", [1, 10, 20])
@pytest.mark.parametrize("lean", [True, False], ids=["lean", "as DPPO"])
def test_folded_sampler_equals_the_plain_loop(latent, explore, finetuned_steps, lean):
    config = DiffusionConfig(hidden=32, finetuned_steps=finetuned_steps)
    pretrained, tuned = make_policy(1, config), make_policy(2, config)
    noise = noise_for(config)

    drawn = sample(pretrained, tuned, latent, noise, explore=explore)
    chunk, chain = plain_policy(pretrained, tuned, lean=lean).sample(latent, noise, explore=explore)

    assert drawn.chain.shape == (ROWS, finetuned_steps + 1, config.size)
    torch.testing.assert_close(drawn.chain, chain, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(drawn.chunk.flatten(1), chunk, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("steps", [5, 20, 100])
def test_deployed_sampler_is_that_of_diffusers(latent, steps):
    """With one net in both roles and the noise that the scheduler draws: step by step, unclipped, none at the last."""
    pytest.importorskip("diffusers")
    from diffusers_sampler import diffusers_policy

    policy = make_policy(1, DiffusionConfig(hidden=32, denoising_steps=steps, finetuned_steps=3))
    generator = seeded(4)
    draws = [torch.randn(ROWS, policy.config.size, generator=generator) for _ in range(steps)]
    noise = torch.stack([*draws, torch.ones_like(draws[0])], 1)

    ours = sample(policy, policy, latent, noise, explore=False).chunk.flatten(1)
    theirs = diffusers_policy(policy).sample(latent, seeded(4))

    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_a_deployed_chunk_does_not_depend_on_the_last_noise_and_an_explored_one_does(policies, latent):
    noise = noise_for()
    other = noise.clone()
    other[:, -1] += 1

    for explore, difference in ((False, 0.0), (True, 0.1)):
        first = sample(*policies, latent, noise, explore=explore).chunk
        second = sample(*policies, latent, other, explore=explore).chunk
        torch.testing.assert_close(second - first, torch.full_like(first, difference), atol=1e-6, rtol=0)


def test_only_the_last_steps_are_the_tuned_net(policies, latent):
    """The chain begins where the frozen net ends: another tuned net changes all of it but its start."""
    pretrained, tuned = policies
    before = sample(pretrained, tuned, latent, noise_for(), explore=True).chain
    after = sample(pretrained, make_policy(5), latent, noise_for(), explore=True).chain

    assert torch.equal(before[:, 0], after[:, 0])
    assert (before[:, 1:] != after[:, 1:]).any(-1).all()


def test_chain_log_probs_are_the_densities_written_out(policies, latent):
    pretrained, tuned = policies
    chain = sample(pretrained, tuned, latent, noise_for(), explore=True).chain
    plain = plain_policy(pretrained, tuned)

    densities = []
    for i, t in enumerate(reversed(range(CONFIG.finetuned_steps))):
        mean = plain.mean(chain[:, i], torch.full((ROWS,), t), latent)
        densities.append(Normal(mean, max(POSTERIOR_STD[t], 0.1)).log_prob(chain[:, i + 1]))
    actual = tuned.chain_log_prob(latent, chain)

    torch.testing.assert_close(actual, plain.log_prob(latent, chain), atol=2e-4, rtol=1e-4)
    # The table's four digits allow one part in a thousand of an exponent of up to 4.5.
    torch.testing.assert_close(actual, torch.stack(densities, 1), atol=6e-3, rtol=0)


def test_a_sampled_chain_is_as_likely_as_its_noise(policies, latent):
    """log p of each step is the standard normal's log-density of the noise that made it, less the log of its std."""
    noise = noise_for()
    chain = sample(*policies, latent, noise, explore=True).chain
    std = policies[1].exploration_std()[: CONFIG.finetuned_steps].flip(0)[:, None]

    expected = Normal(0.0, 1.0).log_prob(noise[:, -CONFIG.finetuned_steps :]) - std.log()
    torch.testing.assert_close(policies[1].chain_log_prob(latent, chain), expected, atol=1e-4, rtol=1e-4)


def test_loss_is_the_error_of_the_predicted_noise(policies, latent):
    policy, _ = policies
    chunk = torch.rand(ROWS, 4, 7, generator=seeded(6)) * 2 - 1
    loss = policy.loss(latent, chunk, seeded(7))

    generator = seeded(7)
    t = torch.randint(20, (ROWS,), generator=generator)
    noise = torch.randn(ROWS, 28, generator=generator)
    signal = plain_schedule(20)[2][t, None]
    noisy = signal.sqrt() * chunk.flatten(1) + (1 - signal).sqrt() * noise
    expected = F.mse_loss(plain_policy(policy, policy).pretrained(noisy, t, latent), noise)
    torch.testing.assert_close(loss, expected)


def test_loss_of_a_silent_network_is_the_noise_itself(latent):
    policy = make_policy(0)
    for parameter in policy.denoiser.out.parameters():
        torch.nn.init.zeros_(parameter)
    loss = policy.loss(latent, torch.zeros(ROWS, 4, 7), seeded(8))

    generator = seeded(8)
    torch.randint(20, (ROWS,), generator=generator)
    assert loss.item() == pytest.approx(torch.randn(ROWS, 28, generator=generator).square().mean().item())


def test_noise_is_clipped_and_otherwise_standard_normal():
    noise = draw_noise(DiffusionConfig(), (4000,), seeded())
    raw = torch.randn(4000, 28, generator=seeded())

    inside = raw.abs() <= NOISE_LIMIT
    assert torch.equal(noise[inside], raw[inside])
    assert (noise[~inside].abs() == NOISE_LIMIT).all()
    assert 0 < (~inside).sum() < 0.01 * raw.numel()


def test_exported_graph_is_the_deployed_sampler(policies, latent):
    noise = noise_for()
    chunk = PolicyGraph(*policies)(latent, noise.unflatten(-1, (4, 7)))
    torch.testing.assert_close(chunk, sample(*policies, latent, noise, explore=False).chunk, atol=1e-5, rtol=1e-5)


def test_mish_and_its_slope_are_torchs():
    x = torch.cat([torch.linspace(-30, 30, 2001), torch.tensor([-200.0, -90.0, 0.0, 90.0, 1e30])])
    ours, torchs = x.clone().requires_grad_(), x.double().requires_grad_()
    y, expected = mish(ours), F.mish(torchs)
    y.sum().backward()
    expected.sum().backward()

    torch.testing.assert_close(y.double(), expected, atol=3e-6, rtol=1e-6)
    torch.testing.assert_close(ours.grad.double(), torchs.grad, atol=3e-6, rtol=1e-6)
    assert torch.equal(mish(x), y)


def test_exported_mish_is_torchs(monkeypatch):
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    x = torch.cat([torch.linspace(-30, 30, 2001), torch.tensor([-200.0, -90.0, 0.0, 90.0, 1e30])])
    torch.testing.assert_close(mish(x).double(), F.mish(x.double()), atol=1e-7, rtol=1e-6)
