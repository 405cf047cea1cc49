"""avatar: old groups come again, held against their prompt's past, and credit goes to both ends of a response.

The authors' trainer (ms-swift, grpo_tas_trainer.py) is followed: what it stores, how it sorts and weighs. There each token's loss is
weighted; that is the same as weighting its advantage, which is done here. Old groups are drawn from a tier with replacement.
"""
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import torch
from torch import Tensor

from labkit.grpo.checks import curves
from labkit.grpo.family import Batch, Grpo, assemble, grpo, sampled, standardised
from labkit.lanes import Knob, Lanes
from labkit.learner import Learner
from labkit.paper import Paper
from labkit.verdict import Verdict, above, below, together
from labkit.worlds.tokens.plan import Plan
from labkit.worlds.tokens.world import TokenWorld

SHARES = (0.40, 0.35, 0.25)  # of the store, and of what is drawn from it: hard, medium and easy prompts
QUANTILES = (0.40, 0.75)  # of the prompts' mean rewards, up to which one is hard, or medium
BATCHES = 8  # that the store holds
VISITS = 16  # of each prompt that are remembered
STORED = ("problem", "token", "passed", "node", "old")
SMALLEST = 1e-4  # added to the deviation of old groups' rewards


def places(prompts: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """How many groups each tier of the store holds, and the first place of each, (3,) both."""
    size = torch.tensor([round(BATCHES * prompts * share) for share in SHARES], device=device)
    return size, size.cumsum(0) - size


def past(algo: Grpo, world: TokenWorld, learner: Learner, fresh: Batch) -> dict[str, Tensor]:
    """What is remembered: "marks" (L, N, VISITS), the mean rewards of each prompt's visits, newest first; "visits" (L, N), how many;
    "stored" (L, 3), groups that have gone into each tier; and the store itself, (L, S, ...). Empty at first."""
    if "past groups" not in learner.memory:
        zero, total = learner.on.new_zeros, int(places(algo.shape.prompts, learner.on.device)[0].sum())
        size = (len(learner.lanes), len(world.start))
        made = {"marks": zero(*size, VISITS, dtype=torch.float32), "visits": zero(size, dtype=torch.int64)}
        made |= {"stored": zero(size[0], len(SHARES), dtype=torch.int64)}
        made |= {name: (x := getattr(fresh, name)).new_zeros(len(x), total, *x.shape[2:]) for name in STORED}
        learner.memory["past groups"] = made
    return learner.memory["past groups"]


def mean_marks(kept: dict[str, Tensor], k: SimpleNamespace) -> Tensor:
    """The mean reward of each prompt in its last k.window visits, 0 before the first. (L, N)"""
    recent = torch.arange(VISITS, device=k.window.device) < torch.minimum(kept["visits"], k.window)[..., None]
    return (kept["marks"] * recent).sum(-1) / recent.sum(-1).clamp_min(1)


def visit(kept: dict[str, Tensor], problem: Tensor, reward: Tensor) -> None:
    """Note the rewards (L, P, G) of problem (L, P). A prompt that is drawn twice in a batch is visited once."""
    total = torch.zeros_like(kept["marks"][..., 0]).scatter_add(1, problem, reward.sum(-1))
    drawn = torch.zeros_like(kept["visits"]).scatter_add(1, problem, torch.ones_like(problem))
    mark = total / (drawn * reward.shape[2]).clamp_min(1)
    kept["marks"] = torch.where(drawn[..., None] > 0, torch.cat([mark[..., None], kept["marks"][..., :-1]], -1), kept["marks"])
    kept["visits"] = kept["visits"] + (drawn > 0)


def tiers(kept: dict[str, Tensor], problem: Tensor, k: SimpleNamespace) -> Tensor:
    """The tier of each problem (L, P) among all that were visited: 0 hard, 1 medium, 2 easy. (L, P) int64"""
    mean, seen = mean_marks(kept, k), kept["visits"] > 0
    ranked, last = torch.where(seen, mean, torch.inf).sort(1).values, seen.sum(1, keepdim=True) - 1
    ends = [ranked.gather(1, (q * last).round().long()) for q in QUANTILES]
    own = mean.gather(1, problem)
    return sum(((own > end).long() for end in ends), torch.zeros_like(problem))


def store(kept: dict[str, Tensor], fresh: Batch, tier: Tensor) -> None:
    """Put each group into its tier (L, P); the oldest of the tier gives way."""
    (size, first), into = places(fresh.problem.shape[1], tier.device), torch.nn.functional.one_hot(tier, len(SHARES))
    nth = kept["stored"].gather(1, tier) + (into.cumsum(1) - 1).gather(2, tier[..., None])[..., 0]
    at = first[tier] + nth % size[tier]
    for name in STORED:
        new = getattr(fresh, name)
        kept[name] = kept[name].scatter(1, at.view(*at.shape, *[1] * (new.dim() - 2)).expand_as(new), new)
    kept["stored"] = kept["stored"] + into.sum(1)


def drawn(kept: dict[str, Tensor], u: Tensor, k: SimpleNamespace) -> tuple[Tensor, Tensor]:
    """Which places of a batch an old group takes, (L, P) bool, and which group of the store, (L, P), from u (L, P) in [0, 1).

    The first places, k.replay of them, in the tiers' shares; a place whose tier is still empty stays with its fresh group.
    """
    (size, first), place = places(u.shape[1], u.device), torch.arange(u.shape[1], device=u.device)
    many = (k.replay * u.shape[1]).round()
    tier = sum(((place >= (many * q).round()).long() for q in QUANTILES), torch.zeros_like(u, dtype=torch.int64))
    filled = torch.minimum(kept["stored"], size).gather(1, tier)
    return (place < many) & (filled > 0), first[tier] + (u * filled).long()


def with_the_past(algo: Grpo, world: TokenWorld, learner: Learner, problem: Tensor, k: SimpleNamespace) -> Batch:
    """Fresh groups are written, marked and stored, and some places of the batch then go to old ones. "again": those places, (L, P) bool;
    "usual": the mean reward of each place's prompt before this update, (L, P)."""
    fresh = sampled(algo, world, learner, problem, k)
    kept = past(algo, world, learner, fresh)
    again, which = drawn(kept, learner.rand(algo.shape.prompts), k)

    def pick(name: str) -> Tensor:
        new = getattr(fresh, name)
        ones = [1] * (new.dim() - 2)
        old = kept[name].gather(1, which.view(*which.shape, *ones).expand_as(new))
        return torch.where(again.view(*again.shape, *ones), old, new)

    batch = assemble(world, *(pick(name) for name in STORED))
    batch.extra |= {"again": again, "usual": mean_marks(kept, k).gather(1, batch.problem)}
    visit(kept, problem, algo.verify(world, fresh, k))
    store(kept, fresh, tiers(kept, problem, k))
    return batch


def against_the_past(batch: Batch, k: SimpleNamespace) -> Tensor:
    """Fresh groups: GRPO's advantages. Old ones: k.weight * (reward - the prompt's usual reward) / (deviation of all old ones + 1e-4), so
    that a group that agrees has something to say where it is unusual. (L, P, G, 1)"""
    again, reward = batch.extra["again"][..., None] & batch.real, batch.reward
    n = again.sum((1, 2), keepdim=True)
    mean = (reward * again).sum((1, 2), keepdim=True) / n.clamp_min(1)
    spread = ((reward - mean).square() * again).sum((1, 2), keepdim=True).div((n - 1).clamp_min(1)).sqrt()
    unusual = k.weight[..., None] * (reward - batch.extra["usual"][..., None]) / (spread + SMALLEST)
    adv = torch.where(again, unusual, standardised(batch, k)[..., 0])
    batch.info["silent"] = (adv == 0).all(-1).float().mean(1)
    return adv[..., None]


def towards_the_ends(batch: Batch, k: SimpleNamespace) -> Tensor:
    """1 + k.ends * (2 t / (T - 1) - 1)^2 for token t = 0 .. T - 1 of a response of T: 1 in the middle, 1 + k.ends at both ends."""
    last = (batch.length - 1).clamp_min(1)[..., None]
    return 1 + k.ends[..., None, None] * (2 * torch.arange(batch.token.shape[3], device=last.device) / last - 1).square()


def shaped(batch: Batch, k: SimpleNamespace) -> Tensor:
    """The advantage of each response at each of its tokens, weighted towards the ends (Kulkarni and Fazli 2025). (L, P, G, T)"""
    return against_the_past(batch, k) * towards_the_ends(batch, k)


avatar = replace(
    grpo,
    rollout=with_the_past,
    advantage=shaped,
    knobs=grpo.knobs | {
        "ends": Knob(1.0, -0.9, 3.0, "how much more the ends of a response are taught than its middle; below 0: less"),
        "replay": Knob(0.5, 0.0, 0.9, "share of a batch that is replayed from the store"),
        "weight": Knob(1.0, 0.0, 2.0, "of replayed advantages"),
        "window": Knob(4, 1, VISITS, "visits of a prompt over which its usual reward is the mean"),
    },
    paper=Paper(
        key="avatar",
        title="AVATAR: Reinforcement Learning to See, Hear, and Reason Over Video",
        year=2025,
        url="https://arxiv.org/abs/2508.03100",
        claim="Weighting the ends learns faster where the ends decide and slower where the middle does; replay leaves fewer groups silent.",
        lesson="Where credit is placed in time is a prior, right or wrong with the task.",
        lost="Video and sound, rewards by a judge, hints after many failures, and a store that prefers some groups to others.",
        base="grpo",
        chapter=22,
    ),
)  # fmt: skip


def check(seeds: Sequence[int] = range(20), updates: int = 300) -> Verdict:
    """Plans whose first and last token decide, and the mirror where the middle does. Mean exact success during training, ends weighted
    twofold minus flat, in both; and the share of groups in which all advantages are 0, with replay minus without. Equal rollouts."""
    seeds, ends = tuple(seeds), (0.0, 1.0)
    told = curves(avatar, Plan(), Lanes(seeds, {"ends": ends, "replay": (0.0, 0.5)}), updates)
    mirror = curves(avatar, Plan(middle=True), Lanes(seeds, {"ends": ends}), updates)
    (_, flat), (_, bent) = told["return"].mean(0).unflatten(0, (2, 2))
    without, replayed = told["silent"].mean(0)[2:]
    return together(
        above(bent - flat, 0, "mean success where the ends decide, ends weighted minus flat"),
        below(mirror["return"].mean(0).diff(dim=0)[0], 0, "mean success where the middle decides, ends weighted minus flat"),
        below(replayed - without, 0, "share of silent groups, with replay minus without"),
    )
