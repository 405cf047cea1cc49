"""wtb: where tastes are acquired, play an arm long enough to be known, and judge it only then."""
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import torch
from torch import Tensor

from labkit.bandits.checks import play
from labkit.bandits.family import BanditAlgorithm, Log, count_from_nothing, ucb
from labkit.lanes import Knob, Lanes
from labkit.learner import Learner
from labkit.paper import Paper
from labkit.verdict import Verdict, above, below, together
from labkit.worlds.bandit import Bandit, Tallying


def all_in_play(algo: BanditAlgorithm, world: Bandit, learner: Learner) -> None:
    """The first block of the first epoch: of arm 0, with none eliminated."""
    count_from_nothing(algo, world, learner)
    zeros = learner.memory["plays"]
    first = torch.zeros_like(zeros[..., 0], dtype=torch.int64)
    learner.memory |= {"alive": zeros == 0, "arm": first, "played": first, "epoch": first, "sigma": world.sigma}


def in_blocks(algo: BanditAlgorithm, world: Bandit, learner: Learner, obs: Tensor, k: SimpleNamespace) -> tuple[Tensor, Tensor]:
    """The arm of the current block."""
    return learner.memory["arm"], torch.ones_like(obs[..., 0])


def after_burn_in(algo: BanditAlgorithm, learner: Learner, log: Log, k: SimpleNamespace) -> Tensor:
    """Successive elimination in blocks of M + L_0 growth^epoch plays (Malik, Igoe, Li and Singh 2023), the first M of which do not
    count; at the end of an epoch arms are dropped whose mean + conf lies below another's mean - conf. The means, (L, E, N)."""
    memory = learner.memory
    counts = (memory["played"] >= k.M)[..., None]
    plays, total = memory["plays"] + log.pulled * counts, memory["total"] + log.paid * counts
    played, length = memory["played"] + 1, (k.growth.log() * memory["epoch"]).exp().mul(k.length).round()
    over = played >= k.M + length
    mean, following = total / plays.clamp_min(1), next_alive(memory["alive"], memory["arm"])
    ended = over & (following <= memory["arm"])  # every arm that is left has had its block
    alive, arm = memory["alive"], torch.where(over, following, memory["arm"])
    if bool(ended.any()):
        alive = torch.where(ended[..., None], surviving(alive, mean, plays, k.c[..., None] * memory["sigma"]), alive)
        arm = torch.where(ended, alive.byte().argmax(-1), arm)
    learner.memory |= {"plays": plays, "total": total, "alive": alive, "arm": arm, "epoch": memory["epoch"] + ended}
    learner.memory["played"] = torch.where(over, 0, played)
    return mean


def next_alive(alive: Tensor, arm: Tensor) -> Tensor:
    """The next arm in play after arm (L, E), round about, of alive (L, E, N): the same one if it is the last."""
    n = alive.shape[-1]
    place = (torch.arange(n, device=arm.device) - arm[..., None] - 1) % n
    return torch.where(alive, place, n).argmin(-1)


def surviving(alive: Tensor, mean: Tensor, plays: Tensor, scale: Tensor) -> Tensor:
    """Who is left, (L, E, N): arms not worse than the best by both confidences, conf = scale sqrt(2 log t / n)."""
    conf = scale * (2 * plays.sum(-1, keepdim=True).clamp_min(1).log() / plays.clamp_min(1)).sqrt()
    best = torch.where(alive, mean - conf, -torch.inf).amax(-1, keepdim=True)
    return alive & (mean + conf >= best)


wtb = replace(
    ucb,
    begin=all_in_play,
    choose=in_blocks,
    estimate=after_burn_in,
    knobs={
        "M": Knob(20, 0, 80, "assumed memory: plays of a block that do not count, while the other side gets used to the arm"),
        "length": Knob(10, 1, 100, "plays that count, of a block of the first epoch"),
        "growth": Knob(2.0, 1.0, 4.0, "by how much longer they are in the next epoch"),
        "c": Knob(1.0, 0.0, 2.0, "width of the confidence, in standard errors times sqrt(2 log t)"),
    },
    paper=Paper(
        key="wtb",
        title="Weighted Tallying Bandits: Overcoming Intractability via Repeated Exposure Optimality",
        year=2023,
        url="https://arxiv.org/abs/2305.02955",
        claim="Blocks with burn-in find an acquired taste that ucb, Exp3 and plain elimination never try fairly; elsewhere they only cost.",
        lesson="If people must get used to an option, judge it only after repeated exposure.",
        lost="Lower bounds, and studies with people.",
        base="ucb",
        chapter=6,
    ),
)

PLAIN: dict[str, tuple[float, ...]] = {"M": (0,), "length": (1,), "growth": (1.0,)}  # successive elimination as it was before
RATE = 0.05  # of Exp3: its share of uniform plays, and how fast it follows its estimates


def exp3(algo: BanditAlgorithm, world: Bandit, learner: Learner, obs: Tensor, k: SimpleNamespace) -> tuple[Tensor, Tensor]:
    """Auer, Cesa-Bianchi, Freund and Schapire (2002): shares by exponential weights of what was paid over its chance."""
    shares = (1 - RATE) * (RATE / world.arms * learner.memory["total"]).softmax(-1) + RATE / world.arms
    action = (shares.cumsum(-1)[..., :-1] <= learner.rand(obs.shape[1], 1)).sum(-1)
    return action, shares.gather(-1, action[..., None])[..., 0]


def over_its_chance(algo: BanditAlgorithm, learner: Learner, log: Log, k: SimpleNamespace) -> Tensor:
    """The sum of what each arm paid over the chance with which it was played."""
    learner.memory["total"] = learner.memory["total"] + log.paid / log.chance[..., None]
    return learner.memory["total"]


def check(seeds: Sequence[int] = range(40), rounds: int = 8000) -> Verdict:
    """Five arms, one an acquired taste: exact policy regret, against the best arm played from the first round on, of blocks over that of
    ucb, Exp3 and plain elimination; by how much blocks lose more in twice the time; and, with tallies that have no effect, by how much
    they lose more than plain elimination."""
    world, flat, lanes, plain = Tallying(), Tallying(flat=True), Lanes(tuple(seeds)), Lanes(tuple(seeds), PLAIN)

    def regret(algo: BanditAlgorithm, world: Bandit, lanes: Lanes, times: int = 1) -> list[Tensor]:
        return [s.metrics["regret"] for s in play(algo, world, lanes, times * rounds, times)]

    once, twice = regret(wtb, world, lanes, 2)
    followed = replace(ucb, choose=exp3, estimate=over_its_chance, knobs={})
    others = {"ucb": regret(ucb, world, lanes), "Exp3": regret(followed, world, lanes), "plain elimination": regret(wtb, world, plain)}
    dearer = regret(wtb, flat, lanes)[0] - regret(wtb, flat, plain)[0]
    return together(
        *(below(once / lost[0], 0.3, f"policy regret of blocks over that of {name}, {rounds} rounds") for name, lost in others.items()),
        below(twice / once, 1.25, "policy regret of blocks after twice the rounds over that before"),
        above(dearer, 0, "regret of blocks minus that of plain elimination, tallies without effect"),
    )
