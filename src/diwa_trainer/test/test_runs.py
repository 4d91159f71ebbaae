"""A run survives: kills, full disks, Ctrl-C, damaged and hostile files; and it goes on bit for bit."""

import copy
import dataclasses
import json
import os
import pickle
import resource
import shutil
import signal
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.compat.proto.event_pb2 import SessionLog
from toy import TINY_PPO, TRAINERS, tiny_configs

from diwa_runtime.errors import ConfigError, DiwaError, InputError, StorageError
from diwa_runtime.spec import Spec
from diwa_trainer.runs.artifacts import load_artifact, save_artifact
from diwa_trainer.runs.run import Run, TrainState, make_state

VERBS = list(TRAINERS)


@dataclass(frozen=True)
class Nested:
    size: int = 3


@dataclass(frozen=True)
class Settings:
    output: Path = Path("somewhere")
    rate: float = 1e-4
    nested: Nested = field(default_factory=Nested)
    extra: dict[str, Any] = field(default_factory=dict)


def fresh_state(seed=0) -> TrainState:
    torch.manual_seed(seed)
    module = torch.nn.Linear(30, 40)
    return make_state({"net": module}, {"net": torch.optim.Adam(module.parameters())}, seed)


def advance(state: TrainState) -> None:
    """One update that uses everything that must survive."""
    module, optimizer = state.modules["net"], state.optimizers["net"]
    optimizer.zero_grad()
    noise = torch.randn(5, 30, generator=state.generator) * float(state.numpy_rng.random())
    module(noise).square().mean().backward()
    optimizer.step()
    state.step += 1
    state.extra["seen"] = state.extra.get("seen", 0) + 5


def saved_run(folder: Path, steps: int = 1) -> TrainState:
    state = fresh_state()
    with Run(folder, Settings()) as run:
        for _ in range(steps):
            advance(state)
            run.save(state)
    return state


def resumed(folder: Path) -> TrainState:
    state = fresh_state(seed=99)
    with Run(folder, Settings()) as run:
        assert run.restore(state)
    return state


def everything(state: TrainState) -> dict[str, Any]:
    optimizer = state.optimizers["net"].state_dict()
    return {
        "step": state.step,
        "extra": state.extra,
        "weights": [p.tolist() for p in state.modules["net"].parameters()],
        "moments": [{k: v.tolist() for k, v in moment.items()} for moment in optimizer["state"].values()],
        "generator": state.generator.get_state().tolist(),
        "numpy_rng": state.numpy_rng.bit_generator.state,
    }


# --- going on ---------------------------------------------------------------------------------------------------


def test_all_of_a_state_comes_back(tmp_path):
    state = saved_run(tmp_path / "run", steps=3)
    other = resumed(tmp_path / "run")

    assert everything(other) == everything(state)
    advance(state)
    advance(other)
    assert everything(other) == everything(state)


@pytest.mark.parametrize("verb", VERBS)
def test_two_steps_a_crash_and_two_more_are_four_bit_for_bit(tmp_path, toy_data, toy_runs, monkeypatch, verb):
    config = tiny_configs(toy_data, toy_runs)[verb]
    at_the_end: list[dict[str, Any]] = []
    save = Run.save

    def save_and_note(run, state):
        save(run, state)
        folder = run.folder / f"checkpoint_{state.step}"
        kept = torch.load(folder / "state.pt", weights_only=True) | load_file(folder / "weights.safetensors")
        if state.step == 4:
            at_the_end.append({name: value for name, value in kept.items() if name != "seconds"})

    def crash(_run, state):
        if state.step == 3:
            raise RuntimeError("power cut")

    monkeypatch.setattr(Run, "save", save_and_note)
    TRAINERS[verb](dataclasses.replace(config, output=tmp_path / "straight"))
    stop_if_interrupted = Run.stop_if_interrupted
    monkeypatch.setattr(Run, "stop_if_interrupted", crash)
    with pytest.raises(RuntimeError, match="power cut"):
        TRAINERS[verb](dataclasses.replace(config, output=tmp_path / "resumed"))
    monkeypatch.setattr(Run, "stop_if_interrupted", stop_if_interrupted)
    assert [path.name for path in (tmp_path / "resumed").glob("checkpoint_*")] == ["checkpoint_2"]
    TRAINERS[verb](dataclasses.replace(config, output=tmp_path / "resumed"))

    straight, again = at_the_end
    assert_same(straight, again)
    for path in [tmp_path / "straight" / "metrics.jsonl", *(tmp_path / "straight").glob("*.safetensors")]:
        assert path.read_bytes() == (tmp_path / "resumed" / path.name).read_bytes(), path.name


def assert_same(one: Any, other: Any, where: str = "") -> None:
    """Compare nested data with tensors, bit for bit."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key, value in one.items():
            assert_same(value, other[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}[{i}]")
    else:
        assert one == other, where


@pytest.mark.parametrize("verb", VERBS)
def test_a_finished_run_is_left_exactly_as_it_is(toy_data, toy_runs, verb):
    config = tiny_configs(toy_data, toy_runs)[verb]
    before = {path: path.stat().st_mtime_ns for path in config.output.rglob("*")}

    TRAINERS[verb](config)

    assert {path: path.stat().st_mtime_ns for path in config.output.rglob("*")} == before


def test_what_was_logged_after_the_checkpoint_is_logged_once(tmp_path):
    state = fresh_state()
    with Run(tmp_path / "run", Settings()) as run:
        for _ in range(3):
            advance(state)
            run.log(state.step, {"loss": float(state.step)})
            if state.step == 2:
                run.save(state)
    with Run(tmp_path / "run", Settings()) as run:
        run.restore(state)
        assert state.step == 2
        run.log(3, {"loss": float("nan")})

    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 2.0}, {"step": 3, "loss": None}]


def test_tensorboard_shows_what_was_logged(tmp_path):
    with Run(tmp_path / "run", Settings()) as run:
        run.log(3, {"loss": 0.5, "norm": 2.0})
        run.log(4, {"loss": 0.25})

    (path,) = (tmp_path / "run" / "tensorboard").iterdir()
    events = list(LegacyEventFileLoader(str(path)).Load())
    shown = [(event.step, value.tag, value.simple_value) for event in events for value in event.summary.value]
    assert shown == [(3, "loss", 0.5), (3, "norm", 2.0), (4, "loss", 0.25)]
    assert [event.step for event in events if event.session_log.status == SessionLog.START] == [3]


def test_the_seconds_before_a_crash_count(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("diwa_trainer.runs.run.time.monotonic", lambda: now[0])
    state = fresh_state()
    with Run(tmp_path / "run", Settings()) as run:
        now[0] += 7
        run.save(state)
        now[0] += 1000  # lost
    with Run(tmp_path / "run", Settings()) as run:
        run.restore(state)
        now[0] += 5

        assert run.seconds == pytest.approx(12)


# --- Ctrl-C -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_at_a_whole_step_with_a_checkpoint(tmp_path, number):
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    state = fresh_state()

    def train():
        with Run(tmp_path / "run", Settings()) as run:
            while True:
                run.stop_if_interrupted(state)
                advance(state)
                if state.step == 3:
                    os.kill(os.getpid(), number)

    with pytest.raises(KeyboardInterrupt, match=r"step 3 is saved in .*run; the same command goes on"):
        train()

    assert everything(resumed(tmp_path / "run")) == everything(state)
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_ctrl_c_twice_stops_at_once(tmp_path):
    def train():
        with Run(tmp_path / "run", Settings()):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError("went on")

    with pytest.raises(KeyboardInterrupt, match="twice"):
        train()


def test_ctrl_c_in_the_last_step_still_stops_what_comes_after_the_run(tmp_path):
    def train():
        with Run(tmp_path / "run", Settings()) as run:
            os.kill(os.getpid(), signal.SIGINT)
            run.finish({"seconds": 1})

    with pytest.raises(KeyboardInterrupt, match="is done"):
        train()

    assert Run(tmp_path / "run", Settings()).is_done


# --- diverged ---------------------------------------------------------------------------------------------------


def forced(config: Any, **changes: Any) -> Any:
    """A copy with settings that nobody could give, which surely make a training diverge."""
    config = copy.copy(config)
    for name, value in changes.items():
        object.__setattr__(config, name, value)
    return config


@pytest.mark.parametrize(
    ("verb", "changes"),
    [
        ("train_world_model", {"learning_rate": 1e30}),
        ("train_world_model", {"learning_rate": 1e30, "updates": 1}),
        ("pretrain", {"learning_rate": 1e30}),
        ("pretrain", {"learning_rate": 1e30, "updates": 1}),
        ("train_reward", {"learning_rate": 1e30}),
        ("finetune", {"ppo": forced(TINY_PPO, actor_learning_rate=1e30)}),
    ],
)
def test_a_training_that_has_diverged_ends_with_the_last_checkpoint_and_makes_nothing(
    tmp_path, toy_data, toy_runs, verb, changes
):
    config = tiny_configs(toy_data, toy_runs, save_every=1)[verb]
    config = forced(dataclasses.replace(config, output=tmp_path / "run"), **changes)

    with pytest.raises(
        DiwaError, match=rf"run: {verb} has diverged, \w+ of update \d is (nan|inf); lower the learning"
    ):
        TRAINERS[verb](config)

    (checkpoint,) = (tmp_path / "run").glob("checkpoint_*")
    assert all(value.isfinite().all() for value in load_file(checkpoint / "weights.safetensors").values())
    assert not list((tmp_path / "run").glob("*.safetensors"))
    assert not Run(tmp_path / "run", config).is_done


def test_weights_that_are_no_numbers_never_take_a_checkpoint_s_place(tmp_path):
    state = saved_run(tmp_path / "run")
    state.step = 2
    torch.nn.init.constant_(state.modules["net"].bias, float("inf"))

    with Run(tmp_path / "run", Settings()) as run, pytest.raises(DiwaError, match=r"diverged, weights net/bias after"):
        run.save(state)

    assert [path.name for path in (tmp_path / "run").glob("*checkpoint_*")] == ["checkpoint_1"]


# --- kills and full disks ---------------------------------------------------------------------------------------


def test_a_checkpoint_that_stands_is_not_put_at_risk_by_saving_the_same_step_again(tmp_path):
    """As Ctrl-C right after a checkpoint asks for."""
    state = saved_run(tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoint_1"
    before = checkpoint.stat().st_ino

    with Run(tmp_path / "run", Settings()) as run:
        run.save(state)

    assert checkpoint.stat().st_ino == before


def killed_while(act, prepare) -> bool:
    """Run `act` in a forked child, which `prepare` has set up to be killed; say whether it was."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            prepare()
            act()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def kill_at_operation(number: int):
    """Die by SIGKILL right before the `number`-th operation on the file system."""
    count = 0

    def hook(event, _):
        nonlocal count
        if event == "open" or event.startswith(("os.", "shutil.")):
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)

    return lambda: sys.addaudithook(hook)


def kill_at_byte(number: int):
    """Die in the middle of the write that makes a file longer than this."""

    def prepare():
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (number, number))

    return prepare


def checkpoint_bytes(folder: Path) -> int:
    return max(path.stat().st_size for path in folder.rglob("checkpoint_*/*"))


@pytest.mark.parametrize("kind", ["operation", "byte"])
def test_a_kill_at_any_moment_of_a_save_leaves_a_checkpoint_that_loads(tmp_path, capsys, kind):
    states = {1: everything(saved_run(tmp_path / "base"))}
    state = resumed(tmp_path / "base")
    advance(state)
    states[2] = everything(state)
    size = checkpoint_bytes(tmp_path / "base")
    points = range(1, 1000) if kind == "operation" else range(1, size + 400, size // 36)
    kills = 0
    for point in points:
        folder = tmp_path / f"run_{point}"
        shutil.copytree(tmp_path / "base", folder)
        with Run(folder, Settings()) as run:
            prepare = kill_at_operation(point) if kind == "operation" else kill_at_byte(point)
            killed = killed_while(lambda run=run: run.save(state), prepare)
        after = resumed(folder)
        assert everything(after) == states[after.step], point
        assert not list(folder.glob(".*")), point
        kills += killed
        if not killed:
            assert after.step == 2
            break
    assert kills > 10
    capsys.readouterr()


@contextmanager
def small_files():
    """Let no file grow beyond 3,000 bytes: a write beyond that fails as on a full disk.

    Not a fixture: pytest's own output, between the phases of a test, may go to a file too.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_is_full_at_a_checkpoint_is_said_and_the_one_before_stands(tmp_path):
    state = make_state({"net": torch.nn.Linear(2, 2)}, {}, 0)  # its generators alone take more
    with (
        small_files(),
        Run(tmp_path / "run", Settings()) as run,
        pytest.raises(StorageError, match=r"checkpoint_0: .*GB are free on"),
    ):
        run.save(state)

    assert not list((tmp_path / "run").glob("*checkpoint*"))


def test_a_disk_that_is_full_at_the_weights_is_said(tmp_path):
    net = torch.nn.Linear(30, 40)
    with small_files(), pytest.raises(StorageError, match=r"net.safetensors: .*GB are free on"):
        save_artifact(tmp_path / "net.safetensors", "net", net, Settings(), Spec(), {})

    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_at_the_metrics_is_said(tmp_path):
    def log_for_long():
        with Run(tmp_path / "run", Settings()) as run:
            for step in range(1000):
                run.log(step, {"loss": 0.5})

    with small_files(), pytest.raises(StorageError, match=r"run/.*: could not be written .*free some disk"):
        log_for_long()


# --- whose folder it is -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        (Settings(), Settings(rate=0.1), r"rate = 0\.0001, now it is 0\.1"),
        (Settings(), Settings(nested=Nested(4)), r"nested.size = 3, now it is 4"),
        (Settings(), Settings(extra={"a": 1}), r"extra.a = None, now it is 1"),
        (Settings(extra={"a": 1}), Settings(), r"extra.a = 1, now it is None"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused_by_name(tmp_path, before, now, message):
    with Run(tmp_path / "run", before) as run:
        run.save(fresh_state())

    with pytest.raises(ConfigError, match=message), Run(tmp_path / "run", now):
        pass


def test_the_same_settings_elsewhere_are_the_same_run(tmp_path):
    saved_run(tmp_path / "run")
    shutil.move(tmp_path / "run", tmp_path / "moved")
    state = fresh_state()

    with Run(tmp_path / "moved", Settings(output=tmp_path / "moved")) as run:
        assert run.restore(state)


def test_other_inputs_are_refused_by_name(tmp_path):
    with Run(tmp_path / "run", Settings(), {"dataset": "abc"}) as run:
        run.finish({})

    with pytest.raises(ConfigError, match="was made from another dataset"):
        Run(tmp_path / "run", Settings(), {"dataset": "abd"}).__enter__()


@pytest.mark.parametrize("text", ["{", "[]", '{"format_version": 99}'])
def test_a_finished_run_that_cannot_be_read_is_not_taken_for_done(tmp_path, text):
    with Run(tmp_path / "run", Settings()) as run:
        run.finish({"seconds": 1})
    (tmp_path / "run" / "summary.json").write_text(text)

    with pytest.raises(InputError, match=r"run/summary.json: .*; delete .*run and make it anew"):
        Run(tmp_path / "run", Settings()).__enter__()


def test_a_run_that_has_kept_nothing_yet_makes_way_for_other_settings(tmp_path):
    with Run(tmp_path / "run", Settings()) as run:
        run.log(1, {"loss": 1.0})

    with Run(tmp_path / "run", Settings(rate=0.5)) as run:
        assert not run.restore(fresh_state())
        assert "rate: 0.5" in (run.folder / "config.yaml").read_text()
        assert (run.folder / "metrics.jsonl").read_text() == ""


FOREIGN = {
    "a training of another program": {
        "config.yaml": "lr: 1", "inputs.json": "{}", "checkpoint_500/model.bin": "x", "metrics.jsonl": "{}",
    },
    "its settings alone": {"config.yaml": "output: x\nrate: 1\nnested: {}"},
    "a dataset": {"dataset.json": "{}", "proprio.npy": "x"},
    "a bundle": {"manifest.json": "{}", "policy.onnx": "x"},
    "a checkout": {".git/HEAD": "ref", "setup.py": "x"},
    "checkpoints": {"checkpoint_500/model.bin": "x", "inputs.json": "{}"},
    "a finished something": {"summary.json": "{}"},
}  # fmt: skip


def lay(folder: Path, files: dict[str, str]) -> dict[Path, bytes]:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("files", FOREIGN.values(), ids=FOREIGN)
def test_a_folder_of_somebody_else_is_refused_and_left_as_it_is(tmp_path, files):
    before = lay(tmp_path / "run", files)

    with pytest.raises(DiwaError, match=str(tmp_path / "run")) as refused, Run(tmp_path / "run", Settings()) as run:
        run.save(fresh_state())

    assert "choose another" in str(refused.value)
    assert lay(tmp_path / "run", {}) == before


@pytest.mark.parametrize("name", ["checkpoint_500/model.bin", "checkpoint_1/notes.txt", "checkpoint_7"])
def test_what_is_no_checkpoint_of_ours_is_never_deleted_for_an_older_one(tmp_path, name):
    saved_run(tmp_path / "run")
    before = lay(tmp_path / "run", {name: "mine"})

    with pytest.raises(InputError, match=rf"run/{name}: is no"), Run(tmp_path / "run", Settings()) as run:
        run.finish({})

    assert lay(tmp_path / "run", {}) == before


def test_what_is_laid_into_a_checkpoint_meanwhile_outlives_it(tmp_path):
    state = saved_run(tmp_path / "run")
    with Run(tmp_path / "run", Settings()) as run:
        lay(tmp_path / "run", {"checkpoint_1/notes.txt": "mine", "NOTES.md": "mine"})
        advance(state)
        run.save(state)
        run.finish({})

    assert [path.name for path in (tmp_path / "run").glob("checkpoint_*/*")] == ["notes.txt"]
    assert (tmp_path / "run" / "NOTES.md").exists()


def test_a_run_begins_in_an_empty_folder_behind_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to("disk")

    saved_run(tmp_path / "run")

    assert (tmp_path / "run").is_symlink()
    assert (tmp_path / "disk" / "checkpoint_1").is_dir()


def test_a_run_behind_a_link_to_nothing_is_one_line(tmp_path):
    (tmp_path / "run").symlink_to("unplugged")

    with pytest.raises(StorageError, match="run: is a link to unplugged, which is not there"):
        saved_run(tmp_path / "run")


def test_orphans_of_other_programs_in_a_run_are_left_alone(tmp_path):
    saved_run(tmp_path / "run")
    names = [f"{place}.{name}.{2**22}.partial" for place in ("", "notes/") for name in ("film.mp4", "config.yaml")]
    lay(tmp_path / "run", dict.fromkeys(names, "half"))

    resumed(tmp_path / "run")

    left = {str(path.relative_to(tmp_path / "run")) for path in (tmp_path / "run").rglob("*.partial")}
    assert left == {name for name in names if name != f".config.yaml.{2**22}.partial"}


@dataclass(frozen=True)
class Placed(Settings):
    dataset: Path | None = None


@pytest.mark.parametrize("end", ["saved", "finished"])
def test_the_same_data_under_another_path_is_the_same_run(tmp_path, end):
    state = fresh_state()
    with Run(tmp_path / "run", Placed(dataset=Path("data")), {"dataset": "abc"}) as run:
        run.save(state) if end == "saved" else run.finish({"seconds": 1})
    shutil.move(tmp_path / "run", tmp_path / "moved")

    with Run(tmp_path / "moved", Placed(dataset=tmp_path / "elsewhere"), {"dataset": "abc"}) as run:
        assert run.is_done if end == "finished" else run.restore(state)


@pytest.mark.parametrize("inputs", [{}, {"dataset": "abd"}, {"dataset": "abc", "bundle": "abc"}])
def test_more_or_fewer_inputs_are_other_inputs(tmp_path, inputs):
    with Run(tmp_path / "run", Settings(), {"dataset": "abc"}) as run:
        run.finish({})

    with pytest.raises(ConfigError, match=r"was made from another (dataset|bundle)"):
        Run(tmp_path / "run", Settings(), inputs).__enter__()


def test_two_processes_never_work_in_one_folder(tmp_path):
    with Run(tmp_path / "run", Settings()), pytest.raises(ConfigError, match="another process is at work"):
        Run(tmp_path / "run", Settings()).__enter__()
    with Run(tmp_path / "run", Settings()):
        pass


# --- damaged and hostile files ----------------------------------------------------------------------------------


class Canary:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.write_text, (self.path, "unpickled"))


def pickled(path: Path) -> bytes:
    return pickle.dumps(Canary(path))


@pytest.mark.parametrize("name", ["state.pt", "weights.safetensors"])
@pytest.mark.parametrize("form", ["pickle", "torch"])
def test_a_pickle_in_a_checkpoint_is_refused_and_does_not_run(tmp_path, name, form):
    saved_run(tmp_path / "run")
    path = tmp_path / "run" / "checkpoint_1" / name
    if form == "pickle":
        path.write_bytes(pickled(tmp_path / "ran"))
    else:
        torch.save({"step": Canary(tmp_path / "ran")}, path)

    with pytest.raises(InputError, match=r"checkpoint_1: cannot be resumed from"):
        resumed(tmp_path / "run")

    assert not (tmp_path / "ran").exists()


def test_a_pickle_for_weights_is_refused_and_does_not_run(tmp_path):
    (tmp_path / "net.safetensors").write_bytes(pickled(tmp_path / "ran"))

    with pytest.raises(InputError, match=r"net.safetensors: not a safetensors file .*`make_net`"):
        load_artifact(tmp_path / "net.safetensors", "net", "make_net")

    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["state.pt", "weights.safetensors"])
def test_a_damaged_checkpoint_is_refused_with_one_line_or_as_good_as_new(tmp_path, name):
    saved_run(tmp_path / "run")
    path = tmp_path / "run" / "checkpoint_1" / name
    good, rng = path.read_bytes(), np.random.default_rng(0)
    damaged = [good[: int(cut)] for cut in rng.integers(0, len(good), 40)]
    for position, value in zip(rng.integers(0, len(good), 60), rng.integers(0, 256, 60), strict=True):
        damaged.append(good[: int(position)] + bytes([value]) + good[int(position) + 1 :])
    refusals = []
    for data in damaged:
        path.write_bytes(data)
        try:
            resumed(tmp_path / "run")
        except DiwaError as error:
            refusals.append(str(error))

    assert len(refusals) >= 40
    assert all(line.startswith(f"{path.parent}: ") and "\n" not in line for line in refusals)


@pytest.mark.parametrize("text", ["", "[1, 2]", "{", "null", "\x00"])
@pytest.mark.parametrize("name", ["config.yaml", "inputs.json"])
def test_a_run_whose_settings_cannot_be_read_is_refused(tmp_path, name, text):
    saved_run(tmp_path / "run")
    (tmp_path / "run" / name).write_text(text)

    with pytest.raises(DiwaError, match=str(tmp_path / "run")):
        resumed(tmp_path / "run")


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def change_header(path: Path, **changes) -> None:
    header = json.loads(metadata_of(path)["diwa"])
    save_file(load_file(path), path, {"diwa": json.dumps({**header, **changes})})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "other"}, "holds 'other', needed 'net' from `make_net`"),
        ({"format": 99}, "format 99, this DiWA reads 1"),
        ({"about": 3}, "damaged header"),
        ({"about": {}}, "does not state 'task'"),
        ({"spec": {}}, "not a Spec"),
    ],
)
def test_weights_with_another_header_are_refused(tmp_path, changes, message):
    path = tmp_path / "net.safetensors"
    save_artifact(path, "net", torch.nn.Linear(2, 2), Nested(), Spec(), {"task": "open_drawer"})
    change_header(path, **changes)

    with pytest.raises(InputError, match=message):
        load_artifact(path, "net", "make_net", ["task"]).config_as(Nested)


def test_weights_that_are_no_numbers_are_neither_written_nor_read(tmp_path):
    path, net = tmp_path / "net.safetensors", torch.nn.Linear(2, 2)
    save_artifact(path, "net", net, Nested(), Spec(), {})
    save_file({**net.state_dict(), "bias": torch.tensor([0.0, float("nan")])}, path, metadata_of(path))
    with pytest.raises(InputError, match=r"net.safetensors: weights 'bias' are not finite.* anew with `make_net`"):
        load_artifact(path, "net", "make_net")

    torch.nn.init.constant_(net.weight, float("nan"))
    with pytest.raises(DiwaError, match=r"other.safetensors: is not written, its weights 'weight' are not finite"):
        save_artifact(tmp_path / "other.safetensors", "net", net, Nested(), Spec(), {})
    assert not (tmp_path / "other.safetensors").exists()


def test_weights_without_a_header_of_ours_are_refused(tmp_path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "net.safetensors")

    with pytest.raises(InputError, match=r"net.safetensors: holds weights of something else"):
        load_artifact(tmp_path / "net.safetensors", "net", "make_net")


def test_the_same_network_makes_the_same_file(tmp_path):
    net = torch.nn.Linear(2, 3)
    for number in range(8):
        save_artifact(tmp_path / str(number), "net", net, Nested(), Spec(), {"a": 1, "b": 2})

    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_weights_come_back_with_config_spec_and_facts(tmp_path):
    net = torch.nn.Linear(2, 3)
    save_artifact(tmp_path / "net.safetensors", "net", net, Nested(7), Spec(rate_hz=20.0), {"task": "open_drawer"})

    artifact = load_artifact(tmp_path / "net.safetensors", "net", "make_net", ["task"])
    loaded = artifact.network(lambda: torch.nn.Linear(2, 3))

    assert torch.equal(loaded.weight, net.weight)
    assert not loaded.weight.requires_grad
    assert artifact.config_as(Nested) == Nested(7)
    assert artifact.spec.rate_hz == 20.0
    assert artifact.about == {"task": "open_drawer"}


@pytest.mark.parametrize("build", [lambda: torch.nn.Linear(2, 4), lambda: torch.nn.Linear(10**9, 10**9)])
def test_weights_of_another_network_are_refused(tmp_path, build):
    save_artifact(tmp_path / "net.safetensors", "net", torch.nn.Linear(2, 3), Nested(), Spec(), {})

    with pytest.raises(InputError, match=r"net.safetensors: config and weights make no network"):
        load_artifact(tmp_path / "net.safetensors", "net", "make_net").network(build)
