"""trpo: one step per batch, as long as a trust region in policy space allows."""
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace

import torch
from torch import Tensor

from labkit.divergence import kl
from labkit.lanes import Knob, Lanes
from labkit.learner import Learner
from labkit.on_policy.checks import chances, tabular
from labkit.on_policy.family import Batch, OnPolicy, a2c, fit_critic, minibatches, policy_loss, ppo
from labkit.paper import Paper
from labkit.verdict import Verdict, above, exactly, together
from labkit.worlds.finite import expected_return, garnet

Product = Callable[[Tensor], Tensor]
Direction = Callable[[Product, Tensor, SimpleNamespace], Tensor]


def fisher(learner: Learner, batch: Batch) -> Product:
    """v (L, P) -> F v, F the Hessian of the mean KL from the batch's policy: the Fisher matrix, never written out."""
    theta = learner.nets["pi"].theta
    gap = kl(batch.policy, learner.policy(batch.obs)).mean(1)
    slope = torch.autograd.grad(gap.sum(), theta, create_graph=True)[0]
    return lambda v: torch.autograd.grad((slope * v).sum(), theta, retain_graph=True)[0]


def conjugate_gradients(product: Product, b: Tensor, steps: Tensor) -> Tensor:
    """x (L, P) with product(x) close to b after `steps` (L, 1) iterations of each lane's own."""
    x, left, way = torch.zeros_like(b), b, b
    size = left.square().sum(1, keepdim=True)
    for i in range(int(steps.max())):
        out = product(way)
        go = (steps > i) & (size > 1e-12)
        stride = size / (way * out).sum(1, keepdim=True)
        x, left = torch.where(go, x + stride * way, x), torch.where(go, left - stride * out, left)
        before, size = size, left.square().sum(1, keepdim=True)
        way = torch.where(go, left + size / before * way, way)
    return x


def natural(product: Product, gain: Tensor, k: SimpleNamespace) -> Tensor:
    """The natural gradient (L, P): (F + damp)^-1 gain."""
    return conjugate_gradients(lambda v: product(v) + k.damp * v, gain, k.cg)


def natural_step(algo: OnPolicy, learner: Learner, batch: Batch, k: SimpleNamespace) -> None:
    """Schulman et al. 2015, appendix C: as far along the natural gradient as the trust region goes; then fit the critic."""
    step_within(algo, learner, batch, k, natural)
    for part, where in minibatches(algo, learner, batch, k):
        fit_critic(algo, learner, part, k, where)


def step_within(algo: OnPolicy, learner: Learner, batch: Batch, k: SimpleNamespace, direction: Direction) -> None:
    """Go along `direction` to where the quadratic model of the mean KL is k.delta; shorten until KL and gain are right, else stay."""
    flat, net = batch.flat(), learner.nets["pi"]
    start, loss = net.theta.detach().clone(), policy_loss(algo, learner, flat, k)
    gain, product = -learner.gradient("pi", loss), fisher(learner, flat)
    way = direction(product, gain, k)
    step = way * (2 * k.delta / (way * product(way)).sum(1, keepdim=True).clamp_min(1e-12)).sqrt()
    accepted, gap = torch.zeros_like(learner.on), torch.zeros_like(k.lr[:, 0])
    with torch.no_grad():
        for j in range(int(k.backtracks.max())):
            trying = learner.on & ~accepted & (k.backtracks > j)
            net.move(start + 0.8**j * step, trying)
            moved = kl(flat.policy, learner.policy(flat.obs)).mean(1)
            fits = trying & (moved[:, None] <= k.delta) & (policy_loss(algo, learner, flat, k) < loss)[:, None]
            accepted, gap = accepted | fits, torch.where(fits[:, 0], moved, gap)
        net.move(start, ~accepted)
    batch.info |= {"kl": gap, "accepted": accepted[:, 0].float()}


trpo = replace(
    a2c,
    improve=natural_step,
    knobs=a2c.knobs | {
        "delta": Knob(0.01, 0.0005, 0.2, "radius: the mean KL that a step may reach"),
        "cg": Knob(10, 1, 20, "iterations of conjugate gradients"),
        "damp": Knob(0.1, 0.0, 1.0, "added to the Fisher matrix: 0 trusts it fully"),
        "backtracks": Knob(10, 1, 15, "how often a step may be shortened by a fifth"),
        "epochs": ppo.knobs["epochs"],
    },
    paper=Paper(
        key="trpo",
        title="Trust Region Policy Optimization",
        year=2015,
        url="https://arxiv.org/abs/1502.05477",
        claim="No step leaves the trust region, and a badly scaled parametrisation hurts it less than gradient steps of the same mean KL.",
        lesson="Measure the step in policy space, not in parameter space.",
        lost="Nothing essential; the critic is fitted by several passes of Adam, as in ppo.",
        base="a2c",
        chapter=3,
    ),
)


def plain_step(algo: OnPolicy, learner: Learner, batch: Batch, k: SimpleNamespace) -> None:
    """The arm that trpo is compared with: as far along the plain gradient as the same trust region goes."""
    step_within(algo, learner, batch, k, lambda product, gain, k: gain)
    for part, where in minibatches(algo, learner, batch, k):
        fit_critic(algo, learner, part, k, where)


def check(seeds: Sequence[int] = range(20), updates: int = 60) -> Verdict:
    """A random MDP per seed whose states' features are scaled from 1 to 100: exact return after natural and after plain steps."""
    world = garnet(seed=seeds, gamma=0.9)
    scale, plainly = torch.logspace(0, 2, world.obs_size), world.observe
    world.observe = lambda state: plainly(state) * scale  # type: ignore[method-assign]
    lanes, returns, largest = Lanes(tuple(seeds), {"gamma": (0.9,)}), [], 0.0
    for algo in (trpo, replace(trpo, improve=plain_step)):
        run = algo.run(world, lanes, tabular(algo, world, lanes))
        for snapshot in (next(run) for _ in range(updates)):
            largest = max(largest, (snapshot.metrics["kl"] / trpo.knobs["delta"].default).max().item())
        returns.append(expected_return(world.mdp, chances(snapshot.learner, torch.eye(world.obs_size) * scale)))
    return together(
        exactly(largest <= 1, largest, "largest mean KL of an accepted step over delta is at most 1"),
        above(returns[0] - returns[1], 0, f"return of natural minus plain steps of the same mean KL after {updates} updates"),
    )
