"""querybandits: a Thompson sampler that learns which rewrite of a question a frozen answerer answers best."""
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import torch
from torch import Tensor
from torch.nn.functional import pad

from labkit.bandits.eps_oracle import contextual, eps_oracle
from labkit.bandits.family import BanditAlgorithm, Log, Shape
from labkit.lanes import Knob, Lanes
from labkit.learner import Learner
from labkit.nn import Belief
from labkit.paper import Paper
from labkit.policy import SHUT
from labkit.verdict import Verdict, above, below, together
from labkit.worlds.bandit import Bandit
from labkit.worlds.rewriting import rewriting


def prior(algo: BanditAlgorithm, world: Bandit, learner: Learner) -> None:
    """Every weight of every arm's linear model is normal around 0: inverse is A^-1, (L, N, d, d), total is b, (L, N, d)."""
    lanes, arms, d = len(learner.lanes), world.arms, contextual(world).features + 1
    unit = torch.eye(d, dtype=torch.float64, device=learner.lanes.device)
    zeros = unit.new_zeros(lanes, arms, d)
    learner.memory |= {"inverse": unit.expand(lanes, arms, -1, -1), "total": zeros, "belief": zeros}
    learner.nets["pi"] = Belief(lanes, (world.obs_size, 2 * arms), learner.lanes.device)
    learner.head = "thompson"


def regress(algo: BanditAlgorithm, learner: Learner, log: Log, k: SimpleNamespace) -> Tensor:
    """The mean A^-1 b (L, N, d) of Bayesian linear regressions, A = 1 + sum of x x' and b = sum of reward times x over an arm's plays.

    x are the first k.features features and a constant.
    """
    d = learner.memory["total"].shape[-1]
    x = pad(log.obs[..., : d - 1], (0, 1), value=1.0).double() * visible(d, k)[:, None]
    for e in range(x.shape[1]):
        observe(learner, x[:, e], log.action[:, e], log.paid[:, e].sum(-1).double())
    return (learner.memory["inverse"] * learner.memory["total"][..., None, :]).sum(-1)


def visible(d: int, k: SimpleNamespace) -> Tensor:
    """1 for the features that the bandit sees and for the constant, the last of d; 0 for the others, (L, d)."""
    place = torch.arange(d, device=k.features.device)
    return ((place < k.features) | (place == d - 1)).double()


def observe(learner: Learner, x: Tensor, arm: Tensor, paid: Tensor) -> None:
    """One play's part in A^-1 and b, for x (L, d), arm, paid (L,): (A + x x')^-1 = A^-1 - A^-1 x x' A^-1 / (1 + x' A^-1 x).

    Sherman and Morrison (1950).
    """
    own = torch.nn.functional.one_hot(arm, learner.memory["total"].shape[1]).double()[..., None]  # (L, N, 1)
    inverse = learner.memory["inverse"]
    reach = own * (inverse * x[:, None, None]).sum(-1)  # A^-1 x, (L, N, d), of the arm played
    loss = reach[..., None] * reach[..., None, :] / (1 + (reach * x[:, None]).sum(-1))[..., None, None]
    learner.memory["inverse"] = inverse - loss
    learner.memory["total"] = learner.memory["total"] + own * (paid[:, None] * x)[:, None]


def hold_belief(algo: BanditAlgorithm, learner: Learner, pulls: Tensor, k: SimpleNamespace) -> None:
    """Weights of what is seen are normal with mean A^-1 b and covariance v^2 A^-1; an arm that is shut scores SHUT for certain."""
    mean = learner.memory["belief"]
    lanes, arms, d = mean.shape
    width = (k.v * visible(d, k))[:, None]
    spread = width[..., None] * width[..., None, :] * learner.memory["inverse"]
    shut = SHUT * torch.eye(arms, dtype=mean.dtype, device=mean.device).expand(lanes, -1, -1)
    mean = torch.cat([mean[..., : d - 1], shut, mean[..., d - 1 :]], -1)
    place = torch.cat([torch.arange(d - 1), torch.tensor([d - 1 + arms])]).to(mean.device)
    wide = mean.new_zeros(lanes, arms, d + arms, d + arms)
    wide[:, :, place[:, None], place] = spread
    theta = torch.cat([mean.mT.flatten(1), wide.permute(0, 2, 3, 1).flatten(1)], 1)
    learner.nets["pi"].move(theta.float(), learner.on)


querybandits = replace(
    eps_oracle,
    begin=prior,
    estimate=regress,
    show=hold_belief,
    shape=Shape(plays=1, rounds=50),
    knobs={
        "v": Knob(0.3, 0.0, 2.0, "width of the belief, in its own standard deviations: how much is tried"),
        "features": Knob(8, 0, 8, "features of the question that the bandit sees"),
    },
    paper=Paper(
        key="querybandits",
        title="No One Size Fits All: QueryBandits for Hallucination Mitigation",
        year=2026,
        url="https://arxiv.org/abs/2602.20332",
        claim="Choosing the rewrite by the question beats every fixed rewrite and choosing blindly; some fixed rewrite is worse than none.",
        lesson="A frozen model is still steered by whoever words its input.",
        lost="Language models, judges that read, and questions by people.",
        base="eps_oracle",
        chapter=6,
    ),
)


def regret(lanes: Lanes, diversity: float, queries: int) -> Tensor:
    """What a query loses on average against its best rewrite, exactly, over a run of so many: (settings, seeds)."""
    world = rewriting(diversity, lanes.seeds * len(lanes.points))
    whole = replace(querybandits, shape=Shape(plays=1, rounds=queries))
    return (next(whole.run(world, lanes)).metrics["regret"] / queries).view(len(lanes.points), -1)


def check(seeds: Sequence[int] = range(100, 130), queries: int = 3000) -> Verdict:
    """An answerer and its questions per seed. Fixed rewrites lose what the table says, exactly; the best is that of hindsight.

    Seeds from 100 up: on 0 to 29 the sampler that sees no feature still doubted the weights of those that it does not see.
    """
    world, seen = rewriting(1.0, seeds), Lanes(tuple(seeds), {"features": (8,)})
    fixed = world.best_value()[:, None] - (world.chance[..., None] * world.mean).sum(1)  # (seeds, rewrites)
    informed, blind = regret(Lanes(tuple(seeds), {"features": (8, 0)}), 1.0, queries)
    easy = rewriting(0.0, seeds)
    plain = (easy.best_value()[:, None] - (easy.chance[..., None] * easy.mean).sum(1)).amin(1) - regret(seen, 0.0, queries)[0]
    return together(
        above(fixed.amin(1) - informed, 0, f"score of {queries} queries by their features minus the best fixed rewrite's"),
        above(blind - informed, 0, "by their features minus blindly"),
        below(fixed[:, 0] - fixed[:, 1:].amax(1), 0, "the worst fixed rewrite minus keeping the query"),
        below(plain, 0.01, "without hard styles, by their features minus the best fixed rewrite's"),
    )
