"""impala: learn from actors whose policy is some updates old, and correct for it with truncated importance weights."""
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from types import SimpleNamespace

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from labkit.lanes import Knob, Lanes
from labkit.learner import Learner
from labkit.nn import Table, normalise
from labkit.on_policy.checks import chances
from labkit.on_policy.family import Batch, OnPolicy, a2c, act
from labkit.paper import Paper
from labkit.policy import HEADS, Policy
from labkit.verdict import Verdict, below, together
from labkit.worlds.finite import advantage, garnet, values
from labkit.worlds.world import World

OLDEST = 8  # updates by which an actor may lag
SWEEPS = 50  # of a critic fitted to its own targets: traces of 10 steps shrink its error by 0.4 each


@torch.no_grad()
def lagging(algo: OnPolicy, world: World, learner: Learner, k: SimpleNamespace) -> Batch:
    """Act with the policy of k.lag updates ago (at first, with the first one), and keep the log-probabilities under it."""
    theta = parameters_ago(learner, k.lag)

    def actor(obs: Tensor) -> Policy:
        return HEADS[learner.head](*learner.nets["pi"](obs, theta))

    batch = act(world, learner, lambda obs, rows: actor(obs), algo.shape.steps)
    batch.acted = actor(batch.obs.flatten(1, 2)).log_prob(batch.action.flatten(1, 2)).view_as(batch.reward)
    return batch


def parameters_ago(learner: Learner, lag: Tensor) -> Tensor:
    """The policy's parameters (L, P) of lag (L, 1) updates ago. Call it once an update: memory["past"] (L, OLDEST, P) moves on."""
    now = learner.nets["pi"].theta.detach()[:, None]
    past = learner.memory.get("past", now.expand(-1, OLDEST, -1))
    known = torch.cat([now, past], 1)
    learner.memory["past"] = known[:, :-1].clone()
    return known.gather(1, lag.long()[..., None].expand(-1, 1, now.shape[2]))[:, 0]


def vtrace(batch: Batch, k: SimpleNamespace) -> tuple[Tensor, Tensor, Tensor]:
    """Weights rho, the advantages that they go with, and the critic's targets v (Espeholt et al. 2018, eq. 1), each (L, T, E).

    With w = pi / mu: rho = min(rho_bar, w), c = lam min(c_bar, w), and backwards v_t - V_t = rho_t delta_t + gamma c_t (v_t+1 - V_t+1).
    The advantage is r_t + gamma (lam v_t+1 + (1 - lam) V_t+1) - V_t, which is GAE's where pi = mu and neither bound is below 1.
    """
    ratio = (batch.log_prob - batch.acted).exp()
    rho, c = (torch.minimum(ratio, bound[..., None]) for bound in (k.rho_bar, k.c_bar))
    delta = batch.reward + k.gamma[..., None] * batch.next_value * ~batch.terminated - batch.value
    decay = (k.gamma * k.lam)[..., None] * ~batch.done
    adv, error, later = torch.empty_like(delta), torch.empty_like(delta), torch.zeros_like(delta[:, 0])
    for t in reversed(range(delta.shape[1])):
        adv[:, t] = delta[:, t] + decay[:, t] * later
        later = error[:, t] = rho[:, t] * delta[:, t] + decay[:, t] * c[:, t] * later
    return rho, adv, error + batch.value


def corrected(batch: Batch, k: SimpleNamespace) -> tuple[Tensor, Tensor]:
    """rho times the advantage, which is normalised before it is weighted: a weighted constant adds no bias, a constant would."""
    rho, adv, target = vtrace(batch, k)
    batch.info["weight"] = rho.mean((1, 2))
    return rho * normalise(adv.flatten(1)).view_as(adv), target


impala = replace(
    a2c,
    collect=lagging,
    advantage=corrected,
    knobs=a2c.knobs | {
        "lag": Knob(4, 0, OLDEST, "updates by which the acting policy is behind the learning one"),
        "rho_bar": Knob(1.0, 0.5, 10.0, "bound of the weight of a step: decides whose value the critic learns"),
        "c_bar": Knob(1.0, 0.0, 2.0, "bound of the weights along a trace: decides how far back surprises reach"),
        "lam": replace(a2c.knobs["lam"], default=1.0),
    },
    paper=Paper(
        key="impala",
        title="IMPALA: Scalable Distributed Deep-RL with Importance Weighted Actor-Learner Architectures",
        year=2018,
        url="https://arxiv.org/abs/1802.01561",
        claim="With actors eight updates old, truncated weights bring critic and policy gradient nearer to the exact ones.",
        lesson="Data drift away from the policy while they wait; a weight per step buys back most of what the wait has cost.",
        lost="The machines: actors lag by a number of updates that is set, not by a queue; frames, recurrent networks and many tasks.",
        base="a2c",
        chapter=11,
    ),
)


def settle(learner: Learner, batch: Batch, pi: Tensor, k: SimpleNamespace) -> tuple[Tensor, Tensor]:
    """Judge a batch with one-hot observations by the critic that its own targets settle at.

    Gives that critic, (L, S), and the batch's gradient in the logits of the policy pi, both (L, S, A).
    """
    seen = batch.obs.flatten(1, 2).double()
    visits = seen.mean(1)
    learner.nets["v"] = Table(len(seen), (seen.shape[2], 1), str(seen.device))
    for _ in range(SWEEPS):
        impala.judge(learner, batch, k)
        rho, adv, target = (x.flatten(1).double()[..., None] for x in vtrace(batch, k))
        critic = (seen * target).mean(1) / visits.clamp_min(1e-12)
        learner.nets["v"].move(critic.float(), learner.on)
    score = one_hot(batch.action.flatten(1), pi.shape[2]) - seen @ pi
    return critic, seen.mT @ (score * rho * adv) / seen.shape[1]


def check(seeds: Sequence[int] = range(100, 120), updates: int = 30, steps: int = 256) -> Verdict:
    """A random MDP per seed, actors 8 updates behind, lam 0.9: errors with V-trace minus errors that ignore the lag, on the same data.

    After `updates` updates 64 environments act for `steps` steps, and a table of values is fitted to its own targets until it settles.
    Critic: its squared error against the policy's exact values, averaged over visits. Gradient: squared distance, over the logits, from
    the one with exact advantages in the states that were visited. Seeds from 100 up: an earlier rule, tried on 0 to 19, judged the
    targets of a critic that had only begun to learn; V-trace's were further off there, since its shorter traces lean more on the critic.
    """
    lanes = Lanes(tuple(seeds), {"gamma": (0.9,), "lam": (0.9,), "lag": (OLDEST,)})
    world, wide = garnet(seed=lanes.seeds, gamma=0.9), replace(impala, shape=replace(impala.shape, envs=64, steps=steps))
    run, k = impala.run(world, lanes), lanes.knobs(impala.knobs)
    old, learner = [next(run) for _ in range(updates)][-1].learner, wide.begin(world, lanes)
    learner.nets["pi"], learner.memory["past"] = old.nets["pi"], old.memory["past"]
    batch = wide.collect(wide, world, learner, k)
    ignored = copy(batch)
    ignored.acted = batch.log_prob
    pi = chances(learner, torch.eye(world.obs_size))
    visits, v = batch.obs.double().mean((1, 2)), values(world.mdp, pi)[1]
    slope = visits[..., None] * pi * advantage(world.mdp, pi)
    found = [settle(learner, one, pi, k) for one in (batch, ignored)]
    off = [(visits * (critic - v).square()).sum(1) for critic, _ in found]
    away = [(gradient - slope).square().sum((1, 2)) for _, gradient in found]
    return together(
        below(off[0] - off[1], 0, "squared error of the settled critic with V-trace minus without"),
        below(away[0] - away[1], 0, "squared error of the gradient with V-trace minus without"),
    )
