"""The deployed bundle: a folder with a manifest and three ONNX graphs, all that a robot needs to run one skill.

| file | inputs | output |
|---|---|---|
| `filter.onnx` | each observation field of the Spec's mode (`proprio` (B, 15) float32, `scene` (B, 24) float32, a camera (B, H, W, 3) uint8), `action` (B, 7), `latent` (B, Z) | `next_latent` (B, Z) |
| `policy.onnx` | `latent` (B, Z), `noise` (B, K + 1, Ta, 7) | `chunk` (B, Ta, 7) |
| `reward.onnx` | `latent` (B, Z) | `probability` (B,) |

`action` is the one accepted since the last observation; an all-zero latent with `HOLD_ACTION` is a reset. In `noise`,
[:, 0] is what the first denoising step starts from and [:, k] is the noise that step k = 1..K adds. Nothing in a bundle
is run before all of it has been checked.
"""  # noqa: E501

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from diwa_runtime.actions import ACTION_SIZE
from diwa_runtime.bundle.manifest import GRAPHS, MANIFEST_LIMIT_BYTES, FileRecord, Manifest, graphs_of, parse_manifest
from diwa_runtime.bundle.onnx_file import read_signature
from diwa_runtime.errors import BundleError, InputError, one_line
from diwa_runtime.files import FolderFormat, check_replaceable, contents, written_whole
from diwa_runtime.reading import read_bytes, reason_of
from diwa_runtime.spec import Spec

MANIFEST = "manifest.json"
BUNDLE = FolderFormat("bundle", MANIFEST, graphs_of)

Float = NDArray[np.float32]
Shape = tuple[int, ...]


def write_bundle(folder: Path, manifest: Manifest, graphs: Mapping[str, bytes]) -> None:
    """Write a bundle whole or not at all; what `Bundle.load` would refuse is not written.

    Args:
        folder: where; an existing bundle is replaced, any other folder is left alone.
        manifest: `files` is filled in here.
        graphs: the bytes of each of `GRAPHS`.

    Raises:
        BundleError: a graph is missing, too many, damaged, or does not fit the manifest; or `folder` is something else.
        StorageError: the disk refused.
    """
    folder = Path(folder)
    if set(graphs) != set(GRAPHS):
        raise BundleError(f"{folder}: a bundle has the graphs {', '.join(GRAPHS)}, not {', '.join(sorted(graphs))}")
    try:
        check_replaceable(folder, BUNDLE)
    except InputError as error:
        raise BundleError(str(error)) from None
    records = {name: FileRecord(len(graphs[name]), hashlib.sha256(graphs[name]).hexdigest()) for name in GRAPHS}
    text = json.dumps(dataclasses.replace(manifest, files=records).to_json(), indent=1, allow_nan=False) + "\n"
    Bundle.from_bytes(text.encode(), graphs, folder)
    with written_whole(folder, BUNDLE) as temporary:
        temporary.mkdir()
        for name in GRAPHS:
            (temporary / name).write_bytes(graphs[name])
        (temporary / MANIFEST).write_text(text, encoding="utf-8")


class Bundle:
    """A checked bundle, ready to run: three typed functions, none of which keeps state.

    Attributes:
        manifest: what it says about itself.
        sha256: of `manifest.json`, which holds the hash of every other file: the bundle's identity.
        source: where it came from, for messages.
    """

    def __init__(self, manifest: Manifest, graphs: Mapping[str, bytes], sha256: str, source: str, threads: int) -> None:
        """Use `load`; this expects checked graphs."""
        self.manifest, self.sha256, self.source = manifest, sha256, source
        self._filter, self._policy, self._reward = (
            _Graph(graphs[name], f"{source}/{name}", threads, *_result_of(manifest, name)) for name in GRAPHS
        )

    @classmethod
    def load(cls, folder: Path, threads: int = 1) -> Bundle:
        """Read, check and open a bundle.

        Args:
            folder: the bundle.
            threads: intra-op threads of ONNX Runtime; 1 is quickest for a single robot, and repeats bit for bit.

        Raises:
            BundleError: damaged, hostile, incomplete, or of another format version; names the file.
        """
        folder = Path(folder)
        _check_listing(folder)
        raw = _read_file(folder / MANIFEST, MANIFEST_LIMIT_BYTES)
        manifest = parse_manifest(raw, str(folder / MANIFEST))
        graphs = {name: _read_file(folder / name, manifest.files[name].size) for name in GRAPHS}
        return cls.from_bytes(raw, graphs, folder, threads)

    @classmethod
    def from_bytes(cls, manifest: bytes, graphs: Mapping[str, bytes], source: Path, threads: int = 1) -> Bundle:
        """Check and open a bundle that is in memory: the bytes of its manifest and of each of `GRAPHS`.

        Raises:
            BundleError: as `load` does; names the file as if it lay in `source`.
        """
        checked = parse_manifest(manifest, str(source / MANIFEST))
        for name in GRAPHS:
            _check_recorded(graphs[name], checked.files[name], source / name)
            _check_signature(graphs[name], source / name, *_expected_signature(checked, name))
        return cls(checked, graphs, hashlib.sha256(manifest).hexdigest(), str(source), threads)

    @property
    def spec(self) -> Spec:
        """The contract with robot and simulator."""
        return self.manifest.spec

    def filter(self, observation: Mapping[str, NDArray[Any]], action: Float, latent: Float) -> Float:
        """Return the next latent (B, Z) from batched observation fields, accepted action (B, 7) and latent (B, Z).

        Fields that this mode does not use are ignored.
        """
        fields = {name: observation[name] for name in self.spec.observation_fields}
        return self._filter.run({**fields, "action": action, "latent": latent})

    def policy(self, latent: Float, noise: Float) -> Float:
        """Return a chunk of actions (B, Ta, 7), not yet clipped, from latent (B, Z) and noise (B, K + 1, Ta, 7)."""
        return self._policy.run({"latent": latent, "noise": noise})

    def probability(self, latent: Float) -> Float:
        """Return the probability (B,) that the latent (B, Z) shows the skill's success."""
        return self._reward.run({"latent": latent})


# What is checked before anything is run, in this order.


def _check_listing(folder: Path) -> None:
    """See that the folder holds a bundle's four files and nothing else; links could lead out of the folder."""
    try:
        entries = {name: entry.is_file(follow_symlinks=False) for name, entry in contents(folder).items()}
    except OSError as error:
        raise BundleError(
            f"{folder}: no bundle there ({error.strerror}); name the folder that `export` wrote"
        ) from None
    for name in sorted(entries):
        if name not in (MANIFEST, *GRAPHS):
            raise BundleError(f"{folder / name}: is no part of a bundle; remove it")
        if not entries[name]:
            raise BundleError(f"{folder / name}: is a link or a folder, not a file; export the bundle again")
    for name in (MANIFEST, *GRAPHS):
        if name not in entries:
            raise BundleError(f"{folder}: lacks {name}; name the folder that `export` wrote, or export again")


def _read_file(path: Path, limit: int) -> bytes:
    try:
        return read_bytes(path, limit, follow=False)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({reason_of(error)})") from None
    except ValueError:
        raise BundleError(
            f"{path}: larger than the {limit} bytes that are expected; copy or export the bundle again"
        ) from None


def _check_recorded(raw: bytes, record: FileRecord, path: Path) -> None:
    if len(raw) != record.size:
        raise BundleError(f"{path}: {len(raw)} bytes where the manifest says {record.size}; copy the bundle again")
    if hashlib.sha256(raw).hexdigest() != record.sha256:
        raise BundleError(f"{path}: sha256 differs from the manifest's: damaged or changed; copy the bundle again")


def _expected_signature(manifest: Manifest, name: str) -> tuple[dict[str, tuple[str, Shape]], dict[str, Shape]]:
    """Return what the graph must take, name -> (element type, shape without batch), and give (all float32)."""
    spec, latent = manifest.spec, ("float32", (manifest.latent_size,))
    if name == "filter.onnx":
        observation = {field: observation_type(spec, field) for field in spec.observation_fields}
        return {**observation, "action": ("float32", (ACTION_SIZE,)), "latent": latent}, {"next_latent": latent[1]}
    if name == "policy.onnx":
        return {"latent": latent, "noise": ("float32", manifest.noise_shape)}, {"chunk": manifest.noise_shape[1:]}
    return {"latent": latent}, {"probability": ()}


def observation_type(spec: Spec, name: str) -> tuple[str, Shape]:
    """Return dtype and shape of one observation field, as numpy and ONNX both name them."""
    for camera in spec.cameras:
        if camera.name == name:
            return "uint8", (camera.height, camera.width, 3)
    return "float32", (len(getattr(spec, name)),)


def _check_signature(
    model: bytes, path: Path, inputs: Mapping[str, tuple[str, Shape]], outputs: Mapping[str, Shape]
) -> None:
    """See that a graph takes and gives what the Spec says; the batch may be free or 1."""
    signature = read_signature(model, str(path))
    both = (
        ("input", inputs, signature.inputs),
        ("output", {name: ("float32", shape) for name, shape in outputs.items()}, signature.outputs),
    )
    for side, expected, found in both:
        for name in sorted(set(expected) ^ set(found)):
            fault = "lacks the" if name in expected else "has an unknown"
            raise BundleError(f"{path}: {fault} {side} {name!r}; export the bundle again")
        for name, (element, shape) in expected.items():
            found_element, found_shape = found[name]
            fits = found_element == element and found_shape[:1] in ((None,), (1,)) and found_shape[1:] == shape
            if not fits:
                raise BundleError(
                    f"{path}: {side} {name!r} is {found_element} {_shown(found_shape)}, "
                    f"the manifest says {element} {_shown((None, *shape))}; export the bundle again"
                )


def _shown(shape: tuple[int | None, ...]) -> str:
    return "(" + ", ".join("B" if size is None else str(size) for size in shape) + ")"


def _result_of(manifest: Manifest, name: str) -> tuple[str, Shape]:
    """Return name and shape, without the batch, of what a graph gives."""
    ((result, shape),) = _expected_signature(manifest, name)[1].items()
    return result, shape


class _Graph:
    """One graph, opened; what ONNX Runtime raises has no common kind, so here alone anything it may raise is caught."""

    def __init__(self, model: bytes, name: str, threads: int, result: str, shape: Shape) -> None:
        self._name, self._result, self._shape = name, result, shape
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 4  # its messages are in the exceptions too
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads leave the cores alone
        try:
            # Falling back, the wrapper would print on stdout and try the same again.
            self._session = onnxruntime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"], enable_fallback=False
            )
        except Exception as error:
            raise self._refusal("cannot open it", error) from None

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Float:
        """Return the graph's one output, of the shape that was agreed on."""
        try:
            result = self._session.run([self._result], inputs)[0]
        except Exception as error:
            raise self._refusal("cannot run it", error) from None
        if not isinstance(result, np.ndarray) or result.shape[1:] != self._shape or result.dtype != np.float32:
            found = f"{result.dtype} {result.shape}" if isinstance(result, np.ndarray) else type(result).__name__
            expected = f"float32 {_shown((None, *self._shape))}"
            raise BundleError(f"{self._name}: gave {found}, not {expected}; export the bundle again")
        return result

    def _refusal(self, what: str, error: Exception) -> BundleError:
        reason = one_line(error)[:200] or type(error).__name__
        return BundleError(f"{self._name}: ONNX Runtime {what} ({reason}); export the bundle again")
