"""Imagined episodes against episodes played one by one, and the action rule against the robot's."""

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from plain_diffusion import plain_policy
from plain_imagination import PlainDynamics, plain_imagine
from point_world import CHUNKS, POLICY, PointDynamics, draw_starts, in_goal

from diwa_runtime.actions import accept_action
from diwa_trainer.devices.draws import normal
from diwa_trainer.policy.diffusion import DiffusionPolicy, draw_noise
from diwa_trainer.policy.imagination import accept, imagine
from diwa_trainer.world.rssm import RSSM, RSSMConfig

EPISODES = 40
FLOAT32 = st.floats(-3, 3, width=32)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make(kind, *arguments, seed=1):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind(*arguments)


@pytest.fixture
def policies():
    return make(DiffusionPolicy, POLICY, 2, seed=1), make(DiffusionPolicy, POLICY, 2, seed=2)


@given(st.lists(FLOAT32, min_size=7, max_size=7))
@example([0.0] * 7)
@example([-0.0] * 7)
@example([1.0, -1.0, 1.0000001, -1.0000001, 3e38, -3e38, 1e-45])
def test_imagination_accepts_an_action_as_the_robot_does(action):
    array = np.array([action], np.float32)
    np.testing.assert_array_equal(accept(torch.from_numpy(array)).numpy(), accept_action(array))


def test_accepting_leaves_the_drawn_chunk_alone():
    chunk = torch.full((2, 4, 7), 1.5)
    accept(chunk)
    assert (chunk == 1.5).all()


@pytest.mark.parametrize("explore", [True, False], ids=["explore", "deployed"])
def test_a_rollout_is_its_episodes_played_one_by_one(policies, explore):
    """The point world draws nothing itself, so each episode can be played alone with its own share of the noise."""
    starts = draw_starts(EPISODES, seeded(3))
    rollout = imagine(PointDynamics(), *policies, in_goal_or_far, starts, CHUNKS, seeded(4), explore=explore)
    plain, generator = plain_policy(*policies), seeded(4)
    noise = [draw_noise(POLICY, (EPISODES, POLICY.denoising_steps + 1), generator) for _ in range(CHUNKS)]

    assert 3 < rollout.success.sum() < EPISODES - 3, "some succeed, some do not"
    for b in range(EPISODES):
        point, length, reward = starts[b : b + 1], 0, 0.0
        while length < CHUNKS and not reward:
            torch.testing.assert_close(rollout.latents[length, b], point[0], atol=1e-5, rtol=1e-5)
            chunk, chain = plain.sample(point, noise[length][b : b + 1], explore=explore)
            torch.testing.assert_close(rollout.chains[length, b], chain[0], atol=1e-4, rtol=1e-4)
            for action in accept_action(chunk.reshape(4, 7).numpy()):
                point = point + 0.1 * torch.from_numpy(action[None, :2])
            reward = float(in_goal_or_far(point))
            assert rollout.rewards[length, b] == reward
            length += 1
        assert rollout.lengths[b] == length
        assert bool(rollout.success[b]) == bool(reward)
        torch.testing.assert_close(rollout.final[b], point[0], atol=1e-5, rtol=1e-5)


def test_an_episode_that_leaves_the_recordings_fails_and_ends_and_no_judge_hears_of_it(policies):
    """Points may not be where x > 0.9, not even between a chunk's first and last action; some start there."""
    starts, heard = draw_starts(EPISODES, seeded(3)), []

    def judge(latent):
        heard.append(latent)
        return in_goal_or_far(latent)

    def outside(path):
        assert path.shape[1:] == (POLICY.chunk + 1, 2)
        return (path[:, 1:, 0] > 0.9).any(1)

    free = imagine(PointDynamics(), *policies, in_goal_or_far, starts, CHUNKS, seeded(4))
    kept = imagine(PointDynamics(), *policies, judge, starts, CHUNKS, seeded(4), outside=outside)

    left = kept.left.any(0)
    assert 3 < int(left.sum()) < EPISODES - 3
    assert int((left & free.success).sum()) > 2, "some would have succeeded"
    assert not (kept.success & left).any()
    for b in range(EPISODES):
        if not left[b]:
            assert torch.equal(kept.latents[:, b], free.latents[:, b])
            assert bool(kept.success[b]) == bool(free.success[b])
            continue
        at = int(kept.left[:, b].int().argmax())
        assert kept.lengths[b] == at + 1
        assert int(kept.left[:, b].sum()) == 1
        assert torch.equal(kept.final[b], kept.latents[at, b]), "it stays where it was known to be"
        assert all(latent[b].isnan().all() for latent in heard[at:])


def test_what_a_world_draws_for_an_episode_does_not_depend_on_when_others_end(policies):
    class Drifting(PointDynamics):
        """Points that are pushed about at random."""

        def imagine_step(self, latent, action, generator=None):
            return super().imagine_step(latent, action) + 0.05 * normal(tuple(latent.shape), generator, latent.device)

    starts = draw_starts(EPISODES, seeded(3))
    free = imagine(Drifting(), *policies, never, starts, CHUNKS, seeded(4))
    some = imagine(Drifting(), *policies, in_goal_or_far, starts, CHUNKS, seeded(4))

    assert 3 < int(some.success.sum()) < EPISODES - 3
    torch.testing.assert_close(some.latents[some.live], free.latents[some.live], atol=1e-5, rtol=1e-5)


def in_goal_or_far(point):
    """Succeed in the goal and far outside, so that an untrained policy meets both."""
    return in_goal(point) | (point.norm(dim=-1) > 1.2)


def never(latent):
    return torch.zeros(len(latent), dtype=torch.bool)


def test_success_pays_one_once_and_ends_the_episode(policies):
    rollout = imagine(PointDynamics(), *policies, in_goal_or_far, draw_starts(EPISODES, seeded(3)), CHUNKS, seeded(4))

    assert set(rollout.rewards.unique().tolist()) == {0.0, 1.0}
    assert (rollout.rewards.sum(0) <= 1).all()
    assert rollout.live[0].all()
    before = rollout.rewards.cumsum(0) - rollout.rewards
    assert torch.equal(rollout.live, before == 0), "live exactly until the first success, that chunk included"
    assert torch.equal(rollout.success, rollout.rewards.sum(0) > 0)
    for b in torch.nonzero(rollout.success).flatten():
        after = rollout.latents[int(rollout.lengths[b]) :, b]
        assert torch.equal(after, rollout.final[b].expand_as(after)), "a finished episode stands still"


def test_a_reward_that_never_comes_leaves_every_episode_alive(policies):
    starts = draw_starts(EPISODES, seeded(3))
    rollout = imagine(PointDynamics(), *policies, never, starts, CHUNKS, seeded(4))

    assert rollout.live.all()
    assert not rollout.rewards.any()
    assert (rollout.lengths == CHUNKS).all()


def test_when_all_episodes_have_succeeded_nothing_is_left_to_imagine():
    rssm = make(RSSM, RSSMConfig(deterministic=16, variables=4, classes=5, hidden=12), 3, 7)
    policies = [make(DiffusionPolicy, POLICY, rssm.config.latent, seed=seed) for seed in (1, 2)]
    start = torch.randn(EPISODES, rssm.config.latent, generator=seeded(5))

    rollout = imagine(rssm, *policies, lambda z: ~never(z), start, CHUNKS, seeded(6))

    assert rollout.success.all()
    assert (rollout.lengths == 1).all()
    assert not rollout.chains[1:].any()


def test_only_the_latent_after_a_whole_chunk_is_judged(policies):
    seen = []

    def judge(latent):
        seen.append(latent)
        return torch.zeros(len(latent), dtype=torch.bool)

    rollout = imagine(PointDynamics(), *policies, judge, draw_starts(3, seeded(3)), CHUNKS, seeded(4))
    torch.testing.assert_close(torch.stack(seen), torch.cat([rollout.latents[1:], rollout.final[None]]))


def test_a_world_model_is_imagined_in_as_in_a_plain_loop():
    rssm = make(RSSM, RSSMConfig(deterministic=16, variables=4, classes=5, hidden=12), 3, 7)
    policies = [make(DiffusionPolicy, POLICY, rssm.config.latent, seed=seed) for seed in (1, 2)]
    start = torch.randn(EPISODES, rssm.config.latent, generator=seeded(5))
    plain_rng = seeded(6)

    ours = imagine(rssm, *policies, never, start, CHUNKS, seeded(6))
    plain = plain_imagine(
        lambda latent, action: rssm.imagine_step(latent, action, plain_rng),
        plain_policy(*policies),
        never,
        start,
        CHUNKS,
        lambda: draw_noise(POLICY, (EPISODES, POLICY.denoising_steps + 1), plain_rng),
    )
    for field in ("latents", "chains", "rewards", "live", "final"):
        torch.testing.assert_close(getattr(ours, field), getattr(plain, field), atol=1e-4, rtol=1e-4)


def test_the_plain_step_is_the_world_models():
    rssm = make(RSSM, RSSMConfig(deterministic=16, variables=4, classes=5, hidden=12), 3, 7)
    latent, action = torch.randn(6, rssm.config.latent, generator=seeded(5)), torch.randn(6, 7, generator=seeded(6))
    with torch.no_grad():
        h, states = PlainDynamics(rssm).distribution(latent, action)
        ours = rssm.imagine_step(latent, action, seeded(7))
        torch.testing.assert_close(ours[:, :16], h)
        prior = rssm.observe(torch.zeros(6, 1, 3), action[:, None], latent, mode=True).prior[:, 0]
        torch.testing.assert_close(states.probs.log(), prior, atol=1e-5, rtol=1e-5)


def test_the_same_generator_gives_the_same_episodes(policies):
    def rollout(seed):
        return imagine(PointDynamics(), *policies, in_goal, draw_starts(5, seeded(3)), 2, seeded(seed)).chains

    assert torch.equal(rollout(4), rollout(4))
    assert not torch.equal(rollout(4), rollout(5))
