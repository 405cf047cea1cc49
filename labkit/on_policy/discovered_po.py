"""discovered_po: a smooth brake on the ratio in place of the clip, in the closed form read off a learned one."""
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import torch
from torch import Tensor

from labkit.lanes import Knob, Lanes
from labkit.on_policy.checks import late_return
from labkit.on_policy.family import a2c, ppo
from labkit.paper import Paper
from labkit.verdict import Verdict, above, together
from labkit.worlds.control import CartPole


def drift(ratio: Tensor, adv: Tensor, k: SimpleNamespace) -> Tensor:
    """What moving away costs (Lu et al. 2022, section 5, DPO): at least 0, flat and 0 at ratio 1, elementwise.

    A good action may gain up to about k.alpha before the brake bites; a bad one, seen through log ratio, only k.beta.
    """
    good, bad = (ratio - 1) * adv, ratio.clamp_min(1e-30).log() * adv  # a ratio that underflows must not give NaN
    brake = torch.where(adv >= 0, good - k.alpha * (good / k.alpha).tanh(), bad - k.beta * (bad / k.beta).tanh())
    return brake.relu()


def braked(ratio: Tensor, adv: Tensor, k: SimpleNamespace) -> Tensor:
    """ratio * A - drift: mirror learning's objective (Kuba et al. 2022) for one sample, elementwise."""
    return ratio * adv - drift(ratio, adv, k)


discovered_po = replace(
    ppo,
    surrogate=braked,
    knobs=a2c.knobs | {
        "alpha": Knob(2.0, 0.5, 10.0, "how much a good action may gain before the brake"),
        "beta": Knob(0.6, 0.1, 3.0, "the same for a bad action: smaller pulls back sooner"),
        "epochs": ppo.knobs["epochs"],
    },
    paper=Paper(
        key="discovered_po",
        title="Discovered Policy Optimisation",
        year=2022,
        url="https://arxiv.org/abs/2210.05639",
        claim="At equal data the smooth brake does at least as well as the clip, with few passes over a batch and with many.",
        lesson="A trust region is a function of ratio and advantage, and so it can be searched for.",
        lost="The search: LPO, the network found by evolution over whole trainings, from which this closed form was read.",
        base="ppo",
        chapter=3,
    ),
)


def check(seeds: Sequence[int] = range(20), steps: int = 40_000) -> Verdict:
    """CartPole with 4 and with 16 passes over each batch: return minus ppo's, not lower by 3% of the range of returns (15)."""
    world, lanes = CartPole(), Lanes(tuple(seeds), {"epochs": (4, 16)})
    few, many = late_return(discovered_po, world, lanes, steps) - late_return(ppo, world, lanes, steps)
    what = f"minus ppo's, last quarter of {steps} steps"
    return together(above(few, -15, f"return with 4 passes {what}"), above(many, -15, f"return with 16 passes {what}"))
