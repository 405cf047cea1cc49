"""A value model that reads a policy's history: one layer of attention, trained on the histories of other runs and then frozen.

The query is a prompt, keys are the prompts of the history, values their outcomes. L lanes, P prompts of an update, N prompts of a world.
"""
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, one_hot

from labkit.grpo.family import grpo
from labkit.lanes import Lanes
from labkit.nn import product
from labkit.worlds.tokens.world import EMPTY, TokenWorld

WIDTH = 8  # of queries and keys
DONORS, UPDATES, STEPS = range(-20, 0), 150, 1200  # seeds of the runs it learns from, how long they are, how long it learns
Seen = tuple[Tensor, Tensor, Tensor]  # what is read of a history: problem, outcome, age in updates, (L, C) each; EMPTY for no outcome
_KNOWN: dict[bytes, dict[str, Tensor]] = {}  # what was learnt for the prompts of a world


def foretold(value: dict[str, Tensor], problem: Tensor, seen: Seen) -> Tensor:
    """The chance of success at problem (L, P), from a context: a mean of its outcomes and of a prior one, weighed by attention. (L, P)"""
    asked, outcome, age = seen
    query, key = (value[name].gather(1, x[..., None].expand(-1, -1, WIDTH)) for name, x in (("query", problem), ("key", asked)))
    fade, alone, prior = value["rest"][..., None, None].unbind(1)
    score = torch.where(outcome[:, None] < 0, -torch.inf, product(query, key.mT) - fade * age[:, None])
    weight = torch.cat([alone.expand(-1, problem.shape[1], 1), score], 2).softmax(-1)
    outcomes = torch.cat([logsigmoid(prior).exp(), outcome[:, None]], 2)
    return (weight * outcomes).sum(-1).clamp(0, 1)


# a history: problem and outcome, (L, H) both, the newest first


def blank(problem: Tensor, length: int) -> dict[str, Tensor]:
    """Nothing seen so far."""
    none = problem.new_zeros(len(problem), length)
    return {"problem": none, "outcome": torch.full_like(none, EMPTY, dtype=torch.float32)}


def recorded(history: dict[str, Tensor], problem: Tensor, outcome: Tensor) -> dict[str, Tensor]:
    """With problem and outcome (L, P) before the others; the oldest are forgotten."""
    new = {"problem": problem, "outcome": outcome}
    return {name: torch.cat([new[name], old[:, : -problem.shape[1]]], 1) for name, old in history.items()}


# learning


def embedded(world: TokenWorld) -> Tensor:
    """Of each prompt how often each sign stands in it, and its length, one-hot: (N, F)."""
    here = world.prompt != EMPTY
    counts = (one_hot(world.prompt.clamp_min(0), len(world.signs)) * here[..., None]).sum(1)
    return torch.cat([counts, one_hot(here.sum(1), here.shape[1] + 1)], 1).float()


def histories(world: TokenWorld) -> tuple[Tensor, Tensor]:
    """Problem and share of right responses, (UPDATES, D, P) both, of the groups of D runs of grpo."""
    lanes, rows = Lanes(tuple(DONORS), device=str(world.prompt.device)), []
    k, learner = lanes.knobs(grpo.knobs), grpo.begin(world, lanes, grpo.shape.warm)
    for _ in range(UPDATES):
        batch = grpo.gather(world, learner, k)
        grpo.learn(world, learner, batch, k)
        rows.append((batch.problem, batch.reward.mean(-1)))
    problem, outcome = zip(*rows, strict=True)
    return torch.stack(problem), torch.stack(outcome)


def pretrained(world: TokenWorld) -> dict[str, Tensor]:
    """The value model for the prompts of a world: "query", "key" (N, WIDTH), and the "rest" (3,). It is trained once for each world."""
    known = world.prompt.cpu().numpy().tobytes()
    if known not in _KNOWN:
        with torch.enable_grad():
            _KNOWN[known] = trained(embedded(world), *histories(world))
    return _KNOWN[known]


def trained(features: Tensor, problem: Tensor, outcome: Tensor) -> dict[str, Tensor]:
    """To foretell the outcomes of an update from those before it, in all runs, by the squared error. problem, outcome (U, D, P)."""
    updates, donors, prompts = problem.shape
    u = Lanes((DONORS[0],), device=str(features.device)).rand(0, 2, features.shape[1], WIDTH)[0]
    weights = [((2 * x - 1) / 2).requires_grad_() for x in u] + [torch.zeros(3, device=u.device, requires_grad=True)]
    adam = torch.optim.Adam(weights, lr=0.02)
    history = {"problem": problem.flip(0), "outcome": outcome.flip(0)}
    for step in range(STEPS):
        now = updates - 1 - step * 61 % updates  # a prime, so that it comes round to all
        asked, told = (x[now + 1 :].transpose(0, 1).flatten(1)[:, : 4 ** (1 + step % 4)] for x in history.values())
        age = (torch.arange(asked.shape[1], device=asked.device) // prompts).expand(donors, -1).float()
        value = {name: x.expand(donors, *x.shape) for name, x in compiled(features, weights).items()}
        error = foretold(value, history["problem"][now], (asked, told, age)) - history["outcome"][now]
        adam.zero_grad()
        error.square().mean().backward()
        adam.step()
    return {name: x.detach() for name, x in compiled(features, weights).items()}


def compiled(features: Tensor, weights: list[Tensor]) -> dict[str, Tensor]:
    """Queries and keys of all prompts."""
    return {"query": features @ weights[0], "key": features @ weights[1], "rest": weights[2]}
