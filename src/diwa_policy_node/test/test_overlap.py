"""Planning ahead: late actions are dropped, and no command changes faster than the arm may accelerate (F17)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_bundle import ToyWeights, toy_graphs, toy_manifest, write_bundle

from diwa_policy_node.skills.overlap import OverlappedSession, SeamLimits, Seen, ThreadPlanner
from diwa_runtime.bundle import Bundle
from diwa_runtime.bundle.session import Float, PolicySession
from diwa_runtime.errors import BundleError
from diwa_runtime.logs.seams import measure_seams
from diwa_runtime.spec import Spec

SPEC, LATENT, CHUNK = Spec(), 8, 16
LIMITS = SeamLimits()


class SlowPlanner:
    """Each plan is there after as many looks as the list says; the last figure goes on."""

    def __init__(self, looks: Sequence[int]) -> None:
        self.looks, self.plans = list(looks), 0
        self._plan: Callable[[], Float] | None = None
        self._left = 0

    def look(self, look: Callable[[], Seen]) -> Future[Seen]:
        looked: Future[Seen] = Future()
        looked.set_result(look())
        return looked

    def submit(self, plan: Callable[[], Float]) -> None:
        self._plan, self._left = plan, self.looks[min(self.plans, len(self.looks) - 1)]
        self.plans += 1

    def collect(self) -> Float | None:
        if self._plan is None:
            return None
        self._left -= 1
        if self._left > 0:
            return None
        plan, self._plan = self._plan, None
        return plan()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A wild policy: every chunk asks for something else, at full speed."""
    folder = tmp_path_factory.mktemp("overlap") / "bundle"
    weights = ToyWeights.random(SPEC, LATENT)
    weights = ToyWeights(**{**vars(weights), "noise_scale": 2.0})
    write_bundle(folder, toy_manifest(SPEC, LATENT, chunk_length=CHUNK), toy_graphs(SPEC, weights, CHUNK))
    return Bundle.load(folder)


def observation(step: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(step)
    return {
        "proprio": random.standard_normal(15, dtype=np.float32),
        "scene": random.standard_normal(24, dtype=np.float32),
    }


def run(session: PolicySession, steps: int) -> tuple[np.ndarray, np.ndarray]:
    actions, begins = [], []
    for step in range(steps):
        actions.append(session.step(observation(step)))
        begins.append(session.begins_chunk)
    return np.array(actions), np.array(begins)


def changes(actions: np.ndarray) -> tuple[float, float]:
    """The largest change of translation and of rotation from tick to tick, from standstill on, in the Spec's units."""
    before = np.concatenate([np.zeros((1, 7)), actions])
    apart = np.diff(before, axis=0)
    return float(np.linalg.norm(apart[:, :3], axis=1).max()), float(np.linalg.norm(apart[:, 3:6], axis=1).max())


@settings(max_examples=30)
@given(looks=st.lists(st.integers(1, 25), min_size=1, max_size=8))
def test_f17_whatever_the_delay_no_command_changes_faster_than_the_arm_may(bundle: Bundle, looks: list[int]) -> None:
    actions, _ = run(OverlappedSession(bundle, SlowPlanner(looks), seed=1), 120)
    translation, rotation = changes(actions)
    most_translation, most_rotation = LIMITS.change_per_tick(SPEC)
    assert translation <= most_translation * (1 + 1e-5)
    assert rotation <= most_rotation * (1 + 1e-5)
    assert np.abs(actions[:, :6]).max() <= 1.0


def test_f17_a_first_plan_of_0_7_s_and_then_0_3_s(bundle: Bundle) -> None:
    """21 ticks, then 9 of a chunk of 16: the first is late altogether, the others by 9 actions; then 3 ticks more."""
    session = OverlappedSession(bundle, SlowPlanner([21, 9, 9, 9, 12, 6, 9]), seed=1)
    actions, begins = run(session, 150)
    assert session.late_plans == 1
    assert not actions[:21, :6].any(), "it stands still until it knows what to do"
    assert actions[31:, :6].any()
    seams = measure_seams(actions, begins, SPEC)
    assert seams.count >= 5
    assert seams.at_seams.velocity_m_s * SPEC.rate_hz <= LIMITS.acceleration * (1 + 1e-5)
    assert seams.at_seams.jerk_m_s3 < 4500, "the arm's limit"
    plain_actions, plain_begins = run(PolicySession(bundle, seed=1), 150)
    plain = measure_seams(plain_actions, plain_begins, SPEC)
    assert plain.at_seams.velocity_m_s > 1.5 * seams.at_seams.velocity_m_s, (
        "or the policy is not wild enough to show it"
    )


def test_actions_whose_ticks_have_passed_are_dropped(bundle: Bundle) -> None:
    """With nothing to blend and no limit, tick t + d runs action d of the plan that was begun at t."""
    free = SeamLimits(acceleration=1e9, rotation_acceleration=1e9, blend_ticks=0)
    session = OverlappedSession(bundle, SlowPlanner([5]), seed=1, limits=free)
    made: list[Float] = []
    decide = session._decide
    session._decide = lambda latent, noise: made.append(decide(latent, noise)) or made[-1]  # type: ignore[method-assign]
    actions, _ = run(session, 12)
    np.testing.assert_array_equal(actions[:5, :6], 0)
    np.testing.assert_array_equal(actions[5:10], made[0][5:10])


def test_when_plans_stop_coming_the_arm_slows_down_to_standstill(bundle: Bundle) -> None:
    session = OverlappedSession(bundle, SlowPlanner([1, 1, 1000]), seed=1)
    actions, _ = run(session, 80)
    assert not actions[-1, :6].any()
    assert set(np.unique(actions[:, 6])) <= {-1.0, 1.0}
    assert actions[-1, 6] == session.state.asked[6], "the gripper keeps what it was told"


def test_an_arm_that_was_faster_than_commands_is_not_asked_to_go_on_so(bundle: Bundle) -> None:
    session = OverlappedSession(bundle, SlowPlanner([5]), seed=1)
    action = session.step(observation(0), np.array([3.0, 0, 0, 0, 0, 0, 1], np.float32))
    assert 0 < action[0] < 1


def test_until_it_knows_what_to_do_the_gripper_stays_as_it_is(bundle: Bundle) -> None:
    session = OverlappedSession(bundle, SlowPlanner([5]), seed=1)
    closed = np.array([0, 0, 0, 0, 0, 0, -1], np.float32)
    assert [session.step(observation(step), closed)[6] for step in range(5)] == [-1] * 5


def test_f17_what_was_not_sent_is_nothing_to_go_on_from(bundle: Bundle) -> None:
    """The arm stood still for some ticks: the next command begins at standstill, whatever was asked meanwhile."""
    session = OverlappedSession(bundle, SlowPlanner([1]), seed=1)
    action: Float | None = None
    for step in range(30):
        action = session.step(observation(step), action)
    still = np.array([0, 0, 0, 0, 0, 0, 1], np.float32)
    for step in range(30, 34):
        action = session.step(observation(step), still)
        assert np.linalg.norm(action[:3]) <= LIMITS.change_per_tick(SPEC)[0] * (1 + 1e-5)


def test_a_thread_plans_what_the_loop_would(bundle: Bundle) -> None:
    planner = ThreadPlanner()
    session = OverlappedSession(bundle, planner, seed=1)
    session.step(observation(0))
    assert planner._future is not None
    planned = planner._future.result(timeout=10)
    noise = np.clip(np.random.Generator(np.random.PCG64(1)).standard_normal((1, 4, CHUNK, 7), np.float32), -3, 3)
    assert session._last_look is not None
    np.testing.assert_array_equal(planned, session._decide(session._last_look.result(timeout=10).latent, noise))
    session.step(observation(1))
    assert session.begins_chunk
    planner.close()


def test_a_plan_that_failed_says_so_in_the_loop(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    session = OverlappedSession(bundle, SlowPlanner([2]), seed=1)
    monkeypatch.setattr(bundle, "policy", lambda *_: np.full((1, CHUNK, 7), np.nan, np.float32))
    session.step(observation(0))
    session.step(observation(1))
    with pytest.raises(BundleError, match="not finite"):
        session.step(observation(2))


def test_a_reset_forgets_plans(bundle: Bundle) -> None:
    session = OverlappedSession(bundle, SlowPlanner([3]), seed=1)
    first, _ = run(session, 40)
    session.reset(1)
    again, _ = run(session, 40)
    np.testing.assert_array_equal(first, again)


def test_a_reset_in_the_middle_of_a_plan_forgets_that_too(bundle: Bundle) -> None:
    session = OverlappedSession(bundle, SlowPlanner([3]), seed=1)
    fresh, _ = run(session, 20)
    for steps in (1, 2, 3):
        session.reset(1)
        run(session, steps)
        session.reset(1)
        again, _ = run(session, 20)
        np.testing.assert_array_equal(fresh, again)


def test_plans_begin_in_time_by_the_slowest_of_the_last_eight(bundle: Bundle) -> None:
    session = OverlappedSession(bundle, SlowPlanner([3, 9, 3]), seed=1)
    delays, handed_over = list[int](), list[bool]()
    for step in range(150):
        session.step(observation(step))
        if session.begins_chunk:
            delays.append(session.delay)
            handed_over.append(session._previous.at(step) is not None)
    assert delays[:11] == [3, *[9] * 8, 3, 3]
    assert handed_over[0] is False
    assert all(handed_over[2:]), "the plan before has an action left to blend with"


@pytest.fixture
def slow_eyes(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The filter waits until it is let go."""
    let_go, quick = threading.Event(), bundle.filter

    def filter_slowly(*arguments: Any) -> Float:
        assert let_go.wait(10), "the control loop waits for the filter"
        return quick(*arguments)

    monkeypatch.setattr(bundle, "filter", filter_slowly)
    yield let_go
    let_go.set()


def test_the_control_loop_never_waits_for_the_eyes(bundle: Bundle, slow_eyes: threading.Event) -> None:
    """While the filter is at the first observation the arm holds; afterwards it goes on from all that it missed."""
    planner = ThreadPlanner()
    session = OverlappedSession(bundle, planner, seed=1)
    actions, _ = run(session, 8)
    assert not slow_eyes.is_set()
    assert not actions[:, :6].any()
    assert list(session.new_probabilities()) == []
    assert session.success_probability == 0.0
    slow_eyes.set()
    assert session._last_look is not None
    session._last_look.result(timeout=10)
    session.step(observation(8))
    patient = OverlappedSession(bundle, SlowPlanner([1000]), seed=1)
    run(patient, 8)
    assert list(session.new_probabilities())[:8] == list(patient.new_probabilities()), (
        "each observation is judged, once"
    )
    planner.close()


def test_eyes_that_fall_behind_for_half_a_second_end_the_run_with_the_reason(
    bundle: Bundle, slow_eyes: threading.Event
) -> None:
    planner = ThreadPlanner()
    session = OverlappedSession(bundle, planner, seed=1)
    with pytest.raises(BundleError, match="16 observations wait to be looked at: the filter takes longer"):
        run(session, 20)
    slow_eyes.set()
    planner.close()


def test_what_is_seen_beside_the_loop_is_what_the_loop_would_see(bundle: Bundle) -> None:
    overlapped, plain = OverlappedSession(bundle, SlowPlanner([1]), seed=1), PolicySession(bundle, seed=1)
    action: Float | None = None
    for step in range(10):
        plain.observe(observation(step), action)
        action = overlapped.step(observation(step), action)
        np.testing.assert_array_equal(overlapped.latent, plain.latent)
        assert list(overlapped.new_probabilities()) == list(plain.new_probabilities())
