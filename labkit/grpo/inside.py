"""Inside an update, token by token: it is made on a copy of the learner, and slots in the loop's own place write down what passes."""
from dataclasses import dataclass, fields, replace
from types import SimpleNamespace

import torch
from torch import Tensor

from labkit.divergence import kl
from labkit.grpo.family import Batch, Grpo, read, readable
from labkit.learner import Learner
from labkit.worlds.tokens.world import EMPTY
from labkit.worlds.world import World


@dataclass(frozen=True)
class Inside:
    """The next update of a learner of L lanes: P prompts, G responses to each, T tokens at most. Logarithms are natural.

    weight: how hard the loss lifts (below 0: lowers) each token's log-probability, the mean over the update's steps; 1 is what a token
    of advantage 1 weighs where all that count weigh alike. clipped: the tokens that in some step were not lifted any more, though they
    still earned something. dropped: responses that were written and paid for, and are not in the batch.
    """

    problem: Tensor  # (L, P) int64
    token: Tensor  # (L, P, G, T) int64, EMPTY where nothing was written
    real: Tensor  # (L, P, G) bool: False for an empty place, which counts for nothing
    right: Tensor  # (L, P, G) bool: by the verifier, whatever the method makes of its mark
    reward: Tensor  # (L, P, G)
    adv: Tensor  # (L, P, G, T)
    old: Tensor  # (L, P, G, T): the log-probability that its ratio compares with, in most methods under the policy that wrote it
    before: Tensor  # (L, P, G, T): under the policy before the update
    after: Tensor  # (L, P, G, T): after it
    entropy: Tensor  # (L, P, G, T): of the policy before the update where it chose the token, in nats
    kl: Tensor  # (L, P, G, T): its KL from the reference there, in nats
    weight: Tensor  # (L, P, G, T)
    clipped: Tensor  # (L, P, G, T) bool
    bounds: Tensor  # (L, 2): ratios between which the clip lets all through; 0 and infinity where there is none
    dropped: Tensor  # (L,) int64

    @property
    def shown(self) -> Tensor:
        """Where there is a token, (L, P, G, T) bool."""
        return self.token >= 0

    def take(self, lane: int) -> "Inside":
        """One lane alone, L = 1."""
        return Inside(**{f.name: getattr(self, f.name)[lane : lane + 1] for f in fields(self)})


class Watch:
    """The slots of a method that its loss goes through, and what passes there in the steps of an update."""

    def __init__(self, algo: Grpo) -> None:
        self.algo, self.made = algo, 0
        self.first = self.logp = self.lift = torch.zeros(())  # (L, P, G, T), as all that follows; `first` is the ratio of the first step
        self.now, self.clipped = torch.tensor(False), torch.tensor(False)  # (L, 1, 1, 1): the lanes that make this step; which tokens

    def ratio(self, logp: Tensor, batch: Batch, k: SimpleNamespace) -> Tensor:
        self.logp, self.now = logp, (k.epochs > self.made)[..., None, None]
        ratio = self.algo.ratio(logp, batch, k)
        self.first = self.first if self.made else ratio.detach()
        self.made += 1
        return ratio

    def surrogate(self, ratio: Tensor, batch: Batch, k: SimpleNamespace) -> Tensor:
        gain = self.algo.surrogate(ratio, batch, k)
        self.clipped = self.clipped | ((self._slope(gain) == 0) & (gain.detach() != 0) & self.now)
        return gain

    def reduce(self, loss: Tensor, batch: Batch, k: SimpleNamespace) -> Tensor:
        mean = self.algo.reduce(loss, batch, k)
        self.lift = self.lift - self._slope(mean) * self.now
        return mean

    def _slope(self, y: Tensor) -> Tensor:
        return torch.autograd.grad(y.sum(), self.logp, retain_graph=True)[0]


def inside(algo: Grpo, world: World, learner: Learner) -> Inside:
    """What the next update does; the learner stays as it is. LabError where the world has no prompts and responses."""
    world, k, copy, watch = readable(world), learner.lanes.knobs(algo.knobs), learner.copy(), Watch(algo)
    batch = algo.gather(world, copy, k)
    with torch.no_grad():
        policy, reference = read(world, copy, batch), read(world, copy, batch, copy.memory["reference"])
        before, entropy, away = batch.pick(policy), batch.at(policy.entropy()), batch.at(kl(policy, reference))
    replace(algo, ratio=watch.ratio, surrogate=watch.surrogate, reduce=watch.reduce).learn(world, copy, batch, k)
    with torch.no_grad():
        after = batch.pick(read(world, copy, batch))
    bounds = clip_of(batch, k)
    compared = torch.where(bounds.isfinite().all(1)[:, None, None, None], before - watch.first.log(), batch.old) * (batch.token != EMPTY)
    written = copy.memory["rollouts"] - learner.memory["rollouts"]
    return Inside(
        batch.problem, batch.token, batch.real, world.graph.reward[batch.node] > 0, batch.reward, batch.adv.expand_as(before).clone(),
        compared, before, after, entropy, away, watch.lift * (batch.mask.sum((1, 2, 3)) / k.epochs[:, 0])[:, None, None, None],
        watch.clipped & batch.mask, bounds, (written - batch.real.sum((1, 2))).clamp_min(0),
    )  # fmt: skip


def clip_of(batch: Batch, k: SimpleNamespace) -> Tensor:
    """The bounds of the clip, (L, 2): those that the method found for this batch, else those of its knobs."""
    if "low" in batch.info and "high" in batch.info:
        return torch.stack([batch.info["low"], batch.info["high"]], 1)
    if not hasattr(k, "eps"):
        return torch.tensor([0.0, torch.inf], device=batch.old.device).repeat(len(batch.old), 1)
    return torch.cat([1 - k.eps, 1 + getattr(k, "eps_high", k.eps)], 1)
