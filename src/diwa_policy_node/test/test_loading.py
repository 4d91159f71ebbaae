"""A folder of bundles becomes the skills of a robot, or says why not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from toy_bundle import ToyWeights, toy_graphs, toy_manifest

from diwa_policy_node.skills.loading import load_skills, verdict_of, warm_up
from diwa_runtime.bundle import Bundle, write_bundle
from diwa_runtime.errors import BundleError, SpecMismatchError
from diwa_runtime.spec import Spec


def write(folder: Path, skill: str, spec: Spec | None = None) -> Path:
    spec = spec or Spec()
    manifest = replace(toy_manifest(spec, 4), skill=skill)
    write_bundle(folder, manifest, toy_graphs(spec, ToyWeights.random(spec, 4)))
    return folder


def test_bundles_are_found_by_themselves_and_in_a_folder(tmp_path: Path) -> None:
    write(tmp_path / "several" / "a", "open_drawer")
    write(tmp_path / "several" / "b", "close_drawer")
    one = write(tmp_path / "one", "turn_on_led")
    skills = load_skills([tmp_path / "several", one])
    assert {name: bundle.manifest.skill for name, bundle in skills.items()} == {
        "open_drawer": "open_drawer", "close_drawer": "close_drawer", "turn_on_led": "turn_on_led",
    }  # fmt: skip
    assert warm_up(skills["open_drawer"]) > 0


@pytest.mark.parametrize(
    ("verdict", "trusted", "said"),
    [
        (None, True, ""),
        (
            {"decision": "accept", "why": "0.5 to 0.9"},
            True,
            "open_drawer: verdict of its fine-tuning: accept; 0.5 to 0.9",
        ),
        (
            {"decision": "collect", "why": "leaves\nit"},
            False,
            "open_drawer: verdict of its fine-tuning: collect; leaves it",
        ),
        ({"decision": "reject", "why": "no"}, False, "open_drawer: verdict of its fine-tuning: reject; no"),
    ],
)
def test_what_fine_tuning_thought_of_a_policy_is_said(
    tmp_path: Path, verdict: object, trusted: bool, said: str
) -> None:
    spec = Spec()
    manifest = replace(toy_manifest(spec, 4), skill="open_drawer", provenance={"verdict": verdict})
    write_bundle(tmp_path / "a", manifest, toy_graphs(spec, ToyWeights.random(spec, 4)))
    assert verdict_of(Bundle.load(tmp_path / "a")) == (trusted, said)


def test_two_bundles_for_one_skill_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a", "open_drawer")
    write(tmp_path / "b", "open_drawer")
    with pytest.raises(BundleError, match=r"b: is for 'open_drawer', as .*a is"):
        load_skills([tmp_path])


def test_bundles_of_two_robots_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a", "open_drawer")
    write(tmp_path / "b", "close_drawer", replace(Spec(), rate_hz=20.0))
    with pytest.raises(SpecMismatchError, match="rate_hz"):
        load_skills([tmp_path])


def test_a_folder_without_bundles_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no bundle there"):
        load_skills([tmp_path])


def test_a_bundle_that_cannot_be_run_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (bundle,) = load_skills([write(tmp_path / "a", "open_drawer")]).values()

    def fails(*_: object) -> None:
        raise RuntimeError("no kernel for this node")

    monkeypatch.setattr(bundle, "policy", fails)
    with pytest.raises(BundleError, match=r"a: cannot be run \(.*no kernel for this node\); export it again"):
        warm_up(bundle)
