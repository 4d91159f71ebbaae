"""A bundle whose three graphs are linear: for tests, examples and measurements that need *a* bundle, not a good one.

It needs the `onnx` package, which a robot does not; nothing else here imports this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from diwa_runtime.actions import ACTION_SIZE
from diwa_runtime.bundle import observation_type, write_bundle
from diwa_runtime.bundle.manifest import FieldStatistics, ImageStatistics, Manifest, Normalisation
from diwa_runtime.spec import Spec

Float = NDArray[np.float32]


@dataclass(frozen=True)
class ToyWeights:
    """What the linear bundle computes, F features (a camera gives its mean red, green and blue in [0, 1]).

    `next_latent = latent @ carry + features @ observe + action @ act`, every action of the chunk is
    `latent @ decide + noise_scale * (sum of its noise)`, `probability = sigmoid(latent @ judge + judge_bias)`.
    """

    carry: Float  # (Z, Z)
    observe: Float  # (F, Z)
    act: Float  # (7, Z)
    decide: Float  # (Z, 7)
    judge: Float  # (Z,)
    judge_bias: float = 0.0
    noise_scale: float = 0.1

    @classmethod
    def random(cls, spec: Spec, latent_size: int, seed: int = 0) -> ToyWeights:
        """Draw weights small enough that latents stay bounded."""
        generator = np.random.default_rng(seed)

        def draw(*shape: int, scale: float) -> Float:
            return (scale * generator.standard_normal(shape)).astype(np.float32)

        return cls(
            carry=0.5 * np.eye(latent_size, dtype=np.float32),
            observe=draw(feature_count(spec), latent_size, scale=0.2),
            act=draw(ACTION_SIZE, latent_size, scale=0.2),
            decide=draw(latent_size, ACTION_SIZE, scale=0.3),
            judge=draw(latent_size, scale=0.5),
        )


def feature_count(spec: Spec) -> int:
    """How many numbers the toy filter sees of one observation."""
    return sum(3 if len(shape) == 3 else shape[0] for _, shape in _field_types(spec))


def toy_graphs(spec: Spec, weights: ToyWeights, chunk_length: int = 4, denoising_steps: int = 3) -> dict[str, bytes]:
    """Return the three ONNX graphs."""
    return {
        "filter.onnx": _filter_graph(spec, weights),
        "policy.onnx": _policy_graph(weights, chunk_length, denoising_steps),
        "reward.onnx": _reward_graph(weights),
    }


def toy_manifest(spec: Spec, latent_size: int, chunk_length: int = 4, denoising_steps: int = 3) -> Manifest:
    """Return a manifest that fits `toy_graphs`."""
    random = np.random.default_rng(0)
    starts = FieldStatistics.of(10 * random.standard_normal((20, len(spec.proprio))))
    cameras = spec.cameras if spec.uses_cameras else ()
    return Manifest(
        skill="open_drawer",
        spec=spec,
        normalisation={
            "proprio": Normalisation(spec.proprio, (0.0,) * len(spec.proprio), (1.0,) * len(spec.proprio), clamp=4.0)
        },
        proprio_starts=starts,
        provenance={"made_by": "toy_bundle"},
        chunk_length=chunk_length,
        denoising_steps=denoising_steps,
        latent_size=latent_size,
        success_threshold=0.5,
        max_steps=60,
        camera_starts={
            camera.name: ImageStatistics.of(
                list(random.integers(0, 256, (4, camera.height, camera.width, 3), np.uint8))
            )
            for camera in cameras
        },
    )


def write_toy_bundle(
    folder: Path, spec: Spec | None = None, weights: ToyWeights | None = None, latent_size: int = 8
) -> None:
    """Write a whole toy bundle; random weights unless given (then `latent_size` is theirs)."""
    spec = spec or Spec()
    weights = weights or ToyWeights.random(spec, latent_size)
    write_bundle(folder, toy_manifest(spec, len(weights.carry)), toy_graphs(spec, weights))


def _field_types(spec: Spec) -> list[tuple[str, tuple[int, ...]]]:
    return [observation_type(spec, name) for name in spec.observation_fields]


def _filter_graph(spec: Spec, weights: ToyWeights) -> bytes:
    inputs, nodes, parts = [], [], []
    for name, (dtype, shape) in zip(spec.observation_fields, _field_types(spec), strict=True):
        code = TensorProto.UINT8 if dtype == "uint8" else TensorProto.FLOAT
        inputs.append(helper.make_tensor_value_info(name, code, ["batch", *shape]))
        parts.append(name)
        if dtype == "uint8":
            nodes += [
                helper.make_node("Cast", [name], [f"{name}_float"], to=TensorProto.FLOAT),
                helper.make_node("ReduceMean", [f"{name}_float", "image_axes"], [f"{name}_sum"], keepdims=0),
                helper.make_node("Div", [f"{name}_sum", "white"], [f"{name}_mean"]),
            ]
            parts[-1] = f"{name}_mean"
    nodes += [
        helper.make_node("Concat", [*parts, "action", "latent"], ["features"], axis=1),
        helper.make_node("MatMul", ["features", "weight"], ["next_latent"]),
    ]
    constants = {
        "weight": np.concatenate([weights.observe, weights.act, weights.carry]),
        "image_axes": np.array([1, 2], np.int64),
        "white": np.float32(255),
    }
    latent = len(weights.carry)
    inputs += [_float("action", ACTION_SIZE), _float("latent", latent)]
    return _model("filter", nodes, inputs, [_float("next_latent", latent)], constants)


def _policy_graph(weights: ToyWeights, chunk_length: int, denoising_steps: int) -> bytes:
    nodes = [
        helper.make_node("MatMul", ["latent", "decide"], ["mean"]),
        helper.make_node("Unsqueeze", ["mean", "chunk_axis"], ["means"]),
        helper.make_node("ReduceSum", ["noise", "chunk_axis"], ["noises"], keepdims=0),
        helper.make_node("Mul", ["noises", "scale"], ["spread"]),
        helper.make_node("Add", ["means", "spread"], ["chunk"]),
    ]
    constants = {
        "decide": weights.decide,
        "chunk_axis": np.array([1], np.int64),
        "scale": np.float32(weights.noise_scale),
    }
    noise = _float("noise", denoising_steps + 1, chunk_length, ACTION_SIZE)
    latent = _float("latent", len(weights.carry))
    return _model("policy", nodes, [latent, noise], [_float("chunk", chunk_length, ACTION_SIZE)], constants)


def _reward_graph(weights: ToyWeights) -> bytes:
    nodes = [
        helper.make_node("MatMul", ["latent", "judge"], ["score"]),
        helper.make_node("Add", ["score", "bias"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["probability"]),
    ]
    constants = {"judge": weights.judge, "bias": np.float32(weights.judge_bias)}
    return _model("reward", nodes, [_float("latent", len(weights.carry))], [_float("probability")], constants)


def _float(name: str, *shape: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])


def _model(
    name: str,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: dict[str, Any],
) -> bytes:
    tensors = [numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items()]
    graph = helper.make_graph(nodes, name, inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()
