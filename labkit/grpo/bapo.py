"""bapo: bounds of the clip that move with each batch, until good news weigh as much against bad news as is wanted.

In the authors' code a clipped token still counts, at its bound, so that raising the lower bound adds to the bad news which it is meant
to cut. Here a clipped token counts for nothing, since it has no gradient: that is our reading. The bounds' ends are ours, too.
"""
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import torch
from torch import Tensor

from labkit.grpo.checks import curves
from labkit.grpo.family import Batch, clip, clipped_higher, dapo, grpo
from labkit.lanes import Knob, Lanes
from labkit.paper import Paper
from labkit.verdict import Verdict, above, exactly, together
from labkit.worlds.tokens.chain import Chain

LOW, HIGH = (0.6, 0.9), (1.2, 3.0)  # where the bounds start, and how far they may rise
DUAL = 3.0  # a ratio above this makes a bad token no worse
SLACK = 1e-4  # by which good news may miss their weight: rounding alone moves no bound


def weights(ratio: Tensor, batch: Batch, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The sums of ratio * |advantage|, (L, 1), over tokens of good responses with ratios up to `high` (L, 1), and over tokens of bad ones
    with ratios from `low`: over all that the clip lets through."""
    weight = torch.where(batch.mask, ratio * batch.adv, 0.0).flatten(1)
    flat = ratio.flatten(1)
    good, bad = (weight > 0) & (flat <= high), (weight < 0) & (flat >= low)
    return torch.where(good, weight, 0.0).sum(1, keepdim=True), -torch.where(bad, weight, 0.0).sum(1, keepdim=True)


@torch.no_grad()
def bounds(ratio: Tensor, batch: Batch, k: SimpleNamespace) -> tuple[Tensor, Tensor]:
    """Lower and upper bound, (L, 1) both: while good / bad < target the lower rises by `step`, and once it is at its end the upper
    (Xi et al. 2025; the order is that of their code)."""
    low, high = (torch.full_like(k.target, start) for start, _ in (LOW, HIGH))
    while True:
        good, bad = weights(ratio, batch, low, high)
        short = good < (1 - SLACK) * k.target * bad
        lift, widen = short & (low < LOW[1]), short & (low >= LOW[1]) & (high < HIGH[1])
        if not bool((lift | widen).any()):
            return low, high
        low = torch.where(lift, (low + k.step).clamp_max(LOW[1]), low)
        high = torch.where(widen, (high + k.step).clamp_max(HIGH[1]), high)


def balanced(ratio: Tensor, batch: Batch, k: SimpleNamespace) -> Tensor:
    """PPO's clip between the bounds that balance this batch; where the advantage is negative, no lower than 3 times it (dual clip)."""
    low, high = bounds(ratio, batch, k)
    batch.info |= {"low": low[:, 0], "high": high[:, 0]}
    gain = clip(ratio, batch.adv, low, high)
    return torch.where(batch.adv < 0, torch.maximum(gain, DUAL * batch.adv), gain)


bapo = replace(
    grpo,
    surrogate=balanced,
    knobs={name: knob for name, knob in grpo.knobs.items() if name != "eps"}
    | {"beta": replace(grpo.knobs["beta"], default=0.0),
       "target": Knob(1.0, 0.0, 3.0, "good news over bad news that is wanted; 0: the bounds stay at 0.6 and 1.2"),
       "step": Knob(0.05, 0.01, 0.2, "how far a bound moves at a time")},
    paper=Paper(
        key="bapo",
        title="BAPO: Stabilizing Off-Policy Reinforcement Learning for LLMs via Balanced Policy Optimization with Adaptive Clipping",
        year=2025,
        url="https://arxiv.org/abs/2510.18927",
        claim="On batches four updates old, bounds that move end with more success and more entropy than two clips that stand still.",
        lesson="Stale batches are mostly bad news, so the clip must rebalance good against bad.",
        lost="Responses that are written in parts by a serving engine, replay, and a model of 32 billion parameters.",
        base="grpo",
        chapter=22,
    ),
)  # fmt: skip


def check(seeds: Sequence[int] = range(20), updates: int = 300) -> Verdict:
    """Chains of 3 to 5 operations, no pull, fresh batches and batches 4 updates old. Final exact success and entropy of a token at lag 4:
    bapo minus a clip at 0.8 and 1.2, and minus one at 0.8 and 1.28. At lag 0, where every ratio is 1, bapo is the first of them."""
    world, lags = Chain(levels=(3, 4, 5)), (0.0, 4.0)
    still = replace(grpo, surrogate=clipped_higher, knobs=grpo.knobs | {"eps_high": dapo.knobs["eps_high"]})
    mine = curves(bapo, world, Lanes(tuple(seeds), {"lag": lags}), updates)
    even = curves(grpo, world, Lanes(tuple(seeds), {"beta": (0.0,), "lag": lags}), updates)
    higher = curves(still, world, Lanes(tuple(seeds), {"beta": (0.0,), "lag": lags[1:]}), updates)
    fresh = (mine["return"][:, 0] - even["return"][:, 0]).abs().max().item()
    return together(
        exactly(fresh < 0.02, fresh, "largest difference in success from the clip at 0.8 and 1.2, lag 0, below 0.02"),
        *(above((mine[name][-1, 1] - other[name][-1, -1]), 0, f"{what} at lag 4 minus that of the clip at 0.8 and {top}")
          for name, what in (("return", "success"), ("entropy", "entropy")) for top, other in ((1.2, even), (1.28, higher))),
    )  # fmt: skip
