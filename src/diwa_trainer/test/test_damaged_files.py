"""Files that were damaged or made up: every reader reads them or says in one line which and why, nothing else."""

import copy
import importlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from synthetic_logs import write_log
from synthetic_runs import TASKS, write_runs
from test_dataset import write_dataset
from toy_bundle import write_toy_bundle

from diwa_runtime.bundle import Bundle
from diwa_runtime.errors import DiwaError, InputError
from diwa_runtime.spec import Spec
from diwa_trainer.dataset import Dataset
from diwa_trainer.evaluation.results import print_table, sum_up
from diwa_trainer.report import page, policy_page
from diwa_trainer.report.gather import gather
from diwa_trainer.report.run_logs import read_runs
from diwa_trainer.runs.result_files import read_result
from diwa_trainer.runs.run import Run
from diwa_trainer.runs.trained import PRETRAINED, load_classifier, load_policy, load_world_model
from diwa_trainer.verbs.report import ReportConfig

TASK = TASKS[0]

NUMBERS = [0, -1, 1, 2**31, -(2**63), 10**30, 10**400, 1e308, -1e308, 5e-324, 0.5, float("nan"), float("inf")]
TEXTS = ["", "0", "abc", "\ud800", "\0", "a/b", "../x", "<b>", "é" * 50, "none", "1e9"]
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.sampled_from(NUMBERS) | st.sampled_from(TEXTS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "0", "seed", ""]), inner),
    max_leaves=6,
)


def places(data, path=()):
    """Yield where each value of plain data lies."""
    yield path
    for key, value in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        yield from places(value, (*path, key))


@st.composite
def damaged(draw, good, kinds=("replace", "remove", "double")):
    """Plain data of which one value is another, is gone, or is there twice."""
    data = copy.deepcopy(good)
    *around, last = draw(st.sampled_from([place for place in places(data) if place]))
    inner = data
    for key in around:
        inner = inner[key]
    kind = draw(st.sampled_from(kinds))
    if kind == "remove":
        del inner[last]
    elif kind == "double" and isinstance(inner, list):
        inner.append(inner[last])
    else:
        inner[last] = draw(ANYTHING)
    return data


def refused_in_one_line(act, *names: str) -> None:
    """Run `act`, which succeeds or says in one line what is wrong, with one of these names in it."""
    said = ""
    try:
        act()
    except DiwaError as error:
        said = str(error)
    assert "\n" not in said
    assert not said or any(name in said for name in names), said


def report(folder):
    page.render(gather(folder)).encode("utf-8", errors="replace")


def summed(folder):
    print_table(sum_up(folder, TASKS, ["finetuned"]))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "demo"
    write_runs(folder, episodes=4, videos=1)
    return folder


RESULTS = [
    "world_model/data.json", "world_model/open_loop.json", "world_model/summary.json", f"{TASK}/reward/reward.json",
    f"{TASK}/finetuned/preflight.json", f"{TASK}/finetuned/summary.json", f"{TASK}/evaluation_base/evaluation.json",
    f"{TASK}/evaluation_finetuned/evaluation.json",
]  # fmt: skip


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_with_any_value_in_any_place_is_read_or_refused_by_name(runs, name, capsys):
    path = runs / name
    good = path.read_text()

    @settings(max_examples=40)
    @given(data=damaged(json.loads(good)))
    def check(data):
        path.write_text(json.dumps(data))
        for read in (report, summed, lambda _: read_result(path)):
            refused_in_one_line(lambda read=read: read(runs), str(path), "different starts")

    try:
        check()
    finally:
        path.write_text(good)
    capsys.readouterr()


@pytest.mark.parametrize("name", ["world_model", f"{TASK}/pretrained", f"{TASK}/finetuned"])
def test_metrics_with_any_value_in_any_place_are_read_or_refused_by_name(runs, name):
    path = runs / name / "metrics.jsonl"
    good = path.read_text()

    @settings(max_examples=40)
    @given(rows=damaged([json.loads(line) for line in good.splitlines()[-6:]]))
    def check(rows):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        refused_in_one_line(lambda: report(runs), str(path))

    try:
        check()
    finally:
        path.write_text(good)


def test_a_run_log_with_any_value_in_any_place_is_read_or_refused_by_name(tmp_path):
    path = write_log(tmp_path / "logs")
    good = [json.loads(line) for line in path.read_text().splitlines()]

    def show():
        policy_page.render(read_runs(tmp_path / "logs")).encode(errors="replace")

    @settings(max_examples=300)
    @given(rows=damaged([good[0], *good[1:4], good[-1]]))
    def check(rows):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        refused_in_one_line(
            lambda: policy_page.render(read_runs(tmp_path / "logs")).encode(errors="replace"), str(path)
        )

    check()


def test_a_dataset_with_any_value_in_any_place_is_read_or_refused_by_name(tmp_path):
    dataset = write_dataset(tmp_path / "data")
    path = tmp_path / "data" / "dataset.json"
    assert dataset.fingerprint
    good = json.loads(path.read_text())

    def use():
        dataset = Dataset.open(tmp_path / "data")
        dataset.split(0.1, 0)
        assert dataset.fingerprint
        dataset.windows(np.random.default_rng(0), 2, 2)

    @settings(max_examples=300)
    @given(data=damaged(good))
    def check(data):
        path.write_text(json.dumps(data))
        refused_in_one_line(use, str(tmp_path / "data"))

    check()


def test_a_spec_with_any_value_in_any_place_is_read_or_refused_by_name(tmp_path):
    path = tmp_path / "lab.json"

    @settings(max_examples=300)
    @given(data=damaged(Spec().to_json()))
    def check(data):
        path.write_text(json.dumps(data))
        refused_in_one_line(lambda: Spec.load(path), str(path))

    check()


def test_a_manifest_with_any_value_in_any_place_is_read_or_refused_by_name(tmp_path):
    write_toy_bundle(tmp_path / "bundle")
    path = tmp_path / "bundle" / "manifest.json"
    good = json.loads(path.read_text())

    @settings(max_examples=200)
    @given(data=damaged(good))
    def check(data):
        path.write_text(json.dumps(data))
        refused_in_one_line(lambda: Bundle.load(tmp_path / "bundle"), str(tmp_path / "bundle"))

    check()


NETWORKS = {
    "world_model/world_model.safetensors": lambda runs: load_world_model(runs / "world_model"),
    "pretrained/policy.safetensors": lambda runs: load_policy(runs / "pretrained", PRETRAINED, "pretrain"),
    "reward/reward.safetensors": lambda runs: load_classifier(runs / "reward"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_s_header_with_any_value_in_any_place_is_read_or_refused_by_name(tmp_path, toy_runs, name):
    path = tmp_path / name
    shutil.copytree((toy_runs / name).parent, path.parent)
    weights, (metadata,) = load_file(path), header_of(path)

    @settings(max_examples=150)
    @given(data=damaged(json.loads(metadata)))
    def check(data):
        save_file(weights, path, {"diwa": json.dumps(data)})
        refused_in_one_line(lambda: NETWORKS[name](tmp_path), str(path))

    check()


def header_of(path):
    with safe_open(path, framework="pt") as file:
        return list(file.metadata().values())


def test_weights_of_a_type_that_no_network_has_are_refused_by_name(tmp_path, toy_runs):
    path = tmp_path / "reward" / "reward.safetensors"
    shutil.copytree(toy_runs / "reward", path.parent)
    (metadata,) = header_of(path)
    weights = {name: value.to(torch.float8_e4m3fn) for name, value in load_file(path).items()}
    save_file(weights, path, {"diwa": metadata})

    with pytest.raises(InputError, match=r"reward.safetensors: not a safetensors file .* is of type torch.float8"):
        load_classifier(tmp_path / "reward")


@pytest.mark.parametrize("name", ["config.yaml", "inputs.json"])
def test_what_says_what_a_run_is_with_any_value_in_any_place_is_refused_or_the_same(tmp_path, name):
    config = ReportConfig(Path("runs"), tmp_path / "run")
    with Run(tmp_path / "run", config, {"dataset": "abc"}) as run:
        run.finish({"seconds": 1})
    path = tmp_path / "run" / name
    good = yaml.safe_load(path.read_text())

    @settings(max_examples=100)
    @given(data=damaged(good))
    def check(data):
        path.write_text(json.dumps(data) if name == "inputs.json" else yaml.safe_dump(data))
        refused_in_one_line(lambda: Run(tmp_path / "run", config, {"dataset": "abc"}).__enter__(), str(path.parent))

    check()


POLICIES = ("base", "finetuned")
NO_FILE = {
    "a folder": lambda path: path.mkdir(),
    "a pipe": os.mkfifo,
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "no text": lambda path: path.write_bytes(b'{"a": "\xff"}'),
    "deep": lambda path: path.write_text("[" * 200_000),
    "empty": lambda path: path.touch(),
}


@pytest.mark.parametrize("make", NO_FILE.values(), ids=NO_FILE)
@pytest.mark.parametrize("name", [*RESULTS, f"{TASK}/finetuned/metrics.jsonl", f"{TASK}/finetuned/config.yaml"])
def test_what_is_no_file_of_text_is_named(runs, tmp_path, name, make):
    shutil.copytree(runs, tmp_path / "demo")
    path = tmp_path / "demo" / name
    path.unlink()
    make(path)

    refused_in_one_line(lambda: report(tmp_path / "demo"), str(path))
    refused_in_one_line(lambda: summed(tmp_path / "demo"), str(path))
    if path.suffix == ".json":
        with pytest.raises(DiwaError, match=str(path)):
            read_result(path)


def test_the_page_of_results_from_cameras_counts_each_task_and_says_what_it_lacks(runs, tmp_path, monkeypatch):
    pages = importlib.import_module("write_camera_results")
    monkeypatch.setattr(pages, "PAGE", tmp_path / "page.md")
    shutil.copytree(runs, tmp_path / "demo")

    pages.main([f"hybrid={tmp_path / 'demo'}"])

    page = (tmp_path / "page.md").read_text()
    evaluations = [json.loads((tmp_path / f"demo/{TASK}/evaluation_{n}/evaluation.json").read_text()) for n in POLICIES]
    rates = [f"{100 * one['successes'] / one['episodes']:.0f} % [" for one in evaluations]
    (success,) = [line for line in page.splitlines() if line.startswith(f"| hybrid | {TASK} |")]
    assert all(rate in success for rate in rates)
    fired, failed = (sum(one["classifier"][key] for one in evaluations) for key in ("fired_on_failure", "failures"))
    assert f"{fired} of {failed} |" in page
    with pytest.raises(DiwaError, match="'runs': must be NAME=RUN_FOLDER"):
        pages.main(["runs"])
    reward = tmp_path / f"demo/{TASK}/reward/reward.json"
    reward.write_text(reward.read_text().replace('"threshold":', '"threshold": 2, "was":', 1))
    with pytest.raises(DiwaError, match=r"reward\.json"):
        pages.main([f"hybrid={tmp_path / 'demo'}"])
