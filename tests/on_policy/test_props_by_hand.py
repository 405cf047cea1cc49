"""props' objective and its steps, worked out by hand on a tiny batch."""
import copy
from types import SimpleNamespace

import pytest
import torch

from labkit.lanes import Lanes
from labkit.on_policy import props as module
from labkit.on_policy.props import correct, props, repetition, seen


@pytest.fixture
def leant(tiny):
    """make(grid): tiny batches with a behaviour policy that is far from the policy."""

    def make(**grid):
        c = tiny(props, Lanes((0, 1), grid), torch.float32)
        net = c.learner.nets["behaviour"] = copy.deepcopy(c.learner.nets["pi"])
        with torch.no_grad():
            net.theta += 2 * torch.randn(net.theta.shape, generator=torch.Generator().manual_seed(1))
        c.flat, c.k.d = c.batch.flat(), torch.full_like(c.k.d, 100.0)
        return c

    return make


def test_repetition_is_the_clipped_ratio_plus_the_tie():
    ratio = torch.tensor([[0.5, 0.9, 1.1, 2.0], [0.5, 0.9, 1.1, 0.1]])
    k = SimpleNamespace(e=torch.tensor([[0.3], [0.6]]), tie=torch.tensor([[0.5], [0.25]]))
    expected = torch.tensor([(0.7 + 0.9 + 1.1 + 2.0) / 4 + 0.5 * 0.2, (0.5 + 0.9 + 1.1 + 0.4) / 4 + 0.25 * 0.8])
    torch.testing.assert_close(repetition(ratio, torch.tensor([0.2, 0.8]), k), expected)


def test_the_ratio_is_behaviour_over_policy_and_the_gap_the_kl_from_the_policy(leant, monkeypatch):
    c, told = leant(pushes=(3,)), []

    def heard(ratio, gap, k):
        told.append((ratio.detach(), gap.detach()))
        return repetition(ratio, gap, k)

    monkeypatch.setattr(module, "repetition", heard)
    pi, mu = (c.learner.nets[name].theta.detach().view(2, 4, 3).softmax(-1) for name in ("pi", "behaviour"))
    correct(c.learner, c.flat.obs, c.flat.action, c.k)
    state = c.flat.obs.argmax(-1)
    for lane in range(2):
        p, q = pi[lane, state[lane]], mu[lane, state[lane]]
        ratio, gap = (q / p).gather(1, c.flat.action[lane][:, None])[:, 0], (p * (p / q).log()).sum(-1).mean()
        torch.testing.assert_close(told[0][0][lane], ratio, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(told[0][1][lane], gap, rtol=1e-4, atol=1e-5)
    assert len(told) == 3 and (told[1][0] != told[0][0]).any()


def test_each_lane_takes_its_own_number_of_pushes_while_it_has_room(leant):
    c = leant(pushes=(1, 3))
    c.k.d[3] = 0.0
    correct(c.learner, c.flat.obs, c.flat.action, c.k)
    assert c.learner.nets["behaviour"].clock[:, 0].tolist() == [1, 1, 3, 0]
    assert (c.learner.nets["pi"].clock == 0).all()


def test_a_push_is_clipped_to_a_norm_of_a_half(leant):
    """After one step of Adam its first moment is a tenth of the gradient."""
    c = leant(pushes=(1,), tie=(1.0,))
    c.k.tie *= 100
    correct(c.learner, c.flat.obs, c.flat.action, c.k)
    torch.testing.assert_close(c.learner.nets["behaviour"].moments[0].norm(dim=1), torch.full((2,), 0.05), rtol=1e-4, atol=0)


def test_what_was_seen_is_the_old_batches_then_the_rows_so_far():
    old = {"obs": torch.arange(8.0).view(1, 2, 2, 2), "action": torch.arange(4).view(1, 2, 2)}
    rows = [(torch.full((1, 2, 2), 9.0), torch.tensor([[5, 6]])), (torch.full((1, 2, 2), 8.0), torch.tensor([[7, 8]]))]
    obs, action = seen(old, rows)
    assert obs.tolist() == [[[0, 1], [2, 3], [4, 5], [6, 7], [9, 9], [9, 9], [8, 8], [8, 8]]]
    assert action.tolist() == [[0, 1, 2, 3, 5, 6, 7, 8]]
    assert seen({}, rows)[1].tolist() == [[5, 6, 7, 8]]
