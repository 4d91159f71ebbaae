"""PPO over denoising steps against its plain twin, the published numbers, and a world that it must learn."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_diffusion import plain_policy
from plain_ppo import make_pairs, plain_actor_loss, plain_advantages, plain_pair_loss
from point_world import Learner, pretrain, success_rate

from diwa_trainer.policy.diffusion import DiffusionConfig, DiffusionPolicy, draw_noise, sample
from diwa_trainer.policy.imagination import Rollout
from diwa_trainer.policy.ppo import (
    Batch,
    Critic,
    PPOConfig,
    actor_loss,
    advantages,
    base_means,
    clip_schedule,
    denoising_discount,
    make_batch,
    make_losses,
    mean_log_prob,
    next_bc_weight,
    update,
    update_actor,
)

LATENT, ROWS = 12, 24
POLICY = DiffusionConfig(hidden=32)
DISCOUNT = [0.9135, 0.9227, 0.9321, 0.9415, 0.9510, 0.9606, 0.9703, 0.9801, 0.99, 1.0]  # 0.99 to the power of 9..0
CLIP = [0.001, 0.00119, 0.00145, 0.00181, 0.00232, 0.00303, 0.00401, 0.00539, 0.00732, 0.01]  # point 7


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make_policy(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return DiffusionPolicy(POLICY, LATENT)


def nowhere(chunks, episodes):
    """No episode leaves the recordings."""
    return torch.zeros(chunks, episodes, dtype=torch.bool)


def nudged(policy, size, seed=5):
    """Return a copy whose weights are off by Gaussian noise of that size."""
    other, generator = copy.deepcopy(policy), seeded(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator)
    return other


def make_rows(pretrained, behaviour, bc_weight=0.05, rows=ROWS):
    """A batch whose chains `behaviour` drew, with random advantages and returns."""
    config, generator = PPOConfig(bc_weight=bc_weight), seeded(6)
    latents = torch.randn(rows, LATENT, generator=generator)
    noise = draw_noise(POLICY, (rows, POLICY.denoising_steps + 1), generator)
    chains = sample(pretrained, behaviour, latents, noise, explore=True).chain
    with torch.no_grad():
        log_probs = behaviour.chain_log_prob(latents, chains).clamp(-5, 2).mean(-1)
    adv, returns = torch.randn(2, rows, generator=generator)
    means = base_means(pretrained, latents, chains)
    return Batch(latents, chains, log_probs, adv, returns, means, bc_weight), config


def optimizers(policy, critic):
    return torch.optim.AdamW(policy.parameters(), 1e-3), torch.optim.AdamW(critic.parameters(), 1e-3)


@st.composite
def episodes(draw):
    """Rewards, values, values that follow, and where (H, B) steps terminate and end."""
    horizon, batch = draw(st.integers(1, 7)), draw(st.integers(1, 3))
    generator = seeded(draw(st.integers(0, 2**31)))
    rewards, values, follows = torch.randn(3, horizon, batch, generator=generator)
    share = draw(st.sampled_from([0.0, 0.3, 1.0]))
    terminated = torch.rand(horizon, batch, generator=generator) < share
    cut = torch.rand(horizon, batch, generator=generator) < share
    return rewards, values, follows, terminated, terminated | cut


@given(episodes(), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=60)
def test_advantages_are_the_sums_written_out(case, gamma, lam):
    torch.testing.assert_close(advantages(*case, gamma, lam), plain_advantages(*case, gamma, lam), atol=1e-5, rtol=1e-5)


def test_a_cut_episode_bootstraps_from_where_it_was_cut_and_a_finished_one_does_not():
    rewards, values = torch.zeros(2, 2), torch.zeros(2, 2)
    follows = torch.tensor([[0.0, 0.0], [10.0, 10.0]])
    terminated = torch.tensor([[False, False], [False, True]])
    ended = torch.tensor([[False, False], [True, True]])

    actual = advantages(rewards, values, follows, terminated, ended, 0.5, 0.5)
    torch.testing.assert_close(actual, torch.tensor([[0.25 * 5, 0.0], [5.0, 0.0]]))


def test_clip_ranges_and_discounts_are_the_published_ones():
    torch.testing.assert_close(clip_schedule(PPOConfig(), 10), torch.tensor(CLIP), atol=6e-6, rtol=0)
    torch.testing.assert_close(denoising_discount(PPOConfig(), 10), torch.tensor(DISCOUNT), atol=6e-5, rtol=0)


def test_clip_ranges_discounts_and_clamps_are_as_set():
    config = PPOConfig(
        clip=0.2, clip_base=0.05, clip_rate=2.0, gamma_denoising=0.5, log_prob_min=-2.0, log_prob_max=1.0
    )
    middle = 0.05 + 0.15 * (math.e - 1) / (math.e**2 - 1)

    assert clip_schedule(config, 3).tolist() == pytest.approx([0.05, middle, 0.2])
    assert denoising_discount(config, 3).tolist() == [0.25, 0.5, 1.0]
    assert mean_log_prob(torch.tensor([-9.0, 0.0, 0.5, 9.0]), config).item() == pytest.approx((-2 + 0 + 0.5 + 1) / 4)


def test_a_clip_range_that_does_not_grow_is_constant():
    assert clip_schedule(PPOConfig(clip_rate=0.0), 10).tolist() == pytest.approx([0.01] * 10)


@pytest.mark.parametrize("bc_weight", [0.0, 0.05, 2.0])
def test_loss_and_gradients_are_the_plain_ones(bc_weight):
    pretrained = make_policy(1)
    batch, config = make_rows(pretrained, nudged(pretrained, 0.02), bc_weight)
    ours = nudged(pretrained, 0.03, seed=7)
    plain = plain_policy(pretrained, ours)

    loss, metrics = actor_loss(ours, batch, config)
    expected = plain_actor_loss(plain, batch, config)
    loss.backward()
    expected.backward()

    assert 0.1 < metrics["clip_fraction"] < 0.95, "both branches of the surrogate are at work"
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-5)
    mean_kl = metrics["path_kl"] / batch.base_means[0].numel()
    torch.testing.assert_close(metrics["policy_loss"] + bc_weight * mean_kl, loss.detach())
    net, twin = ours.denoiser, plain.tuned
    first = torch.cat([net.chunk_in.weight.grad, net.time_in.weight.grad, net.latent_in.weight.grad], 1)
    pairs = {
        "first layer": (first, twin.into.weight.grad),
        "first bias": (net.latent_in.bias.grad, twin.into.bias.grad),
        "time embedding": (net.time_mlp[0].weight.grad, twin.time_in.weight.grad),
        "block 1": (net.block_1.weight.grad, twin.block_1.weight.grad),
        "block 2": (net.block_2.weight.grad, twin.block_2.weight.grad),
        "block 2 bias": (net.block_2.bias.grad, twin.block_2.bias.grad),
        "out": (net.out.weight.grad, twin.out.weight.grad),
        "out bias": (net.out.bias.grad, twin.out.bias.grad),
    }
    for name, (actual, wanted) in pairs.items():
        assert wanted.abs().max() > 1e-6, name
        torch.testing.assert_close(actual, wanted, atol=3e-6, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}")


def test_loss_is_that_of_dppos_pairs_over_the_same_steps():
    """DPPO divides by the deviation of N * K' copies of the advantages; the unbiased estimates differ by a factor."""
    pretrained = make_policy(1)
    batch, config = make_rows(pretrained, nudged(pretrained, 0.02), bc_weight=0.0)
    ours, pairs = nudged(pretrained, 0.03, seed=7), ROWS * 10

    loss, _ = actor_loss(ours, batch, config)
    of_pairs = plain_pair_loss(plain_policy(pretrained, ours), make_pairs(batch, seeded()), config)
    factor = ((ROWS - 1) / ROWS * pairs / (pairs - 1)) ** 0.5
    torch.testing.assert_close(loss, factor * of_pairs, atol=1e-6, rtol=1e-5)


def test_before_any_update_the_policy_is_the_one_that_acted():
    pretrained = make_policy(1)
    batch, config = make_rows(pretrained, pretrained, bc_weight=0.0)
    loss, metrics = actor_loss(pretrained, batch, config)

    assert metrics["approx_kl"] == pytest.approx(0, abs=1e-9)
    assert metrics["clip_fraction"] == 0
    assert loss.item() == pytest.approx(0, abs=1e-6), "normalised advantages cancel where all ratios are one"


def test_scale_and_offset_of_advantages_play_no_part():
    pretrained = make_policy(1)
    batch, config = make_rows(pretrained, nudged(pretrained, 0.02), bc_weight=0.0)
    loss, _ = actor_loss(pretrained, batch, config)
    same, _ = actor_loss(pretrained, replace(batch, advantages=5 * batch.advantages - 40), config)
    other, _ = actor_loss(pretrained, replace(batch, advantages=-batch.advantages), config)

    torch.testing.assert_close(loss, same, atol=1e-6, rtol=1e-5)
    assert (loss - other).abs() > 1e-4


def test_hopeless_log_probs_are_clamped_and_teach_nothing():
    """A chain that the policy thinks impossible: its log-prob is the floor, and its gradient none."""
    pretrained = make_policy(1)
    batch, config = make_rows(pretrained, pretrained, bc_weight=0.0)
    impossible = batch.chains.clone()
    impossible[:, 1::2] += 50
    loss, _ = actor_loss(pretrained, replace(batch, chains=impossible), config)
    loss.backward()

    assert all(not p.grad.any() for p in pretrained.parameters())


@pytest.mark.parametrize("bootstrap", [False, True])
def test_rows_of_a_rollout(bootstrap):
    """Three chunks of two episodes, the second succeeds in its second; the critic says 0.5 of everything."""
    pretrained, critic, generator = make_policy(1), Critic(LATENT, 8), seeded(8)
    torch.nn.init.zeros_(critic.out.weight)
    torch.nn.init.constant_(critic.out.bias, 0.5)
    latents, final = torch.randn(3, 2, LATENT, generator=generator), torch.randn(2, LATENT, generator=generator)
    chains = torch.randn(3, 2, 11, 28, generator=generator)
    live = torch.tensor([[True, True], [True, True], [True, False]])
    rewards = torch.tensor([[0.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    config = PPOConfig(gamma=0.9, gae_lambda=1.0, horizon_bootstrap=bootstrap, bc_weight=0.05)

    rollout = Rollout(latents, chains, rewards, live, nowhere(3, 2), final)
    batch = make_batch(rollout, pretrained, make_policy(2), critic, config, 0.05)

    end = 0.5 if bootstrap else 0.0
    returns = torch.tensor([0.9**3 * end, 0.9, 0.9**2 * end, 1.0, 0.9 * end])
    torch.testing.assert_close(batch.returns, returns)
    torch.testing.assert_close(batch.advantages, returns - 0.5)
    assert torch.equal(batch.latents, latents[live])
    assert torch.equal(batch.chains, chains[live])
    expected = pretrained.chain_log_prob(latents[live], chains[live]).clamp(-5, 2).mean(-1)
    torch.testing.assert_close(batch.log_probs, expected.detach())
    assert batch.bc_weight == 0.05
    assert not batch.log_probs.requires_grad


def test_a_cut_episode_is_worth_what_the_critic_says_of_where_it_was_cut():
    """A critic that reads the value off the latent: 7 where the first episode was cut, 9 where the second was."""
    policy, generator = make_policy(1), seeded(8)
    latents, final = torch.zeros(3, 2, LATENT), torch.zeros(2, LATENT)
    latents[:, :, 0], final[:, 0] = torch.arange(6.0).view(3, 2), torch.tensor([7.0, 9.0])
    chains = torch.randn(3, 2, 11, 28, generator=generator)
    rollout = Rollout(latents, chains, torch.zeros(3, 2), torch.ones(3, 2, dtype=torch.bool), nowhere(3, 2), final)
    config = PPOConfig(gamma=0.5, gae_lambda=0.0, horizon_bootstrap=True)

    batch = make_batch(rollout, policy, policy, lambda latent: latent[..., 0], config, 0.0)

    assert batch.returns.view(3, 2).tolist() == [[1.0, 1.5], [2.0, 2.5], [3.5, 4.5]]


def test_the_policy_to_stay_near_is_the_frozen_one():
    pretrained, policy, latents = make_policy(1), make_policy(2), torch.randn(1, 2, LATENT, generator=seeded(8))
    chains, live = torch.randn(1, 2, 11, 28, generator=seeded(9)), torch.ones(1, 2, dtype=torch.bool)
    rollout = Rollout(latents, chains, torch.zeros(1, 2), live, nowhere(1, 2), latents[0])

    batch = make_batch(rollout, policy, pretrained, Critic(LATENT, 8), PPOConfig(), 0.1)

    of_frozen = plain_policy(pretrained, pretrained).transitions(latents[0], chains[0]).loc.unflatten(0, (2, 10))
    torch.testing.assert_close(batch.base_means, of_frozen, atol=1e-5, rtol=1e-4)


def test_an_episode_that_left_the_recordings_is_worth_nothing_from_there_on():
    """Two episodes that the critic thinks worth 5 anywhere, with its word counting at the horizon; one left at once."""
    policy, latents = make_policy(1), torch.randn(2, 2, LATENT, generator=seeded(8))
    chains, live = torch.randn(2, 2, 11, 28, generator=seeded(9)), torch.tensor([[True, True], [True, False]])
    left = torch.tensor([[False, True], [False, False]])
    rollout = Rollout(latents, chains, torch.zeros(2, 2), live, left, latents[0])
    config = PPOConfig(gamma=1.0, gae_lambda=1.0, horizon_bootstrap=True)

    batch = make_batch(rollout, policy, policy, lambda latent: torch.full(latent.shape[:-1], 5.0), config, 0.0)

    assert batch.returns.tolist() == [5.0, 0.0, 5.0]


@pytest.mark.parametrize(
    ("budget", "path_kl", "weight", "expected"),
    [
        (None, 9.0, 0.05, 0.05),
        (4.0, 4.0, 0.05, 0.05),
        (4.0, 8.0, 0.05, 0.05 * math.exp(0.5)),
        (4.0, 2.0, 0.05, 0.05 * math.exp(-0.25)),
        (4.0, 1e9, 0.05, 0.05 * math.exp(1.0)),
        (4.0, 8.0, 0.0, 1e-3 * math.exp(0.5)),
        (4.0, 0.0, 1e-3, 1e-3),
        (4.0, 9.0, 9.9, 10.0),
    ],
)
def test_the_bc_weight_follows_the_budget(budget, path_kl, weight, expected):
    config = PPOConfig(kl_budget=budget)
    assert next_bc_weight(weight, path_kl, config) == pytest.approx(expected)


def test_warm_up_trains_the_critic_alone():
    policy = make_policy(1)
    batch, config = make_rows(policy, policy)
    critic = Critic(LATENT, 16)
    actor_before, critic_before = copy.deepcopy(policy.state_dict()), copy.deepcopy(critic.state_dict())
    metrics = update(batch, policy, critic, *optimizers(policy, critic), config, seeded(), critic_only=True)

    assert all(torch.equal(value, actor_before[name]) for name, value in policy.state_dict().items())
    assert all(not torch.equal(value, critic_before[name]) for name, value in critic.state_dict().items())
    assert metrics.keys() == {"value_loss", "explained_variance"}


def test_the_critic_learns_the_returns():
    policy, critic = make_policy(1), Critic(LATENT, 64)
    batch, config = make_rows(policy, policy)
    config = replace(config, epochs=150)
    metrics = update(batch, policy, critic, *optimizers(policy, critic), config, seeded(), critic_only=True)
    assert metrics["explained_variance"] > 0.95


def updated(seed=0, rows=ROWS, **changes):
    """Update a policy and a critic by plain gradient descent; return both, the metrics and the minibatches' sizes."""
    policy = make_policy(1)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        critic = Critic(LATENT, 8)
    sizes: list[int] = []
    critic.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    batch, config = make_rows(policy, policy, rows=rows)
    steps = [torch.optim.SGD(network.parameters(), 0.1) for network in (policy, critic)]
    metrics = update(batch, policy, critic, *steps, replace(config, **changes), seeded(seed))
    return policy, critic, metrics, sizes[:-1]  # the last is of the variance that is explained


@pytest.mark.parametrize(
    ("rows", "epochs", "minibatch", "sizes"),
    [(24, 2, 10, [10, 10, 4] * 2), (24, 3, 512, [24] * 3), (23, 2, 11, [11, 11] * 2)],
)
def test_every_epoch_goes_through_all_rows_in_minibatches_but_for_a_single_one_that_is_left(
    rows, epochs, minibatch, sizes
):
    assert updated(rows=rows, epochs=epochs, minibatch=minibatch, target_kl=1e6)[3] == sizes


def test_the_rows_of_minibatches_are_drawn_by_the_generator_alone():
    weights = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(weights))
        weights.append(updated(seed, minibatch=8)[1].out.weight)

    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_critic_s_loss_counts_as_much_as_the_setting_says():
    """In one step of plain gradient descent, which the weight alone scales."""
    begun, *moved = (updated(epochs=1, value_weight=weight) for weight in (0.0, 0.5, 2.0))
    small, large = (one[1].out.weight - begun[1].out.weight for one in moved)

    torch.testing.assert_close(large, 4 * small)
    assert small.abs().max() > 1e-4
    assert all(one[2]["value_loss"] == begun[2]["value_loss"] for one in moved), "what is shown is not scaled"


def test_what_an_update_shows_is_the_mean_over_its_minibatches_and_what_is_explained():
    policy, critic = make_policy(1), Critic(LATENT, 8)
    batch, config = make_rows(policy, nudged(policy, 0.02))
    still = [torch.optim.SGD(network.parameters(), 0.0) for network in (policy, critic)]

    metrics = update(batch, policy, critic, *still, replace(config, epochs=2, minibatch=12), seeded(1))

    generator, losses = seeded(1), []
    with torch.no_grad():
        error = batch.returns - critic(batch.latents)
        for _ in range(2):
            halves = torch.randperm(ROWS, generator=generator).split(12)
            losses += [float(actor_loss(policy, batch.rows(half), config)[1]["policy_loss"]) for half in halves]
    assert metrics["value_loss"] == pytest.approx(0.5 * float(error.square().mean()), rel=1e-5)
    assert metrics["policy_loss"] == pytest.approx(sum(losses) / 4, rel=1e-4)
    assert metrics["explained_variance"] == pytest.approx(1 - float(error.var() / batch.returns.var()), rel=1e-4)


def test_the_gradient_that_is_shown_is_all_of_it():
    policy = make_policy(1)
    batch, config = make_rows(policy, nudged(policy, 0.02))
    actor_loss(policy, batch, config)[0].backward()
    norm = float(torch.cat([p.grad.flatten() for p in policy.parameters()]).norm())
    before = [parameter.detach().clone() for parameter in policy.parameters()]

    losses = make_losses(policy, Critic(LATENT, 8), config)
    shown = update_actor(batch, losses, policy, torch.optim.SGD(policy.parameters(), 1.0))["gradient_norm"]

    moved = torch.cat([(p - b).flatten() for p, b in zip(policy.parameters(), before, strict=True)])
    assert float(shown) == pytest.approx(norm, rel=1e-4)
    assert float(moved.detach().norm()) == pytest.approx(norm, rel=1e-2), "and none of it is clipped"


def test_epochs_stop_when_the_policy_has_gone_too_far():
    def after(**changes):
        policy, critic = make_policy(1), Critic(LATENT, 8)
        batch, config = make_rows(policy, policy)
        config = replace(config, minibatch=8, **changes)
        update(batch, policy, critic, *optimizers(policy, critic), config, seeded())
        return policy.denoiser.out.weight

    assert torch.equal(after(epochs=5, target_kl=-1.0), after(epochs=1))
    assert not torch.equal(after(epochs=5), after(epochs=1))
    assert torch.equal(after(epochs=5, target_kl=1e-6), after(epochs=1)), "at the end of an epoch, not at its start"


def test_the_bc_term_alone_brings_a_strayed_policy_back():
    """Without advantages only the frozen policy teaches: the distance to it shrinks."""
    pretrained = make_policy(1)
    strayed = nudged(pretrained, 0.05)
    batch, config = make_rows(pretrained, strayed, bc_weight=1.0, rows=256)
    batch = replace(batch, advantages=torch.zeros(256))
    critic = Critic(LATENT, 8)

    def distance():
        with torch.no_grad():
            return (base_means(strayed, batch.latents, batch.chains) - batch.base_means).square().mean()

    before = distance()
    update(batch, strayed, critic, *optimizers(strayed, critic), replace(config, epochs=60), seeded())
    assert distance() < 0.5 * before


def test_imagined_ppo_solves_the_point_world():
    """From noisy demonstrations some 4 of 10 episodes succeed; after 26 iterations more than 9 of 10 must."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pretrained = pretrain(noise=1.0, updates=250, generator=seeded())
        config = PPOConfig(
            clip=0.1, clip_base=0.01, minibatch=128, bc_weight=0.0, critic_hidden=64,
            actor_learning_rate=4e-3, critic_learning_rate=3e-3,
        )  # fmt: skip
        learner = Learner(pretrained, config, iterations=26)
    base = success_rate(pretrained, pretrained)
    for number in range(learner.iterations):
        learner.iterate(number, episodes=200)

    assert 0.3 < base < 0.6
    assert success_rate(pretrained, learner.policy) > 0.9
