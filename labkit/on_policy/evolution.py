"""How a drift function is found: evolution strategies on the return at the end of whole trainings, of learners small enough to be exact.

A population of drift functions brakes as many tabular softmax learners in random MDPs. Their advantages are exact plus noise, so nothing
is rolled out; meta-seeds, members and settings all stand in lanes.
"""
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from labkit.lanes import Knob, Lanes
from labkit.learner import Learner
from labkit.nn import Table, normalise, product
from labkit.policy import gaussian_noise
from labkit.worlds.finite import MDP, advantage, expected_return, garnet, optimal

HIDDEN = 8  # units of a drift function
WEIGHTS = 17 * HIDDEN  # (16, HIDDEN) into them and HIDDEN out of them
RATE, PASSES = 1.0, 4  # of the learners: steps up the surrogate after each look at the advantages
HORIZONS = (10, 20, 40)  # updates that a learner may be granted
KNOBS = {
    "clock": Knob(1.0, 0.0, 1.0, "1 tells the drift function how much of the time is spent; 0 does not"),
    "noise": Knob(1.0, 0.0, 2.0, "deviation of the noise in the learners' advantages, which have deviation 1"),
    "sigma": Knob(0.05, 0.01, 0.2, "deviation of the population's weights"),
}

Brake = Callable[[Tensor, Tensor], Tensor]


def learnt_drift(weights: Tensor, spent: Tensor, ratio: Tensor, adv: Tensor) -> Tensor:
    """What moving away costs (Jackson et al. 2024; LPO: Lu et al. 2022, eq. 6), (L, B), of ratio and adv (L, B).

    relu(net - 1e-4), net without biases, of eight numbers that vanish at ratio 1 and of the same times `spent` (L, 1), the share of
    the training that is over: so it is 0 and flat at ratio 1, whatever the weights (L, WEIGHTS).
    """
    log = ratio.clamp_min(1e-30).log()
    seen = torch.stack([1 - ratio, (1 - ratio).square(), log, log.square()], -1)
    seen = torch.cat([seen, seen * adv[..., None]], -1)
    seen = torch.cat([seen, spent[..., None] * seen], -1)
    first, last = weights.split([16 * HIDDEN, HIDDEN], 1)
    return ((product(seen, first.view(-1, 16, HIDDEN)).tanh() * last[:, None]).sum(-1) - 1e-4).relu()


def climb(logits: Tensor, adv: Tensor, brake: Brake) -> Tensor:
    """PASSES steps of logits (L, S, A) up the mean of ratio * adv - brake under the policy that they begin with; adv (L, S * A)."""
    old = logits.log_softmax(-1).flatten(1)
    for _ in range(PASSES):
        trying = logits.detach().requires_grad_()
        ratio = (trying.log_softmax(-1).flatten(1) - old).exp()
        gain = (old.exp() * (ratio * adv - brake(ratio, adv))).sum()
        logits = logits + RATE * torch.autograd.grad(gain, trying)[0]
    return logits


def train(mdp: MDP, brake: Callable[..., Tensor], horizon: Tensor, noise: Callable[[int], Tensor]) -> Tensor:
    """The share of the way from uniform to optimal that learners have gone after `horizon` (L,) updates, (L,).

    brake(spent, ratio, adv); noise(n) (L, S * A) is added to the advantages of update n, which have mean 0 and deviation 1.
    """
    logits = torch.zeros(len(horizon), mdp.states, mdp.actions)
    uniform, best = expected_return(mdp, logits.softmax(-1).double()), (mdp.mu * optimal(mdp)[1]).sum(-1)
    for n in range(int(horizon.max())):
        adv = normalise(advantage(mdp, logits.softmax(-1).double()).flatten(1)).float() + noise(n)
        after = climb(logits, adv, partial(brake, (n / horizon)[:, None]))
        logits = torch.where((n < horizon)[:, None, None], after, logits)
    return ((expected_return(mdp, logits.softmax(-1).double()) - uniform) / (best - uniform)).float()


def randoms(seeds: Sequence[int], times: int) -> MDP:
    """The random MDPs of these seeds, each for `times` lanes in a row."""
    one = garnet(seed=seeds, gamma=0.9).mdp
    return replace(one, P=one.P.repeat_interleave(times, 0), r=one.r.repeat_interleave(times, 0), mu=one.mu.repeat_interleave(times, 0))


def estimate(fitness: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """The gradient (L, P) of the fitness, smoothed by sigma (L, 1), from antithetic pairs (Salimans et al. 2017).

    noise (L, n, P); fitness (L, 2n): first of weights + sigma noise, then of weights - sigma noise.
    """
    plus, minus = fitness.chunk(2, 1)
    return ((plus - minus)[..., None] * noise).mean(1) / (2 * sigma)


def evolve(lanes: Lanes, members: int = 16, lr: float = 0.02) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield after each generation the weights (L, WEIGHTS) and the members' fitness (L, members), for ever.

    In each generation all members of a lane train in the same random MDP, with the same noise and the same horizon of HORIZONS.
    """
    k, learner = lanes.knobs(KNOBS), Learner(lanes)
    net = learner.nets["drift"] = Table(len(lanes), (1, WEIGHTS))
    net.move(torch.cat([2 * learner.rand(16 * HIDDEN) - 1, torch.zeros(len(lanes), HIDDEN)], 1) * (3 / 16) ** 0.5, learner.on)
    generation = 0
    while True:
        noise = gaussian_noise(learner.rand(members // 2, WEIGHTS))
        tried = net.theta.detach()[:, None] + k.sigma[..., None] * torch.cat([noise, -noise], 1)
        fitness = trial(learner, tried, k.clock, k.noise, generation)
        ascent = estimate(normalise(fitness), noise, k.sigma)
        net.adam(-ascent, torch.full_like(k.sigma, lr), learner.on)
        generation += 1
        yield net.theta.detach().clone(), fitness


def trial(learner: Learner, tried: Tensor, clock: Tensor, noise: Tensor, generation: int) -> Tensor:
    """The fitness (L, members) of weights tried (L, members, WEIGHTS)."""
    lanes, members = learner.lanes, tried.shape[1]
    mdp = randoms([1_000 * (seed + 1) + generation for _ in lanes.points for seed in lanes.seeds], members)
    horizon = torch.tensor(HORIZONS)[(learner.rand(1)[:, 0] * len(HORIZONS)).long()].repeat_interleave(members)
    stream, pace = learner.stream(), clock.repeat_interleave(members, 0)

    def disturbed(n: int) -> Tensor:
        return (noise * gaussian_noise(stream(n, mdp.states * mdp.actions))).repeat_interleave(members, 0)

    def brake(spent: Tensor, ratio: Tensor, adv: Tensor) -> Tensor:
        return learnt_drift(tried.flatten(0, 1), pace * spent, ratio, adv)

    return train(mdp, brake, horizon, disturbed).view(len(lanes), members)
