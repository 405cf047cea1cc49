"""fixpo: a KL penalty that almost keeps the trust region, then repair steps until every state is inside."""
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import torch
from torch import Tensor

from labkit.divergence import kl
from labkit.lanes import Knob, Lanes
from labkit.learner import Learner
from labkit.on_policy.checks import train
from labkit.on_policy.family import Batch, OnPolicy, a2c, fit_critic, importance, minibatches, policy_loss, ppo
from labkit.paper import Paper
from labkit.verdict import Verdict, above, below, exactly, together
from labkit.worlds.control import CartPole

LIMIT = 300  # repair steps after which a lane gives its update up


def adapt(learner: Learner, gap: Tensor, k: SimpleNamespace, where: Tensor) -> None:
    """beta <- max(0, beta + lr_beta (aim * max KL - eps_kl)) in the lanes `where` (L,), from KLs gap (L, B)."""
    beta = learner.memory["beta"]
    moved = (beta + k.lr_beta * (k.aim * gap.detach().amax(1, keepdim=True) - k.eps_kl)).clamp_min(0)
    learner.memory["beta"] = torch.where(where[:, None] & learner.on, moved, beta)


def pull(learner: Learner, batch: Batch, gap: Tensor, loss: Tensor | float, k: SimpleNamespace, where: Tensor) -> None:
    """One step down loss + beta * mean KL, and one of beta."""
    learner.descend("pi", loss + learner.memory["beta"][:, 0] * gap.mean(1), k.lr, where, clip=0.5)
    adapt(learner, gap, k, where)


def penalise_then_repair(algo: OnPolicy, learner: Learner, batch: Batch, k: SimpleNamespace) -> None:
    """Zentner et al. 2023, algorithm 1. Phase 1 improves under a penalty; phase 2 only returns, lane by lane, to the bound."""
    flat, start = batch.flat(), learner.nets["pi"].theta.detach().clone()
    learner.memory.setdefault("beta", torch.ones_like(k.lr))
    for part, where in minibatches(algo, learner, batch, k):
        gap = kl(part.policy, learner.policy(part.obs))
        pull(learner, part, gap, policy_loss(algo, learner, part, k), k, where)
        fit_critic(algo, learner, part, k, where)
    steps, outside = repair(learner, flat, k)
    give_up(learner, start, outside)
    batch.info["repair share"] = steps / (steps + k.epochs[:, 0] * algo.shape.minibatches)


def repair(learner: Learner, batch: Batch, k: SimpleNamespace) -> tuple[Tensor, Tensor]:
    """Steps down the KL alone while some state of the batch is further than eps_kl. How many each lane took, and which failed, (L,)."""
    steps = torch.zeros_like(k.lr[:, 0])
    while True:
        gap = kl(batch.policy, learner.policy(batch.obs))
        outside = (gap.amax(1) > k.eps_kl[:, 0]) & learner.on[:, 0]
        again = outside & (steps < LIMIT)
        if not bool(again.any()):
            return steps, outside
        pull(learner, batch, gap, 0.0, k, again)
        steps = steps + again


def give_up(learner: Learner, start: Tensor, lanes: Tensor) -> None:
    """Put the policy of `lanes` (L,) back to where the batch was collected, and say so."""
    learner.nets["pi"].move(start, lanes[:, None])
    for i in lanes.nonzero()[:, 0].tolist():
        learner.notes.append(f"{learner.lanes.name(i)} undid its update at step {learner.step}: {LIMIT} repair steps did not suffice")


fixpo = replace(
    ppo,
    surrogate=importance,
    improve=penalise_then_repair,
    knobs=a2c.knobs | {
        "eps_kl": Knob(0.1, 0.005, 0.5, "bound: the KL that no state of the batch may exceed"),
        "aim": Knob(2.0, 1.0, 5.0, "the penalty steers the largest KL to eps_kl / aim"),
        "lr_beta": Knob(0.1, 0.01, 1.0, "step size of the penalty's weight"),
        "epochs": ppo.knobs["epochs"],
    },
    paper=Paper(
        key="fixpo",
        title="Guaranteed Trust Region Optimization via Two-Phase KL Penalization",
        year=2023,
        url="https://arxiv.org/abs/2312.05405",
        claim="Every update ends with every state inside the KL bound, for a few percent more steps, and returns keep up with ppo's.",
        lesson="A penalty almost keeps a promise; a short repair phase makes it a guarantee.",
        lost="Robot suites, Atari and transformer policies. One repair step sees the whole batch, not a minibatch.",
        base="ppo",
        chapter=3,
    ),
)


def measured(algo: OnPolicy, learner: Learner, batch: Batch, k: SimpleNamespace, improve: Callable[..., None]) -> None:
    """An improvement, and whether it left some state of the batch beyond fixpo's default bound."""
    improve(algo, learner, batch, k)
    flat = batch.flat()
    batch.info["outside"] = (kl(flat.policy, learner.policy(flat.obs)).amax(1) > fixpo.knobs["eps_kl"].default).float()


def check(seeds: Sequence[int] = range(20), steps: int = 40_000) -> Verdict:
    """CartPole: updates that leave the bound, under fixpo and under ppo; the share of repair steps; the difference in return."""
    world, lanes = CartPole(), Lanes(tuple(seeds))
    mine, theirs = (train(replace(a, improve=partial(measured, improve=a.improve)), world, lanes, steps) for a in (fixpo, ppo))
    late = slice(int(0.75 * len(mine["return"])), None)
    return together(
        exactly(not mine["outside"].any(), mine["outside"].mean().item(), "no update of fixpo leaves the bound"),
        above(theirs["outside"].mean(0), 0, "share of ppo's updates that leave it"),
        below(mine["repair share"].mean(0), 0.05, "share of steps that repair"),
        above((mine["return"] - theirs["return"])[late].mean(0), -25, f"return minus ppo's, last quarter of {steps} steps"),
    )
