"""One step of a deployed filter that sees, against the same networks in plain PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnxruntime
import torch
from measuring import Benchmark, Effort, alternate, repeated

from diwa_runtime.actions import ACTION_SIZE
from diwa_runtime.spec import Spec
from diwa_trainer.deploy.graphs import filter_graph
from diwa_trainer.world.eyes.eyes import EyesConfig
from diwa_trainer.world.eyes.modes import make_eyes
from diwa_trainer.world.rssm import RSSMConfig
from diwa_trainer.world.world_model import WorldModel, WorldModelConfig

CALLS = 50


@dataclass
class SeeingFilter:
    """An untrained world model with eyes, its deployed graph, and one frame for both."""

    model: WorldModel
    graph: onnxruntime.InferenceSession
    frame: dict[str, torch.Tensor]

    def ours(self) -> np.ndarray:
        """Take one step as a robot does."""
        latent: np.ndarray = self.graph.run(None, {name: value.numpy() for name, value in self.frame.items()})[0]
        return latent

    @torch.inference_mode()
    def plain(self) -> torch.Tensor:
        """Take one step in PyTorch."""
        return self.model.filter(self.frame, self.frame["action"], self.frame["latent"])


def make_filter(quick: bool = False) -> SeeingFilter:
    """Make both sides; how fast they are does not depend on what they know."""
    torch.manual_seed(0)
    spec = Spec(mode="hybrid")
    config = WorldModelConfig(rssm=RSSMConfig(16, 4, 4, 16), hidden=16) if quick else WorldModelConfig()
    eyes = EyesConfig(channels=(4, 8, 8), camera_code=16, hidden=16) if quick else EyesConfig()
    model = WorldModel(spec, config, make_eyes(spec, eyes)).eval().requires_grad_(False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    graph = onnxruntime.InferenceSession(filter_graph(model), options, providers=["CPUExecutionProvider"])
    pictures = {
        camera.name: torch.randint(0, 256, (1, camera.height, camera.width, 3), dtype=torch.uint8)
        for camera in spec.cameras
    }
    frame = {
        **pictures,
        "proprio": torch.randn(1, len(spec.proprio)),
        "action": torch.randn(1, ACTION_SIZE),
        "latent": torch.randn(1, model.latent_size),
    }
    return SeeingFilter(model, graph, frame)


def seeing_filter(effort: Effort) -> tuple[float, float]:
    """Milliseconds of one step at batch 1."""
    made = make_filter(effort.quick)
    ours, theirs = alternate(repeated(made.ours, CALLS), repeated(made.plain, CALLS), effort)
    return 1e3 * ours / CALLS, 1e3 * theirs / CALLS


BENCHMARKS = (
    Benchmark(
        "filter",
        "ms",
        1.8,
        "one step of the deployed filter in mode `hybrid`, batch 1: eyes for two cameras of 64 px from bytes, encoder, "
        "posterior",
        "the same networks in plain PyTorch, without gradients",
        seeing_filter,
    ),
)
