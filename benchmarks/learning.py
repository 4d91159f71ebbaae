"""Sampling, imagining and updating at the paper's sizes, against the plain twins."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import onnxruntime
import torch
from measuring import Benchmark, Effort, alternate, median_seconds, repeated
from plain_diffusion import plain_policy
from plain_imagination import PlainDynamics, plain_imagine
from plain_ppo import PlainLearner, make_pairs
from torch import Tensor

from diwa_runtime.actions import ACTION_SIZE
from diwa_trainer.deploy.graphs import policy_graph
from diwa_trainer.policy.diffusion import DiffusionConfig, DiffusionPolicy, draw_noise, sample
from diwa_trainer.policy.imagination import imagine
from diwa_trainer.policy.ppo import (
    Batch,
    Critic,
    PPOConfig,
    base_means,
    make_losses,
    mean_log_prob,
    update_actor,
    update_critic,
)
from diwa_trainer.world.rssm import RSSM, RSSMConfig

PAPER_RSSM = RSSMConfig(deterministic=1024, variables=32, classes=32, hidden=1000)
PAPER_POLICY = DiffusionConfig(denoising_steps=20, finetuned_steps=10, hidden=512)
SMALL_RSSM, SMALL_POLICY = RSSMConfig(64, 8, 8, 64), replace(PAPER_POLICY, hidden=64)
EPISODES, CHUNKS = 256, 2
SIZES = "policy [512] x 3, latent 2,048, K = 20, K' = 10"


@dataclass(frozen=True)
class Policies:
    """The frozen and the tuned policy, of the paper's size unless it must be quick."""

    pretrained: DiffusionPolicy
    tuned: DiffusionPolicy
    latent_size: int

    @property
    def config(self) -> DiffusionConfig:
        """Sizes of both."""
        return self.tuned.config


def make_policies(effort: Effort) -> Policies:
    """Make two untrained policies; how fast they are does not depend on what they know."""
    torch.manual_seed(0)
    latent_size = (SMALL_RSSM if effort.quick else PAPER_RSSM).latent
    config = SMALL_POLICY if effort.quick else PAPER_POLICY
    return Policies(DiffusionPolicy(config, latent_size), DiffusionPolicy(config, latent_size), latent_size)


def open_graph(policies: Policies) -> onnxruntime.InferenceSession:
    """Open the policies' `policy.onnx` on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    graph = policy_graph(policies.pretrained, policies.tuned)
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def policy_sampling(lean: bool) -> Callable[[Effort], tuple[float, float]]:
    """Milliseconds of one deployed chunk at batch 1."""

    def measure(effort: Effort) -> tuple[float, float]:
        policies = make_policies(effort)
        plain = plain_policy(policies.pretrained, policies.tuned, lean=lean)
        session = open_graph(policies)
        latent = torch.randn(1, policies.latent_size)
        noise = draw_noise(policies.config, (1, policies.config.denoising_steps + 1), torch.Generator())
        feed = {"latent": latent.numpy(), "noise": noise.unflatten(-1, (-1, ACTION_SIZE)).numpy()}
        calls = 20
        ours, theirs = alternate(
            repeated(lambda: session.run(None, feed), calls),
            repeated(lambda: plain.sample(latent, noise, explore=False), calls),
            effort,
        )
        return 1e3 * ours / calls, 1e3 * theirs / calls

    return measure


def policy_sampling_diffusers(effort: Effort) -> tuple[float, float]:
    """Milliseconds of one deployed chunk at batch 1, with its noise: the scheduler draws its own, so we draw ours."""
    from diffusers_sampler import diffusers_policy  # no other row needs diffusers

    policies, generator = make_policies(effort), torch.Generator()
    theirs, session = diffusers_policy(policies.pretrained), open_graph(policies)
    latent = torch.randn(1, policies.latent_size)

    def ours() -> None:
        noise = draw_noise(policies.config, (1, policies.config.denoising_steps + 1), generator)
        session.run(None, {"latent": latent.numpy(), "noise": noise.unflatten(-1, (-1, ACTION_SIZE)).numpy()})

    calls = 20
    our_seconds, their_seconds = alternate(
        repeated(ours, calls), repeated(lambda: theirs.sample(latent, generator), calls), effort
    )
    return 1e3 * our_seconds / calls, 1e3 * their_seconds / calls


def imagination(lean: bool) -> Callable[[Effort], tuple[float, float]]:
    """Imagined env-steps a second."""

    def measure(effort: Effort) -> tuple[float, float]:
        policies = make_policies(effort)
        config = policies.config
        rssm = RSSM(SMALL_RSSM if effort.quick else PAPER_RSSM, 1, ACTION_SIZE)
        plain_step = PlainDynamics(rssm)
        plain = plain_policy(policies.pretrained, policies.tuned, lean=lean)
        generator = torch.Generator()
        start = rssm.initial(EPISODES)

        def never(latent: Tensor) -> Tensor:
            return latent[:, 0] > 2  # the deterministic state stays within -1 and 1

        def draw() -> Tensor:
            return draw_noise(config, (EPISODES, config.denoising_steps + 1), generator)

        ours, theirs = alternate(
            lambda: imagine(rssm, policies.pretrained, policies.tuned, never, start, CHUNKS, generator),
            lambda: plain_imagine(plain_step, plain, never, start, CHUNKS, draw),
            effort,
        )
        steps = EPISODES * CHUNKS * config.chunk
        return steps / ours, steps / theirs

    return measure


def ppo_update(
    minibatch: int, bc_weight: float, *, pairs: bool, lean: bool = False
) -> Callable[[Effort], tuple[float, float]]:
    """Milliseconds of one minibatch's update of actor and critic.

    With the BC term, our share of asking the frozen policy is counted: once an iteration for each row, whose answer
    then serves in every epoch.
    """

    def measure(effort: Effort) -> tuple[float, float]:
        policies, generator = make_policies(effort), torch.Generator()
        config = PPOConfig(bc_weight=bc_weight)
        rows = make_rows(policies, 16 if effort.quick else minibatch, config, generator)
        policy, critic = policies.tuned, Critic(policies.latent_size, config.critic_hidden)
        losses = make_losses(policy, critic, config)
        plain, plain_critic = plain_policy(policies.pretrained, policy, lean=lean), copy.deepcopy(critic)
        actor_optimizer, critic_optimizer = (  # as `finetune` makes them
            torch.optim.AdamW(net.parameters(), 1e-6, weight_decay=0.0, fused=True) for net in (policy, critic)
        )
        plain_actor_optimizer, plain_critic_optimizer = (
            torch.optim.AdamW(net.parameters(), 1e-6) for net in (plain.tuned, plain_critic)
        )
        learner = PlainLearner(plain, plain_critic, plain_actor_optimizer, plain_critic_optimizer, config)
        plain_rows = make_pairs(rows, generator) if pairs else rows

        def ours() -> None:
            update_critic(rows, losses, critic_optimizer, config)
            update_actor(rows, losses, policy, actor_optimizer)

        our_seconds, their_seconds = alternate(ours, lambda: learner.update(plain_rows, generator), effort)
        if bc_weight:
            asking = median_seconds(lambda: base_means(policies.pretrained, rows.latents, rows.chains), effort)
            our_seconds += asking / config.epochs
        return 1e3 * our_seconds, 1e3 * their_seconds

    return measure


@torch.no_grad()
def make_rows(policies: Policies, count: int, config: PPOConfig, generator: torch.Generator) -> Batch:
    """Make a minibatch of chains that the tuned policy drew at random latents."""
    latents = torch.randn(count, policies.latent_size, generator=generator)
    noise = draw_noise(policies.config, (count, policies.config.denoising_steps + 1), generator)
    chains = sample(policies.pretrained, policies.tuned, latents, noise, explore=True).chain
    log_probs = mean_log_prob(policies.tuned.chain_log_prob(latents, chains), config)
    advantages, returns = torch.randn(2, count, generator=generator)
    means = base_means(policies.pretrained, latents, chains)
    return Batch(latents, chains, log_probs, advantages, returns, means, config.bc_weight)


_DPPO = "plain PyTorch as DPPO has it: the whole network on every row, the frozen net asked everywhere"
_LEAN = "the same, the frozen net asked only where its answer is used"
_DIFFUSERS = (
    "`diffusers`' `DDPMScheduler` around the plain net, as diffusion_policy uses it; one net only, for all steps"
)
_SAMPLING = f"`policy.onnx`, one deployed chunk at batch 1; {SIZES}"
_IMAGINATION = f"{EPISODES} rollouts of {CHUNKS} chunks, RSSM 1,024 + 32 x 32, hidden 1,000; {SIZES}"
_UPDATE = f"one minibatch of {{}} env steps with their 10 denoising steps, actor and critic; {SIZES}"
_UPDATE_BC = f"{_UPDATE}; with the BC term, its share of drawing the frozen policy's chains included"
_PAIRS = (
    f"{_DPPO}; its rows are as many (env step, denoising step) pairs "
    "(the form of DPPO's own code; row `{}` has the DiWA authors')"
)
_LEAN_STEPS = "as `ppo_update_steps`, the frozen net asked only where its answer is used"
_STEPS = f"{_DPPO}; its rows are the same env steps (the DiWA authors' form)"
_ANEW = "; chains of the frozen policy drawn through all K steps for every row of every minibatch"

BENCHMARKS = (
    Benchmark("policy_sampling", "ms", 10, _SAMPLING, _DPPO, policy_sampling(lean=False)),
    Benchmark("policy_sampling_lean", "ms", None, _SAMPLING, _LEAN, policy_sampling(lean=True)),
    Benchmark(
        "policy_sampling_diffusers", "ms", 8, f"{_SAMPLING}; noise drawn anew", _DIFFUSERS, policy_sampling_diffusers
    ),
    Benchmark("imagination", "env-steps/s", 1.7, _IMAGINATION, _DPPO, imagination(lean=False)),
    Benchmark("imagination_lean", "env-steps/s", None, _IMAGINATION, _LEAN, imagination(lean=True)),
    Benchmark(
        "ppo_update",
        "ms",
        3.5,
        _UPDATE.format(512),
        _PAIRS.format("ppo_update_steps"),
        ppo_update(512, 0.0, pairs=True),
    ),
    Benchmark("ppo_update_steps", "ms", None, _UPDATE.format(512), _STEPS, ppo_update(512, 0.0, pairs=False)),
    Benchmark(
        "ppo_update_lean", "ms", None, _UPDATE.format(512), _LEAN_STEPS, ppo_update(512, 0.0, pairs=False, lean=True)
    ),
    Benchmark(
        "ppo_update_bc",
        "ms",
        10,
        _UPDATE_BC.format(128),
        _PAIRS.format("ppo_update_bc_steps") + _ANEW,
        ppo_update(128, 0.05, pairs=True),
    ),
    Benchmark(
        "ppo_update_bc_steps", "ms", None, _UPDATE_BC.format(512), _STEPS + _ANEW, ppo_update(512, 0.05, pairs=False)
    ),
)
