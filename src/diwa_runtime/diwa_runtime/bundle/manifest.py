"""What a bundle says about itself: `manifest.json`, read with suspicion."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diwa_runtime.actions import ACTION_SIZE
from diwa_runtime.cameras import CameraSource, CameraSources
from diwa_runtime.errors import BundleError
from diwa_runtime.geometry import wrapped
from diwa_runtime.reading import parse_json
from diwa_runtime.rows.images import THUMBNAIL_SIZE, thumbnail
from diwa_runtime.spec import Spec, is_angle
from diwa_runtime.stream_spec import is_name

FORMAT_VERSION = 2
GRAPHS = ("filter.onnx", "policy.onnx", "reward.onnx")
GRAPH_LIMIT_BYTES = 1 << 30
MANIFEST_LIMIT_BYTES = 1 << 20
_OURS = {"format_version", "skill", "spec", "normalisation", "proprio_starts", "provenance", "files"}
"""What a manifest of ours has had in every version."""
_LATER = {"camera_sources"}
"""What a manifest of this version need not have."""


@dataclass(frozen=True)
class FieldStatistics:
    """What the training data showed of one observation field, feature by feature, in the Spec's units.

    Angles are on the turn that holds them together: a gripper that points down lies about pi, not from -pi to pi.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    minimum: tuple[float, ...]
    maximum: tuple[float, ...]

    @classmethod
    def of(cls, rows: NDArray[Any], names: Sequence[str] = ()) -> FieldStatistics:
        """Sum up rows (N, features); `names` tell which are angles."""
        rows = np.array(rows, dtype=np.float64)
        for column, name in enumerate(names):
            if is_angle(name):
                angles = rows[:, column]
                middle = np.arctan2(np.sin(angles).mean(), np.cos(angles).mean())
                rows[:, column] = middle + wrapped(angles - middle)
        return cls(*(tuple(map(float, sums(rows, axis=0))) for sums in (np.mean, np.std, np.min, np.max)))


@dataclass(frozen=True)
class ImageStatistics:
    """What one camera showed when the training episodes began: mean and spread of its thumbnail, cell by cell.

    Attributes:
        mean: of `images.thumbnail`, flattened, grey levels of 0 to 255.
        std: likewise.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, images: Iterable[NDArray[np.uint8]]) -> ImageStatistics:
        """Sum up images (H, W, 3) RGB."""
        thumbnails = np.stack([thumbnail(image).ravel() for image in images])
        return cls(*(tuple(map(float, sums(thumbnails, axis=0).round(2))) for sums in (np.mean, np.std)))


@dataclass(frozen=True)
class Normalisation:
    """How the filter's graph turns one observation field into what the network sees: (feature - mean) / std, clamped.

    Attributes:
        names: the features, which need not be the raw values: Euler angles become columns of a rotation matrix.
        clamp: standardised values are limited to +- this.
    """

    names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    clamp: float


@dataclass(frozen=True)
class FileRecord:
    """Size and hash of one file of the bundle."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a bundle says about itself.

    Attributes:
        skill: the task that the policy was made for; what a robot asks for by name.
        normalisation: what `filter.onnx` does to each vector field, for people to read: the graph does it by itself.
        proprio_starts: proprio at the first frames of the training episodes; a robot far from these is not started.
        camera_starts: the same of each camera that the policy sees; a camera that shows something else has moved.
        camera_sources: what each camera's recordings came from, where they say so.
        provenance: plain JSON about the making: runs, data, seeds, versions, commit.
        success_threshold: `probability` above this counts as success.
        max_steps: control ticks after which the skill has failed, unless whoever runs it says otherwise.
        files: filled in by `write_bundle`.
    """

    skill: str
    spec: Spec
    normalisation: Mapping[str, Normalisation]
    proprio_starts: FieldStatistics
    provenance: Mapping[str, Any]
    chunk_length: int
    denoising_steps: int
    latent_size: int
    success_threshold: float
    max_steps: int
    camera_starts: Mapping[str, ImageStatistics] = field(default_factory=dict)
    camera_sources: CameraSources = field(default_factory=dict)
    files: Mapping[str, FileRecord] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """The shape of one draw of noise: (K + 1, Ta, 7)."""
        return (self.denoising_steps + 1, self.chunk_length, ACTION_SIZE)

    def to_json(self) -> dict[str, Any]:
        """Return plain data that `from_json` turns back into an equal manifest."""
        data = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        data["spec"] = self.spec.to_json()
        data["proprio_starts"] = dataclasses.asdict(self.proprio_starts)
        for name in ("normalisation", "camera_starts", "files"):
            data[name] = {key: dataclasses.asdict(value) for key, value in data[name].items()}
        sources = data.pop("camera_sources")
        if sources:
            data["camera_sources"] = {name: [dataclasses.asdict(one) for one in many] for name, many in sources.items()}
        return json.loads(json.dumps(data, allow_nan=False))

    @classmethod
    def from_json(cls, data: Any, source: str = "manifest.json") -> Manifest:
        """Build a manifest from plain data.

        Raises:
            BundleError: another format version, or a field is missing, unknown or of the wrong kind.
        """
        fields = _mapping(data, source, "the manifest")
        _check_version(fields.get("format_version"), source)
        known = {f.name for f in dataclasses.fields(cls)}
        if odd := sorted((known - _LATER) ^ (set(fields) - _LATER)):
            word = "lacks" if odd[0] in known else "has the unknown field"
            raise BundleError(f"{source}: the manifest {word} {odd[0]!r}; export the bundle again")

        def many(name: str, read: Callable[[Any, str, str], Any]) -> dict[str, Any]:
            items = _mapping(fields.get(name, {}), source, name).items()
            return {key: read(value, source, f"{name}.{key}") for key, value in items}

        spec = Spec.from_json(fields["spec"], f"{source}: spec")
        return cls(
            skill=_name(fields["skill"], source, "skill"),
            spec=spec,
            normalisation=many("normalisation", _normalisation),
            proprio_starts=_statistics(fields["proprio_starts"], source, "proprio_starts", len(spec.proprio)),
            provenance=_mapping(fields["provenance"], source, "provenance"),
            # So many that the noise of one chunk, and a latent, take some megabytes at most.
            chunk_length=_count(fields["chunk_length"], source, "chunk_length", most=1 << 10),
            denoising_steps=_count(fields["denoising_steps"], source, "denoising_steps", most=1 << 10),
            latent_size=_count(fields["latent_size"], source, "latent_size", most=1 << 17),
            success_threshold=_number(fields["success_threshold"], source, "success_threshold"),
            max_steps=_count(fields["max_steps"], source, "max_steps"),
            camera_starts=many("camera_starts", _image_statistics),
            camera_sources=many("camera_sources", _camera_sources),
            files=many("files", _file_record),
        )


def graphs_of(data: Any) -> list[str] | None:
    """Return the names of the files beside a manifest of any version; None where another program wrote it."""
    if not isinstance(data, dict) or not data.keys() >= _OURS:
        return None
    files, spec = data["files"], data["spec"]
    names = isinstance(files, dict) and all(is_name(name) and name.endswith(".onnx") for name in files)
    if type(data["format_version"]) is not int or not names or not isinstance(spec, dict) or "version" not in spec:
        return None
    return list(files)


def parse_manifest(raw: bytes, source: str) -> Manifest:
    """Read and check the bytes of a `manifest.json`; `source` is its name in messages.

    Raises:
        BundleError: not UTF-8, not JSON, of another format version, incomplete, or at odds with itself.
    """
    manifest = Manifest.from_json(_parse_json(raw, source), source)
    _check_fields(manifest, source)
    return manifest


def _parse_json(raw: bytes, source: str) -> Any:
    if len(raw) > MANIFEST_LIMIT_BYTES:
        raise BundleError(
            f"{source}: larger than the {MANIFEST_LIMIT_BYTES} bytes that are expected; copy or export the bundle again"
        )
    try:
        return parse_json(raw.decode("utf-8"))
    except UnicodeDecodeError:
        raise BundleError(f"{source}: not UTF-8 text; copy or export the bundle again") from None
    except ValueError as error:
        raise BundleError(f"{source}: not JSON ({error}); copy or export the bundle again") from None


def _check_version(version: Any, source: str) -> None:
    if type(version) is not int:
        raise BundleError(f"{source}: no bundle's manifest (it has no 'format_version')")
    if version > FORMAT_VERSION:
        raise BundleError(f"{source}: format version {version}, this DiWA reads {FORMAT_VERSION}; update DiWA here")
    if version < FORMAT_VERSION:
        raise BundleError(f"{source}: format version {version}, this DiWA reads {FORMAT_VERSION}; export it again")


def _check_fields(manifest: Manifest, source: str) -> None:
    """See that the manifest's parts agree with each other."""
    for name in sorted(set(manifest.files) ^ set(GRAPHS)):
        fault = "lacks" if name in GRAPHS else "names a file that is no part of a bundle:"
        raise BundleError(f"{source}: 'files' {fault} {name!r}; export the bundle again")
    cameras = {camera.name for camera in manifest.spec.cameras} if manifest.spec.uses_cameras else set()
    for name in sorted(cameras ^ set(manifest.camera_starts)):
        fault = "lacks" if name in cameras else "names what is no camera of this policy:"
        raise BundleError(f"{source}: 'camera_starts' {fault} {name!r}; export the bundle again")
    if not 0 < manifest.success_threshold < 1:
        raise BundleError(f"{source}: 'success_threshold' is {manifest.success_threshold}, expected between 0 and 1")


# Reading the manifest's plain data: each returns what it was asked for or says which field is not that.


def _mapping(data: Any, source: str, name: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise BundleError(f"{source}: {name} is not a JSON object; export the bundle again")
    return data


def _exactly(data: Any, source: str, name: str, cls: type) -> dict[str, Any]:
    """Return the JSON object `data`, which has the fields of the dataclass `cls` and no others."""
    fields = _mapping(data, source, f"'{name}'")
    known = [f.name for f in dataclasses.fields(cls)]
    if set(fields) != set(known):
        raise BundleError(f"{source}: '{name}' must have {', '.join(known)}; export the bundle again")
    return fields


def _text(data: Any, source: str, name: str) -> str:
    if not isinstance(data, str) or not data or not data.isprintable():
        raise BundleError(f"{source}: '{name}' is {data!r}, expected a name")
    return data


def _name(data: Any, source: str, name: str) -> str:
    """Return a text that may become part of a file's name."""
    text = _text(data, source, name)
    if not is_name(text):
        raise BundleError(f"{source}: '{name}' is {data!r}, expected letters, digits, '_', '-' and '.' only")
    return text


def _count(data: Any, source: str, name: str, least: int = 1, most: int = 1 << 20) -> int:
    if type(data) is not int or not least <= data <= most:
        raise BundleError(f"{source}: '{name}' is {data!r}, expected a whole number from {least} to {most}")
    return data


def _number(data: Any, source: str, name: str) -> float:
    try:
        number = float(data) if type(data) in (int, float) else math.inf
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise BundleError(f"{source}: '{name}' is {data!r}, expected a number")
    return number


def _numbers(data: Any, source: str, name: str, size: int) -> tuple[float, ...]:
    if not isinstance(data, list) or len(data) != size:
        raise BundleError(f"{source}: '{name}' must be a list of {size} numbers; export the bundle again")
    return tuple(_number(value, source, name) for value in data)


def _statistics(data: Any, source: str, name: str, size: int) -> FieldStatistics:
    fields = _exactly(data, source, name, FieldStatistics)
    return FieldStatistics(**{key: _numbers(value, source, f"{name}.{key}", size) for key, value in fields.items()})


def _image_statistics(data: Any, source: str, name: str) -> ImageStatistics:
    fields = _exactly(data, source, name, ImageStatistics)
    return ImageStatistics(
        **{key: _numbers(value, source, f"{name}.{key}", THUMBNAIL_SIZE) for key, value in fields.items()}
    )


def _camera_sources(data: Any, source: str, name: str) -> tuple[CameraSource, ...]:
    if not isinstance(data, list) or len(data) > 1 << 10:
        raise BundleError(f"{source}: '{name}' is no list; export the bundle again")
    try:
        return tuple(CameraSource.from_json(one) for one in data)
    except ValueError as error:
        raise BundleError(f"{source}: '{name}' {error}; export the bundle again") from None


def _normalisation(data: Any, source: str, name: str) -> Normalisation:
    fields = _exactly(data, source, name, Normalisation)
    if not isinstance(fields["names"], list):
        raise BundleError(f"{source}: '{name}.names' is not a list; export the bundle again")
    names = tuple(_text(feature, source, f"{name}.names") for feature in fields["names"])
    mean, std = (_numbers(fields[key], source, f"{name}.{key}", len(names)) for key in ("mean", "std"))
    return Normalisation(names, mean, std, _number(fields["clamp"], source, f"{name}.clamp"))


def _file_record(data: Any, source: str, name: str) -> FileRecord:
    fields = _exactly(data, source, name, FileRecord)
    size = _count(fields["size"], source, f"{name}.size", least=0, most=GRAPH_LIMIT_BYTES)
    return FileRecord(size, _text(fields["sha256"], source, f"{name}.sha256"))
