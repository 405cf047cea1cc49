"""The claims of the family's bases, put to the test. A paper's own check stands in its file."""
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from labkit.lanes import Lanes
from labkit.learner import Learner
from labkit.tabular.family import (
    Tabular,
    begin,
    best_action,
    best_return,
    exact_pg,
    mirror_descent,
    npg,
    policy_iteration,
    soft_policy_iteration,
)
from labkit.verdict import Verdict, above, below, exactly, together
from labkit.worlds.finite import MDP, FiniteWorld, expected_return, garnet, lookahead, occupancy, optimal, sampled, values

ROUNDING = 1e-9  # what float64 may lose in values of order 10
TAU = 0.125  # a power of two, which a float32 knob holds exactly
SURE = 10.0  # nats by which a policy that is sure prefers its action


def improvements(method: Tabular, world: FiniteWorld, lanes: Lanes, steps: int, start: Learner | None = None) -> list[Learner]:
    """The learner after each of `steps` improvements."""
    return [snapshot.learner for snapshot in islice(method.run(world, lanes, start), steps)]


def beginning(world: FiniteWorld, lanes: Lanes, logits: Tensor) -> Learner:
    """A learner whose policy is the softmax of logits (L, S, A)."""
    learner = begin(world.mdp, lanes)
    learner.memory["log_pi"] = logits.log_softmax(-1)
    return learner


def policies(learners: Sequence[Learner]) -> list[Tensor]:
    """Their policies, (L, S, A) each."""
    return [learner.memory["log_pi"].exp() for learner in learners]


def returns(mdp: MDP, learners: Sequence[Learner]) -> Tensor:
    """Their exact returns, (T, L)."""
    return torch.stack([expected_return(mdp, pi) for pi in policies(learners)])


def losses(mdp: MDP, learners: Sequence[Learner]) -> Tensor:
    """The most that any state loses under each of their policies, (T, L)."""
    best = optimal(mdp)[1]
    return torch.stack([(best - values(mdp, pi)[1]).amax(-1) for pi in policies(learners)])


def until(x: Tensor, small: float) -> Tensor:
    """How many improvements it takes until x (T, L) is at most `small`, (L,); T + 1 where T do not suffice."""
    return 1 + (x > small).sum(0)


def never_falls(x: Tensor, what: str) -> Verdict:
    """Does x (T, ...) never fall along T, but for rounding? The value is its least gain."""
    least = x.diff(dim=0).min().item()
    return exactly(least >= -ROUNDING, least, f"{what} never falls from one improvement to the next")


def paying(world: FiniteWorld) -> FiniteWorld:
    """The world with its rewards stretched to [0, 1], lane by lane."""
    low, high = world.mdp.r.amin((1, 2), keepdim=True), world.mdp.r.amax((1, 2), keepdim=True)
    return sampled(replace(world.mdp, r=(world.mdp.r - low) / (high - low)))


def check_exact_pg(seeds: Sequence[int] = range(20), steps: int = 200) -> Verdict:
    """A random MDP per seed. The smallest step of the slider: does any lower the return? The default step: the share of the gap
    to the best return that closes from uniform, and from a policy that takes the worst action with chance 0.9999 (SURE)."""
    world, lanes = garnet(seed=seeds, gamma=0.9), Lanes(tuple(seeds))
    small = Lanes(tuple(seeds), {"eta": (exact_pg.knobs["eta"].low,)})
    q, v, _ = optimal(world.mdp)
    sure = SURE * one_hot(q.argmin(-1), world.mdp.actions).double()
    uniform, closed = beginning(world, lanes, torch.zeros_like(q)), []
    for start in (uniform, beginning(world, lanes, sure)):
        first, last = returns(world.mdp, [start, improvements(exact_pg, world, lanes, steps, start)[-1]])
        closed.append((last - first) / ((world.mdp.mu * v).sum(-1) - first))
    return together(
        never_falls(returns(world.mdp, [uniform, *improvements(exact_pg, world, small, steps)]), f"the return in {steps} small steps"),
        above(closed[0], 0.5, f"share of the gap that {steps} steps close from uniform"),
        below(closed[1], 0.05, f"share of the gap that {steps} steps close from a policy sure of the worst action"),
    )


def check_npg(seeds: Sequence[int] = range(20), steps: int = 300) -> Verdict:
    """A random MDP per seed, rewards in [0, 1], three step sizes: the gap after every k as a share of what the claim allows
    (Agarwal et al. 2021, theorem 16)."""
    etas = (0.01, 0.1, 1.0)
    world, lanes = paying(garnet(seed=[*seeds] * len(etas), gamma=0.9)), Lanes(tuple(seeds), {"eta": etas})
    gap = best_return(world.mdp) - returns(world.mdp, improvements(npg, world, lanes, steps))
    allowed = math.log(world.mdp.actions) / lanes.knobs(npg.knobs).eta[:, 0].double() + (1 - world.mdp.discount) ** -2
    share = gap / (allowed / torch.arange(1, steps + 1)[:, None])
    return together(
        exactly(bool((share <= 1).all()), share.max().item(), f"no gap in {steps} steps of {', '.join(map(str, etas))} exceeds its bound"),
        below(share.amax(0).view(len(etas), -1).amax(0), 1, "largest share of its bound that a gap fills"),
    )


def check_policy_iteration(seeds: Sequence[int] = range(20), states: int = 100) -> Verdict:
    """A random MDP per seed: every state's value from one improvement to the next, and how many reach the optimum."""
    world, lanes = garnet(states=states, actions=5, branching=5, seed=seeds, gamma=0.99), Lanes(tuple(seeds))
    learners = improvements(policy_iteration, world, lanes, 20)
    return together(
        never_falls(torch.stack([values(world.mdp, pi)[1] for pi in policies(learners)]), "every state's value"),
        below(until(losses(world.mdp, learners), ROUNDING).double(), 10, "improvements until no state loses"),
    )


def centred(x: Tensor) -> Tensor:
    """x (..., A) less its mean over actions: what of logits a policy shows."""
    return x - x.mean(-1, keepdim=True)


def natural_gradient(mdp: MDP, log_pi: Tensor, tau: float) -> Tensor:
    """F^+ grad of the return with entropy bonus, by autograd, (L, S, A): for softmax logits the gradient over d pi, centred."""
    logits = log_pi.clone().requires_grad_()
    paid = replace(mdp, r=mdp.r - tau * logits.log_softmax(-1))
    slope = torch.autograd.grad(expected_return(paid, logits.softmax(-1)).sum(), logits)[0]
    return centred(slope / (occupancy(mdp, log_pi.exp())[..., None] * log_pi.exp()))


def unremembered(learners: Sequence[Learner], log_pi: Tensor, eta: float, tau: float) -> Tensor:
    """How far the last policy's logits are from the sum of all past values and the first log_pi (L, S, A), an improvement's
    age fading each by 1 / (1 + eta tau), (L,)."""
    weight = (1 + eta * tau) ** -torch.arange(len(learners), 0, -1).double()
    said = sum(w * eta * learner.memory["q"] for w, learner in zip(weight, learners, strict=True)) + weight[0] * log_pi
    return centred(said - learners[-1].memory["log_pi"]).abs().amax((1, 2))


def check_mirror_descent(seeds: Sequence[int] = range(20), steps: int = 50) -> Verdict:
    """A random MDP and policy per seed. The smallest eta, with entropy: its step against the natural gradient's. The largest,
    without: how far its step ends from greedy. An eta of 1, without and with: the policy against all past values.

    At first tau was 0.1, which no float32 holds, and the last part missed by that rounding; with 0.125 the claim was put to the
    test again on seeds 1000 to 1019 too.
    """
    world, eta, first = garnet(seed=seeds, gamma=0.9), mirror_descent.knobs["eta"], Lanes(tuple(seeds))
    log_pi = (4 * first.rand(0, world.mdp.states, world.mdp.actions).double()).log_softmax(-1)

    def run(steps: int, eta: float, tau: float) -> list[Learner]:
        lanes = Lanes(tuple(seeds), {"eta": (eta,), "tau": (tau,)})
        return improvements(mirror_descent, world, lanes, steps, beginning(world, lanes, log_pi))

    want = eta.low * (1 - world.mdp.discount[:, None, None]) * natural_gradient(world.mdp, log_pi, TAU)
    off = (centred(run(1, eta.low, TAU)[0].memory["log_pi"] - log_pi) - want).abs().amax((1, 2)) / want.abs().amax((1, 2))
    bold = run(1, eta.high, 0.0)[0].memory
    far = (bold["log_pi"].exp() - best_action(bold["q"]).exp()).abs().sum(-1).mean(-1) / 2
    lost = torch.stack([unremembered(run(steps, eta.default, tau), log_pi, eta.default, tau) for tau in (0.0, TAU)]).max().item()
    return together(
        below(off, 0.01, f"with eta {eta.low:g} the step's distance from the natural gradient's, relative"),
        below(far, 0.01, f"with eta {eta.high:g} the step's distance from greedy in total variation"),
        exactly(lost <= ROUNDING, lost, f"after {steps} steps the logits are the sum of all past values, faded by entropy alone"),
    )


def check_soft_policy_iteration(seeds: Sequence[int] = range(20), steps: int = 50) -> Verdict:
    """A random MDP per seed, little and much entropy: every state's soft value from one improvement to the next, and at the end
    its distance from tau log sum exp(Q / tau)."""
    taus = (0.1, 1.0)
    world, lanes = garnet(seed=[*seeds] * len(taus), gamma=0.9), Lanes(tuple(seeds), {"tau": taus})
    tau = lanes.knobs(soft_policy_iteration.knobs).tau.double()
    v = torch.stack([
        values(replace(world.mdp, r=world.mdp.r - tau[..., None] * pi.log()), pi)[1]
        for pi in policies(improvements(soft_policy_iteration, world, lanes, steps))
    ])  # fmt: skip
    left = (v[-1] - tau * (lookahead(world.mdp, v[-1]) / tau[..., None]).logsumexp(-1)).abs().max().item()
    return together(
        never_falls(v, "every state's soft value"),
        exactly(left <= ROUNDING, left, f"after {steps} improvements the soft Bellman equation is off by {ROUNDING:g} at most"),
    )
