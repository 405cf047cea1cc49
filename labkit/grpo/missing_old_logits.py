"""missing_old_logits: a token's ratio to its sampler is two ratios, and the one in the middle is lost unless somebody kept it.

new / sampler = (trainer then / sampler) * (new / trainer then): the mismatch of two engines, and age. A serving engine rounds and gives
the sampler's probabilities; what the trainer's policy of that version would have said, no one has computed. The paper's text was not at
hand beyond its abstract: how a response spans versions is our reading, and that the average's age is matched to the responses'.
"""
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import torch
from torch import Tensor

from labkit.grpo.checks import curves
from labkit.grpo.family import Batch, Grpo, aged, assemble, clipped, grpo, noise, pay, read
from labkit.grpo.models import model_of
from labkit.lanes import Knob, Lanes
from labkit.learner import Learner
from labkit.paper import Paper
from labkit.policy import Categorical
from labkit.verdict import Verdict, above, together
from labkit.worlds.tokens.chain import Chain
from labkit.worlds.tokens.world import TokenWorld


def rounded(policy: Categorical, grid: Tensor) -> Categorical:
    """What an engine makes of a policy whose log-probabilities it rounds to multiples of `grid` (L, 1); 0 rounds nothing."""
    width = grid[..., None]
    engine = Categorical((policy.logits / width.clamp_min(1e-6)).round() * width)
    return policy.map(lambda logits: torch.where(width > 0, engine.logits, logits))


def versions(lag: Tensor, length: int) -> list[Tensor]:
    """By how many updates the policy that writes each of `length` tokens is behind, (L, 1) each. A response takes `lag` (L, 1) updates,
    so its first token is that old, and the later ones are by and by younger."""
    return [torch.ceil(lag * (length - t) / length) for t in range(length)]


def asynchronous(algo: Grpo, world: TokenWorld, learner: Learner, problem: Tensor, k: SimpleNamespace) -> Batch:
    """Responses of an engine that rounds, and takes up each new version between two tokens. "then": the log-probability of each token under
    the version that wrote it, as the trainer would have computed it."""
    model, net, u = model_of(world), learner.nets["pi"], noise(algo, world, learner)(0)
    nodes, tokens, told = [world.start[problem].repeat_interleave(u.shape[2], 1)], list[Tensor](), []
    for x, lag in zip(u.flatten(1, 2).unbind(-1), versions(k.lag, u.shape[-1]), strict=True):
        say = model.speak(world, net, aged(learner, lag), problem, u.shape[2])
        for node, before in zip(nodes, (None, *tokens), strict=True):  # a new version reads all that was written
            then = say(node, before)
        policy = rounded(then, k.grid)
        tokens.append(policy.sample(x[..., None]))
        told.append((policy.log_prob(tokens[-1]), then.log_prob(tokens[-1])))
        nodes.append(world.graph.next[nodes[-1], tokens[-1]])
    token, passed, *logp = (torch.stack(list(column), -1).view(u.shape) for column in (tokens, nodes[:-1], *zip(*told, strict=True)))
    batch = assemble(world, problem, token, passed, nodes[-1].view(u.shape[:3]), logp[0])
    batch.extra["then"] = logp[1] * batch.mask
    pay(learner, batch)
    return batch


def recalled(algo: Grpo, world: TokenWorld, learner: Learner, problem: Tensor, k: SimpleNamespace) -> Batch:
    """The exact repair: somebody kept every version, so that the middle of the two ratios is known."""
    batch = asynchronous(algo, world, learner, problem, k)
    batch.extra["middle"] = batch.extra["then"]
    return batch


def averaged(algo: Grpo, world: TokenWorld, learner: Learner, problem: Tensor, k: SimpleNamespace) -> Batch:
    """The cheap repair: in the middle stands an exponential average of the policy's parameters, decay / (1 - decay) updates old on average
    (PPO-EWMA, Hilton et al. 2022). Without decay it is the policy of now, as in systems that have lost what was."""
    batch, now = asynchronous(algo, world, learner, problem, k), learner.nets["pi"].theta.detach()
    learner.memory["average"] = k.decay * learner.memory.get("average", now) + (1 - k.decay) * now
    batch.extra["middle"] = batch.pick(read(world, learner, batch, learner.memory["average"]))
    return batch


def to_middle(logp: Tensor, batch: Batch, k: SimpleNamespace) -> Tensor:
    """New over middle probability of each token: its age, if the middle is right."""
    return (logp - batch.extra["middle"]).exp()


def discrepancy(batch: Batch, k: SimpleNamespace) -> Tensor:
    """Middle over sampler's probability of each token, at most k.cap: the mismatch of the engines, if the middle is right."""
    return torch.minimum((batch.extra["middle"] - batch.old).exp(), k.cap[..., None, None])


def decoupled(ratio: Tensor, batch: Batch, k: SimpleNamespace) -> Tensor:
    """PPO's clip of the ratio to the middle, weighted with the discrepancy, which carries no gradient (the decoupled objective of Hilton et
    al. 2022)."""
    return discrepancy(batch, k) * clipped(ratio, batch, k)


missing_old_logits = replace(
    grpo,
    rollout=averaged,
    ratio=to_middle,
    surrogate=decoupled,
    knobs=grpo.knobs | {
        "lag": Knob(6, 0, 12, "updates that a response takes, and by which its first token lies behind"),
        "grid": Knob(0.5, 0.0, 2.0, "to multiples of what the engine rounds log-probabilities"),
        "cap": Knob(2.0, 1.0, 10.0, "bound of the weight for the engines' mismatch"),
        "decay": Knob(0.8, 0.0, 0.98, "of the average in the middle; 0: the policy of now"),
    },
    paper=Paper(
        key="missing_old_logits",
        title="Missing Old Logits in Asynchronous Agentic RL: Semantic Mismatch and Repair Methods for Off-Policy Correction",
        year=2026,
        url="https://arxiv.org/abs/2605.12070",
        claim="With responses that span six updates and an engine that rounds, kept versions beat lost ones; an average as old does too.",
        lesson="Two different mismatches need two different ratios, and one of them needs the past.",
        lost="Clusters of unlike machines, what each repair costs them in speed and memory, and tasks of many turns.",
        base="grpo",
        chapter=22,
    ),
)  # fmt: skip


def check(seeds: Sequence[int] = range(20), updates: int = 300) -> Verdict:
    """Chains of 1 to 6 operations, responses that span 6 updates, log-probabilities rounded to halves. Final exact success: with versions
    kept, and with an average that is 4 updates old (the tokens are 4.3 on average), minus with the policy of now in their place."""
    world, lanes = Chain(), Lanes(tuple(seeds), {"decay": (0.0, 0.8)})
    lost, near = curves(missing_old_logits, world, lanes, updates)["return"][-1]
    kept = curves(replace(missing_old_logits, rollout=recalled), world, Lanes(tuple(seeds)), updates)["return"][-1, 0]
    return together(
        above(kept - lost, 0, "success with versions kept minus with the policy of now"),
        above(near - lost, 0, "success with the average minus with the policy of now"),
    )
