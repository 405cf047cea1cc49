"""purely_periodic: arms that tire need a rhythm. Give each arm a period of its own, and let no two meet."""
import math
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from labkit.bandits.checks import play
from labkit.bandits.family import BanditAlgorithm, Log, ucb
from labkit.errors import LabError
from labkit.lanes import Knob, Lanes
from labkit.learner import Learner
from labkit.nn import Table
from labkit.paper import Paper
from labkit.verdict import Verdict, above, together
from labkit.worlds.bandit import Bandit, Recovering, best_shares

ODDS = (1, 3, 5, 7)  # odd parts of periods, a of them in use
LONGEST = 64  # rounds of a period; an arm that would wait longer is left out
BUDGETS = 64  # sums of shares that are tried, up to twice the pulls of a round
NEVER = 0  # the period of an arm that is left out


# begin


def suspect_the_best(algo: BanditAlgorithm, world: Bandit, learner: Learner) -> None:
    """Nothing pulled yet, all rested; `belief` (L, E, N, D) says what each arm pays after d idle rounds: 1, the most there is."""
    if not isinstance(world, Recovering):
        raise LabError(f"{world.key} has no arms that recover; take bandit.recovering.")
    learner.nets["pi"] = Table(len(learner.lanes), (1, world.arms), learner.lanes.device)
    shape = (len(learner.lanes), algo.shape.plays, world.arms, world.rest)
    unseen = torch.zeros(shape, dtype=torch.float64, device=learner.lanes.device)
    rested = torch.full(shape[:3], world.rest, device=learner.lanes.device)
    learner.memory |= {"belief": unseen + 1, "plays": unseen, "total": unseen, "idle": rested, "period": rested, "turn": rested, "round": 0}


# choose


def in_rhythm(algo: BanditAlgorithm, world: Recovering, learner: Learner, obs: Tensor, k: SimpleNamespace) -> tuple[Tensor, Tensor]:
    """Pull each arm when its turn comes; at the beginning of each phase, of 2 D rounds, plan anew from what is believed."""
    memory = learner.memory
    if memory["round"] % (2 * world.rest) == 0:
        memory["period"], memory["turn"] = rhythm(memory["belief"], world.pulls, k.a)
    due = (memory["period"] > NEVER) & (memory["round"] % memory["period"].clamp_min(1) == memory["turn"])
    memory["round"] += 1
    return due.float(), torch.ones_like(obs[..., 0])


def knowing(algo: BanditAlgorithm, world: Recovering, learner: Learner, obs: Tensor, k: SimpleNamespace) -> tuple[Tensor, Tensor]:
    """For planning without learning: believe what is true."""
    learner.memory["belief"] = learner.memory["world"]["curve"].double()
    return in_rhythm(algo, world, learner, obs, k)


# estimate


def optimistic_curves(algo: BanditAlgorithm, learner: Learner, log: Log, k: SimpleNamespace) -> Tensor:
    """Mean + c sqrt(2 log t / n) of each arm and idle time, 1 at most. Longer rest never pays less, so no idle time is believed to
    pay more than a longer one."""
    memory = learner.memory
    here = log.pulled[..., None] * one_hot(memory["idle"] - 1, memory["belief"].shape[-1])
    memory["plays"], memory["total"] = memory["plays"] + here, memory["total"] + here * log.paid[..., None]
    memory["idle"] = torch.where(log.pulled > 0, 1, memory["idle"] + 1).clamp_max(here.shape[-1])
    n = memory["plays"].clamp_min(1)
    above = memory["total"] / n + k.c[..., None, None] * (2 * math.log(memory["round"]) / n).sqrt()
    return torch.where(memory["plays"] > 0, above.clamp_max(1), 1.0).flip(-1).cummin(-1).values.flip(-1)


def keep(algo: BanditAlgorithm, learner: Learner, log: Log, k: SimpleNamespace) -> Tensor:
    """For planning without learning: nothing is learnt."""
    return learner.memory["belief"]


# the plan


def rhythm(curve: Tensor, pulls: int, a: Tensor) -> tuple[Tensor, Tensor]:
    """Period and turn of each arm, (L, E, N) int64: the best plan whose arms never claim more than `pulls` pulls of a round.

    Shares that maximise the concave bound, for several sums of them, are rounded down to 1 / period. A plan fits if the arms of each odd
    part fill so many slots that all together have at most `pulls`. curve (L, E, N, D) float64; a (L, 1).
    """
    period = rounded(best_shares(curve, [2 * pulls * (i + 1) / BUDGETS for i in range(BUDGETS)])[0], a)
    paid = torch.where(slots(period) <= pulls, earned(curve[..., None, :, :], period), -1.0)
    chosen = paid.argmax(-1)[..., None, None].expand(*curve.shape[:2], 1, curve.shape[2])
    best = period.gather(-2, chosen)[..., 0, :]
    return best, turns(best)


def odd_part(period: Tensor) -> Tensor:
    """What is left of whole numbers from 1 up after all halving; 0 of 0."""
    return period // (period & -period).clamp_min(1)


def rounded(shares: Tensor, a: Tensor) -> Tensor:
    """The least period in D_a of at least 1 / share, (L, ..., N) int64, of shares (L, ..., N); NEVER where it exceeds LONGEST.

    D_a is {1 .. a - 1} and all j 2^l with a <= j < 2a: the numbers whose odd part is below 2a.
    """
    d = torch.arange(1, LONGEST + 1, device=a.device)
    following = torch.where(odd_part(d) < 2 * a, d, LONGEST + 1).flip(-1).cummin(-1).values.flip(-1)  # the next one in D_a, (L, LONGEST)
    least = (1 / shares.clamp_min(1 / (LONGEST + 1)) - 1e-9).ceil().long().clamp_max(LONGEST + 1)
    table = torch.cat([following, torch.full_like(following[:, :1], LONGEST + 1)], 1)
    period = table.gather(1, least.flatten(1) - 1).view_as(least)
    return torch.where(period > LONGEST, NEVER, period)


def earned(curve: Tensor, period: Tensor) -> Tensor:
    """The exact long-run reward per round (...) of pulling each arm in its period (..., N), of curve (..., N, D)."""
    at = period.clamp(1, curve.shape[-1])[..., None] - 1
    paid = curve.expand(*period.shape, -1).gather(-1, at)[..., 0]
    return torch.where(period > NEVER, paid / period.clamp_min(1), 0.0).sum(-1)


def slots(period: Tensor) -> Tensor:
    """How many pulls of a round the plan claims, (...): arms of one odd part share them, those of several do not. period (..., N)."""
    share, odd = torch.where(period > NEVER, 1 / period.clamp_min(1).double(), 0.0), odd_part(period)
    loads = torch.stack([(share * (odd == part)).sum(-1) for part in ODDS])
    return (loads - 1e-9).ceil().clamp_min(0).sum(0)


def turns(period: Tensor) -> Tensor:
    """When each arm's turn comes within its period (..., N): never two arms of one slot in the same round.

    Periods of one odd part divide each other. Shortest first, each arm takes the next stretch of 1 / period of a line; a slot is a
    stretch of 1. Its place there is read with the bits turned round, as in van der Corput's sequence.
    """
    turn, odd = torch.zeros_like(period), odd_part(period)
    for part in ODDS:
        mine = odd == part
        order = torch.where(mine, period, LONGEST + 1).argsort(dim=-1, stable=True)
        share = torch.where(mine, 1 / period.clamp_min(1).double(), 0.0).gather(-1, order)
        before = torch.zeros_like(share).scatter(-1, order, share.cumsum(-1) - share)
        place = (before * period).round().long() % period.clamp_min(1)
        turn = torch.where(mine, spread(place, part, period // part), turn)
    return turn


def spread(place: Tensor, odd: int, power: Tensor) -> Tensor:
    """place = p * power + s -> p + odd * (s with its log2(power) bits turned round)."""
    s, turned = place % power.clamp_min(1), torch.zeros_like(place)
    for bit in range(LONGEST.bit_length() - 1):
        turned = torch.where(2**bit < power, turned * 2 + (s >> bit) % 2, turned)
    return place // power.clamp_min(1) + odd * turned


purely_periodic = replace(
    ucb,
    begin=suspect_the_best,
    choose=in_rhythm,
    estimate=optimistic_curves,
    knobs={"a": Knob(2, 1, len(ODDS), "how many odd parts periods may have: more fit the shares better, and pack worse"),
           "c": Knob(0.1, 0.0, 1.0, "optimism, in units of reward")},
    paper=Paper(
        key="purely_periodic",
        title="Offline Planning and Online Learning under Recovering Rewards",
        year=2021,
        url="https://arxiv.org/abs/2106.14813",
        claim="Where arms are known, the periodic plan nears the concave bound as more are pulled at once, and beats taking the best now.",
        lesson="When plays exhaust rewards, plan the rhythm, not the arm.",
        lost="The proofs of regret, and arms in the numbers of a shop.",
        base="ucb",
        chapter=6,
    ),
)


def myopic(algo: BanditAlgorithm, world: Bandit, learner: Learner, obs: Tensor, k: SimpleNamespace) -> tuple[Tensor, Tensor]:
    """The arm that the plan is compared with: whatever pays most in this round."""
    return world.expected(learner.memory["world"]), torch.ones_like(obs[..., 0])


def late_share(algo: BanditAlgorithm, pulls: int, seeds: Sequence[int], a: int) -> Tensor:
    """The exact mean reward of 192 rounds, after as many, as a share of the concave bound, (S,)."""
    last = play(algo, Recovering(pulls), Lanes(tuple(seeds), {"a": (a,)}), 384, 2)[-1]
    return last.metrics["return"] / last.learner.memory["world"]["bound"][:, 0].double()


def check(seeds: Sequence[int] = range(40)) -> Verdict:
    """New arms per seed, twice as many as pulls, all curves known: exact long-run reward over the bound with 16 pulls, how much more
    that is than with 1, and by how much the plan beats taking what pays most now. a is the root of the pulls."""
    planned = replace(purely_periodic, choose=knowing, estimate=keep)
    one, many = (late_share(planned, pulls, seeds, round(math.sqrt(pulls))) for pulls in (1, 16))
    greedy = late_share(replace(planned, choose=myopic), 16, seeds, 4)
    return together(
        above(many, 0.97, "reward of the plan over the bound, 16 pulls"),
        above(many - one, 0, "the same minus that with 1 pull"),
        above(many - greedy, 0.05, "reward of the plan minus that of taking the best now, over the bound, 16 pulls"),
    )
