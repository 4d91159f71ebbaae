"""The page about the policy node's runs counts them, draws them, and refuses logs that it cannot read."""

import re

import pytest
from parsed_page import Page
from synthetic_logs import NO_DROPS, decision, rewrite, shadow_decisions, write_log
from synthetic_runs import write_runs

from diwa_runtime.errors import InputError
from diwa_runtime.robot import Outcome
from diwa_trainer.__main__ import main
from diwa_trainer.report.charts import histogram
from diwa_trainer.report.run_logs import NO_END, read_run
from diwa_trainer.report.scales import Axis
from diwa_trainer.verbs.report import ReportConfig, run


def report(folder) -> Page:
    run(ReportConfig(folder, folder.parent / "policy.html"))
    return Page((folder.parent / "policy.html").read_text(encoding="utf-8"))


def rows(page, first):
    """The table that begins with this heading, as dicts by heading."""
    head, *body = next(table for table in page.tables if table[0][0] == first)
    return [dict(zip(head, row, strict=True)) for row in body]


def ids(page):
    return [value for tag, name, value in page.attributes if (tag, name) == ("section", "id")]


def write_mixed(folder) -> None:
    """Nine successes, two timeouts, a fault, of two skills."""
    for minute in range(9):
        write_log(folder, Outcome.SUCCESS, started=f"20260131T12{minute:02d}00.000000Z")
    for minute in (20, 21):
        write_log(folder, Outcome.TIMEOUT, "close_drawer", started=f"20260131T12{minute}00.000000Z")
    slow = [decision(tick, inference_s=0.08, observation_age_s=0.12) for tick in (1, 2, 3)]
    dropped = NO_DROPS | {"held": 1, "missing": 2, "faulty": 3}
    write_log(
        folder,
        Outcome.FAULT,
        decisions=slow,
        started="20260131T123000.000000Z",
        reason="no observation",
        dropped=dropped,
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy") / "logs"
    write_mixed(folder)
    return report(folder)


def test_title_and_tiles_say_what_was_found(page):
    assert "12 runs of 2 skills: 9 success, 2 timeout, 1 fault" in page.text
    # 11 runs of 21 ticks and one of 4, at 30 Hz; three answers of 223 came after more than 0.1 s.
    assert "8 s robot time, 235 steps" in page.text
    assert "3 late answers of 223" in page.text
    assert "1 / 2 / 3 rows held, missing, faulty" in page.text
    assert "4.0 ms inference, median; largest 80.0 ms" in page.text
    assert "120.0 ms oldest observation" in page.text


def test_success_by_skill_has_wilsons_interval(page):
    closed, opened = rows(page, "skill")
    assert (closed["skill"], closed["runs"], closed["timeout"]) == ("close_drawer", "2", "2")
    assert (opened["bundle"], opened["success"], opened["fault"]) == ("aaaaaaaa", "9", "1")
    assert opened["share of success"] == "90 % (9/10)"
    assert opened["95 % interval"] == "60 to 98 %"
    assert opened["median time to success"] == "0.70 s"


def test_every_run_has_its_row_the_newest_first(page):
    table = rows(page, "started (UTC)")
    assert len(table) == 12
    newest = table[0]
    assert newest["started (UTC)"] == "2026-01-31 12:30:00"
    assert [newest[name] for name in ("skill", "outcome", "seed", "steps", "robot s", "late", "reason")] == [
        *("open_drawer", "fault", "7", "4", "0.13", "3", "no observation")
    ]
    assert newest["held / missing / faulty rows"] == "1 / 2 / 3"
    assert newest["inference ms median / largest"] == "80.0 / 80.0"
    assert newest["oldest obs., ms"] == "120.0"
    assert newest["velocity, m/s seams / within"].startswith("– / "), "three ticks have no seam"
    assert table[-1]["seams"] == "4"
    # At seams z goes on by 0.1 of 0.02 m in 1/30 s; the largest change within is the first tick's, from standstill.
    assert table[-1]["velocity, m/s seams / within"] == "0.06 / 0.43"


def test_newest_run_of_each_skill_and_every_fault_are_drawn(page):
    titles = [word for word in page.words if word.strip() in ("Translation", "TCP position", "Change of the latent")]
    assert len(titles) == 3 * 2, "of the fault, which is open_drawer's newest, and of close_drawer's newest"
    assert "open_drawer, 2026-01-31 12:30:00, seed 7: fault; charts above" in page.text
    assert page.charts == 2 + 6 * 2
    # 3 ticks with one chunk, 20 ticks with five, on six charts each.
    assert page.source.count('class="mark"') == 6 * (1 + 5)
    assert "probability, threshold over s" in page.source


def test_page_needs_nothing_from_outside(page):
    for tag, name, value in page.attributes:
        if name in ("src", "href", "srcset", "data", "action", "poster"):
            assert value.startswith("#"), (tag, name, value)
    assert re.findall(r"https?:|//[\w.]+|url\(|@import|<script|<link|<iframe|src=", page.source) == []
    assert "default-src 'none'" in page.source
    links = [value for tag, name, value in page.attributes if (tag, name) == ("a", "href")]
    assert links == [f"#{identifier}" for identifier in ids(page)]


def test_sections_without_content_are_left_out(page, tmp_path):
    assert "shadow" not in ids(page)
    write_log(tmp_path / "logs")
    found = report(tmp_path / "logs")
    assert "faults" not in ids(found)
    assert "1 run of open_drawer: 1 success" in found.text


@pytest.mark.parametrize("outcome", [Outcome.FAULT, Outcome.BLOCKED])
def test_older_fault_is_drawn_too(tmp_path, outcome):
    write_log(tmp_path / "logs", outcome, started="20260131T110000.000000Z")
    write_log(tmp_path / "logs")
    assert report(tmp_path / "logs").charts == 2 + 6 * 2


def test_late_answers_are_a_runs_own(tmp_path):
    """The runner's count goes on from goal to goal, and stands in the end line."""
    write_log(tmp_path / "logs", late=40)
    assert rows(report(tmp_path / "logs"), "started (UTC)")[0]["late"] == "0"


@pytest.mark.parametrize("cut", ["", '{"kind": "step", "stamp_ns": 10000', '{"kind": "e\xe4'])
def test_log_of_a_killed_process_is_read_up_to_the_cut_and_named(tmp_path, cut):
    path = write_log(tmp_path / "logs", None)
    path.write_bytes(path.read_bytes() + cut.encode("latin-1"))
    assert len(read_run(path).steps) == 20
    found = report(tmp_path / "logs")
    assert "1 run of open_drawer: 1 without an end" in found.text
    assert f"{path.name}: {NO_END}" in found.text
    row = rows(found, "started (UTC)")[0]
    assert [row[name] for name in ("outcome", "steps", "seams", "reason")] == ["without an end", "20", "–", NO_END]
    assert rows(found, "skill")[0]["share of success"] == "0 % (0/1)"


def test_last_line_that_lacks_only_its_line_break_counts(tmp_path):
    path = write_log(tmp_path / "logs")
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert read_run(path).outcome is Outcome.SUCCESS


def test_run_that_never_began_has_no_figures(tmp_path):
    write_log(tmp_path / "logs", Outcome.REFUSED, decisions=[])
    found = report(tmp_path / "logs")
    assert "No run decided anything." in found.text
    row = rows(found, "started (UTC)")[0]
    assert row["inference ms median / largest"] == "–"
    assert row["jerk, m/s³ seams / within"] == "–"


def test_shadow_runs_are_set_beside_standing_still_and_are_no_success(tmp_path):
    write_log(tmp_path / "logs", shadow=True, decisions=shadow_decisions())
    found = report(tmp_path / "logs")
    assert "Shadow runs only" in found.text
    row = rows(found, "started (UTC)")[0]
    assert list(row.values())[1:] == ["open_drawer (shadow)", "9", "4.00", "12.00", "0.0300", "0.0100", "100 %"]
    assert "Translation apart: policy, standing still, mean over s" in found.source
    assert found.charts == 2 + 6 + 2


def test_shadow_run_without_an_end_is_drawn_without_its_means(tmp_path):
    write_log(tmp_path / "logs", None, shadow=True, decisions=shadow_decisions())
    assert "Translation apart: policy over s" in report(tmp_path / "logs").source


def test_goal_of_several_skills_is_a_row_of_its_own(tmp_path):
    both = [decision(tick) for tick in (1, 2)] + [decision(tick, "close_drawer") for tick in (3, 4)]
    write_log(tmp_path / "logs", Outcome.SUCCESS, "open_drawer", "close_drawer", decisions=both)
    found = report(tmp_path / "logs")
    assert rows(found, "skill")[0]["skill"] == "open_drawer, then close_drawer"
    assert found.charts == 2 + 6, "drawn once, though it is the newest of both"


@pytest.mark.parametrize(
    ("number", "changed", "named"),
    [
        (1, {"format_version": 2}, "format_version is 2"),
        (1, {"kind": "step"}, "does not start a run"),
        (1, {"started": "today"}, "today"),
        (1, {"rate_hz": 0}, "rate_hz"),
        (1, {"thresholds": {}}, "'open_drawer' is missing"),
        (1, {"limits": None}, "'limits' is missing"),
        (3, {"kind": "stop"}, "neither step nor end"),
        (3, {"probability": None}, "'probability' is missing"),
        (3, {"probability": "high"}, "not a finite number"),
        (3, {"probability": float("nan")}, "not a finite number"),
        (3, {"action": [0] * 6}, "'action' has 6 values"),
        (3, {"position": [0, 0, True]}, "'position' is True"),
        (3, {"skill": "fly"}, "'fly'"),
        (3, {"kind": "end"}, "'seams' is missing"),
        (22, {"outcome": "WON"}, "'WON' is not known"),
        (22, {"seams": {"count": 1}}, "'at_seams' is missing"),
        (22, {"divergence": 3}, "'ticks' is missing"),
    ],
)
def test_line_that_cannot_be_read_is_named(tmp_path, number, changed, named):
    path = write_log(tmp_path / "logs")
    rewrite(path, number, **changed)
    with pytest.raises(InputError, match=f"{path.name}: line {number} .*{named}"):
        report(tmp_path / "logs")
    assert not (tmp_path / "policy.html").exists()


@pytest.mark.parametrize(
    ("spoil", "number"),
    [
        (lambda _: [], 1),
        (lambda lines: [lines[0][:40]], 1),
        (lambda lines: [lines[0], lines[1][:40], *lines[2:], b""], 2),
        (lambda lines: [*lines[:5], b"", *lines[5:], b""], 6),
        (lambda lines: [*lines[:5], b"[1]", *lines[5:], b""], 6),
        (lambda lines: [*lines[:9], lines[9][:40], b""], 10),
        (lambda lines: [*lines, lines[1], b""], 23),
        (lambda lines: [*lines[:3], b"\xff\xfe", *lines[3:], b""], 4),
    ],
)
def test_damaged_file_is_refused_in_one_line_with_exit_code_2(tmp_path, capsys, spoil, number):
    path = write_log(tmp_path / "logs")
    path.write_bytes(b"\n".join(spoil(path.read_bytes().splitlines())))
    assert main(["report", "--runs", str(tmp_path / "logs"), "--output", str(tmp_path / "policy.html")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"{path.name}: line {number} " in said


def test_kind_of_folder_is_recognised(tmp_path):
    write_runs(tmp_path / "demo", episodes=4, videos=0)
    write_log(tmp_path / "logs")
    write_log(tmp_path / "demo")
    assert "points of success on 3 tasks" in report(tmp_path / "demo").text
    assert "1 run of open_drawer" in report(tmp_path / "logs").text


def test_folder_of_neither_kind_is_refused(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("nothing")
    with pytest.raises(InputError, match=r"other: holds neither a pipeline's runs .* nor run logs"):
        report(tmp_path / "other")


def test_texts_in_logs_cannot_write_html(tmp_path):
    write_log(tmp_path / "logs", Outcome.FAULT, reason="<script>alert(1)</script><img src=x>")
    source = report(tmp_path / "logs").source
    assert "<script" not in source
    assert "<img" not in source


def test_histogram_counts_every_value_where_it_lies():
    drawn = histogram("ages", [1, 1, 2, 5, 100], Axis("ms", log=True), "decisions", limit=("late", 50))
    counts = [int(count) for count in re.findall(r": (\d+)</title></rect>", drawn)]
    assert counts == [2, 1, 1, 1]
    assert "late" in drawn
    assert "no values" in histogram("ages", [], Axis("ms"), "decisions")
