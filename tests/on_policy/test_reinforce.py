"""reinforce: its estimator, enumerated over every pair of episodes, against the exact gradient of a finite world."""
import itertools
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import one_hot

from labkit import worlds
from labkit.lanes import Lanes
from labkit.learner import Learner
from labkit.nn import Table
from labkit.on_policy.family import Batch, policy_loss, reinforce, reward_to_go
from labkit.worlds.finite import expected_return

HORIZON, GAMMA = 4, 0.8
WORLD = worlds.make("finite.chain", n=2, gamma=GAMMA, horizon=HORIZON)  # leaving on the right ends an episode early
SEQUENCES = torch.tensor(list(itertools.product(range(2), repeat=HORIZON)))
LOGITS = torch.tensor([[0.3, -0.4], [-0.2, 0.5]], dtype=torch.float64)


def episode(actions):
    """What the world answers to a sequence of actions: rows of s, reward, terminated."""
    state, rows = WORLD.reset(torch.zeros(1, 1, 1)), []
    for a in actions:
        s = int(state["s"])
        state, reward, terminated, truncated = WORLD.step(state, a.view(1, 1), torch.zeros(1, 1, 1))
        rows.append((s, float(reward), bool(terminated)))
        state = WORLD.restart(state, terminated | truncated, torch.zeros(1, 1, 1))
    return rows


def every_pair(wage=0.0):
    """A batch whose lanes are all pairs of episodes, paid `wage` more a step, and the probability of each lane."""
    rows = [episode(actions) for actions in SEQUENCES]
    s, reward, ended = (torch.tensor([[row[i] for row in one] for one in rows]) for i in range(3))
    first, second = (x.flatten() for x in torch.meshgrid(*[torch.arange(len(rows))] * 2, indexing="ij"))

    def pair(x):
        return torch.stack([x[first], x[second]], 2)  # (L, T, E)

    logp = LOGITS.log_softmax(-1)[s, SEQUENCES]
    obs, action, log_prob = one_hot(pair(s), 2).double(), pair(SEQUENCES), pair(logp)
    clock = (torch.arange(HORIZON) == HORIZON - 1)[None, :, None].expand(action.shape)
    batch = Batch(obs, action, log_prob, None, pair(reward).double() + wage, pair(ended), clock, obs)
    return batch, log_prob.sum((1, 2)).exp()


def gradients(baseline, wage=0.0):
    """The estimate of every lane, (L, S, A), and the lanes' probabilities."""
    batch, chance = every_pair(wage)
    learner = Learner(Lanes(tuple(range(len(chance)))))
    learner.nets["pi"] = net = Table(len(chance), (2, 2))
    net.theta = LOGITS.flatten().repeat(len(chance), 1).requires_grad_()
    settings = {"gamma": GAMMA, "ent": 0.0, "baseline": baseline}
    k = SimpleNamespace(**{name: torch.full((len(chance), 1), value, dtype=torch.float64) for name, value in settings.items()})
    batch.adv, batch.target = reward_to_go(batch, k)
    return -learner.gradient("pi", policy_loss(reinforce, learner, batch.flat(), k)).view(-1, 2, 2), chance


def exact():
    logits = LOGITS[None].clone().requires_grad_()
    return torch.autograd.grad(expected_return(WORLD.mdp, logits.softmax(-1), HORIZON).sum(), logits)[0][0]


def test_the_chances_of_all_pairs_sum_to_one():
    assert every_pair()[1].sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("baseline", [0.0, 0.3, 1.0])
def test_the_estimate_is_unbiased_whatever_the_weight_of_the_baseline(baseline):
    estimate, chance = gradients(baseline)
    torch.testing.assert_close((chance[:, None, None] * estimate).sum(0), exact(), rtol=0, atol=1e-12)


def test_what_follows_the_end_of_an_episode_counts_for_nothing():
    batch, _ = every_pair()
    k = SimpleNamespace(gamma=torch.full((len(batch.reward), 1), GAMMA), baseline=torch.ones(len(batch.reward), 1))
    adv, go = reward_to_go(batch, k)
    over = (batch.terminated.cumsum(1) - batch.terminated.long()) > 0
    assert over.any() and (adv[over] == 0).all() and (go[over] == 0).all()


def test_the_exact_gradient_is_that_of_finite_differences():
    def value(logits):
        return expected_return(WORLD.mdp, logits.softmax(-1)[None], HORIZON).item()

    h = 1e-5
    for s, a in itertools.product(range(2), range(2)):
        bump = torch.zeros(2, 2, dtype=torch.float64)
        bump[s, a] = h
        assert exact()[s, a].item() == pytest.approx((value(LOGITS + bump) - value(LOGITS - bump)) / (2 * h), abs=1e-9)


def test_leave_one_out_lowers_the_variance_where_every_step_is_paid():
    """Then returns are alike, and what they have in common is only noise."""
    spread = {}
    for weight in (0.0, 1.0):
        estimate, chance = gradients(weight, wage=1.0)
        mean = (chance[:, None, None] * estimate).sum(0)
        spread[weight] = (chance * (estimate - mean).square().sum((1, 2))).sum().item()
    assert spread[1.0] < 0.8 * spread[0.0]
