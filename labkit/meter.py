"""Drift, measured from outside: how far a policy stands from a reference, over which states, by which divergence."""
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from labkit.divergence import DIVERGENCES
from labkit.errors import LabError
from labkit.learner import Learner
from labkit.policy import Policy
from labkit.snapshot import Snapshot
from labkit.worlds.world import World


@dataclass(frozen=True)
class States:
    """Where a policy is looked at. obs (N, n), or (L, N, n) per lane.

    weights (N,) or (L, N) sum to 1 and make a reading exact; without them the states are a sample.
    """

    obs: Tensor
    weights: Tensor | None = None

    def __post_init__(self) -> None:
        """LabError where there is no state, a number is not finite, or the weights are no distribution over the states."""
        if self.obs.dim() not in (2, 3) or self.obs.shape[-2] == 0 or not bool(self.obs.isfinite().all()):
            raise LabError(f"States are finite numbers (N, obs_size) or (L, N, obs_size), N at least 1; got shape {tuple(self.obs.shape)}.")
        w = self.weights
        if w is not None and (w.shape[-1] != self.obs.shape[-2] or bool((w < 0).any()) or bool(((w.sum(-1) - 1).abs() > 1e-3).any())):
            raise LabError(f"Weights are not negative and sum to 1 over the {self.obs.shape[-2]} states; got shape {tuple(w.shape)}.")


@dataclass(frozen=True)
class Reading:
    """A drift per lane: value, low, high (L,), a 95% interval (of no width where exact), and per_state (L, N)."""

    value: Tensor
    low: Tensor
    high: Tensor
    per_state: Tensor


@torch.no_grad()
def probe(world: World, rand: Callable[..., Tensor], behaviour: Callable[[Tensor], Policy], n: int) -> States:
    """A sample of n states per lane, drawn like the steps of `behaviour`: a state counts by the time spent in it.

    Each is taken at a random moment of an episode of its own; an episode that is over by then is replaced by another.
    rand(*shape) -> (L, *shape) uniform in [0, 1), such as learner.rand. LabError for n below 1.
    """
    if n < 1:
        raise LabError(f"A probe takes at least 1 state; got n={n}.")
    state = world.reset(rand(n, world.reset_noise))
    kept, moment = world.observe(state), (rand(n) * world.horizon).long()
    age, found = torch.zeros_like(moment), moment == 0
    while not bool(found.all()):
        action = behaviour(world.observe(state)).sample(rand(n, world.actions.noise))
        state, _, terminated, truncated = world.step(state, action, rand(n, world.step_noise))
        over = terminated | truncated
        state = world.restart(state, over, rand(n, world.reset_noise))
        moment, age = torch.where(over, (rand(n) * world.horizon).long(), moment), torch.where(over, 0, age + 1)
        here = ~found & (age == moment)
        kept, found = torch.where(here[..., None], world.observe(state), kept), found | here
    return States(kept)


class DriftMeter:
    """Reads snapshots and knows nothing of algorithms. Its triple:

    reference   "start" (the first snapshot it sees), "previous", or any Learner (a teacher, the optimum);
    divergence  a name in divergence.DIVERGENCES, or a function (p, q) -> per state, of reference p and policy q;
    states      States, or a function of the snapshot that gives them (an exact occupancy moves with the policy).
    """

    def __init__(
        self,
        states: States | Callable[[Snapshot], States],
        divergence: str | Callable[[Policy, Policy], Tensor] = "kl",
        reference: str | Learner = "start",
    ) -> None:
        if isinstance(divergence, str) and divergence not in DIVERGENCES:
            raise LabError(f"There is no divergence {divergence!r}; choose one of {', '.join(DIVERGENCES)}.")
        if isinstance(reference, str) and reference not in ("start", "previous"):
            raise LabError(f"There is no reference {reference!r}; give 'start', 'previous' or a Learner.")
        self.states, self.reference = states, reference
        self.divergence = DIVERGENCES[divergence] if isinstance(divergence, str) else divergence
        self.past = reference if isinstance(reference, Learner) else None

    @torch.no_grad()
    def __call__(self, snapshot: Snapshot) -> Reading:
        """The drift of the snapshot's policy; zero for the first one where the reference is an earlier one."""
        now, past = snapshot.learner, self.past or snapshot.learner
        self.past = now if self.reference == "previous" else past
        states = self.states(snapshot) if callable(self.states) else self.states
        per_state = self.divergence(past.policy(states.obs), now.policy(states.obs))
        if states.weights is not None:
            value = (per_state * states.weights).sum(-1)
            return Reading(value, value, value, per_state)
        value = per_state.mean(1)
        spread = 1.96 * per_state.std(1) / math.sqrt(per_state.shape[1])
        return Reading(value, value - spread, value + spread, per_state)


@torch.no_grad()
def evaluate(world: World, learner: Learner, episodes: int, greedy: bool = False) -> Tensor:
    """Return of `episodes` fresh episodes per lane, undiscounted: (L, episodes). Leaves the learner as it is. LabError for none."""
    if episodes < 1:
        raise LabError(f"A policy is evaluated over at least 1 episode; got episodes={episodes}.")
    learner = learner.copy()
    state = world.reset(learner.rand(episodes, world.reset_noise))
    total, live = torch.zeros(len(learner.lanes), episodes, device=learner.on.device), learner.on.expand(-1, episodes)
    for _ in range(world.horizon):
        u = learner.rand(episodes, world.actions.noise)
        action = learner.policy(world.observe(state)).sample(u * 0 + 0.5 if greedy else u)
        state, reward, terminated, truncated = world.step(state, action, learner.rand(episodes, world.step_noise))
        total, live = total + reward * live, live & ~terminated & ~truncated
        if not bool(live.any()):
            break
    return total
