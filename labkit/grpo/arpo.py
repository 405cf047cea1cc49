"""arpo: train on tasks that the agent can do at all, and where a whole group fails, put a remembered success among them.

The authors' released trainer, which this follows, makes the old log-probabilities of a remembered response anew with the policy of now,
as if that one had written it; the knob `recall` keeps those of the policy that did. The paper says neither.
"""
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import torch
from torch import Tensor

from labkit.grpo.family import Batch, Grpo, Shape, aged, dapo, marked, noise, pay, read, retrace, write
from labkit.grpo.outcome import exact
from labkit.lanes import Knob, Lanes
from labkit.learner import Learner
from labkit.paper import Paper
from labkit.verdict import Verdict, above, together
from labkit.worlds.form import Form
from labkit.worlds.tokens.world import EMPTY, TokenWorld

TRIES = 16  # at each task, of the agent before training


def doable(algo: Grpo, world: TokenWorld, learner: Learner, k: SimpleNamespace) -> Tensor:
    """Which tasks of the pool the learner does at least once in 16 tries, (L, N) bool; the tries are paid for.

    All of them where k.select is 0, and where it does none.
    """
    tasks = world.pool.expand(len(learner.lanes), -1)
    tried = write(world, learner, tasks, learner.rand(len(world.pool), TRIES, world.solution.shape[1]), learner.nets["pi"].theta)
    pay(learner, tried, k.select[:, 0] > 0)
    done = (world.graph.reward[tried.node] > 0).any(-1)
    return done | (k.select == 0) | ~done.any(1, keepdim=True)


def selected(algo: Grpo, world: TokenWorld, learner: Learner, k: SimpleNamespace) -> Tensor:
    """Tasks that were doable before training began, all alike likely, (L, P)."""
    if "doable" not in learner.memory:
        learner.memory["doable"] = doable(algo, world, learner, k)
    known = learner.memory["doable"]
    number = (learner.rand(algo.shape.prompts) * known.sum(1, keepdim=True)).long()
    return world.pool[(~known).long().argsort(dim=1, stable=True).gather(1, number)]


def remembering(algo: Grpo, world: TokenWorld, learner: Learner, problem: Tensor, k: SimpleNamespace) -> Batch:
    """Responses of one's own; the first of a group that failed altogether is exchanged for a success from the store of its task, if
    there is one. Then the new successes are stored."""
    draw = noise(algo, world, learner)
    batch = write(world, learner, problem, draw(0), aged(learner, k.lag))
    pay(learner, batch)
    if "store" not in learner.memory:
        learner.memory["store"] = emptied(world, batch, int(algo.knobs["store"].high))
    mixed = inject(world, learner, batch, draw(1)[..., 0, 0], k)
    keep(world, learner, batch, k)
    return mixed


def emptied(world: TokenWorld, batch: Batch, places: int) -> dict[str, Tensor]:
    """A store with so many places for each of N problems: tokens, their log-probabilities (L, N, places, T), the learner's step when
    they were written (L, N, places), and how many successes there have been (L, N)."""
    kept = (len(batch.token), len(world.start), places)
    token = batch.token.new_full((*kept, batch.token.shape[-1]), EMPTY)
    return {"token": token, "old": batch.old.new_zeros(token.shape), "step": token.new_zeros(kept), "count": token.new_zeros(kept[:2])}


def inject(world: TokenWorld, learner: Learner, batch: Batch, u: Tensor, k: SimpleNamespace) -> Batch:
    """A batch in which a stored success, drawn by u (L, P), stands first in each group without one. extra["age"] (L, P): steps since it
    was written, -1 where nothing was exchanged."""
    store, lanes = learner.memory["store"], torch.arange(len(u), device=u.device)[:, None]
    held = torch.minimum(store["count"].gather(1, batch.problem), k.store.long())
    at = lanes, batch.problem, (u * held).long()
    failed = ~(world.graph.reward[batch.node] > 0).any(-1) & (held > 0) & (k.replay > 0)
    first = failed[..., None] & (torch.arange(batch.node.shape[-1], device=u.device) == 0)
    mixed = retrace(world, batch.problem, torch.where(first[..., None], store["token"][at][:, :, None], batch.token))
    now = torch.where(k.recall[..., None, None] > 0, store["old"][at][:, :, None], mixed.pick(read(world, learner, mixed)))
    mixed.old = torch.where(first[..., None], now, batch.old) * mixed.mask
    mixed.extra["age"] = torch.where(failed, learner.step - store["step"][at], -1)
    mixed.info["injected"] = failed.float().mean(1)
    return mixed


def keep(world: TokenWorld, learner: Learner, batch: Batch, k: SimpleNamespace) -> None:
    """Store the successes of a batch in order, each in place of the oldest of its task where k.store are there already."""
    store, right = learner.memory["store"], (world.graph.reward[batch.node] > 0).flatten(1)
    problem = batch.problem.repeat_interleave(batch.node.shape[-1], 1)
    alike = (problem[:, :, None] == problem[:, None]) & right[:, None]  # (L, P G, P G): for each response the successes at its task
    before, all_in_all, size = alike.tril(-1).sum(-1), alike.sum(-1), k.store.long()
    lane, response = (right & (before >= all_in_all - size)).nonzero(as_tuple=True)  # of more than fit the last ones
    task = problem[lane, response]
    at = lane, task, (store["count"][lane, task] + before[lane, response]) % size[lane, 0]
    store["token"][at] = batch.token.flatten(1, 2)[lane, response]
    store["old"][at] = batch.old.flatten(1, 2)[lane, response]
    store["step"][at] = learner.step
    store["count"].scatter_add_(1, problem, right.long())


arpo = replace(
    dapo,
    tasks=selected,
    rollout=remembering,
    verify=marked,
    knobs={name: knob for name, knob in dapo.knobs.items() if name not in ("filter", "band")}
    | {"lr": replace(dapo.knobs["lr"], default=0.003),
       "eps_high": replace(dapo.knobs["eps_high"], default=0.3),
       "replay": Knob(1, 0, 1, "1: a stored success is put into a group that failed; 0: never"),
       "select": Knob(1, 0, 1, "1: only tasks that the agent did at least once in 16 tries before training; 0: all"),
       "store": Knob(8, 1, 16, "successes stored of each task, the latest"),
       "recall": Knob(0, 0, 1, "old log-probabilities of what is stored: 1, of the policy that wrote it; 0, of the policy of now")},
    shape=Shape(warm=0.8),
    paper=Paper(
        key="arpo",
        title="ARPO: End-to-End Policy Optimization for GUI Agents with Experience Replay",
        year=2025,
        url="https://arxiv.org/abs/2505.16282",
        claim="At equal episodes a stored success in groups that failed raises rarely done tasks, and leaving out undoable ones the mean.",
        lesson="One remembered success can restart a dead group.",
        lost="Screens, a vision-language model, OSWorld, a reward for the form of actions, and a second clip for very bad ones.",
        base="dapo",
        chapter=22,
    ),
)  # fmt: skip


def check(seeds: Sequence[int] = range(20), updates: int = 200) -> Verdict:
    """Web forms, exact success after as many episodes as `updates` take, those of the selection counted: on the tasks that the agent
    first does in 2 to 20% of its tries, with replay minus without; on all tasks, with selection minus without.

    The world and the step size were chosen by looking at starting rates and at dapo, before arpo ran.
    """
    world, every = Form(), TRIES * 64 // (arpo.shape.prompts * arpo.shape.group)
    algo = replace(arpo, shape=replace(arpo.shape, updates=every))

    def success(grid: dict[str, tuple[float, ...]], less: int) -> Tensor:
        """After `less` snapshots less than all, (settings, seeds, N)."""
        *_, last = islice(algo.run(world, Lanes(tuple(seeds), grid)), updates // every - less)
        return exact(world, last.learner)["success"][:, world.pool].unflatten(0, (-1, len(seeds)))

    begun = exact(world, algo.begin(world, Lanes(tuple(seeds)), algo.shape.warm))["success"][:, world.pool]
    rare = (begun >= 0.02) & (begun <= 0.2)
    (without, replayed), (unselected,) = success({"replay": (0, 1)}, 1), success({"select": (0,)}, 0)
    on_rare = ((replayed - without) * rare).sum(1) / rare.sum(1)
    return together(
        above(on_rare, 0, "success on rarely done tasks, replay minus none"),
        above((replayed - unselected).mean(1), 0, "success on all tasks, selection minus none"),
    )
