"""The verb that says what to expect: from imagination alone, with a tally, with evaluations."""

import json
import math

import pytest

from diwa_runtime.errors import ConfigError, InputError
from diwa_runtime.spec import Spec
from diwa_trainer.policy.diffusion import DiffusionConfig, DiffusionPolicy
from diwa_trainer.policy.verdict import Candidate, Verdict
from diwa_trainer.runs.run import write_json
from diwa_trainer.runs.trained import FINETUNED, load_policy, save_policy
from diwa_trainer.verbs import verdict
from diwa_trainer.verbs.verdict import VerdictConfig

BASE, CHOSEN = Candidate(0, 0.5, 0.1, 0.0), Candidate(40, 0.9, 0.1, 3.0)


@pytest.fixture
def finetuned(tmp_path):
    folder = tmp_path / "finetuned"
    folder.mkdir()
    said = Verdict("accept", "0.50 to 0.90", CHOSEN, (BASE, CHOSEN)).to_json()
    write_json(folder / "verdict.json", {"format_version": 1, **said})
    return folder


def evaluation(folder, successes, episodes=20, provenance: dict | None = {}):  # noqa: B006
    folder.mkdir()
    detail = [{"seed": n, "success": n < successes, "length": 5} for n in range(episodes)]
    counts = {"successes": successes, "episodes": episodes, "interval95": [0, 1], "mean_length": 5.0}
    about = {"environment": {}, "seeds": list(range(episodes)), "episodes_detail": detail}
    about |= {"policy": "bundle" if provenance is not None else "random"}
    about["bundle"] = None if provenance is None else {"sha256": "ef" * 32, "provenance": provenance}
    write_json(folder / "evaluation.json", {"format_version": 1, **counts, **about})
    return str(folder)


def said(finetuned, tmp_path, **given):
    verdict.run(VerdictConfig(finetuned, output=tmp_path / "said.json", **given))
    return json.loads((tmp_path / "said.json").read_text())


def test_without_real_episodes_it_says_what_imagination_said(finetuned, tmp_path, capsys):
    found = said(finetuned, tmp_path)
    assert found["rate"] == pytest.approx(0.9)
    assert (found["decision"], found["warnings"]) == ("accept", [])
    assert "accept; 0.50 to 0.90" in capsys.readouterr().out


def test_a_tally_and_an_evaluation_say_the_same(finetuned, tmp_path, capsys):
    counted = said(finetuned, tmp_path, real="12/20", base_real="14/20")
    folder = said(finetuned, tmp_path, real=evaluation(tmp_path / "a", 12), base_real=evaluation(tmp_path / "b", 14))
    file = said(finetuned, tmp_path, real=str(tmp_path / "a" / "evaluation.json"), base_real="14/20")
    assert counted == folder == file
    assert 0.6 < counted["rate"] < 0.8
    assert counted["interval95"][0] < counted["rate"] < counted["interval95"][1]
    assert "14 of 20" in counted["warnings"][0]
    assert "warning: imagined (0.50) and real (14 of 20)" in capsys.readouterr().out


def test_an_evaluation_of_another_policy_is_refused(finetuned, tmp_path):
    about = {"policy": "aa" * 32, "world_model": "cc" * 32, "task": "open_drawer", "iterations": 40, "latent_size": 8}
    save_policy(finetuned, FINETUNED, DiffusionPolicy(DiffusionConfig(), 8), Spec(scene=(), tasks=()), about)
    kept = load_policy(finetuned, FINETUNED, "finetune")[1].sha256
    ours = evaluation(tmp_path / "kept", 12, provenance={"policy": "aa" * 32, "finetuned": kept})
    base = evaluation(tmp_path / "base", 14, provenance={"policy": "aa" * 32, "finetuned": None})
    other = evaluation(tmp_path / "other", 14, provenance={"policy": "bb" * 32, "finetuned": None})

    counted = said(finetuned, tmp_path, real="12/20", base_real="14/20")
    assert said(finetuned, tmp_path, real=ours, base_real=base) == counted
    for given, place in (({"real": base}, "base"), ({"base_real": ours}, "kept"), ({"base_real": other}, "other")):
        (name,) = given
        with pytest.raises(InputError, match=f"{place}: is no evaluation of the (kept|base) policy .* as {name}$"):
            said(finetuned, tmp_path, **given)


@pytest.mark.parametrize("name", ["real", "base_real"])
def test_an_evaluation_of_what_is_no_bundle_is_refused(finetuned, tmp_path, name):
    random = evaluation(tmp_path / "random", 0, provenance=None)

    with pytest.raises(
        InputError, match=f"random: is an evaluation of 'random', not of a bundle; name a bundle's as {name}$"
    ):
        said(finetuned, tmp_path, **{name: random})


@pytest.mark.parametrize("tally", ["21/20", "0/0", "1/9999999"])
def test_an_impossible_tally_is_refused(finetuned, tmp_path, tally):
    with pytest.raises(ConfigError, match=f"base_real is {tally}"):
        said(finetuned, tmp_path, base_real=tally)


def test_what_is_no_evaluation_and_what_is_not_ours_is_refused(finetuned, tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        said(finetuned, tmp_path, real=str(tmp_path / "nowhere"))
    (tmp_path / "mine.json").write_text("mine")
    with pytest.raises(InputError, match=r"mine\.json: is there already"):
        verdict.run(VerdictConfig(finetuned, output=tmp_path / "mine.json"))
    (finetuned / "verdict.json").write_text('{"decision": "accept"}')
    with pytest.raises(InputError, match=r"verdict\.json"):
        said(finetuned, tmp_path)


@pytest.mark.parametrize(
    ("name", "value"), [("success", 7), ("outside", -1), ("iteration", -1), ("kl", None), ("kl", math.nan)]
)
def test_a_damaged_verdict_is_named_and_one_that_says_more_is_read(finetuned, tmp_path, name, value):
    file = finetuned / "verdict.json"
    data = json.loads(file.read_text())
    data["chosen"]["members"] = 3
    file.write_text(json.dumps(data))
    assert said(finetuned, tmp_path)["decision"] == "accept"
    data["chosen"][name] = value
    file.write_text(json.dumps(data))
    with pytest.raises(InputError, match=r"verdict\.json"):
        said(finetuned, tmp_path)
