"""trpo's step, worked out lane by lane in float64 from the Fisher matrix of a table, written out."""
from types import SimpleNamespace

import torch

from labkit.lanes import Lanes
from labkit.on_policy.family import fit_critic, minibatches
from labkit.on_policy.trpo import conjugate_gradients, fisher, natural, natural_step, step_within, trpo


def by_hand(c, lane):
    """Of a lane: its Fisher matrix (P, P), the gradient of its surrogate (P,), and theta (P,) -> mean KL from the start, gain."""
    flat, start = c.batch.flat(), c.learner.nets["pi"].theta[lane].detach().view(4, 3).clone()
    state, action, adv = flat.obs[lane].argmax(-1), flat.action[lane], flat.adv[lane]
    before, share = start.softmax(-1), state.bincount(minlength=4) / len(state)
    matrix = torch.block_diag(*(w * (p.diag() - p.outer(p)) for w, p in zip(share, before, strict=True)))
    slope = torch.zeros(4, 3, dtype=torch.float64)
    for s, a, x in zip(state, action, adv, strict=True):
        slope[s] += x * (torch.eye(3)[a] - before[s]) / len(state)

    def judged(theta):
        after = theta.view(4, 3).softmax(-1)
        kl = (share[:, None] * before * (before / after).log()).sum()
        return kl, ((after[state, action] / before[state, action] - 1) * adv).mean()

    return matrix, slope.flatten(), judged


def walked(c, lane, way):
    """Where a lane ends by the rule of Schulman et al. 2015, appendix C, its mean KL, and how often the step was shortened, or None."""
    matrix, _, judged = by_hand(c, lane)
    start, delta = c.learner.nets["pi"].theta[lane].detach().clone(), c.k.delta[lane, 0]
    longest = way * (2 * delta / (way @ matrix @ way)).sqrt()
    for j in range(int(c.k.backtracks[lane])):
        theta = start + 0.8**j * longest
        kl, gain = judged(theta)
        if kl <= delta and gain > 0:
            return theta, kl, j
    return start, 0.0, None


def stepped(c, direction):
    """What `step_within` should do in each lane, and that it does."""
    gains = torch.stack([by_hand(c, lane)[1] for lane in range(len(c.learner.lanes))])
    ways = direction(c, gains)
    theta, kl, shortened = zip(*(walked(c, lane, way) for lane, way in enumerate(ways)), strict=True)
    step_within(c.algo, c.learner, c.batch, c.k, lambda product, gain, k: ways)
    torch.testing.assert_close(c.learner.nets["pi"].theta.detach(), torch.stack(theta), rtol=0, atol=1e-12)
    torch.testing.assert_close(c.batch.info["kl"].double(), torch.tensor(kl, dtype=torch.float64), rtol=1e-9, atol=1e-12)
    assert c.batch.info["accepted"].tolist() == [float(j is not None) for j in shortened]
    return shortened


def test_fisher_and_natural_direction_are_those_of_the_matrix_written_out(tiny):
    c = tiny(trpo, Lanes((0, 1), {"damp": (0.1, 0.7), "cg": (20,)}))
    product = fisher(c.learner, c.batch.flat())
    v = torch.randn(4, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    matrix, slope, _ = zip(*(by_hand(c, lane) for lane in range(4)), strict=True)
    matrix, slope = torch.stack(matrix), torch.stack(slope)
    torch.testing.assert_close(product(v), (matrix @ v[..., None])[..., 0], rtol=0, atol=1e-14)
    damped = matrix + c.k.damp[..., None] * torch.eye(12)
    torch.testing.assert_close(natural(product, slope, c.k), torch.linalg.solve(damped, slope), rtol=0, atol=1e-6)


def test_conjugate_gradients_rest_where_nothing_is_left():
    x = conjugate_gradients(lambda v: 2 * v, torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=torch.float64), torch.tensor([[5], [5]]))
    assert x.tolist() == [[0, 0], [1.5, 2]]


def test_the_first_step_that_keeps_the_bound_and_gains_is_taken(tiny):
    """Each lane with its own radius and patience; among them steps that fit at once, that are shortened, and that never fit."""
    c = tiny(trpo, Lanes((0, 1, 2, 3), {"delta": (0.0005, 0.2), "backtracks": (1, 3, 12)}))
    c.k.delta *= 5  # beyond the slider, so that the quadratic model is poor
    shortened = stepped(c, lambda c, gains: gains)
    assert {0, 1, 2, None} <= set(shortened)


def test_the_direction_asked_for_is_given_gradient_and_fisher_product(tiny):
    c, seen = tiny(trpo, Lanes((0, 1))), SimpleNamespace()

    def direction(product, gain, k):
        seen.product, seen.gain, seen.k = product(gain), gain, k
        return gain

    matrix, slope, _ = zip(*(by_hand(c, lane) for lane in range(2)), strict=True)
    step_within(c.algo, c.learner, c.batch, c.k, direction)
    torch.testing.assert_close(seen.gain, torch.stack(slope), rtol=0, atol=1e-14)
    torch.testing.assert_close(seen.product, torch.stack([m @ s for m, s in zip(matrix, slope, strict=True)]), rtol=0, atol=1e-14)
    assert seen.k is c.k


def test_a_step_that_keeps_the_bound_and_loses_is_put_back(tiny):
    c = tiny(trpo, Lanes((0, 1, 2), {"delta": (0.01,)}))
    signs = torch.tensor([[1.0], [-1.0], [1.0]], dtype=torch.float64)
    assert [j is None for j in stepped(c, lambda c, gains: signs * gains)] == [False, True, False]


def test_a_step_without_gain_and_a_lane_at_rest_are_left_alone(tiny):
    c = tiny(trpo, Lanes((0, 1, 2)))
    c.batch.adv[0] = 0
    c.learner.on[1] = False
    before = c.learner.nets["pi"].theta.detach().clone()
    step_within(c.algo, c.learner, c.batch, c.k, natural)
    assert (c.learner.nets["pi"].theta == before).all(1).tolist() == [True, True, False]
    assert c.batch.info["accepted"].tolist() == [0, 0, 1] and c.batch.info["kl"][:2].tolist() == [0, 0]


def test_after_the_step_the_critic_takes_its_passes(tiny):
    c = tiny(trpo, Lanes((0, 1), {"epochs": (1, 3)}), torch.float32)
    twin = c.learner.copy()
    step_within(c.algo, twin, c.batch, c.k, natural)
    for part, where in minibatches(c.algo, twin, c.batch, c.k):
        fit_critic(c.algo, twin, part, c.k, where)
    natural_step(c.algo, c.learner, c.batch, c.k)
    for name, net in c.learner.nets.items():
        assert torch.equal(net.theta, twin.nets[name].theta)
    assert c.learner.nets["v"].clock[:, 0].tolist() == [2, 2, 6, 6]
