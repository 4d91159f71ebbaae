"""A session hands chunks over as a plain loop would, and feeds the filter what the robot accepted."""

import dataclasses

import numpy as np
import pytest
from toy_bundle import ToyWeights, write_toy_bundle

from diwa_runtime.actions import HOLD_ACTION, accept_action
from diwa_runtime.bundle import Bundle
from diwa_runtime.bundle.session import PolicySession
from diwa_runtime.errors import BundleError, InputError
from diwa_runtime.spec import CameraSpec, Spec

LATENT, CHUNK, STEPS = 8, 4, 11


def make_bundle(folder, spec=None, **changes) -> Bundle:
    spec = spec or Spec()
    weights = dataclasses.replace(ToyWeights.random(spec, LATENT), **changes)
    write_toy_bundle(folder / "bundle", spec, weights)
    return Bundle.load(folder / "bundle")


@pytest.fixture
def bundle(tmp_path):
    return make_bundle(tmp_path)


def make_observations(count: int = STEPS) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(5)
    return [
        {
            "proprio": random.standard_normal(15, dtype=np.float32),
            "scene": random.standard_normal(24, dtype=np.float32),
        }
        for _ in range(count)
    ]


def limited(action: np.ndarray) -> np.ndarray:
    """What a robot with tighter limits accepts."""
    return np.concatenate([np.clip(action[:6], -0.2, 0.2), action[6:]]).astype(np.float32)


def test_chunks_are_handed_over_as_in_a_plain_loop(bundle):
    observations = make_observations()
    generator = np.random.Generator(np.random.PCG64(7))
    latent, executed, expected = np.zeros((1, LATENT), np.float32), HOLD_ACTION, []
    for index, observation in enumerate(observations):
        batch = {name: value[None] for name, value in observation.items()}
        latent = bundle.filter(batch, executed[None], latent)
        if index % CHUNK == 0:
            noise = np.clip(generator.standard_normal((1, 4, CHUNK, 7), dtype=np.float32), -3, 3)
            chunk = bundle.policy(latent, noise)[0]
        expected.append(accept_action(chunk[index % CHUNK]))
        executed = limited(expected[-1])

    session, executed, actions = PolicySession(bundle, seed=7), None, []
    for observation in observations:
        actions.append(session.step(observation, executed))
        executed = limited(actions[-1])

    np.testing.assert_array_equal(actions, expected)
    np.testing.assert_array_equal(session.latent, latent[0])
    assert session.steps == STEPS


def run(session: PolicySession, executed=lambda _: None) -> np.ndarray:
    actions, last = [], None
    for observation in make_observations():
        actions.append(session.step(observation, last))
        last = executed(actions[-1])
    return np.array(actions)


def test_same_seed_gives_the_same_episode_after_reset_and_in_another_session(bundle):
    session = PolicySession(bundle, seed=3)
    first = run(session)
    session.reset(3)
    np.testing.assert_array_equal(run(session), first)
    np.testing.assert_array_equal(run(PolicySession(bundle, seed=3)), first)
    session.reset(4)
    assert not np.array_equal(run(session), first)


def test_sessions_that_share_a_bundle_do_not_touch_each_other(bundle):
    alone = run(PolicySession(bundle, seed=1))
    ours, other, actions = PolicySession(bundle, seed=1), PolicySession(bundle, seed=2), []
    for observation in make_observations():
        actions.append(ours.step(observation))
        other.step(observation)
    np.testing.assert_array_equal(actions, alone)


def test_filter_takes_what_the_robot_accepted_not_what_was_asked(bundle):
    asked, obeyed, refused = PolicySession(bundle, 1), PolicySession(bundle, 1), PolicySession(bundle, 1)
    run(asked)
    run(obeyed, executed=lambda action: action)
    run(refused, executed=lambda _: HOLD_ACTION)
    np.testing.assert_array_equal(asked.latent, obeyed.latent)
    assert not np.array_equal(asked.latent, refused.latent)


def test_filter_is_told_of_motion_beyond_a_command_as_the_data_hold_it(bundle):
    fast = np.array([1.6, 0, 0, 0, -2, 0, 0.3], np.float32)
    session = PolicySession(bundle, 1)
    first, second = make_observations(2)
    session.step(first)
    before = session.latent[None]
    session.step(second, fast)

    told = np.array([[1.6, 0, 0, 0, -2, 0, 1]], np.float32)
    expected = bundle.filter({name: value[None] for name, value in second.items()}, told, before)
    np.testing.assert_array_equal(session.latent, expected[0])


def test_first_step_starts_from_hold_whatever_the_robot_did_before(bundle):
    observation = make_observations(1)[0]
    one, other = PolicySession(bundle, 1), PolicySession(bundle, 1)
    one.step(observation)
    other.step(observation, -np.ones(7, np.float32))
    np.testing.assert_array_equal(one.latent, other.latent)


def test_returned_action_may_be_changed_by_its_receiver(bundle):
    session = PolicySession(bundle, 1)
    first, second = make_observations(2)
    session.step(first)[:] = np.nan
    session.step(second)
    assert np.isfinite(session.latent).all()


def test_actions_never_leave_what_a_robot_accepts(tmp_path):
    """F17 and F18: whatever the graph says, one step asks for at most 1, which is 0.02 m and 0.05 rad."""
    bundle = make_bundle(tmp_path, decide=np.full((LATENT, 7), 1e6, np.float32), noise_scale=1e6)
    actions = run(PolicySession(bundle, 1))
    assert np.abs(actions).max() == 1
    assert set(np.unique(actions[:, 6])) <= {-1.0, 1.0}


def test_noise_is_normal_and_clipped(bundle, monkeypatch):
    drawn, policy = [], bundle.policy

    def watched(latent, noise):
        drawn.append(noise.copy())
        return policy(latent, noise)

    monkeypatch.setattr(bundle, "policy", watched)
    for seed in range(30):
        run(PolicySession(bundle, seed))
    noise = np.concatenate(drawn)
    assert noise.shape == (90, 4, CHUNK, 7)
    assert np.abs(noise).max() == 3
    assert noise.std() == pytest.approx(1, abs=0.03)
    assert noise.mean() == pytest.approx(0, abs=0.03)


def test_success_probability_follows_the_latent(bundle):
    session = PolicySession(bundle, 1)
    assert session.success_probability == 0.0
    for observation in make_observations(3):
        session.step(observation)
        assert session.success_probability == float(bundle.probability(session.latent[None])[0])
    session.reset(1)
    assert session.success_probability == 0.0


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("proprio", None, "lacks"),
        ("proprio", [0.0] * 15, "list"),
        ("proprio", np.zeros(14, np.float32), r"\(14,\)"),
        ("scene", np.zeros(24), "float64"),
        ("scene", np.full(24, np.nan, np.float32), "slider is nan"),
        ("proprio", np.full(15, np.inf, np.float32), "tcp_x is inf"),
    ],
)
def test_unusable_observation_is_refused_by_field_and_changes_nothing(bundle, name, value, word):
    session = PolicySession(bundle, 1)
    first, second = make_observations(2)
    session.step(first)
    latent = session.latent.copy()
    broken = {**second, name: value}
    if value is None:
        del broken[name]
    with pytest.raises(InputError, match=f"(?=.*{word}).*'{name}'"):
        session.step(broken)
    np.testing.assert_array_equal(session.latent, latent)
    assert session.steps == 1


def test_a_latent_that_is_not_finite_ends_it_and_is_not_believed(bundle, monkeypatch):
    session = PolicySession(bundle, 1)
    first, second = make_observations(2)
    session.step(first)
    latent = session.latent.copy()
    monkeypatch.setattr(bundle, "filter", lambda *_: np.full((1, LATENT), np.nan, np.float32))
    with pytest.raises(BundleError, match="latent is not finite at step 1"):
        session.observe(second)
    np.testing.assert_array_equal(session.latent, latent)


def test_images_are_checked_and_used(tmp_path):
    spec = Spec(mode="vision", cameras=(CameraSpec("static", 4, 6),))
    session = PolicySession(make_bundle(tmp_path, spec), 1)
    black = {"static": np.zeros((4, 6, 3), np.uint8), "proprio": np.zeros(15, np.float32)}
    session.step(black)
    dark = session.latent
    session.reset(1)
    session.step({**black, "static": np.full((4, 6, 3), 255, np.uint8)})
    assert not np.array_equal(session.latent, dark)
    with pytest.raises(InputError, match="'static' is uint8"):
        session.step({**black, "static": np.zeros((6, 4, 3), np.uint8)})


@pytest.mark.parametrize("executed", [np.zeros(6, np.float32), np.full(7, np.nan, np.float32)])
def test_unusable_executed_action_is_refused(bundle, executed):
    session = PolicySession(bundle, 1)
    first, second = make_observations(2)
    session.step(first)
    with pytest.raises(InputError, match="executed action"):
        session.step(second, executed)
    assert session.steps == 1


def test_last_observation_moves_the_belief_and_asks_for_nothing(bundle):
    first, second = make_observations(2)
    watched, acted = PolicySession(bundle, 1), PolicySession(bundle, 1)
    for session in (watched, acted):
        session.step(first)
    watched.observe(second)
    acted.step(second)
    np.testing.assert_array_equal(watched.latent, acted.latent)
    assert (watched.steps, watched.state.used, acted.state.used) == (2, 1, 2)


def test_reward_that_gives_nan_stops_the_episode(tmp_path):
    bundle = make_bundle(tmp_path, judge=np.full(LATENT, np.nan, np.float32))
    session = PolicySession(bundle, 1)
    session.step(make_observations(1)[0])
    with pytest.raises(BundleError, match="no probability"):
        _ = session.success_probability


@pytest.mark.parametrize("part", ["observe", "decide"])
def test_graph_that_gives_nan_stops_the_episode(tmp_path, part):
    shape = ToyWeights.random(Spec(), LATENT)
    bundle = make_bundle(tmp_path, **{part: np.full_like(getattr(shape, part), np.nan)})
    with pytest.raises(BundleError, match="not finite"):
        PolicySession(bundle, 1).step(make_observations(1)[0])
