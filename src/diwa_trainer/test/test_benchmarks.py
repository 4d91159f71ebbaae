"""Every row runs, what is measured is written as promised, and the plain windows are those that training reads."""

import json

import data
import numpy as np
import pytest
import robot
import rows
import run
import seeing
import torch
from bounded_settings import check_every_number_is_bounded
from measuring import Benchmark, Effort, alternate
from rows import Row

from diwa_runtime.errors import ConfigError, InputError
from diwa_trainer.world.eyes.modes import make_eyes

NEED_OPENGL = {"ingest", "sim_cameras"}
ON_THE_ARM = {one.name for one in robot.BENCHMARKS}
LIVE = ("observation_to_command", "observation_to_command_p99", "command_gap")


def benchmark(name, target=None, ours=1.0, reference=1.0, **more):
    return Benchmark(name, "ms", target, "what", "against", lambda _: (ours, reference), **more)


def row(name, ratio=2.0, target=1.5):
    return Row(name, 2000.0, "steps/s", 2000.0 / ratio, ratio, target, "what", "against", 3, "a machine")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.gl if name in NEED_OPENGL else ()) for name in run.BENCHMARKS]
)
def test_row_runs(name):
    if name == "policy_sampling_diffusers":
        pytest.importorskip("diffusers")
    if name in LIVE:
        pytest.importorskip("diwa_msgs.msg", reason="needs a built and sourced workspace (make test)")
    try:
        measured = run.measure(run.BENCHMARKS[name], Effort(quick=True))
    except run.NothingMeasuredError:
        if name not in ON_THE_ARM:
            raise
        pytest.skip("the simulated arm, which runs in real time, did not move beside all else that runs here")
    assert measured.name == name
    assert measured.value > 0
    assert measured.reference > 0


def test_a_measurement_of_nothing_is_refused_with_what_to_do():
    for ours, reference in ((0.0, 1.0), (1.0, 0.0), (float("nan"), 1.0), (1.0, float("nan"))):
        with pytest.raises(run.NothingMeasuredError, match=r"^first: .* is no measurement; measure it again"):
            run.measure(benchmark("first", ours=ours, reference=reference), Effort(quick=True))


def test_a_filter_that_sees_takes_the_steps_that_the_plain_one_takes(monkeypatch):
    def sharp(spec, config):
        """Eyes to which a shade makes a difference; untrained ones hardly look."""
        eyes = make_eyes(spec, config)
        with torch.no_grad():
            for parameter in eyes.parameters():
                parameter.mul_(5)
        return eyes

    monkeypatch.setattr(seeing, "make_eyes", sharp)
    made, latents = seeing.make_filter(quick=True), set()
    for shade in range(0, 256, 15):
        made.frame["static"] = torch.full_like(made.frame["static"], shade)
        np.testing.assert_allclose(made.ours(), made.plain().numpy(), atol=1e-5)
        latents.add(made.ours().tobytes())
    assert len(latents) > 1, "it looks"


def test_a_trial_writes_nothing(tmp_path, capsys):
    config = run.BenchConfig(only=("sim_state",), quick=True)
    run.run(config, tmp_path / "results.json", tmp_path / "page.md")
    assert "sim_state" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_every_number_is_bounded():
    check_every_number_is_bounded(run.BenchConfig)


def test_an_unknown_row_is_one_line_with_the_nearest(capsys):
    assert run.main(["--only", "ppo_updat"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "'ppo_update'" in error


def test_a_row_measured_alone_leaves_the_others(tmp_path):
    results, page = tmp_path / "results.json", tmp_path / "page.md"
    rows.write_rows([row("first"), row("second", 3.0), row("gone")], results, page)
    newest = rows.merged(rows.load_rows(results), [row("second", 1.0)], ("second", "first", "third"))
    rows.write_rows(newest, results, page)

    written = json.loads(results.read_text())
    assert [(one["name"], one["ratio"]) for one in written] == [("second", 1.0), ("first", 2.0)]
    assert {"name", "value", "unit", "reference", "ratio", "target"} <= written[0].keys()
    assert "| `second` | 2,000 | 2,000 | steps/s | 1.0x | >= 1.5x | missed |" in page.read_text()
    assert "| `first` | 2,000 | 1,000 | steps/s | 2.0x | >= 1.5x | reached |" in page.read_text()


def test_what_was_measured_stays_when_a_later_row_fails(tmp_path, monkeypatch):
    def fails(_):
        raise RuntimeError("the arm does not move")

    third = Benchmark("third", "ms", None, "what", "against", fails)
    rows_by_name = {"first": benchmark("first"), "second": benchmark("second"), "third": third}
    monkeypatch.setattr(run, "BENCHMARKS", rows_by_name)
    with pytest.raises(RuntimeError):
        run.run(run.BenchConfig(), tmp_path / "results.json", tmp_path / "page.md")
    assert [one.name for one in rows.load_rows(tmp_path / "results.json")] == ["first", "second"]
    assert "`second`" in (tmp_path / "page.md").read_text()


def test_what_cannot_be_measured_here_is_left_out_in_one_line(monkeypatch, capsys):
    lacking = {name: benchmark(name, lacks=lambda: "there is no arm") for name in ("first", "third")}
    monkeypatch.setattr(run, "BENCHMARKS", {**lacking, "second": benchmark("second")})
    assert [one.name for one in run.measurable(())] == ["second"]
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "first, third (there is no arm)" in error


def test_a_row_that_cannot_be_measured_here_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(run, "BENCHMARKS", {"first": benchmark("first", lacks=lambda: "there is no arm")})
    with pytest.raises(ConfigError, match=r"first \(there is no arm\)"):
        run.measurable(("first",))


def test_without_the_arms_simulator_its_rows_say_what_installs_it(tmp_path, monkeypatch):
    rig = pytest.importorskip("robot_rig", reason="needs franky-control")
    monkeypatch.setattr(rig, "ROOT", tmp_path)
    assert robot.lacks() == "franky-sim is not installed; scripts/robot-simulators does it"


def test_a_limit_just_missed_is_missed():
    measured = run.measure(benchmark("p50", 1.0, ours=10.04, reference=10.0), Effort())
    assert measured.verdict == "missed"
    assert run.measure(benchmark("p50", 1.0, ours=10.0, reference=10.0), Effort()).verdict == "reached"


def test_figures_of_one_run_are_no_medians_of_repeats():
    assert run.measure(benchmark("cached", one_run=True), Effort(repeats=9)).repeats == 1
    assert run.measure(benchmark("timed"), Effort(repeats=9)).repeats == 9
    of_one_run = {name for name, one in run.BENCHMARKS.items() if one.one_run}
    assert of_one_run == {"servo_tracking", "servo_delay", "servo_rest", *LIVE}


def test_the_page_sums_up_by_the_row_that_is_kinder_to_the_reference():
    text = rows.page_text([row("ppo_update_bc", 32.6), row("ppo_update_bc_steps", 5.0), row("imagination")])
    assert "In short, beside plain versions: imagined episodes 2.0x, one with the BC term 5.0x.\n" in text
    assert {name for _, name in rows.HEADLINES} <= run.BENCHMARKS.keys()
    assert "In short" not in rows.page_text([row("first")])


def test_what_was_written_by_hand_is_in_every_page(tmp_path):
    rows.write_rows([row("first")], tmp_path / "results.json", tmp_path / "page.md")
    assert "| RSSM 128, B 16 T 50, with KL | 192 ms | LUMOS 562 | .77 |" in (tmp_path / "page.md").read_text()


def test_the_page_that_is_kept_is_the_one_that_its_results_make():
    kept = rows.load_rows(run.ROOT / "benchmarks" / "results.json")
    assert (run.ROOT / "docs" / "performance.md").read_text(encoding="utf-8") == rows.page_text(kept)


def test_damaged_results_are_refused(tmp_path):
    (tmp_path / "results.json").write_text('[{"name": 1}]')
    with pytest.raises(InputError, match=r"results\.json"):
        rows.load_rows(tmp_path / "results.json")


@pytest.mark.parametrize(("unit", "ratio"), [("ms", 4.0), ("steps/s", 0.25)])
def test_less_time_and_more_speed_are_better(unit, ratio):
    benchmark = Benchmark("name", unit, None, "", "", lambda _: (0, 0))
    assert benchmark.ratio(2.0, 8.0) == ratio


def test_both_sides_are_called_in_turn_after_a_warm_up():
    calls = []
    alternate(lambda: calls.append("ours"), lambda: calls.append("plain"), Effort(repeats=2))
    assert calls == ["ours", "plain"] * 3


@pytest.mark.parametrize("windows", [data.STATE, data.IMAGES], ids=["state", "images"])
@pytest.mark.parametrize("held", [False, True], ids=["files", "held"])
def test_plain_windows_are_what_training_reads(tmp_path, windows, held, monkeypatch):
    monkeypatch.setattr(data, "EPISODE_ROWS", 52)
    dataset = data.random_dataset(tmp_path / "dataset", windows.spec, 2, np.random.default_rng(0))
    plain = data.held_rows(dataset, windows) if held else data.step_files(tmp_path, dataset, windows, Effort())

    ours = data.training_windows(dataset, np.random.default_rng(1))
    theirs = plain.windows(np.random.default_rng(1), data.BATCH, data.LENGTH, windows.fields)

    rows = dataset.windows(np.random.default_rng(1), data.BATCH, data.LENGTH, fields=())["row"]
    np.testing.assert_array_equal(rows, theirs["row"])
    assert {*rows[:, 0].tolist()} == {0, 1, 2, 52, 53, 54}, "within both episodes, and to their ends"
    assert ours.keys() == theirs.keys() - {"row"}
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
