"""The three ONNX graphs of a bundle, from the trained networks: what is evaluated is what is deployed."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from diwa_runtime.actions import ACTION_SIZE
from diwa_trainer.policy.diffusion import DiffusionPolicy
from diwa_trainer.policy.reward import Classifier
from diwa_trainer.world.world_model import WorldModel

OPSET = 17


class FilterGraph(nn.Module):
    """(observation fields..., action, latent) -> next latent."""

    def __init__(self, model: WorldModel) -> None:
        super().__init__()
        self.model = model
        self.fields = model.spec.observation_fields

    def forward(self, *inputs: Tensor) -> Tensor:
        """Take the observation fields in the Spec's order, then action (B, 7) and latent (B, Z)."""
        *fields, action, latent = inputs
        return self.model.filter(dict(zip(self.fields, fields, strict=True)), action, latent)


class PolicyGraph(nn.Module):
    """(latent, noise) -> chunk, the denoising loop unrolled; what is constant in it, ONNX Runtime folds as it loads."""

    def __init__(self, pretrained: DiffusionPolicy, finetuned: DiffusionPolicy) -> None:
        super().__init__()
        self.pretrained, self.finetuned = pretrained, finetuned

    def forward(self, latent: Tensor, noise: Tensor) -> Tensor:
        """Denoise `noise` (B, K+1, Ta, 7) under latents (B, Z) into chunks (B, Ta, 7)."""
        config = self.finetuned.config
        folded = [policy.fold(latent) for policy in (self.pretrained, self.finetuned)]
        # All steps' noise is scaled and cut apart at once: at batch 1 the number of operations is what costs.
        scale = torch.cat([torch.ones(1), self.finetuned.evaluation_std().flip(0)]).repeat_interleave(config.size)
        x, *scaled = (noise.flatten(1) * scale).split(config.size, 1)
        for t, added in zip(range(config.denoising_steps - 1, -1, -1), scaled, strict=True):
            x = folded[t < config.finetuned_steps].mean(x, t) + added
        return x.unflatten(-1, (config.chunk, ACTION_SIZE))


def make_graphs(
    model: WorldModel, pretrained: DiffusionPolicy, finetuned: DiffusionPolicy, classifier: Classifier
) -> dict[str, bytes]:
    """Export `filter.onnx`, `policy.onnx` and `reward.onnx`; the batch axis stays free."""
    return {
        "filter.onnx": filter_graph(model),
        "policy.onnx": policy_graph(pretrained, finetuned),
        "reward.onnx": _export(classifier, (torch.zeros(1, model.latent_size),), ("latent",), "probability"),
    }


def filter_graph(model: WorldModel) -> bytes:
    """Export `filter.onnx` alone; where the model has eyes, they are in it."""
    spec = model.spec
    empty = {"proprio": torch.zeros(1, len(spec.proprio)), "scene": torch.zeros(1, len(spec.scene))} | {
        camera.name: torch.zeros(1, camera.height, camera.width, 3, dtype=torch.uint8) for camera in spec.cameras
    }
    fields = {name: empty[name] for name in spec.observation_fields}
    return _export(
        FilterGraph(model),
        (*fields.values(), torch.zeros(1, ACTION_SIZE), torch.zeros(1, model.latent_size)),
        (*fields, "action", "latent"),
        "next_latent",
    )


def policy_graph(pretrained: DiffusionPolicy, finetuned: DiffusionPolicy) -> bytes:
    """Export `policy.onnx` alone."""
    config = finetuned.config
    latent = torch.zeros(1, finetuned.latent_size)
    noise = torch.zeros(1, config.denoising_steps + 1, config.chunk, ACTION_SIZE)
    return _export(PolicyGraph(pretrained, finetuned), (latent, noise), ("latent", "noise"), "chunk")


def _export(module: nn.Module, inputs: tuple[Tensor, ...], names: Sequence[str], output: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the exporter's own deprecation, and of shapes that we fix on purpose
        path = Path(folder) / "graph.onnx"
        torch.onnx.export(
            module.eval(),
            inputs,
            str(path),
            input_names=list(names),
            output_names=[output],
            dynamic_axes={name: {0: "batch"} for name in (*names, output)},
            opset_version=OPSET,
            dynamo=False,
        )
        return _with_stated_output(path, module(*inputs).shape)


def _with_stated_output(path: Path, shape: Sequence[int]) -> bytes:
    """Return the graph with its output's shape filled in: of some operations the exporter does not know it."""
    graph = onnx.load(path)
    for dimension, size in zip(graph.graph.output[0].type.tensor_type.shape.dim[1:], shape[1:], strict=True):
        dimension.dim_value = size
    return graph.SerializeToString()
