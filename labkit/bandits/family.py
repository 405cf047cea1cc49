"""One loop: choose, let the world answer, estimate. Its base here: ucb."""
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor

from labkit.errors import LabError
from labkit.lanes import Knob, Lanes
from labkit.learner import Learner
from labkit.nn import Table
from labkit.paper import Algorithm, Paper
from labkit.snapshot import Snapshot
from labkit.worlds.bandit import Bandit
from labkit.worlds.world import Discrete, World


@dataclass(frozen=True)
class Log:
    """What is remembered of a round: of each of E plays side by side in a lane."""

    obs: Tensor  # (L, E, n): the context
    action: Tensor  # (L, E) int64, or (L, E, N) where a round pulls several arms
    chance: Tensor  # (L, E): the probability that the action had
    pulled: Tensor  # (L, E, N): 1 for the arms that were pulled, else 0
    paid: Tensor  # (L, E, N): what they paid; 0 for the others


@dataclass(frozen=True)
class Shape:
    """Settings that change the shapes of tensors, and so cannot differ between lanes."""

    plays: int = 1  # side by side in a lane
    rounds: int = 50  # between two snapshots

    def __post_init__(self) -> None:
        for name, size in vars(self).items():
            if not isinstance(size, int) or size < 1:
                raise LabError(f"Shape takes whole numbers from 1 up; got {name}={size!r}.")


@dataclass(frozen=True)
class BanditAlgorithm(Algorithm):
    """Round after round choose an arm, see what it pays, and estimate anew. The callables are the slots.

    How the world answers to being played is the world's own affair: `labkit.worlds.bandit`. learner.memory holds the state of
    the world, `belief` and whatever a method remembers. A bandit has no episodes: it goes on past the world's horizon.
    """

    begin: Callable[..., None]  # (algo, world, learner): prepare memory and nets["pi"], before the world does; LabError where it misfits
    choose: Callable[..., tuple[Tensor, Tensor]]  # (algo, world, learner, obs, k) -> action and the chance it had
    estimate: Callable[..., Tensor]  # (algo, learner, log, k) -> belief (L, ...), which `choose` finds in learner.memory
    show: Callable[..., None]  # (algo, learner, pulls, k): set nets["pi"] to the policy of this window; pulls (L, E, N), float64
    shape: Shape = Shape()

    def run(self, world: World, lanes: Lanes, start: Learner | None = None) -> Iterator[Snapshot]:
        """Yield a Snapshot after every `shape.rounds` rounds. Metrics, exact (of means, never of samples): return, what a play
        of this window earned, and regret, what the best policy had earned more per play, summed over all rounds."""
        self.expect(world, lanes, start)
        k, arms = lanes.knobs(self.knobs), bandit(world)
        fresh = self.fresh(arms, lanes)
        learner = start.resume(lanes, fresh) if start else fresh
        while True:
            pulls, metrics = self.window(arms, learner, k)
            self.show(self, learner, pulls, k)
            yield Snapshot(learner.step, learner.copy(), metrics)

    def fresh(self, world: Bandit, lanes: Lanes) -> Learner:
        """A learner before its first round."""
        learner = Learner(lanes)
        self.begin(self, world, learner)
        learner.memory["world"] = world.reset(learner.rand(self.shape.plays, world.reset_noise))
        learner.memory["regret"] = torch.zeros(len(lanes), dtype=torch.float64, device=lanes.device)
        return learner

    @torch.no_grad()
    def window(self, world: Bandit, learner: Learner, k: SimpleNamespace) -> tuple[Tensor, dict[str, Tensor]]:
        """Play `shape.rounds` rounds; the pulls in them, (L, E, N), and the metrics."""
        noise = learner.rand(self.shape.rounds, self.shape.plays, world.step_noise)
        pulls = torch.zeros_like(learner.memory["world"]["paid"], dtype=torch.float64)
        earned = missed = torch.zeros_like(learner.memory["regret"])
        for t in range(self.shape.rounds):
            log, gain, best = self.play(world, learner, noise[:, t], k)
            adopt(learner, self.estimate(self, learner, log, k))
            pulls, earned, missed = pulls + log.pulled, earned + gain, missed + best - gain
        learner.step += self.shape.rounds * self.shape.plays
        learner.memory["regret"] = learner.memory["regret"] + missed
        return pulls, {"return": earned / self.shape.rounds, "regret": learner.memory["regret"]}

    def play(self, world: Bandit, learner: Learner, u: Tensor, k: SimpleNamespace) -> tuple[Log, Tensor, Tensor]:
        """One round with noise u (L, E, step_noise): its log, and per play what it earns and what the best policy would, (L,)."""
        state = learner.memory["world"]
        obs = world.observe(state)
        action, chance = self.choose(self, world, learner, obs, k)
        after = world.step(state, action, u)[0]
        pulled = world.pulled(action)
        gain, best = (pulled * world.expected(state)).sum(-1).double().mean(-1), world.best(state).double().mean(-1)
        learner.memory["world"] = after
        return Log(obs, action, chance, pulled, after["paid"]), gain, best


def bandit(world: World) -> Bandit:
    """The world, which must be a bandit. LabError where it is none."""
    if not isinstance(world, Bandit):
        raise LabError(f"{world.key} does not say what its arms pay on average; take a bandit.* world.")
    return world


def adopt(learner: Learner, belief: Tensor) -> None:
    """Make belief (L, ...) the learner's own. A lane in which it is not finite is stopped for good, with what it believed before."""
    fine = belief.isfinite().flatten(1).all(1)
    if not bool(fine.all()):
        learner.stop(~fine, belief.flatten(1).sum(1))
    on = learner.on.view(-1, *[1] * (belief.dim() - 1))
    learner.memory["belief"] = torch.where(on, belief, learner.memory["belief"])


# begin


def count_from_nothing(algo: BanditAlgorithm, world: Bandit, learner: Learner) -> None:
    """No arm pulled yet, none believed to pay anything, all shown alike."""
    if not isinstance(world.actions, Discrete) or world.obs_size > 1:
        raise LabError(f"{algo.paper.key} pulls one arm in a round and sees no context; {world.key} is not of that kind.")
    nothing = torch.zeros(len(learner.lanes), algo.shape.plays, world.arms, dtype=torch.float64, device=learner.lanes.device)
    learner.memory |= {"plays": nothing, "total": nothing, "belief": nothing}
    learner.nets["pi"] = Table(len(nothing), (1, world.arms), learner.lanes.device)


# choose


def optimistic(algo: BanditAlgorithm, world: Bandit, learner: Learner, obs: Tensor, k: SimpleNamespace) -> tuple[Tensor, Tensor]:
    """Every arm once, then the largest mean + c sigma sqrt(2 log t / n) (Auer, Cesa-Bianchi and Fischer 2002, figure 1, where
    c sigma is 1); of equal ones the first. All by certain choice, so the chance is 1."""
    n = learner.memory["plays"]
    doubt = (2 * n.sum(-1, keepdim=True).clamp_min(1).log() / n.clamp_min(1)).sqrt()
    index = torch.where(n > 0, learner.memory["belief"] + k.c[..., None] * world.sigma * doubt, torch.inf)
    action = index.argmax(-1)
    return action, torch.ones_like(obs[..., 0])


# estimate


def average(algo: BanditAlgorithm, learner: Learner, log: Log, k: SimpleNamespace) -> Tensor:
    """The mean of all that each arm has paid, (L, E, N); 0 for one never pulled."""
    plays, total = learner.memory["plays"] + log.pulled, learner.memory["total"] + log.paid
    learner.memory |= {"plays": plays, "total": total}
    return total / plays.clamp_min(1)


# show


def play_shares(algo: BanditAlgorithm, learner: Learner, pulls: Tensor, k: SimpleNamespace) -> None:
    """The shares of the window's pulls. Each arm counts one pull more, so that divergences of shares stay finite."""
    shares = 1 + pulls.sum(1)
    learner.nets["pi"].move((shares / shares.sum(-1, keepdim=True)).log().float(), learner.on)


ucb = BanditAlgorithm(
    begin=count_from_nothing,
    choose=optimistic,
    estimate=average,
    show=play_shares,
    knobs={"c": Knob(0.5, 0.0, 2.0, "optimism: how many of its standard errors an arm is credited with")},
    paper=Paper(
        key="ucb",
        title="Finite-time Analysis of the Multiarmed Bandit Problem",
        year=2002,
        url="https://doi.org/10.1023/A:1013689704352",
        claim="Where arms never change, optimism loses less than exploring one time in ten, while greed settles on a wrong arm for good.",
        lesson="Go on trying exactly as long as doubt is worth more than knowledge.",
        lost="Sharper indices (KL-UCB, MOSS) and asymptotic constants.",
        chapter=6,
    ),
)
