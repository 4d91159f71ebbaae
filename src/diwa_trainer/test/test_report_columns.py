"""Every figure of a report is drawn from its own number: change one in a file, and what shows it changes alone."""

import html
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from parsed_page import Page
from synthetic_logs import write_log
from synthetic_runs import TASKS, write_runs

from diwa_trainer.report import page, policy_page
from diwa_trainer.report.gather import gather
from diwa_trainer.report.run_logs import read_runs

TASK = "open_drawer"


def shown(source: str) -> dict[str, list[str]]:
    """What a page shows, by name: charts by title, tiles by label, tables by column or, where they have two, by row."""
    found: dict[str, list[str]] = {}

    def add(name: str, value: str) -> None:
        found.setdefault(name, []).append(value)

    for title, body in re.findall(r"<figcaption>(.*?)(?: <span.*?)?</figcaption>(.*?)</figure>", source):
        add(f"chart {html.unescape(title)}", body)
    for value, label in re.findall(r"<li><strong>(.*?)</strong>(.*?)</li>", source):
        add(f"tile {re.sub(r'[0-9., ]+', ' ', label)}", value + label)
    for head, *rows in Page(source).tables:
        for row in rows:
            for column, cell in zip(
                head[1:] if len(head) == 2 else head, row[1:] if len(head) == 2 else row, strict=True
            ):
                add(row[0] if len(head) == 2 else f"{head[0]}/{head[2]}: {column}", cell)
    return found


def differing(before: dict[str, list[str]], after: dict[str, list[str]]) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def set_in(data: Any, key: str, value: Any) -> None:
    """Set a value in nested data by its keys and indices, parted by dots."""
    *path, last = [int(part) if part.isdigit() else part for part in key.split(".")]
    for part in path:
        data = data[part]
    data[last] = value


# --- a pipeline's page ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, dict[str, list[str]]]:
    """The runs of one task, and what their page shows."""
    folder = tmp_path_factory.mktemp("columns") / "demo"
    write_runs(folder, episodes=20, videos=0)
    for task in set(TASKS) - {TASK}:
        shutil.rmtree(folder / task)
    return folder, shown(page.render(gather(folder)))


def after_change(made, tmp_path, name: str, change) -> set[str]:
    """Change one file; return what the page then shows otherwise."""
    folder, before = made
    shutil.copytree(folder, tmp_path / "demo")
    path = tmp_path / "demo" / name
    lines = [
        json.loads(line) for line in ([path.read_text()] if name.endswith(".json") else path.read_text().splitlines())
    ]
    for line in lines:
        change(line)
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return differing(before, shown(page.render(gather(tmp_path / "demo"))))


TUNED, REWARD = f"{TASK}/evaluation_finetuned/evaluation.json", f"{TASK}/reward/reward.json"
OPEN_LOOP, DATA = "world_model/open_loop.json", "world_model/data.json"
RESULT, ALARM, CHOSEN, ALL = "task/success", "task/fires in successes", "task/threshold", "held out/threshold"
QUALITY = "/recall, demonstrations"
ERRORS, MOVED, CONTACTS = "/first frame", "/usable steps", "held chunks/free chunks"
"""Tables, by the first and the third of their headings."""


@pytest.mark.parametrize(
    ("name", "key", "value", "changed"),
    [
        (TUNED, "mean_length", 77.0, {f"{RESULT}: mean length"}),
        (
            TUNED, "interval95", [0.3, 0.99],
            {f"{RESULT}: 95 % interval", "chart Success", "chart Success in the environment"},
        ),
        (TUNED, "classifier.fired_on_success", 3, {f"{ALARM}: fires in successes"}),
        (TUNED, "classifier.failures", 3, {f"{ALARM}: in failures", f"{QUALITY}: false alarms in real failures"}),
        (TUNED, "bundle.sha256", "ef" * 32, {"bundle"}),
        (TUNED, "bundle.provenance.iterations", 7, {"iterations"}),
        (TUNED, "environment.id", "other:Table-v1", {"environment"}),
        (
            REWARD, "held_out.play.by_threshold.2.precision", 0.11,
            {f"{CHOSEN}: precision", f"{ALL}: precision", f"{QUALITY}: precision, play"},
        ),
        (
            REWARD, "held_out.play.by_threshold.0.precision", 0.11,
            {f"{ALL}: precision", f"{QUALITY}: precision, play"},
        ),
        (
            REWARD, "held_out.play.by_threshold.2.recall", 0.11,
            {f"{CHOSEN}: recall", f"{ALL}: recall", f"{QUALITY}: recall, play"},
        ),
        (
            REWARD, "held_out.play.by_threshold.2.fires_in_succeeded", 0.11,
            {f"{CHOSEN}: fires in successes", f"{ALL}: fires in successes"},
        ),
        (
            REWARD, "held_out.play.by_threshold.2.fires_in_failed", 0.11,
            {f"{CHOSEN}: in failures", f"{ALL}: in failures"},
        ),
        (REWARD, "held_out.play.failed", 3, {f"{CHOSEN}: successes / failures", f"{ALL}: successes / failures"}),
        (f"{TASK}/finetuned/preflight.json", "base.decoded", 0.11, {"imagined, judged by the decoded scene"}),
        (f"{TASK}/finetuned/preflight.json", "base.classifier", 0.11, {"imagined, judged by the classifier"}),
        (f"{TASK}/finetuned/preflight.json", "by_threshold.0.success", 0.11, {"imagined, classifier above 0.5"}),
        (f"{TASK}/finetuned/summary.json", "env_steps", 12, {"tile environment steps during fine-tuning"}),
        (f"{TASK}/finetuned/summary.json", "imagined_steps", 12_000, {"tile imagined steps"}),
        (f"{TASK}/finetuned/summary.json", "seconds", 3.0, {f"{TASK}/finetuned"}),
        (f"{TASK}/pretrained/summary.json", "demonstrations", 3, {f"chart {TASK}"}),
        (DATA, "rows", 7, {"tile recorded steps ( h)", "kind/outcome: steps"}),
        (DATA, "hours", 7.0, {"tile recorded steps ( h)"}),
        (DATA, "episodes.0.episodes", 7, {"kind/outcome: episodes"}),
        (DATA, "episodes.0.rows", 7, {"kind/outcome: steps"}),
        (DATA, "dropped.0.reason", "another", {"bag/count: dropped because"}),
        (DATA, "dropped.0.count", 7, {"bag/count: count"}),
        (DATA, "features.12.mean", 7.0, {"feature/standard deviation: mean"}),
        (DATA, "features.12.std", 7.0, {"feature/standard deviation: standard deviation"}),
        (DATA, "features.12.largest_standardised", 90.0, {"feature/standard deviation: largest |standardised|"}),
        (OPEN_LOOP, "features.tcp.all.model.0", 7.0, {f"{ERRORS}: 1 step"}),
        (OPEN_LOOP, "features.tcp.moved.model.0", 7.0, {f"{MOVED}: 1 step"}),
        (OPEN_LOOP, "features.tcp.all.constant.4", 7.0, {f"{ERRORS}: constant, 50"}),
        (OPEN_LOOP, "features.tcp.moved.linear.4", 7.0, {f"{MOVED}: linear, 50"}),
        (OPEN_LOOP, "features.tcp.posterior_first", 7.0, {f"{ERRORS}: first frame"}),
        (OPEN_LOOP, "features.tcp.posterior_last", 7.0, {f"{ERRORS}: frame 10"}),
        (OPEN_LOOP, "features.tcp.moved_windows", 7, {f"{MOVED}: windows"}),
        (
            OPEN_LOOP, "features.tcp.usable", 7,
            {f"{MOVED}: usable steps", "chart tcp: error over the horizon", "tile tcp"},
        ),
        (OPEN_LOOP, "features.tcp.moved_curve.model.20", 0.01, {"chart tcp: error over the horizon"}),
        (OPEN_LOOP, "features.tcp.moved_curve.linear.20", 0.01, {"chart tcp: error over the horizon"}),
        (OPEN_LOOP, "flips.led.foreseen", 7, {"light/false flips: flips foreseen"}),
        (OPEN_LOOP, "flips.led.unflipped", 7, {"light/false flips: false flips"}),
        (OPEN_LOOP, "contacts.held", 70, {f"{CONTACTS}: held chunks"}),
        (OPEN_LOOP, "contacts.through", 0.5, {f"{CONTACTS}: gone through"}),
        (OPEN_LOOP, "contacts.free", 7, {f"{CONTACTS}: free chunks"}),
        (OPEN_LOOP, "contacts.stuck", 0.5, {f"{CONTACTS}: falsely held"}),
        (OPEN_LOOP, "examples.led.2.predicted.20.0", 0.05, {"chart led"}),
        (OPEN_LOOP, "examples.led.2.truth.20.0", 0.05, {"chart led"}),
    ],
)  # fmt: skip
def test_a_number_is_shown_where_it_belongs(made, tmp_path, name, key, value, changed):
    assert after_change(made, tmp_path, name, lambda data: set_in(data, key, value)) == changed


def test_starts_are_shown_and_policies_are_paired_by_them(made, tmp_path):
    def change(data):
        data["seeds"][19] = data["episodes_detail"][19]["seed"] = 5

    assert after_change(made, tmp_path, TUNED, change) == {"seeds", f"{RESULT}: won / lost", f"{RESULT}: McNemar p"}


@pytest.mark.parametrize(
    ("run", "metric", "chart"),
    [
        *(
            ("world_model", f"{prefix}{metric}", title)
            for prefix in ("", "held_out_")
            for metric, title in {
                "loss": "Loss", "reconstruction": "Reconstruction", "kl": "KL of posterior and prior",
                "reconstruction_first": "Reconstruction of the first frame",
            }.items()
        ),
        ("world_model", "gradient_norm", "Norm of the gradient"),
        ("world_model", "held_out_open_loop", "Error of ten imagined steps"),
        ("world_model", "pictures", "Error of a picture's number"),
        (f"{TASK}/pretrained", "loss", TASK),
        (f"{TASK}/pretrained", "held_out_loss", TASK),
        *((f"{TASK}/finetuned", f"judged_success_{name}", "Success") for name in ("classifier", "decoded", "both")),
        (f"{TASK}/finetuned", "success", "Success"),
        (f"{TASK}/finetuned", "chunks", "Length of imagined episodes"),
        (f"{TASK}/finetuned", "kl_to_pretrained", "KL to the base policy"),
        (f"{TASK}/finetuned", "clip_fraction", "Clip fraction"),
        (f"{TASK}/finetuned", "approx_kl", "KL of an update (approximate)"),
        (f"{TASK}/finetuned", "explained_variance", "Explained variance of the critic"),
        (f"{TASK}/finetuned", "value_loss", "Loss of the critic"),
        (f"{TASK}/finetuned", "outside", "Imagined episodes that left the recordings"),
        (f"{TASK}/finetuned", "path_kl", "KL to the base policy, of each iteration"),
        (f"{TASK}/finetuned", "bc_weight", "Weight of the BC term"),
    ],
)  # fmt: skip
def test_a_metric_is_drawn_in_its_chart(made, tmp_path, run, metric, chart):
    def change(line):
        line[metric] = 0.4 + 0.001 * line["step"]

    assert after_change(made, tmp_path, f"{run}/metrics.jsonl", change) == {f"chart {chart}"}


# --- the policy node's page ------------------------------------------------------------------------------------------


def drawn(folder: Path) -> dict[str, list[str]]:
    return shown(policy_page.render(read_runs(folder)))


RUN = "started (UTC)/outcome"
SUCCESS = "chart Success, by the bundle's reward"
TITLES = ("Translation", "Rotation", "Gripper", "TCP position", "Change of the latent")
OVER_TIME = {SUCCESS, *(f"chart {title}" for title in TITLES)}


@pytest.mark.parametrize(
    ("line", "key", "value", "changed"),
    [
        (0, "seed", 8, {f"{RUN}: seed"}),
        (0, "bundles.open_drawer", "c" * 64, {"skill/runs: bundle", "skill/success above: bundle (SHA-256)"}),
        (0, "thresholds.open_drawer", 0.7, {"skill/success above: success above", SUCCESS}),
        (2, "observation_age_s", 0.09, {
            f"{RUN}: oldest obs., ms", "tile oldest observation when its answer came",
            "chart From observation to decision",
        }),
        (2, "inference_s", 0.09, {
            f"{RUN}: inference ms median / largest", "tile inference median; largest ms", "chart Inference",
        }),
        (2, "probability", 0.5, {SUCCESS}),
        (2, "action.1", 0.9, {"chart Translation"}),
        (2, "action.5", 0.9, {"chart Rotation"}),
        (2, "action.6", -0.9, {"chart Gripper"}),
        (2, "latent_change", 9.0, {"chart Change of the latent"}),
        (2, "position.1", 0.9, {"chart TCP position"}),
        (2, "begins_chunk", True, OVER_TIME),
        (-1, "reason", "another", {f"{RUN}: reason"}),
        (-1, "dropped.held", 7, {f"{RUN}: held / missing / faulty rows", "tile rows held missing faulty"}),
        (-1, "seams.at_seams.velocity_m_s", 7.0, {f"{RUN}: velocity, m/s seams / within"}),
        (-1, "seams.within.jerk_m_s3", 7.0, {f"{RUN}: jerk, m/s³ seams / within"}),
        (-1, "seams.count", 7, {f"{RUN}: seams"}),
    ],
)  # fmt: skip
def test_a_number_of_a_run_log_is_shown_where_it_belongs(tmp_path, line, key, value, changed):
    path = write_log(tmp_path / "logs")
    before = drawn(tmp_path / "logs")
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    set_in(lines[line], key, value)
    path.write_text("".join(json.dumps(record) + "\n" for record in lines))

    assert differing(before, drawn(tmp_path / "logs")) == changed
