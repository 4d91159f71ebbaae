"""What imagination says of a policy: of episodes as they would be were the paid reward alone to end them."""

from types import SimpleNamespace

import pytest
import torch

from diwa_trainer.policy import judging
from diwa_trainer.policy.imagination import Rollout
from diwa_trainer.policy.judging import Judging
from diwa_trainer.policy.reward import FirstSuccess

CHUNKS, EPISODES = 4, 3


def rollout_that_left(chunk, episode):
    """Three episodes of four chunks; one of them left the recordings in a chunk, and ended."""
    left = torch.zeros(CHUNKS, EPISODES, dtype=torch.bool)
    left[chunk, episode] = True
    live = torch.ones(CHUNKS, EPISODES, dtype=torch.bool)
    live[chunk + 1 :, episode] = False
    zeros = torch.zeros(CHUNKS, EPISODES)
    return Rollout(zeros[..., None], zeros[..., None, None], zeros, live, left, zeros[0][:, None])


@pytest.mark.parametrize(
    ("paid", "success", "outside", "chunks"),
    [("early", 1 / 3, 0.0, (1 + 4 + 4) / 3), ("never", 0.0, 1 / 3, (2 + 4 + 4) / 3)],
)
def test_what_happens_after_the_paid_reward_said_success_does_not_count(monkeypatch, paid, success, outside, chunks):
    """Episode 0 succeeds in its first chunk by one reward, goes on for the other, and leaves in its second chunk."""
    said = {"early": torch.tensor([1, 0, 0]), "never": torch.tensor([0, 0, 0])}
    first = FirstSuccess(dict.fromkeys(said), EPISODES)
    first.chunks, first._passed = said, CHUNKS
    monkeypatch.setattr(Judging, "imagined", lambda *_: (rollout_that_left(1, 0), first))
    monkeypatch.setattr(judging, "kl_to_pretrained", lambda *parts: float(parts[-1].sum()))

    found = Judging(SimpleNamespace(rewards=said, pretrained=None), paid, EPISODES, CHUNKS, seed=0).of(None)

    assert found[f"judged_success_{paid}"] == pytest.approx(success)
    assert found["judged_outside"] == pytest.approx(outside)
    assert found[f"judged_chunks_{paid}"] == pytest.approx(chunks)
    assert found["kl_to_pretrained"] == pytest.approx(EPISODES * chunks), "of the chunks that count"
