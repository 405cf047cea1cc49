"""adyen: explore in proportion to what seems at stake, and learn from the logs that the improving policy itself has written."""
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import torch
from torch import Tensor

from labkit.bandits.eps_oracle import as_shown, deploy, empty_log, eps_oracle, read
from labkit.bandits.family import BanditAlgorithm
from labkit.lanes import Knob, Lanes
from labkit.learner import Learner
from labkit.paper import Paper
from labkit.verdict import Verdict, above, below, together
from labkit.worlds.bandit import Bandit
from labkit.worlds.contextual import Contextual
from labkit.worlds.payments import ROUTES, payments


def empty_log_by_gap(algo: BanditAlgorithm, world: Bandit, learner: Learner) -> None:
    """An empty log, and labkit.policy.inverse_gap to make a policy of the model."""
    empty_log(algo, world, learner)
    learner.head = "inverse_gap"


def share_by_gap(algo: BanditAlgorithm, learner: Learner, pulls: Tensor, k: SimpleNamespace) -> None:
    """Each arm in inverse proportion to A + gamma times what it seems to lose, the best by the model with the rest."""
    deploy(learner, k.gamma)


adyen = replace(
    eps_oracle,
    begin=empty_log_by_gap,
    show=share_by_gap,
    knobs={name: knob for name, knob in eps_oracle.knobs.items() if name != "eps"} | {
        "gamma": Knob(200.0, 0.0, 5000.0, "how sharply exploration avoids what seems to lose"),
        "delay": replace(eps_oracle.knobs["delay"], default=1),
    },
    paper=Paper(
        key="adyen",
        title="Contextual Bandits in Payment Processing: Non-uniform Exploration and Supervised Learning at Adyen",
        year=2024,
        url="https://arxiv.org/abs/2412.00569",
        claim="Exploring by the gap earns more than exploring evenly at equal traffic; with a memory of one generation policies see-saw, "
              "and a longer memory damps that.",
        lesson="Exploration that spares today's customers may starve tomorrow's model.",
        lost="Real traffic, routes by the thousand and models other than logistic regression.",
        base="eps_oracle",
        chapter=6,
    ),
)


def by_chance(algo: BanditAlgorithm, world: Bandit, learner: Learner, obs: Tensor, k: SimpleNamespace) -> tuple[Tensor, Tensor]:
    """Log what all arms alike would have: the control without feedback, whose policies are measured but never deployed."""
    _, chance = as_shown(algo, world, learner, obs, k)
    return (learner.rand(obs.shape[1]) * world.arms).long(), torch.full_like(chance, 1 / world.arms)


def echo(levels: Tensor) -> Tensor:
    """Autocorrelation at lag 1 of levels (T, ...): (...). Negative where good generations are followed by bad ones."""
    around = levels - levels.mean(0)
    return (around[1:] * around[:-1]).sum(0) / around.square().sum(0)


def off_best(world: Contextual, probs: Tensor) -> Tensor:
    """Share of traffic (L,) that does not take the arm likeliest by probs (L, C, N)."""
    return 1 - (world.chance * probs.amax(-1)).sum(-1)


def check(seeds: Sequence[int] = range(40), generations: int = 30) -> Verdict:
    """A world of payments per seed: exact values of generations 10 to 30, with logs of 1 and of 5 generations.

    eps_oracle gets the eps that sends as much traffic off its best arm as the gaps do on average. The control fits its models to
    logs of uniform play, so that no policy decides what the next one learns from.
    """
    late, lanes, worlds = slice(9, None), Lanes(tuple(seeds), {"W": (1, 5)}), payments(seed=tuple(seeds) * 2)
    one, world = Lanes(tuple(seeds), {"W": (1,)}), payments(seed=tuple(seeds))
    level = read(adyen, worlds, lanes, generations, worlds.value)[late]
    mass = read(adyen, world, one, generations, lambda probs: off_best(world, probs))[late].mean().item()
    even = Lanes(tuple(seeds), {"W": (1,), "delay": (1,), "eps": (mass * ROUTES / (ROUTES - 1),)})
    evenly = read(eps_oracle, world, even, generations, world.value)[late]
    control = read(replace(adyen, choose=by_chance), world, one, generations, world.value)[late]
    return together(
        above((level[:, 0] - evenly[:, 0]).mean(0), 0, "value by gaps minus value by even shares of as much traffic"),
        above(level[:, 0].std(0) - level[:, 1].std(0), 0, "deviation of value over generations at W=1 minus that at W=5"),
        below(echo(level[:, 0]) - echo(control[:, 0]), 0, "autocorrelation of value at lag 1 minus that without feedback"),
    )
