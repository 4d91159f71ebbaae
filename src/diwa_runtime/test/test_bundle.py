"""A bundle loads as it was written, or is refused by name before anything in it runs (F13, F15)."""

import contextlib
import dataclasses
import hashlib
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from toy_bundle import ToyWeights, toy_graphs, toy_manifest, write_toy_bundle

from diwa_runtime.bundle import MANIFEST, Bundle, write_bundle
from diwa_runtime.bundle import bundle as bundle_module
from diwa_runtime.bundle.manifest import GRAPHS, FieldStatistics, Manifest
from diwa_runtime.cameras import CameraSource
from diwa_runtime.errors import BundleError, InputError, StorageError
from diwa_runtime.spec import CameraSpec, Spec

LATENT = 8


SPINNING = "session.intra_op.allow_spinning"


@pytest.fixture
def folder(tmp_path):
    write_toy_bundle(tmp_path / "bundle", latent_size=LATENT)
    return tmp_path / "bundle"


def change_manifest(folder: Path, **changes) -> None:
    data = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**data, **changes}))


def replace_graph(folder: Path, name: str, raw: bytes) -> None:
    """Put another graph into the bundle and make the manifest vouch for it."""
    (folder / name).write_bytes(raw)
    data = json.loads((folder / MANIFEST).read_text())
    data["files"][name] = {"size": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    (folder / MANIFEST).write_text(json.dumps(data))


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(InputError) as caught:
        Bundle.load(folder)
    message = str(caught.value)
    assert str(folder) in message
    assert "\n" not in message
    for word in words:
        assert word in message, message


@pytest.mark.parametrize("mode", ["state", "vision", "hybrid"])
def test_graphs_compute_what_they_were_given(tmp_path, mode):
    spec = Spec(mode=mode, cameras=(CameraSpec("static", 6, 8), CameraSpec("wrist", 4, 4)))
    weights = ToyWeights.random(spec, LATENT)
    write_toy_bundle(tmp_path / "bundle", spec, weights)
    bundle = Bundle.load(tmp_path / "bundle")
    random = np.random.default_rng(1)
    fields = {
        "static": random.integers(0, 256, (3, 6, 8, 3), dtype=np.uint8),
        "wrist": random.integers(0, 256, (3, 4, 4, 3), dtype=np.uint8),
        "proprio": random.standard_normal((3, 15), dtype=np.float32),
        "scene": random.standard_normal((3, 24), dtype=np.float32),
    }
    action, latent = random.random((3, 7), dtype=np.float32), random.random((3, LATENT), dtype=np.float32)
    noise = random.standard_normal((3, 4, 4, 7), dtype=np.float32)

    images = [fields[name].mean((1, 2)) / 255 for name in ("static", "wrist")] if mode != "state" else []
    features = np.concatenate([*images, *([fields["proprio"], fields["scene"]][: 2 if mode == "state" else 1])], 1)
    expected = latent @ weights.carry + features @ weights.observe + action @ weights.act
    np.testing.assert_allclose(bundle.filter(fields, action, latent), expected, rtol=1e-4, atol=1e-5)
    chunk = (latent @ weights.decide)[:, None] + weights.noise_scale * noise.sum(1)
    np.testing.assert_allclose(bundle.policy(latent, noise), chunk, rtol=1e-4, atol=1e-5)
    probability = 1 / (1 + np.exp(-(latent @ weights.judge)))
    np.testing.assert_allclose(bundle.probability(latent), probability, rtol=1e-4, atol=1e-5)


def test_manifest_comes_back_as_written(folder):
    loaded = Bundle.load(folder)
    written = toy_manifest(Spec(), LATENT)
    assert dataclasses.replace(loaded.manifest, files={}) == written
    assert set(loaded.manifest.files) == set(GRAPHS)
    assert loaded.sha256 == hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()


def test_what_pictures_came_from_is_carried_where_it_is_known(folder, tmp_path):
    """A manifest without it, as older ones are, stays as it is."""
    assert "camera_sources" not in json.loads((folder / MANIFEST).read_text())
    sources = {"static": (CameraSource("RealSense 1", "", "jpeg", 480, 640),)}
    manifest = dataclasses.replace(Bundle.load(folder).manifest, camera_sources=sources)
    write_bundle(tmp_path / "bundle", manifest, {name: (folder / name).read_bytes() for name in GRAPHS})
    assert Bundle.load(tmp_path / "bundle").manifest.camera_sources == sources


def test_runs_repeat_bit_for_bit(folder):
    latent = np.random.default_rng(0).standard_normal((1, LATENT), dtype=np.float32)
    noise = np.random.default_rng(1).standard_normal((1, 4, 4, 7), dtype=np.float32)
    first, second = Bundle.load(folder), Bundle.load(folder)
    assert first.policy(latent, noise).tobytes() == second.policy(latent, noise).tobytes()
    assert first.policy(latent, noise).tobytes() == first.policy(latent, noise).tobytes()


# F13: hostile or damaged bundles.


def test_manifest_that_is_not_a_manifest_is_refused(folder):
    for raw, word in [
        (b"\xff\xfe\x00", "UTF-8"),
        (b"", "JSON"),
        (b"{", "JSON"),
        (b"[" * 100_000, "JSON"),
        (b"[]", "object"),
        (b"{}", "format_version"),
        (b" " * (1 << 21), "larger"),
    ]:
        (folder / MANIFEST).write_bytes(raw)
        refused(folder, MANIFEST, word)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"format_version": 1}, "export it again"),
        ({"format_version": 3}, "update DiWA"),
        ({"format_version": "1"}, "format_version"),
        ({"format_version": True}, "format_version"),
        ({"chunk_length": 0}, "chunk_length"),
        ({"latent_size": 1.5}, "latent_size"),
        ({"latent_size": 10**12}, "latent_size"),
        ({"latent_size": (1 << 17) + 1}, "latent_size"),
        ({"chunk_length": (1 << 10) + 1}, "chunk_length"),
        ({"denoising_steps": (1 << 10) + 1}, "denoising_steps"),
        ({"latent_size": 9}, "'latent'"),
        ({"denoising_steps": 4}, "'noise'"),
        ({"success_threshold": 1}, "success_threshold"),
        ({"success_threshold": "high"}, "success_threshold"),
        ({"skill": ""}, "skill"),
        ({"skill": "open\ndrawer"}, "skill"),
        ({"skill": "../open_drawer"}, "skill"),
        ({"skill": ".hidden"}, "skill"),
        ({"normalisation": {"proprio": []}}, "normalisation.proprio"),
        ({"normalisation": {"proprio": {"names": ["a"], "mean": [], "std": [1], "clamp": 4}}}, "proprio.mean"),
        ({"proprio_starts": {"mean": [1.0], "std": [1.0], "minimum": [1.0], "maximum": [1.0]}}, "proprio_starts"),
        ({"spec": {"version": 99}}, "version"),
        ({"spec": {**Spec().to_json(), "rate_hz": "fast"}}, "spec"),
        ({"spec": {**Spec().to_json(), "mode": "vision"}}, "camera_starts"),
        ({"camera_starts": {"static": {"mean": [1.0], "std": [1.0]}}}, "camera_starts.static"),
        ({"camera_sources": {"static": [{"device": "a camera"}]}}, "camera_sources.static"),
        ({"max_steps": 0}, "max_steps"),
        ({"surprise": 1}, "surprise"),
        ({"files": {}}, "filter.onnx"),
        ({"files": "none"}, "files"),
    ],
)
def test_manifest_with_a_wrong_field_is_refused_by_its_name(folder, change, word):
    change_manifest(folder, **change)
    refused(folder, word)


@pytest.mark.parametrize(
    ("number", "other", "word"),
    [
        ('"success_threshold": 0.5', '"success_threshold": NaN', "NaN"),
        ('"clamp": 4.0', '"clamp": 1e999', "not a finite number"),
        ('"clamp": 4.0', f'"clamp": 1{"0" * 400}', "clamp"),
    ],
    ids=["nan", "beyond a float", "a whole one beyond a float"],
)
def test_number_that_is_none_is_refused(folder, number, other, word):
    raw = (folder / MANIFEST).read_text()
    assert number in raw
    (folder / MANIFEST).write_text(raw.replace(number, other))
    refused(folder, word)


@pytest.mark.parametrize("name", ["../escape.onnx", "/etc/passwd", "a/b.onnx"])
def test_path_that_leaves_the_folder_is_refused(folder, name):
    data = json.loads((folder / MANIFEST).read_text())
    data["files"][name] = data["files"].pop("policy.onnx")
    (folder / MANIFEST).write_text(json.dumps(data))
    refused(folder, "files")


@pytest.mark.parametrize("name", [MANIFEST, *GRAPHS])
def test_link_is_refused(folder, tmp_path, name):
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    refused(folder, name, "is a link or a folder")


def test_folder_in_place_of_a_file_is_refused(folder):
    (folder / "policy.onnx").unlink()
    (folder / "policy.onnx").mkdir()
    refused(folder, "policy.onnx", "is a link or a folder")


@pytest.mark.parametrize("name", [MANIFEST, *GRAPHS])
def test_missing_file_is_named(folder, name):
    (folder / name).unlink()
    refused(folder, name)


def test_folder_that_is_not_there_or_holds_more_is_refused(folder, tmp_path):
    refused(tmp_path / "nothing", "no bundle")
    (folder / "weights.bin").write_bytes(b"1")
    refused(folder, "weights.bin")


@pytest.mark.parametrize("name", GRAPHS)
def test_changed_byte_or_size_is_refused(folder, name):
    raw = (folder / name).read_bytes()
    (folder / name).write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    refused(folder, name, "sha256")
    (folder / name).write_bytes(raw[:-1])
    refused(folder, name, "bytes")
    (folder / name).write_bytes(raw + b"1")
    refused(folder, name, "larger")


def test_graph_that_keeps_weights_in_another_file_is_refused(folder, tmp_path):
    model = onnx.load_from_string((folder / "policy.onnx").read_bytes())
    weights = next(tensor for tensor in model.graph.initializer if tensor.name == "decide")
    (tmp_path / "secret").write_bytes(weights.raw_data)
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    weights.external_data.add(key="location", value=str(tmp_path / "secret"))
    replace_graph(folder, "policy.onnx", model.SerializeToString())
    refused(folder, "policy.onnx", "another file")


def stray_tensor() -> onnx.TensorProto:
    tensor = onnx.helper.make_tensor("hidden", onnx.TensorProto.FLOAT, [1], [0.0])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    return tensor


def stray_branch(depth: int) -> onnx.GraphProto:
    """A graph inside graphs, with a stray tensor at the innermost."""
    if depth == 0:
        return onnx.helper.make_graph([], "inner", [], [], [stray_tensor()])
    node = onnx.helper.make_node("If", ["c"], ["o"], then_branch=stray_branch(depth - 1))
    return onnx.helper.make_graph([node], "outer", [], [])


def hide_in_attribute(model: onnx.ModelProto, **attribute) -> None:
    model.graph.node.append(onnx.helper.make_node("Custom", [], [], **attribute))


def hide_in_sparse_tensor(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.add().indices.CopyFrom(stray_tensor())


def hide_in_function(model: onnx.ModelProto) -> None:
    node = onnx.helper.make_node("Constant", [], ["x"], value=stray_tensor())
    model.functions.append(onnx.helper.make_function("d", "f", [], ["x"], [node], [onnx.helper.make_opsetid("", 18)]))


def hide_in_training(model: onnx.ModelProto) -> None:
    model.training_info.add().algorithm.CopyFrom(stray_branch(0))


@pytest.mark.parametrize(
    "hide",
    [
        pytest.param(lambda model: hide_in_attribute(model, value=stray_tensor()), id="attribute"),
        pytest.param(lambda model: hide_in_attribute(model, values=[stray_tensor()]), id="attribute's list"),
        pytest.param(lambda model: hide_in_attribute(model, body=stray_branch(2)), id="branch of a branch"),
        pytest.param(lambda model: hide_in_attribute(model, bodies=[stray_branch(0)]), id="list of branches"),
        pytest.param(hide_in_sparse_tensor, id="sparse tensor"),
        pytest.param(hide_in_function, id="function"),
        pytest.param(hide_in_training, id="training"),
    ],
)
def test_weights_that_hide_anywhere_are_found(folder, hide):
    model = onnx.load_from_string((folder / "reward.onnx").read_bytes())
    hide(model)
    replace_graph(folder, "reward.onnx", model.SerializeToString())
    refused(folder, "reward.onnx", "another file")


def test_graph_of_another_element_type_is_refused(folder):
    model = onnx.load_from_string((folder / "policy.onnx").read_bytes())
    model.graph.input[1].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    replace_graph(folder, "policy.onnx", model.SerializeToString())
    refused(folder, "policy.onnx", "'noise' is float64", "float32")


def test_second_graph_behind_the_first_is_refused(folder):
    raw = (folder / "reward.onnx").read_bytes()
    replace_graph(folder, "reward.onnx", raw + raw)
    refused(folder, "reward.onnx", "2 graphs")


def test_graph_of_other_shapes_is_refused_with_both_shapes(folder):
    wrong = toy_graphs(Spec(), ToyWeights.random(Spec(), LATENT), chunk_length=5)
    replace_graph(folder, "policy.onnx", wrong["policy.onnx"])
    refused(folder, "policy.onnx", "'noise'", "(B, 4, 5, 7)", "(B, 4, 4, 7)")
    replace_graph(folder, "policy.onnx", wrong["reward.onnx"])
    refused(folder, "policy.onnx", "noise")


def test_bytes_that_are_no_graph_are_refused(folder):
    good = (folder / "filter.onnx").read_bytes()
    for raw in (b"", b"\x00", b"\xff" * 64, good[:-1], good[: len(good) // 2]):
        replace_graph(folder, "filter.onnx", raw)
        refused(folder, "filter.onnx")


def test_operator_that_does_not_exist_is_refused(folder):
    model = onnx.load_from_string((folder / "reward.onnx").read_bytes())
    model.graph.node[0].op_type = "Detonate"
    replace_graph(folder, "reward.onnx", model.SerializeToString())
    refused(folder, "reward.onnx")


class Canary:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("name", [MANIFEST, *GRAPHS])
def test_pickle_in_any_file_is_refused_and_does_not_run(folder, tmp_path, name):
    """F15."""
    mark = tmp_path / "it_ran"
    raw = pickle.dumps(Canary(mark))
    if name == MANIFEST:
        (folder / MANIFEST).write_bytes(raw)
    else:
        replace_graph(folder, name, raw)
    refused(folder, name)
    assert not mark.exists()
    pickle.loads(raw)
    assert mark.exists(), "the canary is alive: unpickled anywhere, it would have left its mark"


# Writing.


def test_bad_graph_is_not_written_and_the_old_bundle_stays(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    weights = ToyWeights.random(Spec(), LATENT + 1)
    with pytest.raises(BundleError, match="'latent'"):
        write_bundle(folder, toy_manifest(Spec(), LATENT), toy_graphs(Spec(), weights))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]


def test_missing_graph_is_named(tmp_path):
    with pytest.raises(BundleError, match=r"reward\.onnx"):
        write_bundle(tmp_path / "bundle", toy_manifest(Spec(), LATENT), {"filter.onnx": b"", "policy.onnx": b""})
    assert not (tmp_path / "bundle").exists()


def test_folder_of_somebody_else_is_not_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("four years")
    with pytest.raises(BundleError, match="choose another"):
        write_toy_bundle(tmp_path)
    assert (tmp_path / "thesis.tex").exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [("manifest.json", '{"name": "my extension", "manifest_version": 3}'), ("src/main.js", "code"), ("NOTES.md", "-")],
)
def test_what_is_not_of_a_bundle_is_never_deleted(folder, name, text):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    before = sorted(folder.rglob("*"))

    with pytest.raises(BundleError, match=Path(name).parts[0]):
        write_toy_bundle(folder)

    assert sorted(folder.rglob("*")) == before
    assert (folder / name).read_text() == text


def test_what_a_killed_writer_left_in_a_bundle_does_not_count(folder):
    """In a mount point a new bundle is made inside the older one."""
    (folder / f".bundle.{2**22}.partial").mkdir()

    Bundle.load(folder)


def test_graph_whose_operator_is_no_text_is_one_line_and_nothing_is_printed(folder, capfd):
    """ONNX Runtime raises a UnicodeDecodeError, and its wrapper prints and tries again."""
    raw = bytearray((folder / "reward.onnx").read_bytes())
    raw[raw.index(b"MatMul")] = 0xFF
    replace_graph(folder, "reward.onnx", bytes(raw))

    refused(folder, "reward.onnx", "export the bundle again")

    assert capfd.readouterr() == ("", "")


def test_any_byte_of_a_graph_is_refused_by_name_or_does_no_harm(folder, capfd):
    good = {name: (folder / name).read_bytes() for name in GRAPHS}
    random = np.random.default_rng(0)
    for _ in range(150):
        name = GRAPHS[random.integers(3)]
        raw = bytearray(good[name])
        raw[random.integers(len(raw))] = random.integers(256)
        replace_graph(folder, name, bytes(raw))
        with contextlib.suppress(BundleError):
            bundle = Bundle.load(folder)
            latent = np.zeros((1, LATENT), np.float32)
            bundle.probability(latent)
            bundle.policy(latent, np.zeros((1, *bundle.manifest.noise_shape), np.float32))
        replace_graph(folder, name, good[name])
    assert capfd.readouterr().out == ""


def test_graph_that_gives_another_shape_than_it_says_is_refused(folder):
    graph = onnx.load_from_string((folder / "reward.onnx").read_bytes())
    graph.graph.node[-1].output[0] = "flat"
    shape = onnx.numpy_helper.from_array(np.array([1, 1], np.int64), "shape")
    graph.graph.initializer.append(shape)
    graph.graph.node.append(onnx.helper.make_node("Reshape", ["flat", "shape"], ["probability"]))
    replace_graph(folder, "reward.onnx", graph.SerializeToString())

    with pytest.raises(BundleError, match=r"reward\.onnx: (gave float32 \(1, 1\)|ONNX Runtime cannot)"):
        Bundle.load(folder).probability(np.zeros((1, LATENT), np.float32))


def test_manifest_that_could_not_be_loaded_is_not_written(tmp_path):
    manifest = dataclasses.replace(toy_manifest(Spec(), LATENT), provenance={"note": "x" * (1 << 20)})

    with pytest.raises(BundleError, match=r"manifest\.json: larger than"):
        write_bundle(tmp_path / "bundle", manifest, toy_graphs(Spec(), ToyWeights.random(Spec(), LATENT)))


def test_disk_that_refuses_leaves_nothing(tmp_path, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageError, match="No space left"):
        write_toy_bundle(tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_statistics_of_rows():
    statistics = FieldStatistics.of(np.array([[1, 5], [3, 5]]))
    assert statistics == FieldStatistics(mean=(2, 5), std=(1, 0), minimum=(1, 5), maximum=(3, 5))


def test_manifest_json_refuses_what_json_cannot_hold():
    manifest = dataclasses.replace(toy_manifest(Spec(), LATENT), provenance={"loss": float("nan")})
    with pytest.raises(ValueError, match="JSON"):
        manifest.to_json()
    assert Manifest.from_json(toy_manifest(Spec(), LATENT).to_json()) == toy_manifest(Spec(), LATENT)


def test_runtime_loads_neither_torch_nor_ros():
    """Every module of the runtime, those in its rooms too."""
    program = (
        "import pkgutil, importlib, sys, diwa_runtime\n"
        "names = [m.name for m in pkgutil.walk_packages(diwa_runtime.__path__, 'diwa_runtime.')]\n"
        "assert {'diwa_runtime.bundle.session', 'diwa_runtime.spec'} <= set(names), names\n"
        "for name in names: importlib.import_module(name)\n"
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'torch', 'rclpy', 'onnx', 'gymnasium', 'mujoco'}))\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout.strip()) == (0, "[]"), result.stderr


@pytest.mark.parametrize("threads", [1, 3])
def test_a_graph_has_the_threads_that_are_asked_for_and_lets_go_of_the_cores_between(folder, monkeypatch, threads):
    opened, real = [], onnxruntime.InferenceSession

    def session(model, options, **rest):
        opened.append((options.intra_op_num_threads, options.get_session_config_entry(SPINNING)))
        return real(model, options, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    Bundle.load(folder, threads)
    assert opened == [(threads, "0")] * 3


def test_a_link_that_comes_after_the_listing_was_looked_at_is_not_followed(folder, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").write_bytes((folder / "policy.onnx").read_bytes())
    (folder / "policy.onnx").unlink()
    (folder / "policy.onnx").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setattr(bundle_module, "_check_listing", lambda _: None)
    with pytest.raises(BundleError, match=r"policy\.onnx: cannot be read"):
        Bundle.load(folder)
