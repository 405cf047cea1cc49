"""props: choose the next actions so that all the data together look as if the policy had drawn them."""
import copy
from dataclasses import replace
from types import SimpleNamespace

import torch
from torch import Tensor

from labkit.divergence import kl
from labkit.lanes import Knob
from labkit.learner import Learner
from labkit.on_policy.family import Batch, OnPolicy, Row, act, batch_of, ppo
from labkit.paper import Paper
from labkit.policy import HEADS, Policy
from labkit.worlds.world import World

EVERY = 16  # steps between two corrections of the behaviour policy
SAMPLES = ("obs", "action", "reward", "terminated", "truncated", "next_obs")


@torch.no_grad()
def corrective(algo: OnPolicy, world: World, learner: Learner, k: SimpleNamespace) -> Batch:
    """Act with a policy that leans towards what the data lack; give the last `shape.kept` batches as if on-policy."""
    if "behaviour" not in learner.nets:
        learner.nets["behaviour"] = copy.deepcopy(learner.nets["pi"])
    old: dict[str, Tensor] = learner.memory.setdefault("kept", {})

    def behaviour(obs: Tensor, rows: list[Row]) -> Policy:
        if len(rows) % EVERY == 0:
            learner.nets["behaviour"].move(learner.nets["pi"].theta, torch.ones_like(learner.on))
            if old or rows:
                correct(learner, *seen(old, rows), k)
        return leaning(learner, obs)

    new = act(world, learner, behaviour, algo.shape.steps)
    if algo.shape.kept == 1:
        return new
    data = {name: torch.cat([*([old[name]] if old else []), getattr(new, name)], 2) for name in SAMPLES}
    learner.memory["kept"] = {name: x[:, :, -(algo.shape.kept - 1) * algo.shape.envs :] for name, x in data.items()}
    return batch_of(learner, **data)


def seen(old: dict[str, Tensor], rows: list[Row]) -> tuple[Tensor, Tensor]:
    """All observations (L, B, n) and actions (L, B, ...) of the old batches and of this one so far."""
    obs, action = ([old[name].flatten(1, 2)] if old else [] for name in ("obs", "action"))
    return torch.cat([*obs, *(row[0] for row in rows)], 1), torch.cat([*action, *(row[1] for row in rows)], 1)


def leaning(learner: Learner, obs: Tensor) -> Policy:
    """The behaviour policy at obs (L, B, n)."""
    return HEADS[learner.head](*learner.nets["behaviour"](obs))


def correct(learner: Learner, obs: Tensor, action: Tensor, k: SimpleNamespace) -> None:
    """Up to k.pushes steps away from repeating obs (L, B, n) and action (L, B, ...), while the mean KL from the policy is below k.d."""
    target = learner.policy(obs)
    with torch.enable_grad():
        for i in range(int(k.pushes.max())):
            now = leaning(learner, obs)
            gap = kl(target, now).mean(1)
            ratio = (now.log_prob(action) - target.log_prob(action)).exp()
            learner.descend("behaviour", repetition(ratio, gap, k), k.lr, (k.pushes[:, 0] > i) & (gap < k.d[:, 0]), clip=0.5)


def repetition(ratio: Tensor, gap: Tensor, k: SimpleNamespace) -> Tensor:
    """What the behaviour policy minimises (Corrado and Hanna 2024, PROPS objective), (L,): ratio = behaviour / policy, (L, B).

    What the data hold becomes less likely, down to a ratio of 1 - k.e; what they hold too often, most of all.
    """
    return torch.maximum(ratio, ratio.clamp(1 - k.e, 1 + k.e)).mean(1) + k.tie[:, 0] * gap


props = replace(
    ppo,
    collect=corrective,
    shape=replace(ppo.shape, kept=2),
    knobs=ppo.knobs | {
        "d": Knob(0.1, 0.0, 0.5, "how far the behaviour policy may lean: mean KL from the policy"),
        "e": Knob(0.3, 0.05, 1.0, "clip of the lean: no action is pushed below 1 - e of its probability"),
        "tie": Knob(0.1, 0.0, 1.0, "weight of the KL that ties behaviour to policy"),
        "pushes": Knob(4, 1, 16, "steps of each correction"),
    },
    paper=Paper(
        key="props",
        title="On-Policy Policy Gradient Reinforcement Learning Without On-Policy Sampling",
        year=2023,
        url="https://arxiv.org/abs/2311.08290",
        claim="Data gathered by leaning against those at hand match the policy better than its own samples; so does their gradient.",
        lesson="On-policy is a property of the data, not of the sampler.",
        lost="MuJoCo scale; the behaviour policy takes whole-batch steps, so that it draws no noise of its own.",
        base="ppo",
        chapter=3,
    ),
)
