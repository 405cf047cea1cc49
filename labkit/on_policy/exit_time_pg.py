"""exit_time_pg: what is paid when the episode ends by one's own doing, learnt by the score: it sees what a path's derivative cannot."""
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import torch
from torch import Tensor

from labkit.lanes import Knob, Lanes
from labkit.learner import Learner
from labkit.on_policy.checks import chances
from labkit.on_policy.family import KNOBS, Batch, Shape, first_episode, reinforce, squared_error
from labkit.paper import Paper
from labkit.verdict import Verdict, above, together
from labkit.worlds.repurchase import Repurchase


def paid_at_exit(batch: Batch, k: SimpleNamespace) -> tuple[Tensor, Tensor]:
    """What the episode paid in all, g, for each of its steps; at k.critic = 1 the critic's rise V(X_i+1) - V(X_i). (L, T, E)

    Hamdouche et al. (2023), eqs. 2.5 and 2.10: V is g once the episode has stopped, and steps after it count for nothing. Scaled by T,
    because losses average over T * E samples where the gradient sums over the steps of a path.
    """
    running = first_episode(batch)
    g = (running * batch.reward).sum(1, keepdim=True).expand_as(batch.reward)
    rise = torch.where(batch.done, g, batch.next_value) - batch.value
    adv = g.shape[1] * running * torch.lerp(g, rise, k.critic[..., None].expand_as(g))
    return adv, torch.where(running, g, batch.value)


exit_time_pg = replace(
    reinforce,
    value=squared_error,
    advantage=paid_at_exit,
    knobs={
        "lr": KNOBS["lr"],
        "ent": replace(KNOBS["ent"], default=0.04),  # without it the policy is soon sure of an early exit, and stays there
        "critic": Knob(0.0, 0.0, 1.0, "0: what was paid in the end; 1: the critic's rise"),
    },
    paper=Paper(
        key="exit_time_pg",
        title="Policy gradient learning methods for stochastic control with exit time and applications to share repurchase pricing",
        year=2023,
        url="https://arxiv.org/abs/2302.07320",
        claim="A randomised policy gets near the exact price of the contract; a control without chance, whose end is held fixed, does not.",
        lesson="When the end depends on what you do, randomise: the score sees what a path's derivative cannot.",
        lost="Continuous time, the comparison with equations and their networks, market impact. The policy is tossed, as in the paper; "
        "how sharply is learnt by the network and no knob.",
        base="reinforce",
        chapter=2,
    ),
)


def relaxed(world: Repurchase, learner: Learner, moves: Tensor) -> Tensor:
    """What buying a share's part, the policy's chance of buying, pays on price paths, (L, E); gradients pass all but the moment of exit.

    moves (L, E): rows of world.paths. The exit is the first date at which all but a thousandth is bought.
    """
    price, average = (x.float()[moves] for x in world.paths)  # (L, E, dates + 1)
    cash, bought, out = (torch.zeros_like(price[..., 0]) for _ in range(3))
    live = torch.ones_like(moves, dtype=torch.bool)
    for t in range(world.dates):
        seen = [torch.full_like(cash, t / world.dates), price[..., t], average[..., t], (bought / world.shares).detach()]
        part = torch.minimum(learner.policy(torch.stack(seen, -1)).probs[..., 1], world.shares - bought)  # type: ignore[attr-defined]
        cash, bought = cash + live * part * price[..., t], bought + live * part
        stops = live & ((bought > world.shares - 1e-3) | (t + 1 == world.dates))
        out, live = torch.where(stops, world.payoff(average[..., t + 1], cash, bought), out), live & ~stops
    return out


def differentiate_paths(world: Repurchase, lanes: Lanes, updates: int, paths: int, width: int) -> Tensor:
    """The arm that the score is compared with: climb `relaxed` on sampled paths. Its mean over all paths at the end, (L,)."""
    algo = replace(exit_time_pg, shape=Shape(envs=paths, width=width, minibatches=1))
    learner, lr = algo.begin(world, lanes), lanes.knobs(algo.knobs).lr
    for _ in range(updates):
        moves = (learner.rand(paths) * 2**world.dates).long()
        learner.descend("pi", -relaxed(world, learner, moves).mean(1), lr, clip=0.5)
    with torch.no_grad():
        return relaxed(world, learner, torch.arange(2**world.dates).expand(len(lanes), -1)).double().mean(1)


def check(seeds: Sequence[int] = range(300, 320), updates: int = 800, paths: int = 64) -> Verdict:
    """The repurchase of 4 shares in 12 dates: exact values, as shares of the way from tossing a coin (0) to the best policy (1).

    Seeds from 300 up: on 0 to 19, without an entropy bonus, most policies bought at once (0.43) and stayed there; its weight was then
    chosen on seeds 200 to 202, and 400 updates of 256 paths became 800 of 64.
    """
    world, lanes, shape = Repurchase(), Lanes(tuple(seeds)), Shape(envs=paths, width=32)
    nodes, best = world.nodes(), world.optimum()[0]
    coin = world.value(torch.full((1, len(nodes)), 0.5, dtype=torch.float64))
    run = replace(exit_time_pg, shape=shape).run(world, lanes)
    learner = [next(run) for _ in range(updates)][-1].learner
    tossed = (world.value(chances(learner, nodes)[..., 1]) - coin) / (best - coin)
    frozen = (differentiate_paths(world, lanes, updates, paths, shape.width) - coin) / (best - coin)
    return together(
        above(tossed, 0.9, f"share of the way from a coin to the optimum after {updates} updates of {paths} paths"),
        above(tossed - frozen, 0, "the same minus that of differentiating paths with the exit held fixed"),
    )
