"""What is deployed is what was trained: each ONNX graph gives what torch gives, for any batch."""

import numpy as np
import onnxruntime
import pytest
import torch
from toy import SPEC, TINY_POLICY, tiny_model

from diwa_trainer.deploy.graphs import make_graphs
from diwa_trainer.policy.diffusion import DiffusionPolicy, draw_noise, sample
from diwa_trainer.policy.reward import Classifier, ClassifierConfig


@pytest.fixture(scope="module")
def parts():
    model = tiny_model()
    for features in (model.proprio, model.scene):
        features.fit(np.random.default_rng(0).normal(0.2, 0.7, (500, len(features.raw_names))))
    torch.manual_seed(1)
    policies = [DiffusionPolicy(TINY_POLICY, model.latent_size).eval().requires_grad_(False) for _ in range(2)]
    classifier = Classifier(ClassifierConfig(hidden=16, embedding=8), model.latent_size).requires_grad_(False)
    return model, *policies, classifier


@pytest.fixture(scope="module")
def graphs(parts):
    return {name: onnxruntime.InferenceSession(data) for name, data in make_graphs(*parts).items()}


def run(session, **inputs):
    return session.run(None, {name: value.numpy() for name, value in inputs.items()})[0]


def random_latent(model, batch):
    return torch.randn(batch, model.latent_size, generator=torch.Generator().manual_seed(batch))


@pytest.mark.parametrize("batch", [1, 3])
def test_the_filter_is_torchs_over_a_whole_episode(parts, graphs, batch):
    model, generator = parts[0], torch.Generator().manual_seed(0)
    theirs = ours = torch.zeros(batch, model.latent_size)
    for step in range(10):
        proprio = torch.randn(batch, len(SPEC.proprio), generator=generator)
        scene = torch.randn(batch, len(SPEC.scene), generator=generator)
        action = torch.rand(batch, 7, generator=generator) * 2 - 1
        ours = model.filter({"proprio": proprio, "scene": scene}, action, ours)
        theirs = torch.from_numpy(
            run(graphs["filter.onnx"], proprio=proprio, scene=scene, action=action, latent=theirs)
        )
        torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-4, msg=f"step {step}")


@pytest.mark.parametrize("batch", [1, 3])
def test_the_policy_is_torchs_with_both_nets_in_their_steps(parts, graphs, batch):
    model, pretrained, finetuned, _ = parts
    latent = random_latent(model, batch)
    noise = draw_noise(TINY_POLICY, (batch, TINY_POLICY.denoising_steps + 1), torch.Generator().manual_seed(0))

    chunk = run(graphs["policy.onnx"], latent=latent, noise=noise.unflatten(-1, (TINY_POLICY.chunk, 7)))

    expected = sample(pretrained, finetuned, latent, noise, explore=False).chunk
    swapped = sample(finetuned, pretrained, latent, noise, explore=False).chunk
    np.testing.assert_allclose(chunk, expected, atol=1e-4)
    assert np.abs(chunk - swapped.numpy()).max() > 1e-2


@pytest.mark.parametrize("batch", [1, 3])
def test_the_reward_is_torchs(parts, graphs, batch):
    model, _, _, classifier = parts
    latent = random_latent(model, batch)

    np.testing.assert_allclose(run(graphs["reward.onnx"], latent=latent), classifier(latent), atol=1e-6)


def test_the_same_parts_make_the_same_graphs(parts):
    assert make_graphs(*parts) == make_graphs(*parts)
