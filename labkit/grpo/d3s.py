"""d3s: learn at first only from the responses and tokens that tell most, then from more and more of them.

The paper's schedule is taken to be linear. Advantages are those of the whole group, so what is left out still counts as a comparison.
"""
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import torch
from torch import Tensor
from torch.nn.functional import pad

from labkit.grpo.checks import EVERY, at_level
from labkit.grpo.family import Batch, Grpo, aged, grpo, read, sampled, standardised
from labkit.grpo.outcome import exact
from labkit.lanes import Knob, Lanes
from labkit.learner import Learner
from labkit.paper import Paper
from labkit.verdict import Verdict, above, together
from labkit.worlds.tokens.chain import Chain
from labkit.worlds.tokens.world import TokenWorld


def with_entropy(algo: Grpo, world: TokenWorld, learner: Learner, problem: Tensor, k: SimpleNamespace) -> Batch:
    """Responses; the "entropy" at each token, of the policy that wrote it; and which shares of "samples" and "tokens" (L, 1) are due."""
    batch = sampled(algo, world, learner, problem, k)
    batch.extra["entropy"] = batch.at(read(world, learner, batch, aged(learner, k.lag)).entropy())
    done = learner.step // (algo.shape.prompts * algo.shape.group)
    relaxed = torch.where(k.relax > 0, (done / k.relax.clamp_min(1)).clamp_max(1), 0.0)
    return due(batch, relaxed, k)


def due(batch: Batch, relaxed: Tensor, k: SimpleNamespace) -> Batch:
    """Both shares go in a straight line from the knobs' to 1, as `relaxed` (L, 1) goes from 0 to 1."""
    batch.extra |= {name: share + (1 - share) * relaxed for name, share in (("samples", k.samples), ("tokens", k.tokens))}
    return batch


def informative(batch: Batch, k: SimpleNamespace) -> Tensor:
    """GRPO's advantages; and what is kept, (L, P, G, T) bool: of the responses with the widest advantages the tokens with the largest
    |advantage| * entropy (Wang et al. 2025)."""
    adv, samples = standardised(batch, k), batch.extra["samples"]
    pooled = widest(adv.flatten(1), samples).view(adv.shape)
    alone = widest(adv.flatten(2).flatten(0, 1), samples.repeat_interleave(adv.shape[1], 0)).view(adv.shape)
    kept = batch.mask & torch.where(k.pooled[..., None, None] > 0, pooled, alone)
    return keep(batch, best_of(adv.abs() * batch.extra["entropy"], kept, batch.extra["tokens"]), adv)


def keep(batch: Batch, kept: Tensor, adv: Tensor) -> Tensor:
    """Note what is kept; and, in the metrics, how many tokens are learnt from. Returns the advantages."""
    batch.extra["kept"], batch.info["learnt from"] = kept, kept.sum((1, 2, 3))
    return adv


def whole(share: Tensor, n: Tensor) -> Tensor:
    """ceil(share n); a share that is rounded up in float32 adds nothing."""
    return (share * n - 1e-4).ceil().long()


def widest(x: Tensor, share: Tensor) -> Tensor:
    """Which ceil(share n) of x (L, n) have the largest variance, (L, n) bool: so many of the largest, the rest of the smallest."""
    n = torch.tensor(x.shape[1], device=x.device)
    m, top, order = whole(share, n), torch.arange(x.shape[1] + 1, device=x.device).expand(len(x), -1), x.argsort(dim=1, stable=True)
    ranked = x.gather(1, order).double()
    sums, squares = (pad(y.cumsum(1), (1, 0)) for y in (ranked, ranked.square()))
    mean, power = ((y.gather(1, (m - top).clamp_min(0)) + y[:, -1:] - y.gather(1, n - top)) / m for y in (sums, squares))
    best = torch.where(top <= m, power - mean.square(), -torch.inf).argmax(1, keepdim=True)
    chosen = (top[:, :-1] < m - best) | (top[:, :-1] >= n - best)
    return torch.zeros_like(chosen).scatter(1, order, chosen)


def foremost(score: Tensor, n: Tensor) -> Tensor:
    """Which n (L, 1) of the lane's scores (L, ...) are highest, the first of equals; (L, ...) bool."""
    order = score.flatten(1).argsort(dim=1, descending=True, stable=True)
    first = torch.arange(order.shape[1], device=order.device) < n
    return torch.zeros_like(first).scatter(1, order, first).view_as(score)


def best_of(score: Tensor, among: Tensor, share: Tensor) -> Tensor:
    """Of those `among` (L, ...) bool the ceil(share * so many) with the highest scores (L, ...); (L, ...) bool."""
    return foremost(torch.where(among, score, -torch.inf), whole(share, among.flatten(1).sum(1, keepdim=True)))


def kept_mean(loss: Tensor, batch: Batch, k: SimpleNamespace) -> Tensor:
    """GRPO's mean over tokens and then responses, of what is kept. (L,)"""
    kept = batch.extra["kept"]
    each = (loss * kept).sum(-1) / kept.sum(-1).clamp_min(1)
    return each.sum((1, 2)) / kept.any(-1).sum((1, 2)).clamp_min(1)


d3s = replace(
    grpo,
    rollout=with_entropy,
    advantage=informative,
    reduce=kept_mean,
    shape=replace(grpo.shape, prompts=8, group=16),
    knobs=grpo.knobs | {
        "samples": Knob(0.25, 0.1, 1.0, "share of the responses that is kept at first"),
        "tokens": Knob(0.25, 0.1, 1.0, "share of their tokens that is kept at first"),
        "relax": Knob(200, 0, 400, "updates until all is kept; 0: never"),
        "pooled": Knob(1, 0, 1, "1: responses are chosen from the whole batch; 0: in each group"),
    },
    paper=Paper(
        key="d3s",
        title="Learning More with Less: A Dynamic Dual-Level Down-Sampling Framework for Efficient Policy Optimization",
        year=2025,
        url="https://arxiv.org/abs/2509.22115",
        claim="A token that is learnt from is worth more where the most telling are chosen; to choose so for ever ends lower.",
        lesson="Telling samples are cheap speed at first, and a bias where they stay the only diet.",
        lost="The time that is saved: what is left out here was computed all the same. Long responses.",
        base="grpo",
        chapter=20,
    ),
)  # fmt: skip


def with_dice(algo: Grpo, world: TokenWorld, learner: Learner, problem: Tensor, k: SimpleNamespace) -> Batch:
    """The same responses and shares; "dice" (L, P, G, 1 + T) to choose by."""
    batch = with_entropy(algo, world, learner, problem, k)
    batch.extra["dice"] = learner.rand(*batch.node.shape[1:], 1 + batch.token.shape[3])
    return batch


def at_random(batch: Batch, k: SimpleNamespace) -> Tensor:
    """As `informative`, but responses and tokens are drawn by lot."""
    dice, extra = batch.extra["dice"], batch.extra
    samples = best_of(dice[..., :1], batch.real[..., None], extra["samples"])
    return keep(batch, best_of(dice[..., 1:], batch.mask & samples, extra["tokens"]), standardised(batch, k))


def progress(method: Grpo, world: TokenWorld, lanes: Lanes, updates: int) -> tuple[Tensor, Tensor]:
    """Tokens learnt from so far, and exact success, at the start and at every tenth update, (T, L) both."""
    k, learner = lanes.knobs(method.knobs), method.begin(world, lanes, method.shape.warm)
    spent, rows = torch.zeros(len(lanes), dtype=torch.float64), []
    for update in range(updates + 1):
        if update % EVERY == 0:
            rows.append((spent, exact(world, learner)["success"][:, world.pool].mean(1)))
        batch = method.gather(world, learner, k)
        method.learn(world, learner, batch, k)
        spent = spent + batch.extra.get("kept", batch.mask).sum((1, 2, 3))
    tokens, success = zip(*rows, strict=True)
    return torch.stack(tokens), torch.stack(success)


def up_to(budget: Tensor, tokens: Tensor, success: Tensor) -> Tensor:
    """Mean success while the first `budget` (S,) tokens are learnt from, (S,); tokens, success (T, S)."""
    return torch.stack([at_level(budget * share, tokens, success) for share in torch.linspace(0, 1, 51)]).mean(0)


def check(seeds: Sequence[int] = range(20), updates: int = 300) -> Verdict:
    """Chains of 1 to 6 operations, 16 responses to each of 8 prompts. Mean exact success per token learnt from, up to as many as every arm
    of the seed has used: d3s minus as many drawn by lot, and minus grpo; and final success, relaxed minus never relaxed."""
    world, lanes, n = Chain(), Lanes(tuple(seeds)), len(seeds)
    tokens, success = progress(d3s, world, Lanes(tuple(seeds), {"relax": (200, 0)}), updates)
    chosen, forever = (tokens[:, :n], success[:, :n]), success[-1, n:]
    lot = progress(replace(d3s, rollout=with_dice, advantage=at_random), world, lanes, updates)
    everything = progress(replace(grpo, shape=d3s.shape), world, lanes, updates)
    budget = torch.stack([used[-1] for used, _ in (chosen, lot, everything)]).amin(0)
    mine, drawn, plain = (up_to(budget, *arm) for arm in (chosen, lot, everything))
    return together(
        above(mine - drawn, 0, "mean success per token learnt from, d3s minus as many by lot"),
        above(mine - plain, 0, "mean success per token learnt from, d3s minus grpo"),
        above(chosen[1][-1] - forever, 0, f"success after {updates} updates, relaxed minus never relaxed"),
    )
