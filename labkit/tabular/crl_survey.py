"""crl_survey: four stores that a learner may carry from task to task (Pan et al. 2025 sort methods by what they keep).

Policy: Q itself. Experience: old transitions, of which one is replayed at each step. Dynamics: the counts of what led where, with which
Q is planned for the rewards of the task. Reward: the old values as a potential that shapes the new reward. The learner is told when a
task begins, not which; without a store it begins anew.
"""
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import torch
from torch import Tensor

from labkit.errors import LabError
from labkit.lanes import Knob, Lanes
from labkit.learner import Learner
from labkit.paper import Paper
from labkit.tabular.family import Tabular, softened
from labkit.tabular.q_learning import learn, q_learning
from labkit.tabular.sampling import BLOCK, Step, clock, follow
from labkit.verdict import Verdict, above, exactly, together
from labkit.worlds.finite import MDP, expected_return
from labkit.worlds.moving import MovingWorld
from labkit.worlds.rooms import CHANGES, rooms

PAST = 8192  # transitions that are remembered; older ones are overwritten
SWEEPS = 30  # of value iteration in a plan; one begins where the last one ended
STORES = ("none", "policy", "experience", "dynamics", "reward")  # by the value of the knob "store"
FLOAT = 8  # bytes of a number


def keeps(k: SimpleNamespace, store: str) -> Tensor:
    """Which lanes keep this store, (L, 1)."""
    return k.store.round() == STORES.index(store)


def announced(algo: Tabular, world: MovingWorld, learner: Learner, k: SimpleNamespace) -> MDP:
    """The world as it stands; where a task begins, the stores are handed over. LabError for a world without tasks."""
    if not isinstance(world, MovingWorld):
        raise LabError(f"{world.key} is not a sequence of tasks; take finite.rooms.")
    task = world.mode(clock(learner))
    begins = task != learner.memory.get("task", task)
    learner.memory["task"] = task
    if bool(begins.any()):
        hand_over(learner, k, begins[:, None])
    return follow(algo, world, learner, k)


def hand_over(learner: Learner, k: SimpleNamespace, begins: Tensor) -> None:
    """Where a task begins, (L, 1), what is not kept is forgotten. The last values become the potential where rewards are kept."""
    memory = learner.memory
    value = memory["q"].amax(-1) + memory["potential"]  # shaping had taken the old potential from Q
    memory["potential"] = torch.where(begins & keeps(k, "reward"), value, memory["potential"])
    memory["q"] = torch.where((begins & ~keeps(k, "policy"))[..., None], 0.0, memory["q"])
    memory["log_pi"] = softened(crl_survey, None, memory["q"], learner, k)
    memory["begun"] = torch.where(begins[:, 0], learner.step, memory["begun"])
    for name in ("paid", "tried"):
        memory[name] = torch.where(begins[..., None], 0.0, memory[name])


def recalled(algo: Tabular, known: Step, learner: Learner, k: SimpleNamespace) -> Tensor:
    """Q after this step with its shaped reward, after an old step, and, every BLOCK steps, after a plan: (L, S, A)."""
    memory, before = learner.memory, learner.memory["q"]
    if "past" not in memory:
        memory |= empty(before)
    keep(known, learner)
    potential, discount = memory["potential"].flatten(), known.mdp.discount
    gained = known.reward + discount * potential[known.follows] - potential[known.pair // known.mdp.actions]
    memory["q"] = learn(algo, replace(known, reward=gained), learner, k)
    again = k.alpha * (keeps(k, "experience") & (memory["begun"] > 0)[:, None])
    memory["q"] = learn(algo, old_step(known, learner), learner, SimpleNamespace(alpha=again, omega=k.omega))
    rows = keeps(k, "dynamics")[:, 0].nonzero()[:, 0]
    if len(rows) and (learner.step + 1) % BLOCK == 0:
        memory["q"] = memory["q"].index_copy(0, rows, planned(learner, rows, discount))
    q, memory["q"] = memory["q"], before
    return q


def empty(q: Tensor) -> dict:
    """Stores that hold nothing yet, beside Q (L, S, A)."""
    L, S, _ = q.shape
    place = q.new_zeros(L, PAST, dtype=torch.int64)
    past = {"pair": place, "reward": q.new_zeros(L, PAST), "follows": place.clone()}
    counts = {"led": q.new_zeros(*q.shape, S), "paid": torch.zeros_like(q), "tried": torch.zeros_like(q)}
    return {"past": past, "potential": q.new_zeros(L, S), "begun": q.new_zeros(L, dtype=torch.int64)} | counts


def keep(known: Step, learner: Learner) -> None:
    """Write a step down, in the past and in the counts. Pairs and states are numbered within their lane there."""
    memory, (_, S, A) = learner.memory, learner.memory["q"].shape
    after = known.follows % S
    for name, x in (("pair", known.pair % (S * A)), ("reward", known.reward), ("follows", after)):
        memory["past"][name][:, learner.step % PAST] = x
    memory["led"].put_(known.pair * S + after, torch.ones_like(known.reward), accumulate=True)
    memory["paid"].put_(known.pair, known.reward, accumulate=True)
    memory["tried"].put_(known.pair, torch.ones_like(known.reward), accumulate=True)


def old_step(known: Step, learner: Learner) -> Step:
    """A step from before this task, one after the other and from the first again; this very step where there is none."""
    past, begun = learner.memory["past"], learner.memory["begun"]
    at = torch.where(begun > 0, learner.step % begun.clamp(1, PAST), learner.step % PAST)[:, None]
    pair, reward, after = (past[name].gather(1, at)[:, 0] for name in ("pair", "reward", "follows"))
    lane, (_, S, A) = torch.arange(len(at), device=at.device), learner.memory["q"].shape
    return replace(known, pair=lane * S * A + pair, reward=reward, follows=lane * S + after)


def planned(learner: Learner, rows: Tensor, discount: Tensor) -> Tensor:
    """Q of lanes `rows`, (L', S, A): where pairs were ever tried, by value iteration in the counted model.

    The counts of where a pair led are those of all tasks; what it paid is this task's mean, and 0 until it is tried in it.
    """
    memory = learner.memory
    led, q = memory["led"][rows], memory["q"][rows]
    ever = led.sum(-1)
    chances, paid = led / ever.clamp_min(1)[..., None], (memory["paid"] / memory["tried"].clamp_min(1))[rows]
    gamma = discount.expand(len(learner.on))[rows, None, None]
    for _ in range(SWEEPS):
        q = torch.where(ever > 0, paid + gamma * (chances * q.amax(-1)[:, None, None]).sum(-1), q)
    return q


def stored(learner: Learner, k: SimpleNamespace) -> Tensor:
    """Bytes that each lane carries to its next task, (L,): FLOAT for each number, of counts those above 0."""
    memory, (_, S, A) = learner.memory, learner.memory["q"].shape
    counts = (memory["led"] > 0).sum((1, 2, 3))[:, None]
    sizes = {"policy": S * A, "experience": 3 * min(learner.step, PAST), "dynamics": counts, "reward": S}
    return FLOAT * sum(keeps(k, store) * size for store, size in sizes.items())[:, 0]


crl_survey = replace(
    q_learning,
    respond=announced,
    evaluate=recalled,
    improve=softened,
    knobs=q_learning.knobs
    | {
        "alpha": Knob(0.5, 0.0, 1.0, "step size at the first visit"),
        "tau": Knob(0.01, 0.0, 1.0, "softness: the policy is proportional to exp(Q / tau), greedy at 0"),
        "store": Knob(1.0, 0.0, 4.0, "what a new task finds: 0 nothing, 1 the policy, 2 experience, 3 dynamics, 4 reward"),
    },
    paper=Paper(
        key="crl_survey",
        title="A Survey of Continual Reinforcement Learning",
        year=2025,
        url="https://arxiv.org/abs/2506.21872",
        claim="No store wins everywhere: kept dynamics gain over a kept policy more where the goal moves than where the walls do.",
        lesson="Remember the part of the world that stays.",
        lost="Benchmarks, deep methods and all but one simple method of each kind.",
        base="q_learning",
        chapter=7,
    ),
)


def readouts(change: str, seeds: Sequence[int], period: int) -> dict[str, Tensor]:
    """Of every store on four rooms in which the goal ("reward") or the doors ("dynamics") move, (STORES, seeds) each, all exact.

    "transfer": the mean return in all tasks but the first, less that of a learner that keeps nothing. "average": the mean over tasks of
    the last policy's return. "forgetting": by how much that is below each task's return when it ended, but for the last.
    "plasticity": the mean return at the ends of all tasks but the first. "bytes": what is carried at the end.
    """
    lanes, each = Lanes(tuple(seeds), {"store": tuple(range(len(STORES)))}), period // crl_survey.shape.stride
    world = rooms(change, period=period, seed=[*seeds] * len(STORES))
    scores: list[Tensor] = []

    def score(learner: Learner, task: int) -> Tensor:
        here = world.in_mode(torch.full((len(lanes),), task))
        return expected_return(here, learner.memory["log_pi"].exp()).view(len(STORES), -1)

    for i, snapshot in enumerate(islice(crl_survey.run(world, lanes), world.modes * each)):  # one learner at a time: their pasts are long
        learner = snapshot.learner
        scores.append(score(learner, i // each))
    area, ends = torch.stack(scores[each:]).mean(0), torch.stack(scores[each - 1 :: each])
    last = torch.stack([score(learner, task) for task in range(world.modes)])
    return {
        "transfer": area - area[0],
        "average": last.mean(0),
        "forgetting": (ends - last)[:-1].mean(0),
        "plasticity": ends[1:].mean(0),
        "bytes": stored(learner, lanes.knobs(crl_survey.knobs)).double().view(len(STORES), -1),
    }


def winners(found: dict[str, Tensor]) -> list[int]:
    """Which store, none apart, is first in mean transfer, in retention (least forgetting) and in thrift (fewest bytes)."""
    return [1 + int((sign * found[name][1:]).mean(1).argmax()) for name, sign in (("transfer", 1), ("forgetting", -1), ("bytes", -1))]


def check(seeds: Sequence[int] = range(30), period: int = 2500) -> Verdict:
    """Four tasks per seed where the goal moves, and four where the doors move: the transfer of kept dynamics less that of a kept
    policy, and how much larger it is in the first case; and whether a store is first in transfer, forgetting and bytes together."""
    found = {change: readouts(change, seeds, period) for change in CHANGES}
    policy, dynamics = STORES.index("policy"), STORES.index("dynamics")
    goal, doors = (own["transfer"][dynamics] - own["transfer"][policy] for own in found.values())
    everywhere = sum(len(set(winners(own))) == 1 for own in found.values())
    return together(
        above(goal - doors, 0, "transfer of kept dynamics less that of a kept policy, where the goal moves less where doors move"),
        exactly(everywhere == 0, everywhere, "no store is first in transfer, forgetting and bytes together"),
    )
