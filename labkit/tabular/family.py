"""One loop: respond, explore, detect, evaluate, improve. Its exact bases: exact_pg, npg, policy_iteration, mirror_descent,
soft_policy_iteration. What methods share that learn from steps stands in sampling.py."""
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from labkit.divergence import kl
from labkit.errors import LabError
from labkit.lanes import Knob, Lanes
from labkit.learner import Learner
from labkit.nn import Table
from labkit.paper import Algorithm, Paper
from labkit.policy import Categorical
from labkit.snapshot import Snapshot
from labkit.worlds.finite import DENSE, MDP, TIE, FiniteWorld, expected_return, occupancy, values
from labkit.worlds.world import World

GAP = 80.0  # nats by which a greedy policy prefers its action: e^-80 is lost in the rounding of any value, yet logs stay finite


def unsuspecting(algo: "Tabular", known: Any, learner: Learner, k: SimpleNamespace) -> None:
    """Nobody asks whether the world has changed."""


@dataclass(frozen=True)
class Shape:
    """What decides how often a run is looked at."""

    stride: int = 1  # improvements between two snapshots


@dataclass(frozen=True)
class Tabular(Algorithm):
    """Let the world answer, learn of it, ask whether it has changed, judge the actions, improve the policy. The callables are the slots.

    learner.memory holds, in float64, log_pi (L, S, A) and q (L, S, A): exact identities to 1e-9 are out of a float32
    network's reach. nets["pi"] is the float32 copy of log_pi that meters and figures read. learner.step counts improvements: of
    methods that try the world, steps in it. memory["totals"], where there is one, holds what such a method sums up over its
    steps, each (L,). The discount is the world's own; worlds with one per lane make it a slider.
    """

    respond: Callable[..., MDP]  # (algo, world, learner, k) -> how the world stands now that the learner's policy is in play
    explore: Callable[..., Any]  # (algo, mdp, learner, k) -> what is known of it: the MDP, or a step or counts gathered in it
    evaluate: Callable[..., Tensor]  # (algo, known, learner, k) -> action values q (L, S, A), float64
    improve: Callable[..., Tensor]  # (algo, known, q, learner, k) -> log_pi (L, S, A), float64
    detect: Callable[..., None] = unsuspecting  # (algo, known, learner, k): forget in learner.memory what a change made untrue
    shape: Shape = Shape()

    def run(self, world: World, lanes: Lanes, start: Learner | None = None) -> Iterator[Snapshot]:
        """Yield a Snapshot after every shape.stride improvements. Metrics, exact for the world as it stands: the return, its gap
        to the best, and kl, from the policy of the last snapshot to this one, averaged over this one's occupancy; and the totals."""
        self.expect(world, lanes, start)
        k, model = lanes.knobs(self.knobs), exact_model(world, lanes)
        learner = resume(start, model, lanes) if start else begin(model, lanes)
        while True:
            before = learner.memory["log_pi"]
            for _ in range(self.shape.stride):
                mdp = self.respond(self, world, learner, k)
                known = self.explore(self, mdp, learner, k)
                self.detect(self, known, learner, k)
                q = self.evaluate(self, known, learner, k)
                adopt(learner, q, self.improve(self, known, q, learner, k))
            learner.nets["pi"].move(learner.memory["log_pi"].flatten(1).float(), learner.on)
            copy = learner.copy()
            yield Snapshot(copy.step, copy, measure(mdp, before, copy.memory["log_pi"]) | copy.memory.get("totals", {}))


def exact_model(world: World, lanes: Lanes) -> MDP:
    """The world's MDP. LabError where it has none, or where it has another number of lanes."""
    mdp = getattr(world, "mdp", None)
    if mdp is None:
        raise LabError(
            f"{world.key} has no exact model; take a finite.* world, or list a grid of fixed layout with enumerate_states "
            "and pass its next, reward, done and mu to finite.from_table."
        )
    if mdp.lanes not in (1, len(lanes)):
        raise LabError(f"{world.key} has {mdp.lanes} MDPs, one per lane; run that many lanes, not {len(lanes)}.")
    return mdp


def begin(mdp: MDP, lanes: Lanes) -> Learner:
    """A learner that takes all actions alike and values none."""
    learner = Learner(lanes)
    learner.nets["pi"] = Table(len(lanes), (mdp.states, mdp.actions), lanes.device)
    zeros = torch.zeros(len(lanes), mdp.states, mdp.actions, dtype=torch.float64, device=lanes.device)
    learner.memory |= {"log_pi": zeros.log_softmax(-1), "q": zeros}
    return learner


def resume(start: Learner, mdp: MDP, lanes: Lanes) -> Learner:
    """A fork of `start`. LabError where it has other lanes or another size. A sick lane is stopped, taking all actions alike."""
    learner, fresh = start.fork(lanes), begin(mdp, lanes).memory
    if "log_pi" not in learner.memory or learner.memory["log_pi"].shape != fresh["log_pi"].shape:
        raise LabError(f"This run starts from a learner with a table for {mdp.states} states and {mdp.actions} actions.")
    sick = stop_sick(learner, learner.memory["q"], learner.memory["log_pi"])
    learner.memory |= {name: torch.where(sick[:, None, None], fresh[name], learner.memory[name]) for name in fresh}
    return learner


def stop_sick(learner: Learner, q: Tensor, log_pi: Tensor) -> Tensor:
    """Stop for good the lanes where either (L, S, A) is not finite, and say which, (L,)."""
    sick = ~(q + log_pi).isfinite().flatten(1).all(1)
    learner.stop(sick, q.amax((1, 2)))
    return sick


def adopt(learner: Learner, q: Tensor, log_pi: Tensor) -> None:
    """Make q and log_pi the learner's own; stopped lanes keep what they had."""
    if not math.isfinite((q + log_pi).sum()):  # a sum is dear to read but once: lanes are looked at one by one only if it is odd
        stop_sick(learner, q, log_pi)
    on = learner.on[..., None]
    learner.memory["q"] = torch.where(on, q, learner.memory["q"])
    learner.memory["log_pi"] = torch.where(on, log_pi, learner.memory["log_pi"])
    learner.step += 1


def best_return(mdp: MDP) -> Tensor:
    """The return of an optimal policy, (1 | L,)."""
    return (mdp.mu * mdp.best.v).sum(-1)


def measure(mdp: MDP, before: Tensor, now: Tensor) -> dict[str, Tensor]:
    """The exact metrics, each (L,), of two log_pi (L, S, A), one after the other."""
    pi = now.exp()
    gained, d = expected_return(mdp, pi), occupancy(mdp, pi)
    moved = kl(Categorical(before), Categorical(now))
    return {"return": gained, "gap": best_return(mdp) - gained, "kl": (d * moved).sum(-1) / d.sum(-1)}


# respond


def stay(algo: Tabular, world: FiniteWorld, learner: Learner, k: SimpleNamespace) -> MDP:
    """The world does not mind what is done in it."""
    return world.mdp


# explore


def know(algo: Tabular, mdp: MDP, learner: Learner, k: SimpleNamespace) -> MDP:
    """The model is given: nothing has to be tried."""
    return mdp


# evaluate


def solve(algo: Tabular, known: MDP, learner: Learner, k: SimpleNamespace) -> Tensor:
    """Q of the policy, from its linear equations."""
    return values(known, learner.memory["log_pi"].exp())[0]


def solve_soft(algo: Tabular, known: MDP, learner: Learner, k: SimpleNamespace) -> Tensor:
    """Soft Q of the policy: every later step also pays tau times the entropy there (Haarnoja et al. 2018, eqs. 2 and 3)."""
    log_pi, tau = learner.memory["log_pi"], k.tau[..., None]
    if not bool(tau.any()):
        return solve(algo, known, learner, k)
    if known.sparse:
        raise LabError(f"An entropy bonus (tau > 0) needs a dense model, of up to {DENSE} states; this one has {known.states}.")
    paid = replace(known, r=known.r - tau * log_pi)
    return values(paid, log_pi.exp())[0] + tau * log_pi  # the first step's entropy is no part of Q


# improve


def ascend(algo: Tabular, known: MDP, q: Tensor, learner: Learner, k: SimpleNamespace) -> Tensor:
    """logits + eta grad J, with grad J = d(s) pi(a|s) A(s, a) / (1 - gamma) for softmax logits (Agarwal et al. 2021, eq. 10)."""
    log_pi = learner.memory["log_pi"]
    return (log_pi + k.eta[..., None] * policy_gradient(known, log_pi.exp(), q)).log_softmax(-1)


def policy_gradient(mdp: MDP, pi: Tensor, q: Tensor) -> Tensor:
    """d J / d logits, (L, S, A), of a softmax policy pi (L, S, A) with action values q: exact, for any start distribution."""
    visits = occupancy(mdp, pi) / (1 - mdp.discount[:, None])
    return visits[..., None] * pi * (q - (pi * q).sum(-1, keepdim=True))


def natural(algo: Tabular, known: MDP, q: Tensor, learner: Learner, k: SimpleNamespace) -> Tensor:
    """logits + eta F^+ grad J, which is logits + eta A / (1 - gamma): the occupancy cancels (Agarwal et al. 2021, lemma 15).

    q in place of A moves every logit of a state alike, so the policy is the same.
    """
    return (learner.memory["log_pi"] + k.eta[..., None] * q / (1 - known.discount[:, None, None])).log_softmax(-1)


def greedy(algo: Tabular, known: Any, q: Tensor, learner: Learner, k: SimpleNamespace) -> Tensor:
    """The best action, and of equally good ones the first."""
    return best_action(q)


def best_action(q: Tensor) -> Tensor:
    """log_pi (L, S, A) of the policy that takes the first of the actions within TIE of the best, by GAP nats."""
    tied = q >= q.amax(-1, keepdim=True) - TIE * q.abs().amax(-1, keepdim=True)
    return torch.full_like(q, -GAP).scatter_(-1, tied.byte().argmax(-1, keepdim=True), 0.0)  # e^-80 beside 1 is lost, so this sums to 1


def softened(algo: Tabular, known: Any, q: Tensor, learner: Learner, k: SimpleNamespace) -> Tensor:
    """pi proportional to exp(q / tau); the best action where tau is 0."""
    tau = k.tau[..., None]
    return torch.where(tau > 0, (q / tau.clamp_min(1e-12)).log_softmax(-1), best_action(q))


def proximal(algo: Tabular, known: MDP, q: Tensor, learner: Learner, k: SimpleNamespace) -> Tensor:
    """In each state the maximum of <pi, q> + tau H(pi) - KL(pi, old pi) / eta, in closed form (Geist et al. 2019, section 5).

    At tau = 0 it is pi proportional to old pi * exp(eta q).
    """
    eta, tau = k.eta[..., None], k.tau[..., None]
    return ((learner.memory["log_pi"] + eta * q) / (1 + eta * tau)).log_softmax(-1)


exact_pg = Tabular(
    respond=stay,
    explore=know,
    evaluate=solve,
    improve=ascend,
    knobs={"eta": Knob(1.0, 0.01, 100.0, "step size in the space of logits")},
    paper=Paper(
        key="exact_pg",
        title="Policy Gradient Methods for Reinforcement Learning with Function Approximation",
        year=1999,
        url="https://proceedings.neurips.cc/paper/1999/hash/464d828b85b0bed98e80ade0a5c43b0f-Abstract.html",
        claim="Small steps along the exact gradient never lower the return, yet a policy sure of a bad action hardly moves.",
        lesson="Even without noise the gradient sees the world through the policy: what is seldom tried is seldom changed.",
        lost="Sampling and function approximation: the gradient is exact and the policy a table.",
        chapter=2,
    ),
)

npg = replace(
    exact_pg,
    improve=natural,
    knobs={"eta": Knob(0.1, 0.001, 10.0, "step size in the space of policies")},
    paper=Paper(
        key="npg",
        title="A Natural Policy Gradient",
        year=2001,
        url="https://proceedings.neurips.cc/paper/2001/hash/4b86abe48d358ecf194c56c69108433e-Abstract.html",
        claim="With rewards in [0, 1], k natural steps from uniform end within log A / (eta k) + 1 / ((1 - gamma)^2 k) of the best return.",
        lesson="Measured in the space of policies, a step moves rare states as readily as frequent ones.",
        lost="Estimating the Fisher matrix: for a table its effect is known in closed form.",
        base="exact_pg",
        chapter=2,
    ),
)

policy_iteration = replace(
    exact_pg,
    improve=greedy,
    knobs={},
    paper=Paper(
        key="policy_iteration",
        title="Dynamic Programming and Markov Processes",
        year=1960,
        url="https://openlibrary.org/isbn/0262080095",
        claim="No state's value ever falls from one greedy improvement to the next, and a handful of them reach the optimum.",
        lesson="Where values are exact the boldest step is safe: drift is dangerous only as far as knowledge is wrong.",
        lost="Nothing essential.",
        base="exact_pg",
        chapter=1,
    ),
)

mirror_descent = replace(
    npg,
    evaluate=solve_soft,
    improve=proximal,
    knobs={"eta": Knob(1.0, 0.01, 1000.0, "how far one improvement may go: the inverse weight of the KL from the last policy"),
           "tau": Knob(0.0, 0.0, 1.0, "weight of entropy, in units of reward")},
    paper=Paper(
        key="mirror_descent",
        title="A Theory of Regularized Markov Decision Processes",
        year=2019,
        url="https://arxiv.org/abs/1901.11275",
        claim="A small eta gives the natural gradient's step, a large one the greedy step; without entropy all past values keep their say.",
        lesson="Staying near the last policy is remembering: what was once valued is forgotten only as fast as entropy fades it.",
        lost="Approximate values and regularisers other than entropy and KL.",
        base="npg",
        chapter=2,
    ),
)

soft_policy_iteration = replace(
    mirror_descent,
    improve=softened,
    knobs={"tau": Knob(0.1, 0.0, 1.0, "weight of entropy, in units of reward")},
    paper=Paper(
        key="soft_policy_iteration",
        title="Soft Actor-Critic: Off-Policy Maximum Entropy Deep Reinforcement Learning with a Stochastic Actor",
        year=2018,
        url="https://arxiv.org/abs/1801.01290",
        claim="Soft values never fall from one improvement to the next, and the limit solves the soft Bellman equation.",
        lesson="Entropy moves the goal itself: the policy settles at a distance from the best one that tau decides.",
        lost="Actor and critic networks, replay and sampling: only the planner under them is left.",
        base="mirror_descent",
        chapter=2,
    ),
)
