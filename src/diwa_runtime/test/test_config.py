from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diwa_runtime.config import check_between, check_bounds, config_from, load_config, to_yaml
from diwa_runtime.errors import ConfigError


@dataclass(frozen=True)
class Ppo:
    """How the policy is improved."""

    clip: float = 0.01  # ratio clip at the last denoising step
    epochs: int = 5
    hidden: tuple[int, ...] = (256, 256)


@dataclass(frozen=True)
class Finetune:
    """Fine-tune a policy in imagination."""

    data: Path
    # Adam's step size,
    # for the actor
    learning_rate: float = 1e-4
    task: str = "open_drawer"
    reward: Literal["classifier", "decoded"] = "classifier"
    limit: int | None = None
    """steps of an episode; none = the task's own"""
    video: bool = True
    betas: tuple[float, float] = (0.9, 0.999)
    ppo: Ppo = field(default_factory=Ppo, metadata={"help": "not shown"})
    critic: Ppo | None = None
    weights: dict[str, float] = field(default_factory=dict, metadata={"help": "weight of each term"})
    stages: tuple[Ppo, ...] = ()
    bags: tuple[Path, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, dict[str, int]] = field(default_factory=dict)
    words: tuple[str, ...] = ()


BASE = ["--data", "d"]
PRESETS = {"tiny": {"learning_rate": 0.5, "ppo": {"epochs": 1}}}


def load(*argv: str) -> Finetune:
    return load_config(Finetune, [*BASE, *argv], PRESETS)


def written(tmp_path: Path, text: str, name: str = "a.yaml") -> str:
    path = tmp_path / name
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("argv", "name", "expected"),
    [
        (["--learning-rate", "1e-3"], "learning_rate", 1e-3),
        (["--learning_rate=1e-3"], "learning_rate", 1e-3),
        (["--task", "turn_on_led"], "task", "turn_on_led"),
        (["--task", "5"], "task", "5"),
        (["--reward", "decoded"], "reward", "decoded"),
        (["--limit", "96"], "limit", 96),
        (["--limit", "1e3"], "limit", 1000),
        (["--limit", "none"], "limit", None),
        (["--no-video"], "video", False),
        (["--video", "false"], "video", False),
        (["--video"], "video", True),
        (["--betas", "0.5", "0.6"], "betas", (0.5, 0.6)),
        (["--betas=-0.5,0.6"], "betas", (-0.5, 0.6)),
        (["--ppo.clip", "0.2"], "ppo", Ppo(clip=0.2)),
        (["--ppo.hidden", "[64]"], "ppo", Ppo(hidden=(64,))),
        (["--ppo.hidden", "64", "32", "--ppo.epochs", "2"], "ppo", Ppo(hidden=(64, 32), epochs=2)),
        (["--critic.epochs", "3"], "critic", Ppo(epochs=3)),
        (["--data", "x/y"], "data", Path("x/y")),
        (["--words", "[a, b]"], "words", ("a", "b")),
        (["--weights.a", "1", "--weights.b=-2"], "weights", {"a": 1.0, "b": -2.0}),
        (["--kwargs.start", "far"], "kwargs", {"start": "far"}),
        (["--kwargs.turned-deg", "1.2", "--kwargs.draws=false"], "kwargs", {"turned_deg": 1.2, "draws": False}),
        (["--kwargs.size", "[480, 640]", "--kwargs.a.b", "3"], "kwargs", {"size": [480, 640], "a": {"b": 3}}),
        (["--kwargs.start", "none", "--kwargs.table", "{legs: 4}"], "kwargs", {"start": "none", "table": {"legs": 4}}),
        (["--parts.led.rate", "3"], "parts", {"led": {"rate": 3}}),
        *[
            (["--bags", name], "bags", (Path(name),))
            for name in ("bags (copy)", "monday, am", "[old]", "a*b", "none", "new\nline", "\udcff", "(x", "C:\\a,b")
        ],
        (["--bags", "a, b", "[c]"], "bags", (Path("a, b"), Path("[c]"))),
        (["--bags=[c]"], "bags", (Path("[c]"),)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_flags_set_typed_fields(argv: list[str], name: str, expected: Any) -> None:
    value = getattr(load(*argv), name)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--learning-rat", "1"], "unknown flag --learning-rat; did you mean '--learning-rate'"),
        (["--ppo.clp", "1"], "did you mean '--ppo.clip'"),
        (["--ppo", "1"], "unknown flag --ppo"),
        (["--learning-rate", "fast"], "--learning-rate: 'fast' is not a number"),
        (["--learning-rate", "nan"], "'nan' is not a number"),
        (["--limit", "1.5"], "'1.5' is not a whole number or none"),
        (["--reward", "decode"], "'decode' is not one of classifier, decoded; did you mean 'decoded'"),
        (["--betas", "1"], r"--betas: \['1'\] is not a list of 2"),
        (["--ppo.hidden", "64", "big"], r"--ppo.hidden\[1\]: 'big' is not a whole number"),
        (["--video", "maybe"], "'maybe' is not true or false"),
        (["--task", "a", "b"], "--task: takes one value, not 2"),
        (["--task"], "--task: a value is missing"),
        (["--preset", "tny"], "no preset 'tny'; did you mean 'tiny'"),
        (["--config", "no/such.yaml"], "no/such.yaml: cannot be read"),
        (["--config", "/"], "/: cannot be read .Is a directory"),
        (["--config", "/dev/zero"], "/dev/zero: cannot be read .not a regular file"),
        (["--data", "a\0b"], "is not a path"),
        (["--weights", "{a: 1}"], "--weights: is set entry by entry, as in --weights.NAME VALUE"),
        (["--weights"], "--weights: is set entry by entry"),
        (["--weights.a", "heavy"], "--weights.a: 'heavy' is not a number"),
        (["--weights.a.b", "1"], "unknown flag --weights.a.b; did you mean '--weights'"),
        (["--weights.", "1"], "unknown flag --weights."),
        (["--parts.led", "3"], "--parts.led: is set entry by entry"),
        (["--kwargs.size", "1", "2"], "--kwargs.size: takes one value, not 2"),
        (["--kwargs.size", "[1"], "--kwargs.size: not YAML"),
        (["--limit", "9" * 5000], r"'9{76}\.\.\. is not a whole number"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_flags_are_one_line_that_says_what_was_meant(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        load(*argv)
    assert "\n" not in str(error.value)


def test_words_that_belong_to_no_flag_are_refused() -> None:
    with pytest.raises(ConfigError, match="'extra' belongs to no flag"):
        load_config(Finetune, ["extra"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat: 1", "unknown setting 'learning_rat'; did you mean 'learning_rate'"),
        ("ppo: {clp: 1}", "unknown setting 'ppo.clp'; did you mean 'clip'"),
        ("ppo: 3", "'ppo' must be a mapping of settings, not 3"),
        ("ppo: {epochs: true}", "ppo.epochs: True is not a whole number"),
        ("task: 3", "task: 3 is not a text"),
        ("stages: [{clp: 1}]", r"stages\[0\]: unknown setting 'clp'"),
        ("weights: {a: b}", "weights.a: 'b' is not a number"),
        ("- 1", "must be a mapping of settings, not list"),
        ("a: [1", "not YAML"),
        ("task: a\ntask: b", "'task' is given twice"),
        ("ppo: {clip: 1, 'clip': 2}", "'clip' is given twice"),
        ("ppo: {<<: 3}", "not YAML"),
        ("task: &a [*a]", "an alias lies within what it names"),
        ("task: 2024-99-99", "not YAML .month must be in 1..12"),
        ("task: !!int nothing", "not YAML"),
        ("task: !!bool nothing", "not YAML"),
        ("task: !!timestamp nothing", "not YAML"),
        ("task: !!python/name:os.system", "not YAML"),
        ("task: " + "[" * 5000, "not YAML"),
        ("task: " + "1" * 5000, "not YAML"),
        ("task: a\0b", "not YAML"),
        ("? [a]\n: b", "not YAML"),
        ("task: " + "x" * (1 << 20), "not YAML .larger than"),
    ],
)
def test_wrong_files_are_one_line_that_names_the_file(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError, match=message) as error:
        load("--config", path)
    assert str(error.value).startswith(path)
    assert "\n" not in str(error.value)


BOMBS = {
    "lists": ["x: &a0 [1, 1, 1, 1]", *(f"y{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))],
    "merges": ["x: &a0 {k: 1}", *(f"y{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 12))],
}


@pytest.mark.parametrize("lines", BOMBS.values(), ids=BOMBS)
def test_aliases_that_stand_for_billions_are_refused(tmp_path: Path, lines: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"a.yaml: not YAML \(more than 100000 values"):
        load("--config", written(tmp_path, "\n".join(lines)))


def test_a_file_that_is_no_text_or_a_pipe_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"task: \xff")
    os.mkfifo(tmp_path / "b.yaml")
    for name, message in (("a.yaml", "not YAML .*utf-8"), ("b.yaml", "cannot be read .*pipe")):
        with pytest.raises(ConfigError, match=f"{name}: {message}"):
            load("--config", str(tmp_path / name))


def test_aliases_and_merge_keys_work_as_yaml_says(tmp_path: Path) -> None:
    """The first of several merged mappings wins, and a mapping's own keys win over all."""
    text = "weights: &w {a: 1, b: 2}\nstages: [&p {epochs: 7}]\nppo: {<<: [*p, {epochs: 8, clip: 0.5}], clip: 0.25}"
    config = load("--config", written(tmp_path, text))
    assert config.ppo == Ppo(clip=0.25, epochs=7)
    assert load("--config", written(tmp_path, f"{text}\ncritic: *p")).critic == Ppo(epochs=7)


@dataclass(frozen=True)
class Bounded:
    count: int | None = 3
    share: float = 0.5
    levels: tuple[float, ...] = (0.5,)

    def __post_init__(self) -> None:
        check_bounds(self, count=(1, 10), share=(0, 1), levels=(0, 1))
        check_between(self, share=(-1, 2))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"count": 11}, "count is 11, must be at most 10"),
        ({"count": 10**40}, r"count is 10{20}\.\.\., must be at most 10"),
        ({"share": math.nan}, "share is nan, must be at least 0 and a number"),
        ({"share": math.inf}, "share is inf, must be at most 1"),
        ({"share": -math.inf}, "share is -inf, must be at least 0"),
        ({"levels": (0.5, math.nan)}, "levels is nan"),
        ({"levels": (0.5, 2.0)}, "levels is 2.0, must be at most 1"),
    ],
)
def test_a_number_out_of_its_bounds_is_named_with_its_value(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Bounded(**setting)
    assert Bounded(count=None).count is None


def test_a_later_layer_wins_and_leaves_its_neighbours(tmp_path: Path) -> None:
    base = written(tmp_path, "preset: tiny\nlearning_rate: 0.25\nppo: {hidden: [8]}")
    over = written(tmp_path, "ppo: {clip: 1e-3}", "b.yaml")
    config = load("--config", base, over, "--ppo.clip", "0.5", "--ppo.clip", "0.75")
    assert config.learning_rate == 0.25
    assert config.ppo == Ppo(clip=0.75, epochs=1, hidden=(8,))


def test_a_flag_adds_an_entry_to_the_mapping_of_a_file(tmp_path: Path) -> None:
    path = written(tmp_path, "kwargs: {start: far, light: 0.7}\nweights: {a: 1}")
    config = load("--config", path, "--kwargs.light", "1.4", "--weights.b", "2")
    assert config.kwargs == {"start": "far", "light": 1.4}
    assert config.weights == {"a": 1.0, "b": 2.0}


def test_the_preset_flag_wins_over_the_file_that_names_one(tmp_path: Path) -> None:
    path = written(tmp_path, "preset: tiny")
    config = load_config(Finetune, [*BASE, "--config", path, "--preset", "big"], {**PRESETS, "big": {"limit": 7}})
    assert (config.limit, config.learning_rate) == (7, 1e-4)


def test_what_is_put_over_by_dotted_name_wins_and_is_named_where_it_cannot_be(tmp_path: Path) -> None:
    path = written(tmp_path, "ppo: {epochs: 2, clip: 0.5}\nkwargs: {start: far}")
    over = {"ppo.epochs": 9, "kwargs.light": 1.4}
    config = load_config(Finetune, [*BASE, "--config", path, "--ppo.epochs", "3"], PRESETS, over)
    assert (config.ppo.epochs, config.ppo.clip, config.kwargs) == (9, 0.5, {"start": "far", "light": 1.4})
    with pytest.raises(ConfigError, match=r"^the sweep: unknown setting 'ppo.epoch'; did you mean"):
        load_config(Finetune, [*BASE, "--config", path], PRESETS, {"ppo.epoch": 9}, "the sweep")


def test_a_missing_setting_names_its_flag() -> None:
    with pytest.raises(ConfigError, match="'data' is missing; give --data"):
        load_config(Finetune, [])


def test_part_of_a_larger_file_makes_a_config() -> None:
    config = config_from(Finetune, {"data": "d", "stages": [{"epochs": 2}], "critic": None}, "demo.yaml: finetune")
    assert config.stages == (Ppo(epochs=2),)
    with pytest.raises(ConfigError, match=r"demo.yaml: finetune: unknown setting 'dta'; did you mean 'data'"):
        config_from(Finetune, {"dta": "d"}, "demo.yaml: finetune")


@given(
    config=st.builds(
        Finetune,
        data=st.just(Path("a/b")),
        learning_rate=st.floats(allow_nan=False),
        task=st.text(st.characters(exclude_categories=("Cs", "Cc"))),
        limit=st.none() | st.integers(),
        video=st.booleans(),
        ppo=st.builds(Ppo, clip=st.floats(0, 1), hidden=st.lists(st.integers()).map(tuple)),
        critic=st.none() | st.builds(Ppo),
        weights=st.dictionaries(st.sampled_from("abc"), st.floats(-1, 1)),
        stages=st.lists(st.builds(Ppo), max_size=2).map(tuple),
    )
)
def test_the_resolved_config_is_read_back_equal(config: Finetune, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    path.write_text(to_yaml(config), encoding="utf-8")
    assert load_config(Finetune, ["--config", str(path)]) == config


def test_help_shows_every_setting_with_its_default_and_comment(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        load("--help")
    page = capsys.readouterr().out
    assert end.value.code == 0
    for expected in (
        "Fine-tune a policy in imagination.",
        "--data Path  (must be given)",
        "--learning-rate float  (default 0.0001)\n      Adam's step size, for the actor",
        "--limit int | None  (default None)\n      steps of an episode; none = the task's own",
        "--ppo.clip float  (default 0.01)\n      ratio clip at the last denoising step",
        "--weights.NAME float  (default {})\n      weight of each term",
        "--parts.NAME.NAME int  (default {})",
        "a named set of settings: tiny",
    ):
        assert expected in page


@dataclass(frozen=True)
class Collect:
    """Collect play.

    Attributes:
        steps: how many in all,
            over every bag.
        noise: of the actions.

    Seeds repeat.
    """

    steps: int = 4
    noise: float = 0.1  # standard deviation


def test_help_reads_the_attributes_of_the_docstring(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load_config(Collect, ["-h"])
    page = capsys.readouterr().out
    assert page.startswith("Collect play.\n\n  --config")
    assert "--steps int  (default 4)\n      how many in all, over every bag.\n" in page
    assert "--noise float  (default 0.1)\n      standard deviation" in page


@pytest.mark.parametrize("value", [0.0, 1.0, float("nan")])
def test_what_must_lie_between_bounds_may_be_neither(value: float) -> None:
    with pytest.raises(ConfigError, match=r"threshold is .*, must be above 0 and below 1"):
        check_between(SimpleNamespace(threshold=value), threshold=(0, 1))
    check_between(SimpleNamespace(threshold=0.5), threshold=(0, 1))
