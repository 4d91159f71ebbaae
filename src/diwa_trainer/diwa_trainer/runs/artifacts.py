"""Trained networks as files: weights in safetensors, and what they are in its header. Nothing is ever unpickled.

The header's metadata carries format, kind, config, Spec and whatever the next verb must know, as one JSON; so one file
is enough to build the network again, and the same network makes the same file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from safetensors.torch import save as to_safetensors
from torch import nn

from diwa_runtime.config import config_from, to_plain
from diwa_runtime.errors import DiwaError, InputError, one_line
from diwa_runtime.files import written_whole
from diwa_runtime.kinds import COUNT, HASH, NAME, SHARE, fault_in, whole
from diwa_runtime.reading import parse_json, read_bytes, reason_of
from diwa_runtime.spec import Spec
from diwa_trainer.runs.finite import not_finite

ARTIFACT_VERSION = 1
HEADER = "diwa"
WEIGHTS_LIMIT_BYTES = 8 << 30
UNREADABLE_WEIGHTS = (
    SafetensorError, LookupError, ValueError, TypeError, RuntimeError, AttributeError, OverflowError, MemoryError,
)  # fmt: skip
"""What the reader of safetensors lets through on hostile bytes; it runs none of them."""
_DTYPES = {torch.float32, torch.float64, torch.int64, torch.int32, torch.bool, torch.uint8}
FACTS = {
    "task": NAME, "latent_size": whole(1, 1 << 17), "threshold": SHARE, "iterations": COUNT,
    "world_model": HASH, "policy": HASH, "reward": HASH, "dataset": HASH,
}  # fmt: skip
"""What a fact is that an artifact states about itself."""
Config = TypeVar("Config")
Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Artifact:
    """A file of weights with what its header says.

    Attributes:
        config: the network's own config as plain data.
        about: facts that later stages need (thresholds, latent size, provenance).
        sha256: of the file.
    """

    path: Path
    kind: str
    config: dict[str, Any]
    spec: Spec
    about: dict[str, Any]
    weights: dict[str, torch.Tensor]
    sha256: str

    def config_as(self, cls: type[Config]) -> Config:
        """Return the network's config as its dataclass."""
        return config_from(cls, self.config, str(self.path))

    def network(self, build: Callable[[], Module]) -> Module:
        """Build a network from this file's config and load its weights; return it frozen, in evaluation mode.

        Raises:
            InputError: the file's config makes no network, or the weights are another one's.
        """
        try:
            module = build()
            module.load_state_dict(self.weights)
        except DiwaError as error:
            raise InputError(f"{self.path}: {error}") from None
        except (RuntimeError, TypeError, ValueError, MemoryError) as error:
            reason = one_line(error)[:200] or type(error).__name__
            raise InputError(f"{self.path}: config and weights make no network ({reason})") from None
        return module.eval().requires_grad_(False)


def save_artifact(path: Path, kind: str, module: nn.Module, config: Any, spec: Spec, about: dict[str, Any]) -> None:
    """Write a network whole or not at all.

    Raises:
        DiwaError: a weight is no number, as after a training that has diverged.
        StorageError: the disk is full.
    """
    header = {
        "format": ARTIFACT_VERSION,
        "kind": kind,
        "config": to_plain(config),
        "spec": spec.to_json(),
        "about": about,
    }
    weights = {name: value.detach().clone().contiguous() for name, value in module.state_dict().items()}
    if (name := not_finite(weights)) is not None:
        raise DiwaError(
            f"{path}: is not written, its weights {name!r} are not finite: the training has diverged; lower the "
            f"learning rate, and choose another output folder or delete {path.parent}"
        )
    with written_whole(path) as temporary:
        # One entry, since safetensors writes several in any order: the same network is the same bytes.
        temporary.write_bytes(to_safetensors(weights, {HEADER: json.dumps(header)}))


def load_artifact(path: Path, kind: str, made_by: str, facts: Sequence[str] = ()) -> Artifact:
    """Read a network's file, which must state `facts` about itself.

    Raises:
        InputError: it is not there, no safetensors file, of another kind or another version, or a weight is no number;
            says which verb makes it.
    """
    path = Path(path)
    try:
        raw = read_bytes(path, WEIGHTS_LIMIT_BYTES)
    except FileNotFoundError:
        raise InputError(f"{path}: not there; make it with `{made_by}`") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({reason_of(error)}); make it anew with `{made_by}`") from None
    try:
        weights, metadata = from_safetensors(raw)
    except UNREADABLE_WEIGHTS as error:
        raise InputError(
            f"{path}: not a safetensors file ({reason_of(error)}); make it anew with `{made_by}`"
        ) from None
    if HEADER not in metadata:
        raise InputError(f"{path}: holds weights of something else; make it anew with `{made_by}`")
    try:
        header = parse_json(metadata[HEADER])
        found_format, found_kind, config, about = (header[name] for name in ("format", "kind", "config", "about"))
        spec, about = header["spec"], dict(about)
        missing = next((fact for fact in facts if fact not in about), None)
    except (LookupError, ValueError, TypeError) as error:
        raise InputError(f"{path}: damaged header ({reason_of(error)}); make it anew with `{made_by}`") from None
    if found_kind != kind:
        raise InputError(f"{path}: holds {found_kind!r}, needed {kind!r} from `{made_by}`")
    if found_format != ARTIFACT_VERSION:
        raise InputError(
            f"{path}: format {found_format!r}, this DiWA reads {ARTIFACT_VERSION}; make it anew with `{made_by}`"
        )
    if (name := not_finite(weights)) is not None:
        raise InputError(
            f"{path}: weights {name!r} are not finite, the training has diverged; make it anew with `{made_by}`"
        )
    if missing is not None:
        raise InputError(f"{path}: its header does not state {missing!r}; make it anew with `{made_by}`")
    if (wrong := fault_in(about, {fact: kind for fact, kind in FACTS.items() if fact in about})) is not None:
        raise InputError(f"{path}: damaged header ({wrong}); make it anew with `{made_by}`")
    sha256 = hashlib.sha256(raw).hexdigest()
    return Artifact(path, kind, config, Spec.from_json(spec, str(path)), about, weights, sha256)


def from_safetensors(raw: bytes) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the tensors of a safetensors file and its metadata.

    Its library reads from a path too, but from no path that is not UTF-8.

    Raises:
        any of `UNREADABLE_WEIGHTS`: the bytes are no such file, or a tensor is of a type that networks do not have.
    """
    weights = load(raw)
    if (odd := next((name for name, value in weights.items() if value.dtype not in _DTYPES), None)) is not None:
        raise ValueError(f"{odd!r} is of type {weights[odd].dtype}")
    size = int.from_bytes(raw[:8], "little")
    return weights, json.loads(raw[8 : 8 + size]).get("__metadata__", {})


def check_lineage(model: Artifact, policy: Artifact, reward: Artifact) -> None:
    """See that a policy and a reward were trained on this world model, for the same task.

    Raises:
        InputError: they were not; names the file.
    """
    for file in (policy, reward):
        check_world_model(model, file)
    if reward.about["task"] != policy.about["task"]:
        raise InputError(f"{reward.path}: rewards {reward.about['task']}, {policy.path} does {policy.about['task']}")


def check_world_model(model: Artifact, trained: Artifact) -> None:
    """See that something was trained on this world model.

    Raises:
        InputError: it was not; names the file.
    """
    if trained.about["world_model"] != model.sha256:
        raise InputError(f"{trained.path}: was trained on another world model than {model.path}; train it anew")
