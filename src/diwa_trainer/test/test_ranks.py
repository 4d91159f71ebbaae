"""Two processes learn what one learns from the same batches; the first writes, and all of them end together."""

import contextlib
import dataclasses
import json
import multiprocessing
import os
import signal
import socket
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from toy import SPEC, TINY_MODEL, TRAINERS, tiny_configs, write_toy

from diwa_runtime.cli import EXIT_BAD_INPUT, EXIT_INTERRUPTED, run_verb
from diwa_runtime.spec import CameraSpec
from diwa_trainer.devices.ranks import Share
from diwa_trainer.runs.run import Run
from diwa_trainer.verbs import train_eyes
from diwa_trainer.verbs.train_eyes import TrainEyesConfig
from diwa_trainer.world.eyes.eyes import EyesConfig
from diwa_trainer.world.joint import JointConfig

RUNS = {**TRAINERS, "train_eyes": train_eyes.run}
TOLERANCE = 1e-3
"""Relative, of what is logged in the first updates: what is left is rounding."""
WAIT_S = 600


def one_of_many(rank: int, count: int, work: list[tuple[str, Any, int]], errors: Path) -> None:
    """Run verbs, each by its port, as torchrun would start them."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
    torch.set_num_threads(1)
    sys.stderr = errors.open("w")
    codes = []
    for verb, config, port in work:
        os.environ["MASTER_PORT"] = str(port)
        codes.append(run_verb(partial(_call, verb, config), []))
    sys.exit(max(codes))


def _call(verb: str, config: Any, _: object) -> None:
    RUNS[verb](config)


def start(work: list[tuple[str, Any]], folder: Path, count: int = 2) -> list[multiprocessing.process.BaseProcess]:
    """Start verbs, one after the other, as `count` processes; what they say on stderr stands in `folder`."""
    with contextlib.ExitStack() as stack:
        free = [stack.enter_context(socket.socket()) for _ in work]
        for one in free:
            one.bind(("127.0.0.1", 0))
        ports = [one.getsockname()[1] for one in free]
    by_port = [(verb, config, port) for (verb, config), port in zip(work, ports, strict=True)]
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=one_of_many, args=(rank, count, by_port, folder / f"stderr_{rank}"))
        for rank in range(count)
    ]
    for process in processes:
        process.start()
    return processes


def ended(processes: list[multiprocessing.process.BaseProcess]) -> list[int | None]:
    """Wait for processes; return their exit codes."""
    for process in processes:
        process.join(WAIT_S)
        process.kill()
        process.join()
    return [process.exitcode for process in processes]


def logged(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def configs(tmp_path_factory, toy_data, toy_runs):
    """Settings by name."""
    cameras = (CameraSpec("static", 16, 16), CameraSpec("wrist", 16, 16))
    eyes = EyesConfig(channels=(4, 8, 8), camera_code=16, hidden=32, code=4)
    configs = tiny_configs(toy_data, toy_runs, updates=6)
    ppo = dataclasses.replace(configs["finetune"].ppo, bc_weight=0.1, epochs=2)
    configs["finetune"] = dataclasses.replace(configs["finetune"], ppo=ppo, reward_kind="both")
    for mode in ("hybrid", "vision"):
        data = tmp_path_factory.mktemp(mode) / "data"
        write_toy(data, spec=dataclasses.replace(SPEC, mode=mode, cameras=cameras))
        every = {"updates": 6, "batch": 10, "log_every": 1, "save_every": 2, "precision": "float32"}
        configs[mode] = TrainEyesConfig(data, data, eyes, **every)
    pictures = tmp_path_factory.mktemp("joint") / "data"
    cameras = (CameraSpec("static", 64, 64), CameraSpec("wrist", 64, 64))
    write_toy(pictures, play=3, demonstrations=2, spec=dataclasses.replace(SPEC, mode="vision", cameras=cameras))
    joint = dataclasses.replace(TINY_MODEL, joint=JointConfig(depth=2, embedding=16))
    configs["joint"] = dataclasses.replace(configs["train_world_model"], dataset=pictures, model=joint)
    return configs


VERB_OF = {"train_world_model": "train_world_model", "joint": "train_world_model", "finetune": "finetune"}
VERB_OF |= dict.fromkeys(("hybrid", "vision"), "train_eyes")


@pytest.fixture(scope="module")
def by_two(tmp_path_factory, configs):
    """Folder of runs that two processes made."""
    folder = tmp_path_factory.mktemp("two")
    work = [(verb, dataclasses.replace(configs[name], output=folder / name)) for name, verb in VERB_OF.items()]
    assert ended(start(work, folder)) == [0, 0]
    return folder


@pytest.mark.parametrize("name", VERB_OF)
def test_two_processes_learn_what_one_does(tmp_path, configs, by_two, name):
    alone = dataclasses.replace(configs[name], output=tmp_path / "alone")
    RUNS[VERB_OF[name]](alone)

    expected, found = logged(alone.output), logged(by_two / name)
    assert [line["step"] for line in found] == [line["step"] for line in expected], "one of them wrote"
    for one, other in zip(expected, found, strict=True):
        assert other == pytest.approx(one, rel=TOLERANCE, abs=1e-4), one["step"]
    assert Run(by_two / name, alone).is_done


def test_every_row_is_one_process_s_and_every_few_are_those_of_the_whole_batch():
    for count, step in ((1, 4), (2, 4), (3, 2), (4, 6)):
        shares = [list(range(24))[Share(rank, count).rows] for rank in range(count)]
        few = [row for rank, rows in enumerate(shares) for row in rows[Share(rank, count).every(step)]]
        assert sorted(row for rows in shares for row in rows) == list(range(24))
        assert sorted(few) == list(range(0, 24, step))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"batch": 5}, "error: batch is 5, must be a multiple of the 2 processes\n"),
        ({"workers": 2}, "error: workers is 2, must be 1 with 2 processes of torchrun: they are the workers\n"),
    ],
)
def test_what_cannot_be_shared_out_is_one_line(tmp_path, configs, monkeypatch, capsys, changes, says):
    config = dataclasses.replace(configs["train_world_model"], output=tmp_path / "run", **changes)
    monkeypatch.setenv("WORLD_SIZE", "2")
    codes, lines = [], []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("LOCAL_RANK", rank)
        with contextlib.suppress(SystemExit):
            codes.append(run_verb(partial(_call, "train_world_model", config), []))
        lines.append(capsys.readouterr().err)

    assert codes == [EXIT_BAD_INPUT], "the second ends in silence"
    assert lines == [says, ""]
    assert not config.output.exists()


@pytest.mark.parametrize(
    ("sent", "codes", "says"),
    [
        (signal.SIGKILL, [EXIT_BAD_INPUT, -signal.SIGKILL], "another of the 2 processes has ended"),
        (signal.SIGTERM, [EXIT_INTERRUPTED] * 2, "the same command goes on from it"),
    ],
    ids=["killed", "told to end"],
)
def test_where_one_is_told_to_end_all_do_and_the_same_command_goes_on(tmp_path, configs, sent, codes, says):
    config = dataclasses.replace(configs["train_world_model"], output=tmp_path / "run", updates=10**6)
    processes = start([("train_world_model", config)], tmp_path)
    began = time.monotonic()
    while not list(config.output.glob("checkpoint_*")):
        assert time.monotonic() - began < WAIT_S, "no checkpoint"
        time.sleep(0.05)
    assert processes[1].pid is not None
    os.kill(processes[1].pid, sent)

    assert ended(processes) == codes
    assert says in (tmp_path / "stderr_0").read_text()
    assert not (tmp_path / "stderr_1").read_text()
    (kept,) = config.output.glob("checkpoint_*")
    step = int(kept.name.rpartition("_")[2])
    left = {path.name.rpartition("-")[0] or path.name for path in config.output.iterdir()}
    assert not {name for name in left if name.startswith(".")}, "nothing half-written"

    text = (config.output / "config.yaml").read_text().replace("updates: 1000000", f"updates: {step + 2}")
    (config.output / "config.yaml").write_text(text)
    shorter = dataclasses.replace(config, updates=step + 2)
    RUNS["train_world_model"](shorter)
    assert Run(shorter.output, shorter).is_done
