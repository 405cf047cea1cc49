"""props: choose the next actions so that all the data together look as if the policy had drawn them."""
import copy
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import torch
from torch import Tensor

from labkit.divergence import kl
from labkit.lanes import Knob, Lanes
from labkit.learner import Learner
from labkit.on_policy.checks import chances
from labkit.on_policy.family import Batch, OnPolicy, Row, act, batch_of, ppo
from labkit.paper import Paper
from labkit.policy import HEADS, Policy
from labkit.verdict import Verdict, below, together
from labkit.worlds.finite import advantage, garnet
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


def frequencies(batch: Batch, actions: int) -> tuple[Tensor, Tensor]:
    """How often a batch with one-hot observations visits each state, (L, S), and acts there, (L, S, A), as shares."""
    acted = torch.nn.functional.one_hot(batch.action.flatten(1), actions).double()
    counts = batch.obs.flatten(1, 2).double().mT @ acted
    visits = counts.sum(-1, keepdim=True)
    return visits[..., 0] / visits.sum(1), counts / visits.clamp_min(1)


def check(seeds: Sequence[int] = range(100, 120)) -> Verdict:
    """A random MDP per seed, its policy fixed after 20 updates of ppo: how far data of 256 to 4096 steps stray, minus on-policy data.

    Sampling error: KL(frequencies || policy), averaged over visits. Gradient error: squared distance, over the logits, of the
    gradient with exact advantages and the data's actions from that with the policy's own. Seeds from 100 up: the knobs were
    settled after looking at 0 to 19, where a step size of 0.01 with 16 pushes overshot.
    """
    world, lanes, parts = garnet(seed=seeds, gamma=0.9), Lanes(tuple(seeds)), []
    run = replace(ppo, shape=replace(ppo.shape, envs=4)).run(world, lanes)
    start = [next(run) for _ in range(20)][-1].learner
    pi = chances(start, torch.eye(world.obs_size))
    for n in (256, 1024, 4096):
        errors = []
        for algo in (props, ppo):
            sized = replace(algo, shape=replace(ppo.shape, envs=4, steps=n // 4))
            visits, acted = frequencies(sized.collect(sized, world, start.fork(lanes), lanes.knobs(props.knobs)), pi.shape[-1])
            gain = (acted - pi) * advantage(world.mdp, pi)
            slope = visits[..., None] * (gain - pi * gain.sum(-1, keepdim=True))
            errors.append(((visits * torch.special.xlogy(acted, acted / pi).sum(-1)).sum(-1), slope.square().sum((1, 2))))
        for what, mine, theirs in zip(("sampling", "gradient"), *errors, strict=True):
            parts.append(below(mine - theirs, 0, f"{what} error of {n} steps minus that of on-policy data"))
    return together(*parts)
