"""The report shows what the runs found, names what is missing, and needs nothing from outside."""

import base64
import json
import pickle
import re
import shutil
from pathlib import Path

import pytest
from parsed_page import Page
from synthetic_runs import TASKS, write_evaluation, write_runs

from diwa_runtime.errors import InputError, StorageError
from diwa_trainer.report.page import SECTIONS
from diwa_trainer.verbs.report import ReportConfig, run


def report(folder: Path) -> Page:
    run(ReportConfig(folder, folder.parent / "report.html"))
    return Page((folder.parent / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "demo"
    write_runs(folder)
    return folder


@pytest.fixture(scope="module")
def page(made):
    return report(made)


@pytest.fixture
def runs(made, tmp_path):
    shutil.copytree(made, tmp_path / "demo")
    return tmp_path / "demo"


def test_only_a_report_is_written_over(made, tmp_path):
    output = tmp_path / "thesis.html"
    output.write_text("years of work")
    with pytest.raises(InputError, match=r"thesis.html: is there already and no report of DiWA's"):
        run(ReportConfig(made, output))
    assert output.read_text() == "years of work"

    output.unlink()
    for _ in range(2):
        run(ReportConfig(made, output))


def test_every_section_is_there_and_linked(page):
    identifiers = [value for tag, name, value in page.attributes if (tag, name) == ("section", "id")]
    assert identifiers == [identifier for identifier, _, _ in SECTIONS]
    links = [value for tag, name, value in page.attributes if (tag, name) == ("a", "href")]
    assert links == [f"#{identifier}" for identifier in identifiers]
    assert "Missing" not in page.text


def test_what_eyes_see_is_shown_where_there_are_cameras_alone(page, made, tmp_path):
    table = page.source[page.source.index('id="eyes"') :]
    assert re.search(r"drawer</t[hd]><td>0.0031</td><td>0.003</td><td>0.0017</td>", table.replace("\n", "")), table[
        :3000
    ]

    shutil.copytree(made, tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs/eyes")
    run(ReportConfig(tmp_path / "runs", tmp_path / "report.html"))
    assert 'id="eyes"' not in (tmp_path / "report.html").read_text()


def test_estimates_are_shown_beside_the_truth_and_the_worst_frames_as_pictures(page, made):
    source = page.source[page.source.index('id="eyes"') : page.source.index('id="world-model"')]
    assert [
        row[1:] for table in page.tables if table[0][0] == "light" for row in table[1:] if "," in row[1] + row[2]
    ] == [["3 of 1,200", "0 of 2,800"]]
    drawn = re.findall(r'<rect class="count"[^>]*><title>(\d+)</title>', source)
    assert sorted(map(int, drawn)) == [2, 40, 60], "the cells of the drawer in which there is something"
    (picture,) = re.findall(r'src="data:image/png;base64,([^"]+)"', source)
    assert base64.b64decode(picture) == (made / "eyes/worst_0.png").read_bytes()
    values = next(table for table in page.tables if table[0] == ["", "recorded", "seen"])
    assert "play_003, step 17" in page.text
    assert values[1:] == [["drawer", "0.12", "0.085"], ["led", "1", "0.04"]]
    assert ["static", "0.19", "0.2"] in next(table for table in page.tables if table[0][0] == "camera")


def test_of_a_code_learned_without_a_scene_the_report_says_what_is_not_known(runs):
    path = runs / "eyes/eyes.json"
    eyes = {"features": [], "error": {"held_out": 0.19, "learned": 0.2}, "marks": {"led": {"rows": 500, "right": 496}}}
    path.write_text(json.dumps(eyes))
    found = report(runs)
    assert "is not known: the recordings hold none to compare it with" in found.text
    assert ["led", "500", "99.2 %"] in next(table for table in found.tables if "read as marks tell" in table[0])
    path.write_text(json.dumps({name: value for name, value in eyes.items() if name != "marks"}))
    assert "is not known" in report(runs).text, "of an older version"


def test_page_needs_nothing_from_outside(page):
    for tag, name, value in page.attributes:
        if name in ("src", "href", "srcset", "data", "action", "poster"):
            assert value.startswith(("data:", "#")), (tag, name, value[:80])
    without_data = re.sub(r"data:(?:video/mp4|image/png);base64,[A-Za-z0-9+/=]+", "", page.source)
    assert re.findall(r"(?:https?:)?//[\w.]+|url\(|@import|<script|<link|<iframe", without_data) == []
    assert "default-src 'none'" in page.source


def test_head_line_and_table_say_before_and_after(page):
    # 42, 52, 62 % of 100 before; 94, 90, 86 % after.
    assert "+38.0 points of success on 3 tasks" in page.text
    table = page.tables[0]
    rows = {(row[0], row[1]): row for row in table[1:]}
    assert rows["open_drawer", "base"][2:4] == ["42 % (42/100)", "33 to 52 %"]
    assert rows["", "fine-tuned"][2] == "90 % (90/100)"  # of the last task, turn_on_led
    tuned = table[table.index(rows["open_drawer", "base"]) + 1]
    assert tuned[2:7] == ["94 % (94/100)", "88 to 97 %", "+52.0", "52 / 0", "4.4 · 10−16"]


def test_loss_is_not_sold_as_a_gain(runs):
    for task in TASKS:
        for name, rate in (("base", 0.9), ("finetuned", 0.8)):
            shutil.rmtree(runs / task / f"evaluation_{name}")
            write_evaluation(runs / task / f"evaluation_{name}", task, rate, 500, 100, 0)
    found = report(runs)
    assert "No gain on 3 tasks: −10.0 points of success" in found.text
    assert found.tables[0][2][4:6] == ["−10.0", "0 / 10"]


def test_films_of_the_same_seeds_lie_inside(page, made):
    films = [value for tag, name, value in page.attributes if (tag, name) == ("video", "src")]
    assert len(films) == len(TASKS) * 2 * 2
    first = base64.b64decode(films[0].removeprefix("data:video/mp4;base64,"))
    assert first == (made / sorted(TASKS)[0] / "evaluation_base/videos/seed_100000.mp4").read_bytes()
    assert "fine-tuned succeeds after 30 steps" in page.text


def test_data_with_its_drops_and_extreme_features(page):
    assert "48,211" in page.text
    assert "a gap of more than 0.2 s splits the episode" in page.text
    largest = next(table for table in page.tables if table[0][0] == "feature")
    assert largest[1][0] == "red_z", "the feature with the largest standardised input comes first"


def test_open_loop_error_beside_its_baselines_and_for_what_moved(page):
    everything, moved = (table for table in page.tables if table[0][-1] == "linear, 50")
    drawer = next(row for row in everything if row[0] == "drawer")
    assert drawer[1] == "256"
    assert drawer[2:4] == ["0.006", "0.0016"], "first frame and last frame of the context"
    assert drawer[-3:] == ["0.013", "0.04", "0.12"], "model, constant, linear at 50 steps"
    drawer = next(row for row in moved if row[0] == "drawer")
    assert drawer[1:3] == ["23", "≥ 50"]
    assert drawer[-3:] == ["0.032", "0.1", "0.3"]
    assert any(row[0] == "tcp (cm)" for row in everything)
    tiles = re.findall(r"<strong>([^<]*)</strong>([^<]*)", page.source[page.source.index('id="world-model"') :])
    assert tiles == [
        ("31", "steps of usable horizon (1.0 s), limited by led"),
        *(("≥ 50", name) for name in ("tcp", "drawer", "slider")),
        ("31", "led"),
    ]
    assert ["led", "14 of 16", "3 of 240"] in next(table for table in page.tables if "flips foreseen" in table[0])


def test_more_updates_are_advised_where_many_held_hands_go_through(runs):
    path, advice = runs / "world_model/open_loop.json", "train the world model longer"
    data = json.loads(path.read_text())

    def shown(**contacts):
        path.write_text(json.dumps(data | {"contacts": contacts}))
        found = report(runs)
        return found.tables[[table[0][0] for table in found.tables].index("held chunks")][1], advice in found.text

    assert shown(held=412, through=0.31, free=512, stuck=0.03) == (["412", "31 %", "512", "3 %"], True)
    assert shown(held=412, through=0.24, free=512, stuck=0.03) == (["412", "24 %", "512", "3 %"], False)
    assert shown(held=5, through=0.4, free=512, stuck=0.03) == (["5", "40 %", "512", "3 %"], False)
    assert shown(held=0, through=None, free=0, stuck=None) == (["0", "–", "0", "–"], False)
    path.write_text(json.dumps(data | {"contacts": None}))
    assert "held chunks" not in report(runs).source


def test_open_loop_figures_of_an_older_version_have_no_usable_horizon_and_no_contacts(runs):
    path = runs / "world_model/open_loop.json"
    report_ = json.loads(path.read_text())
    del report_["usable"], report_["contacts"]
    for feature in report_["features"].values():
        del feature["usable"], feature["moved_curve"]
    path.write_text(json.dumps(report_))
    found = report(runs)
    assert "usable horizon" not in found.text
    assert "held chunks" not in found.source
    moved = next(table for table in found.tables if "usable steps" in table[0])
    assert {row[2] for row in moved[1:]} == {"–"}


def test_reward_at_its_threshold_and_its_false_alarms(page):
    table = next(table for table in page.tables if "precision" in table[0])
    play = table[2]
    assert play[1:] == ["play", "0.97", "95 %", "90 %", "98 %", "1 %", "30 / 70"]
    assert table[1][-2] == "–", "no failed demonstration, so no share"
    real = next(table for table in page.tables if table[0][1] == "policy" and "in failures" in table[0])
    assert ["open_drawer", "base", "42 of 42", "1 of 58"] in real


def test_the_reward_s_quality_stands_beside_the_paper_s_with_its_false_alarms(page):
    table = next(table for table in page.tables if "false alarms in real failures" in table[0])
    assert table[1] == ["move_slider_left", "95 %", "90 %", "95 %", "90 %", "2 of 52"], "base and fine-tuned"
    assert table[-3:-1] == [
        ["mean", "95 %", "90 %", "95 %", "90 %", ""],
        ["mean, threshold 0.5", "93 %", "95 %", "93 %", "95 %", ""],
    ]
    assert table[-1][:3] == ["paper's mean (Table S.4)", "89 %", "98 %"]


def test_preflight_warns_and_success_is_drawn_with_real_episodes(page):
    assert page.text.count("classifier and decoded scene disagree on the base policy (0.76 against 0.47)") == 3
    dots = re.findall(r"real: (\d+ %) at (\d+)", page.text)
    assert dots[3:6] == [("42 %", "0"), ("68 %", "20"), ("94 %", "60")], "open_drawer: base, kept iteration, last"
    assert page.charts > 30


def test_the_verdict_stands_beside_what_came(page):
    said = [dict(table) for table in page.tables if ["imagined, kept policy", "93 %"] in table]
    assert len(said) == 3, "one a task"
    drawer = said[1]
    assert (drawer["imagined, base policy"], drawer["real, kept policy"]) == ("55 %", "94 %")
    assert re.fullmatch(r"\d+ % \[\d+, \d+\]", drawer["to be expected of it"])
    kept = [row for table in page.tables if "left the recordings" in table[0] for row in table[1:] if row[-1] == "kept"]
    assert kept == [["40", "93 %", "8 %", "2.5", "kept"]] * 3
    assert page.text.count("Verdict: accept; iteration 40: 0.55 to 0.93 of imagined episodes succeed.") == 3


def test_same_runs_give_the_same_page(made, page):
    assert report(made).source == page.source


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("world_model/data.json", "world_model/data.json"),
        ("world_model/open_loop.json", "world_model/open_loop.json"),
        ("world_model/metrics.jsonl", "world_model/metrics.jsonl"),
        ("open_drawer/pretrained/metrics.jsonl", "open_drawer/pretrained/metrics.jsonl"),
        ("open_drawer/reward/reward.json", "open_drawer/reward/reward.json"),
        ("open_drawer/finetuned/preflight.json", "open_drawer/finetuned/preflight.json"),
        ("open_drawer/finetuned/metrics.jsonl", "open_drawer/finetuned/metrics.jsonl"),
        ("open_drawer/evaluation_base/evaluation.json", "evaluation_base of open_drawer"),
        ("open_drawer/evaluation_finetuned/evaluation.json", "evaluation_finetuned of open_drawer"),
        ("open_drawer/evaluation_base/videos/seed_100000.mp4", None),
    ],
)
def test_what_is_missing_is_named_and_the_rest_is_shown(runs, path, named):
    (runs / path).unlink()
    found = report(runs)
    assert [value for tag, name, value in found.attributes if (tag, name) == ("section", "id")]
    assert re.findall(r"Missing: [^;]*", found.text) == [] if named is None else f"Missing: {named}" in found.text


def test_only_a_world_model_is_a_report_already(runs):
    for task in TASKS:
        shutil.rmtree(runs / task)
    found = report(runs)
    assert "Training report of demo" in found.text
    assert found.text.count("Missing:") >= 5


def test_unfinished_run_with_a_cut_last_line_is_shown(runs):
    path = runs / "world_model" / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 4050, "lo')
    (runs / "world_model" / "summary.json").unlink()
    assert report(runs).charts > 30


def test_policies_on_different_starts_are_not_paired(runs):
    folder = runs / "open_drawer" / "evaluation_finetuned"
    shutil.rmtree(folder)
    write_evaluation(folder, "open_drawer", 0.9, 500, 100, 0)
    assert "other starts" in report(runs).text


def test_names_in_files_cannot_write_html(runs):
    data = json.loads((runs / "world_model" / "data.json").read_text())
    data["dropped"] = [{"bag": "<script>alert(1)</script>", "reason": "\"'<b>", "count": 1}]
    (runs / "world_model" / "data.json").write_text(json.dumps(data))
    (runs / "open_drawer" / "finetuned" / "config.yaml").write_text("seed: 0 # </pre><img src=x>")
    eyes = json.loads((runs / "eyes/eyes.json").read_text())
    eyes["worst"][0]["recording"] = "'><script>"
    (runs / "eyes/eyes.json").write_text(json.dumps(eyes))
    source = report(runs).source
    assert "<script" not in source
    assert "<img src" not in source


@pytest.mark.parametrize(
    "name", ["world_model/data.json", "open_drawer/evaluation_base/evaluation.json", "world_model/metrics.jsonl"]
)
def test_damaged_or_hostile_file_is_refused_by_name(runs, name):
    """F15 for the report: a pickle where JSON belongs does not run."""

    class Canary:
        def __reduce__(self):
            return (Path.touch, (runs / "it_ran",))

    (runs / name).write_bytes(pickle.dumps(Canary()) + b"\n{}\n")
    with pytest.raises(InputError, match=name):
        report(runs)
    assert not (runs / "it_ran").exists()


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("open_drawer/evaluation_base/evaluation.json", "episodes_detail"),
        ("open_drawer/reward/reward.json", "held_out"),
        ("open_drawer/finetuned/preflight.json", "by_threshold"),
        ("world_model/data.json", "features"),
        ("world_model/open_loop.json", "horizons"),
    ],
)
def test_an_old_or_incomplete_file_is_refused_by_name(runs, name, key):
    whole = json.loads((runs / name).read_text())
    (runs / name).write_text(json.dumps({other: value for other, value in whole.items() if other != key}))
    with pytest.raises(InputError, match=rf"{name}: lacks '{key}.*make it anew"):
        report(runs)
    (runs / name).write_text(json.dumps({**whole, "format_version": 99}))
    with pytest.raises(InputError, match=f"{name}: format 99, this DiWA reads 1"):
        report(runs)


def test_a_line_of_metrics_that_is_no_object_is_named(runs):
    path = runs / "world_model" / "metrics.jsonl"
    path.write_text("[1, 2]\n" + path.read_text())
    with pytest.raises(InputError, match=r"metrics.jsonl: line 1 is no JSON object"):
        report(runs)


@pytest.mark.parametrize("make", [lambda _: None, Path.mkdir])
def test_folder_without_runs_is_refused(tmp_path, make):
    make(tmp_path / "nothing")
    with pytest.raises(InputError, match="nothing"):
        run(ReportConfig(tmp_path / "nothing", tmp_path / "report.html"))
    assert not (tmp_path / "report.html").exists()


def test_disk_that_refuses_leaves_the_old_page(runs, monkeypatch):
    report(runs)
    before = (runs.parent / "report.html").read_bytes()

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(StorageError, match="No space left"):
        report(runs)
    assert (runs.parent / "report.html").read_bytes() == before
