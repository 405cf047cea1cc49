"""v0: a frozen value model reads a policy's history, foretells its success at each prompt, and lets responses go where they tell most.

In the paper a text embedder, an adapter and an in-context learner for tables foretell; here foresight.py does. How responses are shared
out among prompts is read from the abstract: so that as many groups as can be expected are mixed.
"""
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from labkit.grpo.checks import EVERY
from labkit.grpo.d3s import foremost
from labkit.grpo.family import Batch, Grpo, aged, group_mean, grpo, noise, pay, write
from labkit.grpo.foresight import Seen, blank, embedded, foretold, pretrained, recorded
from labkit.grpo.outcome import exact
from labkit.lanes import Knob, Lanes
from labkit.learner import Learner
from labkit.nn import Net
from labkit.paper import Paper
from labkit.verdict import Verdict, above, below, together
from labkit.worlds.tokens.chain import Chain
from labkit.worlds.tokens.world import EMPTY, TokenWorld

CONTEXT, AGE = 256, 16  # prompts of a context, and updates by which it lies behind, at most


def allotted(algo: Grpo, world: TokenWorld, learner: Learner, problem: Tensor, k: SimpleNamespace) -> Batch:
    """Responses to as many of the places as k.share allows, shared out by foretold success; the other places stay empty."""
    if "value" not in learner.memory:
        known = pretrained(world).items()
        learner.memory["value"] = {name: x.to(problem.device).expand(len(problem), *x.shape).clone() for name, x in known}
        learner.memory["history"] = blank(problem, CONTEXT + AGE * algo.shape.prompts)
    chance = foretold(learner.memory["value"], problem, context(algo, learner, k))
    batch = write(world, learner, problem, noise(algo, world, learner)(0), aged(learner, k.lag))
    budget = (k.share * algo.shape.prompts * algo.shape.group).round().long()
    batch.real = torch.arange(algo.shape.group, device=problem.device) < allotment(chance, budget, algo.shape.group)[..., None]
    pay(learner, batch)
    learner.memory["history"] = recorded(learner.memory["history"], problem, group_mean(world.graph.reward[batch.node], batch)[..., 0])
    batch.extra["foretold"] = chance
    return batch


def allotment(chance: Tensor, budget: Tensor, places: int) -> Tensor:
    """Responses to each prompt, (L, P): at least 2, at most `places`, and `budget` (L, 1) in all, so that the sum of the chances
    1 - p^n - (1 - p)^n that a group is mixed is largest. One more adds p^n (1 - p) + (1 - p)^n p, less each time: so greed is right."""
    p, powers = chance[..., None], chance[..., None].expand(-1, -1, places).cumprod(-1)
    missed = (1 - p).expand(-1, -1, places).cumprod(-1)
    gain = (powers * (1 - p) + missed * p)[..., 1 : places - 1].mT  # rounds first, so that equals get one each before any gets two
    more = foremost(gain, (budget - 2 * chance.shape[1]).clamp_min(0)).sum(1)
    return (2 + more).clamp_max(places)


def context(algo: Grpo, learner: Learner, k: SimpleNamespace) -> Seen:
    """The last k.context prompts of the history, as it was when it was last refreshed."""
    history, prompts = learner.memory["history"], algo.shape.prompts
    behind = learner.step // (prompts * algo.shape.group) % k.refresh
    place = torch.arange(history["problem"].shape[1], device=behind.device)
    used = (place >= behind * prompts) & (place < behind * prompts + k.context)
    return history["problem"], torch.where(used, history["outcome"], EMPTY), (place // prompts).expand_as(used).float()


v0 = replace(
    grpo,
    rollout=allotted,
    shape=replace(grpo.shape, group=16),
    knobs=grpo.knobs | {
        "context": Knob(64, 4, CONTEXT, "prompts of the history that are read"),
        "share": Knob(0.5, 0.25, 1.0, "share of the places for responses that is filled"),
        "refresh": Knob(1, 1, AGE, "updates after which the history that is read is renewed"),
    },
    paper=Paper(
        key="v0",
        title="V_0: A Generalist Value Model for Any Policy at State Zero",
        year=2026,
        url="https://arxiv.org/abs/2602.03584",
        claim="A frozen model that reads its history tracks a policy better than a critic refitted at times; more groups are mixed.",
        lesson="A value function can take the policy as input, so that drift is context and not error.",
        lost="Embeddings of real text, tables learnt from in context, and choosing among language models.",
        base="grpo",
        chapter=20,
    ),
)  # fmt: skip


REFIT, FITTING = 8, 100  # updates between two fits of the critic that it is compared with, and the steps of each


def refit(critic: Net, features: Tensor, problem: Tensor, outcome: Tensor) -> None:
    """Steps of a network towards the outcomes (L, n) of problems (L, n), by cross-entropy. features (N, F)."""
    on, x = torch.ones(len(problem), 1, dtype=torch.bool), features[problem]
    for _ in range(FITTING):
        odds = critic(x)[0][..., 0]
        loss = -(outcome * logsigmoid(odds) + (1 - outcome) * logsigmoid(-odds)).mean(1)
        critic.adam(torch.autograd.grad(loss.sum(), critic.theta)[0], torch.full(on.shape, 0.01), on)


def by_length(level: Tensor, problem: Tensor, seen: Seen) -> Tensor:
    """The mean outcome of a context at problems as hard as problem (L, n), 0.5 where there is none; level (N,). (L, n)"""
    asked, outcome, _ = seen
    alike = (level[problem][..., None] == level[asked][:, None]) & (outcome >= 0)[:, None]
    return torch.where(alike.any(-1), (outcome[:, None] * alike).sum(-1) / alike.sum(-1).clamp_min(1), 0.5)


def mixed_chance(p: Tensor, n: Tensor) -> Tensor:
    """That of n responses, each right with chance p, some are right and some wrong."""
    return 1 - p**n - (1 - p) ** n


def compared(world: TokenWorld, lanes: Lanes, updates: int) -> tuple[Tensor, ...]:
    """Along runs of v0, averaged over looks at every tenth update, (L,) each: the squared errors of v0, of the critic and of means by
    length, against exact success p at all training problems; and the mixed groups to be expected more than with equal shares."""
    k, learner, features = lanes.knobs(v0.knobs), v0.begin(world, lanes, v0.shape.warm), embedded(world)
    critic, looks = Net(lambda n: lanes.rand(-1, n), (features.shape[1], 16, 1), head=0.1), []
    pool, recent = world.pool.expand(len(lanes), -1), REFIT * v0.shape.prompts
    for update in range(1, updates + 1):
        seen = context(v0, learner, k) if update > 1 else None
        batch, p = v0.gather(world, learner, k), None
        if update % EVERY == 0 and seen:
            p = exact(world, learner)["success"]
            odds = critic(features[pool])[0].detach()[..., 0]
            told = foretold(learner.memory["value"], pool, seen), logsigmoid(odds).exp(), by_length(world.level, pool, seen)
            n, chance = batch.real.sum(-1), p.gather(1, batch.problem)
            gain = mixed_chance(chance, n) - mixed_chance(chance, n.double().mean(1, keepdim=True))
            looks.append((*((x - p[:, world.pool]).square().mean(1) for x in told), gain.sum(1)))
        v0.learn(world, learner, batch, k)
        if update % REFIT == 0:
            refit(critic, features, *(x[:, :recent] for x in learner.memory["history"].values()))
    return tuple(torch.stack(x).mean(0) for x in zip(*looks, strict=True))


def check(seeds: Sequence[int] = range(100, 120), updates: int = 200) -> Verdict:
    """Chains of 1 to 6 operations. Squared error of what v0 foretells, minus that of a network refitted every 8 updates on the outcomes
    since, and minus that of the context's means by length; and the mixed groups to be expected, minus those of equal shares.

    Seeds from 100 up: for how long the value model is trained was settled on its donors' histories, after a look at seeds 0 to 2.
    """
    own, lagged, means, gain = compared(Chain(), Lanes(tuple(seeds)), updates)
    return together(
        below(own - lagged, 0, f"squared error of v0 minus that of a critic refitted every {REFIT} updates"),
        below(own - means, 0, "squared error of v0 minus that of means by length"),
        above(gain, 0, "mixed groups to be expected of an update, as v0 shares out responses minus equal shares"),
    )
