"""eps_oracle: fit a model to what the last policies logged, do what it says is best, and now and then anything."""
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, pad

from labkit.bandits.family import BanditAlgorithm, Log, Shape
from labkit.errors import LabError
from labkit.lanes import Knob, Lanes
from labkit.learner import Learner
from labkit.nn import LINE, Net, product
from labkit.paper import Paper
from labkit.policy import SHUT, Categorical
from labkit.verdict import Verdict, above, together
from labkit.worlds.bandit import Bandit
from labkit.worlds.contextual import Contextual, every
from labkit.worlds.payments import payments

RIDGE, NEWTON = 1.0, 8  # weight of the squares of the model's weights; steps of its fit
REMEMBER, LATE = 10, 3  # generations of logs that a lane may use, and that feedback may be late


def contextual(world: Bandit) -> Contextual:
    """The world, which must have contexts. LabError where it has none."""
    if not isinstance(world, Contextual):
        raise LabError(f"{world.key} shows no context to learn from; take bandit.payments or bandit.rewriting.")
    return world


# begin


def empty_log(algo: BanditAlgorithm, world: Bandit, learner: Learner) -> None:
    """No payment logged, no weight learnt: tried and won (L, generations, contexts, N) count plays and payments, the newest first."""
    n, arms, lanes = contextual(world).features, world.arms, len(learner.lanes)
    log = torch.zeros(lanes, REMEMBER + LATE, 2**n, arms, device=learner.lanes.device)
    learner.memory |= {"tried": log, "won": log, "belief": log.new_zeros(lanes, arms, n + 1, dtype=torch.float64)}
    learner.nets["pi"] = Net(learner.rand, (world.obs_size, arms), free=1)
    learner.head = "eps_greedy"


# choose


def as_shown(algo: BanditAlgorithm, world: Bandit, learner: Learner, obs: Tensor, k: SimpleNamespace) -> tuple[Tensor, Tensor]:
    """Draw from the policy that meters read."""
    algo.show(algo, learner, torch.zeros_like(obs[..., :0]), k)
    policy = learner.policy(obs)
    action = policy.sample(learner.rand(obs.shape[1], 1))
    return action, policy.log_prob(action).exp()


# estimate


def refit(algo: BanditAlgorithm, learner: Learner, log: Log, k: SimpleNamespace) -> Tensor:
    """The weights (L, N, n + 1) of a logistic regression per arm, on the generations that have arrived and are not forgotten."""
    tried, won = remember(learner, log)
    age = torch.arange(REMEMBER + LATE, device=tried.device)
    used = ((age >= k.delay) & (age < k.delay + k.W))[..., None, None]
    return fit((used * tried).sum(1).mT, (used * won).sum(1).mT)


def remember(learner: Learner, log: Log) -> tuple[Tensor, Tensor]:
    """Put a round in front of the logs, as counts by context and arm; the oldest falls out."""
    old = learner.memory["tried"]
    contexts, arms = old.shape[2:]
    bits = 2.0 ** torch.arange(contexts.bit_length() - 1, device=old.device)
    place = (log.obs[..., : len(bits)] @ bits).long() * arms + log.action
    for name, count in (("tried", torch.ones_like(log.chance)), ("won", log.paid.sum(-1))):
        new = torch.zeros_like(old[:, 0].flatten(1)).scatter_add(1, place, count).view(-1, 1, contexts, arms)
        learner.memory[name] = torch.cat([new, learner.memory[name][:, :-1]], 1)
    return learner.memory["tried"], learner.memory["won"]


def fit(tried: Tensor, won: Tensor) -> Tensor:
    """Weights w (L, N, n + 1), float64, that maximise sum of won log p + (tried - won) log(1 - p) - RIDGE / 2 |w|^2, p = sigmoid(w x).

    tried, won (L, N, 2^n): plays and payments by arm and context. By Newton's method. The last weight is the constant's.
    """
    tried, won = tried.double(), won.double()
    x = inputs(tried)
    squares = (x[..., None] * x[..., None, :]).flatten(2)
    n = x.shape[2]
    w, unit = tried.new_zeros(*tried.shape[:2], n), torch.eye(n, dtype=tried.dtype, device=tried.device)
    for _ in range(NEWTON):
        slope, p = gradient(w, tried, won)
        bend = product(tried * p * (1 - p), squares).unflatten(2, (n, n)) + RIDGE * unit
        more = -n % LINE  # padded to whole cache lines, LAPACK rounds alike in every lane
        whole = pad(bend, (0, more, 0, more)) + torch.diag(pad(0 * unit[0], (0, more), value=1.0))
        w = w + torch.linalg.solve(whole, pad(slope, (0, more))[..., None])[..., :n, 0]
    return w


def gradient(w: Tensor, tried: Tensor, won: Tensor) -> tuple[Tensor, Tensor]:
    """The slope (L, N, n + 1) of what `fit` maximises, and p (L, N, 2^n)."""
    x = inputs(tried)
    p = logsigmoid(product(w, x.mT)).exp()
    return product(won - tried * p, x) - RIDGE * w, p


def inputs(tried: Tensor) -> Tensor:
    """What the model sees of each context, (L, 2^n, n + 1): its features and a constant."""
    x = torch.as_tensor(every(tried.shape[2].bit_length() - 1), dtype=tried.dtype, device=tried.device)
    return pad(x, (0, 1), value=1.0).expand(len(tried), -1, -1)


# show


def share_evenly(algo: BanditAlgorithm, learner: Learner, pulls: Tensor, k: SimpleNamespace) -> None:
    """The best arm by the model, and a share k.eps for all alike."""
    deploy(learner, k.eps)


def deploy(learner: Learner, free: Tensor) -> None:
    """Move the model's weights and the head's parameter free (L, 1) into nets["pi"], where arms that are shut score SHUT."""
    w = learner.memory["belief"].float()
    shut = SHUT * torch.eye(w.shape[1], device=w.device).expand(len(w), -1, -1)
    learner.nets["pi"].move(torch.cat([torch.cat([w[..., :-1].mT, shut], 1).flatten(1), w[..., -1], free], 1), learner.on)


eps_oracle = BanditAlgorithm(
    begin=empty_log,
    choose=as_shown,
    estimate=refit,
    show=share_evenly,
    shape=Shape(plays=2000, rounds=1),
    knobs={
        "eps": Knob(0.05, 0.0, 1.0, "share of payments that are sent anywhere"),
        "W": Knob(1, 1, REMEMBER, "generations of logs that the model is fitted to"),
        "delay": Knob(0, 0, LATE, "generations that pass before a log has arrived"),
    },
    paper=Paper(
        key="eps_oracle",
        title="A Contextual Bandit Bake-off",
        year=2018,
        url="https://arxiv.org/abs/1802.04064",
        claim="Who learns only from the last generation's log needs some exploration, and pays for more than some.",
        lesson="Today's policy writes tomorrow's training set, and the log of chance teaches more than the log of a good policy.",
        lost="Online oracles, and contexts without number.",
        chapter=6,
    ),
)


def chances(learner: Learner, world: Contextual) -> Tensor:
    """The policy's probabilities in every context of a world, (L, C, N) float64."""
    policy = learner.policy(world.contexts if len(world.contexts) > 1 else world.contexts[0])
    assert isinstance(policy, Categorical)
    return policy.probs.double()


@torch.no_grad()
def read(algo: BanditAlgorithm, world: Contextual, lanes: Lanes, generations: int, what: Callable[[Tensor], Tensor]) -> Tensor:
    """What (L,) is found in the probabilities (L, C, N) of each generation's policy: (generations, settings, seeds)."""
    run = algo.run(world, lanes)
    found = torch.stack([what(chances(next(run).learner, world)) for _ in range(generations)])
    return found.unflatten(1, (len(lanes.points), len(lanes.seeds)))


def check(seeds: Sequence[int] = range(40), generations: int = 30) -> Verdict:
    """A world of payments per seed, one generation of memory: the mean exact value of generations 20 to 30 at eps 0, 0.05 and 0.3."""
    shares = (0.0, 0.05, 0.3)
    lanes = Lanes(tuple(seeds), {"eps": shares})
    world = payments(seed=tuple(seeds) * len(shares))
    none, some, much = read(eps_oracle, world, lanes, generations, world.value)[19:].mean(0)
    return together(
        above(some - none, 0, "value at eps 0.05 minus value at eps 0"),
        above(some - much, 0, "value at eps 0.05 minus value at eps 0.3"),
    )
