"""pg_guide: five recipes around one gradient; each lane follows its own, as if it were alone."""
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import pytest
import torch

from labkit import worlds
from labkit.divergence import kl
from labkit.lanes import Lanes
from labkit.learner import Learner
from labkit.nn import Table
from labkit.on_policy.family import a2c, policy_loss, ppo, reinforce, whole_episodes
from labkit.on_policy.pg_guide import RECIPES, pg_guide
from labkit.on_policy.trpo import conjugate_gradients, fisher, trpo
from labkit.on_policy.vmpo import best, likelihood, log_weights, vmpo
from labkit.paper import changed
from tests.methods import short, small

both = pytest.mark.parametrize("world", ["control.cartpole", "control.pendulum"])


def test_the_edges_of_the_map_are_slots():
    edges = [(a2c, reinforce), (trpo, a2c), (ppo, a2c), (vmpo, a2c)]
    assert [changed(child, parent) for child, parent in edges] == [
        ["collect", "value", "advantage"], ["improve"], ["surrogate", "improve"], ["surrogate", "improve"],
    ]  # fmt: skip


@both
def test_with_equal_advantages_three_recipes_share_their_first_gradient(collected, world):
    c = collected(ppo, world)
    flat = c.batch.flat()
    first, *others = (c.learner.gradient("pi", policy_loss(recipe, c.learner, flat, c.k)) for recipe in (reinforce, a2c, ppo))
    assert first.norm() > 1e-3
    for other in others:
        torch.testing.assert_close(other, first, rtol=1e-5, atol=1e-7)


def test_trpos_direction_is_the_inverse_fisher_image_of_that_gradient(tiny):
    c = tiny(trpo, Lanes((0, 1)))
    flat = c.batch.flat()
    gradient = -c.learner.gradient("pi", policy_loss(a2c, c.learner, flat, c.k))
    product = fisher(c.learner, flat)
    way = conjugate_gradients(lambda v: product(v) + 0.1 * v, gradient, torch.full((2, 1), 12))
    torch.testing.assert_close(product(way) + 0.1 * way, gradient, rtol=1e-5, atol=1e-6)


def test_vmpos_gradient_with_all_samples_kept_tends_to_it_over_eta():
    """One state whose samples stand in the policy's own proportions, 1/2, 1/4, 1/4."""
    learner = Learner(Lanes((0,)))
    net = learner.nets["pi"] = Table(1, (1, 3))
    net.theta = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log().requires_grad_()
    action, adv = torch.tensor([[0, 0, 1, 2]]), torch.tensor([[1.0, 1.0, -3.0, 1.0]], dtype=torch.float64)
    log_prob = learner.policy(torch.ones(1, 4, 1, dtype=torch.float64)).log_prob(action)
    kept, ratio = best(adv, torch.ones(1, 1)), (log_prob - log_prob.detach()).exp()
    plain = torch.autograd.grad((adv * log_prob).mean(), net.theta, retain_graph=True)[0]
    for eta, off in ((10.0, 0.2), (1e4, 2e-4)):
        psi = log_weights(adv, kept, torch.tensor([[eta]], dtype=torch.float64)).exp()
        weighted = torch.autograd.grad(likelihood(ratio, psi, SimpleNamespace()).sum(), net.theta, retain_graph=True)[0]
        gap = (eta * weighted - plain).norm() / plain.norm()
        assert gap < off
    assert gap > 0


@both
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r.paper.key)
def test_a_lane_among_all_recipes_improves_as_its_recipe_does_alone(recipe, world):
    number = float(RECIPES.index(recipe))
    among = next(small(pg_guide).run(short(world), Lanes((7, 1), {"recipe": (0.0, 1.0, 2.0, 3.0, 4.0)}))).learner
    alone = next(replace(small(recipe), collect=whole_episodes).run(short(world), Lanes((7, 1)))).learner
    for name in ("pi", "v"):
        assert torch.equal(among.nets[name].theta[2 * int(number) :][:2], alone.nets[name].theta)


def test_the_distance_is_measured_for_all_alike():
    run = small(pg_guide).run(short("control.cartpole"), Lanes((1,), {"recipe": (0.0, 1.0, 2.0, 3.0, 4.0)}))
    one, two = islice(run, 2)
    assert (two.metrics["kl"] > 0).all() and two.metrics.keys() == {"return", "kl"}
    obs = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    assert (kl(one.learner.policy(obs), two.learner.policy(obs)).mean(1) > 0).all()


def test_a_sick_lane_is_stopped_by_its_own_recipe_alone():
    world, lanes = worlds.make("control.cartpole"), Lanes((1,), {"recipe": (0.0, 1.0, 2.0, 3.0, 4.0)})
    world.horizon = 20

    def judge(batch, k):
        adv, target = pg_guide.advantage(batch, k)
        return adv.index_fill(0, torch.tensor([2]), torch.nan), target

    learner = next(replace(small(pg_guide), advantage=judge).run(world, lanes)).learner
    assert learner.on[:, 0].tolist() == [True, True, False, True, True] and len(learner.notes) == 1
