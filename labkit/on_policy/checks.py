"""The claims of the family's bases, put to the test. A paper's own check stands in its file."""
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import torch
from torch import Tensor

from labkit.lanes import Lanes
from labkit.learner import Learner
from labkit.nn import Table
from labkit.on_policy.family import OnPolicy, Shape, a2c, gae, importance, policy_loss, ppo, reinforce, reward_to_go
from labkit.on_policy.vmpo import best, log_weights, prices, temperature_loss, tilt, vmpo
from labkit.policy import Categorical
from labkit.verdict import Verdict, above, below, exactly, together
from labkit.worlds.control import CartPole
from labkit.worlds.finite import advantage, chain, expected_return, garnet
from labkit.worlds.world import World


def tabular(algo: OnPolicy, world: World, lanes: Lanes, spread: float = 0.0) -> Learner:
    """A learner whose policy is a table of logits, uniform in +-spread, and whose critic is a table of zeros."""
    learner = algo.begin(world, lanes)
    states, actions = world.obs_size, learner.nets["pi"].sizes[-1]
    learner.nets |= {"pi": Table(len(lanes), (states, actions), lanes.device), "v": Table(len(lanes), (states, 1), lanes.device)}
    learner.nets["pi"].move(spread * (2 * learner.rand(states * actions) - 1), learner.on)
    return learner


def chances(learner: Learner, obs: Tensor) -> Tensor:
    """The policy's probabilities at obs (S, n), (L, S, A) float64."""
    policy = learner.policy(obs)
    assert isinstance(policy, Categorical)
    return policy.probs.detach().double()


def train(algo: OnPolicy, world: World, lanes: Lanes, steps: int) -> dict[str, Tensor]:
    """Metrics of a run of `steps` steps, name -> (updates, L)."""
    rows: list[dict[str, Tensor]] = []
    for snapshot in algo.run(world, lanes):
        rows.append(snapshot.metrics)
        if snapshot.step >= steps:
            break
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def late_return(algo: OnPolicy, world: World, lanes: Lanes, steps: int) -> Tensor:
    """The mean return over the last quarter of a run, (settings, seeds)."""
    returns = train(algo, world, lanes, steps)["return"]
    return returns[int(0.75 * len(returns)) :].mean(0).view(len(lanes.points), -1)


def check_reinforce(seeds: Sequence[int] = range(20), batches: int = 200) -> Verdict:
    """Chain of 5, uniform policy, batches of 8 episodes: the mean of both estimates against the exact gradient, and their variances."""
    world = chain(n=5, gamma=0.95, horizon=30)
    lanes = Lanes(tuple(seed * batches + i for seed in seeds for i in range(batches)), {"gamma": (0.95,)})
    algo = replace(reinforce, shape=Shape(envs=8))
    learner, k = tabular(algo, world, lanes), lanes.knobs(algo.knobs)
    batch = algo.collect(algo, world, learner, k)
    logits = torch.zeros(1, 5, 2, dtype=torch.float64, requires_grad=True)
    exact = torch.autograd.grad(expected_return(world.mdp, logits.softmax(-1), world.horizon).sum(), logits)[0].flatten()
    spread, cosine = [], []
    for weight in (0.0, 1.0):
        batch.adv, batch.target = reward_to_go(batch, SimpleNamespace(**vars(k) | {"baseline": torch.full_like(k.gamma, weight)}))
        estimate = -learner.gradient("pi", policy_loss(algo, learner, batch.flat(), k)).double()
        spread.append(estimate.view(len(seeds), batches, -1).var(1).sum(-1))
        cosine.append(torch.cosine_similarity(estimate.mean(0), exact, dim=0).item())
    return together(
        exactly(min(cosine) > 0.99, min(cosine), "cosine of mean and exact gradient above 0.99, with baseline and without"),
        below(spread[1] / spread[0], 0.8, "variance with leave-one-out baseline over variance without"),
    )


def check_a2c(seeds: Sequence[int] = range(20)) -> Verdict:
    """Random MDPs and policies, a critic averaged from 500 steps: squared error of the advantage against the exact one, by lambda."""
    world, lanes = garnet(seed=seeds, gamma=0.9), Lanes(tuple(seeds), {"gamma": (0.9,)})
    algo = replace(a2c, shape=Shape(envs=5, steps=100))
    learner, k = tabular(algo, world, lanes, spread=1.5), lanes.knobs(algo.knobs)
    algo.judge(learner, old := algo.collect(algo, world, learner, k), k)
    seen, total = old.obs.flatten(1, 2), gae(old, SimpleNamespace(gamma=k.gamma, lam=torch.ones_like(k.lam)))[1].flatten(1)
    fitted = (seen * total[..., None]).sum(1) / seen.sum(1).clamp_min(1)
    learner.nets["v"].move(fitted, learner.on)
    algo.judge(learner, new := algo.collect(algo, world, learner, k), k)
    pi = chances(learner, torch.eye(world.obs_size))
    exact = advantage(world.mdp, pi)[torch.arange(len(seeds))[:, None], new.obs.flatten(1, 2).argmax(-1), new.action.flatten(1)]
    lambdas = torch.linspace(0, 1, 11)
    guesses = [gae(new, SimpleNamespace(gamma=k.gamma, lam=lam.expand_as(k.lam)))[0].flatten(1) for lam in lambdas]
    error = torch.stack([(guess - exact).square().mean(1) for guess in guesses])  # (11, seeds)
    inside, best = error[1:-1].mean(1).argmin() + 1, error.argmin(0)
    share = ((best > 0) & (best < 10)).double().mean().item()
    return together(
        exactly(share >= 0.8, share, "share of seeds whose least error lies strictly inside is at least 0.8"),
        above(error[0] - error[inside], 0, f"error at lambda 0 minus error at {lambdas[inside]:.1f}"),
        above(error[-1] - error[inside], 0, f"error at lambda 1 minus error at {lambdas[inside]:.1f}"),
    )


def check_ppo(seeds: Sequence[int] = range(20), steps: int = 40_000) -> Verdict:
    """CartPole with 10 passes over each batch: return with the clip minus return without."""
    world, lanes = CartPole(), Lanes(tuple(seeds), {"epochs": (10,)})
    clip, none = (late_return(algo, world, lanes, steps)[0] for algo in (ppo, replace(ppo, surrogate=importance)))
    once = Lanes((0,), {"epochs": (1,)})
    whole = replace(ppo, shape=replace(ppo.shape, minibatches=1))
    one, other = (next(a.run(world, once)).learner.nets["pi"].theta for a in (whole, replace(whole, surrogate=importance)))
    apart = (one - other).abs().max().item()
    return together(
        exactly(apart <= 1e-6, apart, "with one pass and one minibatch the largest difference of parameters is at most 1e-6"),
        above(clip - none, 0, f"return with clip minus without, last quarter of {steps} steps"),
    )


def check_vmpo(seeds: Sequence[int] = range(20), steps: int = 500, updates: int = 40) -> Verdict:
    """Random MDPs: the tilt of the weights after `steps` steps of the temperature, advantages held fixed; CartPole: KL of each update."""
    world, lanes = garnet(seed=seeds, gamma=0.9), Lanes(tuple(seeds), {"gamma": (0.9,)})
    learner, k = tabular(vmpo, world, lanes), lanes.knobs(vmpo.knobs)
    vmpo.judge(learner, batch := vmpo.collect(vmpo, world, learner, k), k)
    kept = best(adv := batch.adv.flatten(1), k.top)
    for _ in range(steps):
        learner.descend("prices", temperature_loss(adv, kept, prices(learner)[:, :1], k.eps_eta), k.dual)
    tilted = tilt(log_weights(adv, kept, prices(learner)[:, :1]), kept).detach()
    worst = (tilted / k.eps_eta[:, 0] - 1).abs().max().item()
    walked = train(vmpo, CartPole(), Lanes(tuple(seeds)), updates * 1024)["kl"].median(0).values / vmpo.knobs["eps_a"].default
    return together(
        exactly(worst < 0.1, worst, "largest relative distance of KL(psi || uniform) from eps_eta is below 0.1"),
        above(walked, 0.5, f"median KL of {updates} updates over eps_a"),
        below(walked, 2.0, f"median KL of {updates} updates over eps_a"),
    )
