"""One loop: collect, value, advantage, surrogate, improve. Its bases: reinforce, a2c, ppo."""
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from labkit.errors import LabError
from labkit.lanes import Knob, Lanes
from labkit.learner import Learner
from labkit.nn import Net, normalise
from labkit.paper import Algorithm, Paper
from labkit.policy import Policy
from labkit.snapshot import Snapshot
from labkit.worlds.world import Discrete, World


@dataclass
class Batch:
    """What a policy did: T steps of E environments a lane, every tensor (L, T, E, ...) until `flat` joins T and E."""

    obs: Tensor  # (L, T, E, n)
    action: Tensor  # (L, T, E) or (L, T, E, d)
    log_prob: Tensor  # of the action, under the policy that is to be improved
    policy: Policy  # that policy, at obs
    reward: Tensor
    terminated: Tensor  # bool: the episode is over, nothing follows
    truncated: Tensor  # bool: only the clock ran out
    next_obs: Tensor  # (L, T, E, n), of the same episode
    value: Tensor = field(init=False)  # the critic at obs and at next_obs; these four are filled in by `judge`
    next_value: Tensor = field(init=False)
    adv: Tensor = field(init=False)
    target: Tensor = field(init=False)  # what the critic is fitted to
    acted: Tensor = field(init=False)  # log-probability of the action under the policy that acted; set by `collect` where that is another
    info: dict[str, Tensor] = field(default_factory=dict)  # numbers (L,) that a slot wants in the metrics

    @property
    def done(self) -> Tensor:
        """Where an episode ended, for either reason."""
        return self.terminated | self.truncated

    def flat(self) -> "Batch":
        """The same samples as (L, B, ...), B = T * E."""
        twin = copy(self)
        vars(twin).update({name: _each(value, lambda x: x.flatten(1, 2)) for name, value in vars(self).items()})
        return twin

    def take(self, rows: Tensor) -> "Batch":
        """Of a flat batch the samples `rows` (L, b), chosen per lane."""
        return _Rows(self, rows)


def _each(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A field of a batch with `change` applied to its tensors."""
    return change(value) if isinstance(value, Tensor) else value.map(change) if isinstance(value, Policy) else value


class _Rows(Batch):
    """Some samples of a flat batch. A field is gathered when it is first read: most losses read few of them."""

    def __init__(self, batch: Batch, rows: Tensor) -> None:
        size = batch.reward.shape[1]
        self._batch, self._shape = batch, rows.shape
        self._index = (rows + size * torch.arange(len(rows), device=rows.device)[:, None]).flatten()

    def __getattr__(self, name: str) -> Any:
        value = _each(vars(vars(self)["_batch"])[name], self._gather)
        setattr(self, name, value)
        return value

    def _gather(self, x: Tensor) -> Tensor:
        return x.flatten(0, 1).index_select(0, self._index).view(*self._shape, *x.shape[2:])


@dataclass(frozen=True)
class Shape:
    """Settings that change the shapes of tensors, and so cannot differ between lanes."""

    envs: int = 16  # environments side by side in a lane
    steps: int = 64  # steps of each between updates
    width: int = 64  # of the two hidden layers of policy and critic
    minibatches: int = 4
    kept: int = 1  # batches that are learnt from, the newest and those before it, by methods that keep old ones

    def __post_init__(self) -> None:
        for name, size in vars(self).items():
            if not isinstance(size, int) or size < 1:
                raise LabError(f"Shape takes whole numbers from 1 up; got {name}={size!r}.")
        if self.minibatches > self.envs * self.steps:
            raise LabError(f"A batch of {self.envs} x {self.steps} steps cannot be cut into {self.minibatches} minibatches; take fewer.")


@dataclass(frozen=True)
class OnPolicy(Algorithm):
    """Collect a batch, judge it, improve the policy on it. The callables are the slots."""

    collect: Callable[..., Batch]  # (algo, world, learner, k)
    value: Callable[..., Tensor]  # (prediction, target, k) -> the critic's loss, elementwise
    advantage: Callable[..., tuple[Tensor, Tensor]]  # (batch, k) -> advantage and the critic's target, (L, T, E)
    surrogate: Callable[..., Tensor]  # (ratio, adv, k) -> what to raise, elementwise; ratio = new / old probability
    improve: Callable[..., None]  # (algo, learner, batch, k): change learner.nets
    shape: Shape = Shape()

    def run(self, world: World, lanes: Lanes, start: Learner | None = None) -> Iterator[Snapshot]:
        self.expect(world, lanes, start)
        k = lanes.knobs(self.knobs)
        learner = start.resume(lanes, self.begin(world, lanes)) if start else self.begin(world, lanes)
        while True:
            batch = self.collect(self, world, learner, k)
            self.judge(learner, batch, k)
            self.improve(self, learner, batch, k)
            metrics = {"return": learner.memory["return"].clone(), **batch.info}
            yield Snapshot(learner.step, learner.copy(), metrics)

    def begin(self, world: World, lanes: Lanes) -> Learner:
        """A fresh learner in a fresh world."""
        discrete = isinstance(world.actions, Discrete)
        learner = Learner(lanes, "categorical" if discrete else "gaussian")
        out = world.actions.n if isinstance(world.actions, Discrete) else world.actions.dim
        hidden = (world.obs_size, self.shape.width, self.shape.width)
        learner.nets["pi"] = Net(learner.rand, (*hidden, out), free=0 if discrete else out, head=0.01)
        learner.nets["v"] = Net(learner.rand, (*hidden, 1))
        learner.memory["world"] = world.reset(learner.rand(self.shape.envs, world.reset_noise))
        learner.memory["episode"] = learner.on.new_zeros(len(lanes), self.shape.envs, dtype=torch.float32)  # return so far
        learner.memory["return"] = torch.full((len(lanes),), float("nan"), device=lanes.device)  # of the last episodes to end
        return learner

    @torch.no_grad()
    def judge(self, learner: Learner, batch: Batch, k: SimpleNamespace) -> None:
        """Fill in values, advantages and the critic's targets."""
        shape = batch.reward.shape
        batch.value = learner.value(batch.obs.flatten(1, 2)).view(shape)
        batch.next_value = torch.cat([batch.value[:, 1:], learner.value(batch.next_obs[:, -1])[:, None]], 1)
        if bool(batch.truncated[:, :-1].any()):  # the next row belongs to another episode
            ends = learner.value(batch.next_obs.flatten(1, 2)).view(shape)
            batch.next_value = torch.where(batch.truncated, ends, batch.next_value)
        batch.adv, batch.target = self.advantage(batch, k)


def log_ratio(learner: Learner, batch: Batch) -> Tensor:
    """log of new over old probability of each action in a flat batch, (L, B)."""
    return learner.policy(batch.obs).log_prob(batch.action) - batch.log_prob


# collect

Row = tuple[Tensor, ...]  # one step: obs, action, reward, terminated, truncated, next_obs, each (L, E, ...)
Behaviour = Callable[[Tensor, list[Row]], Policy]  # from obs (L, E, n) and the steps of this batch so far


@torch.no_grad()
def on_policy(algo: OnPolicy, world: World, learner: Learner, k: SimpleNamespace) -> Batch:
    """Act with the current policy for T steps in each of E environments."""
    return act(world, learner, lambda obs, rows: learner.policy(obs), algo.shape.steps)


@torch.no_grad()
def whole_episodes(algo: OnPolicy, world: World, learner: Learner, k: SimpleNamespace) -> Batch:
    """Start every environment afresh and act until the longest possible episode is over."""
    learner.memory["world"] = world.reset(learner.rand(algo.shape.envs, world.reset_noise))
    learner.memory["episode"] = torch.zeros_like(learner.memory["episode"])
    return act(world, learner, lambda obs, rows: learner.policy(obs), world.horizon)


def act(world: World, learner: Learner, behaviour: Behaviour, steps: int) -> Batch:
    """A batch of `steps` steps with behaviour(obs, rows so far); what is improved on it is the learner's own policy."""
    columns = zip(*walk(world, learner, behaviour, steps), strict=True)
    obs, action, reward, terminated, truncated, next_obs = (torch.stack(column, 1) for column in columns)
    _finite_rewards(world, learner, reward)
    _tally(learner, reward, terminated | truncated)
    learner.step += steps * reward.shape[2]
    return batch_of(learner, obs=obs, action=action, reward=reward, terminated=terminated, truncated=truncated, next_obs=next_obs)


def walk(world: World, learner: Learner, behaviour: Behaviour, steps: int) -> list[Row]:
    """Move the learner's world on by `steps` steps, episode after episode."""
    state, rows = learner.memory["world"], list[Row]()
    widths = (world.actions.noise, world.step_noise, world.reset_noise)
    noise = learner.rand(steps, learner.memory["episode"].shape[1], sum(widths))  # of all steps at once: it is overhead that costs
    obs = world.observe(state)
    for t in range(steps):
        u_action, u_step, u_reset = noise[:, t].split(widths, -1)
        action = behaviour(obs, rows).sample(u_action)
        after, reward, terminated, truncated = world.step(state, action, u_step)
        next_obs = world.observe(after)
        rows.append((obs, action, reward, terminated, truncated, next_obs))
        state = world.restart(after, terminated | truncated, u_reset)
        obs = next_obs if state is after else world.observe(state)
    learner.memory["world"] = state
    return rows


def _tally(learner: Learner, reward: Tensor, done: Tensor) -> None:
    """Keep the mean return of the episodes that ended in rewards (L, T, E), and what the others have gathered so far."""
    episode = learner.memory["episode"]
    total, ended = torch.zeros_like(episode), done.sum((1, 2))
    for r, d in zip(reward.unbind(1), done.unbind(1), strict=True):
        episode = episode + r
        total, episode = total + episode * d, episode * ~d
    learner.memory["episode"] = episode
    learner.memory["return"] = torch.where(ended > 0, total.sum(1) / ended.clamp_min(1), learner.memory["return"])


def batch_of(learner: Learner, obs: Tensor, action: Tensor, **rest: Any) -> Batch:
    """A batch of samples (L, T, E, ...) with the learner's policy and its log-probabilities, as they are now."""
    policy = learner.policy(obs.flatten(1, 2)).map(lambda x: x.view(*obs.shape[:3], *x.shape[2:]).clone())  # parameters move in place
    return Batch(obs, action, policy.log_prob(action), policy, **rest)


def _finite_rewards(world: World, learner: Learner, reward: Tensor) -> None:
    bad = ~reward.isfinite().flatten(1).all(1) & learner.on[:, 0]
    if bool(bad.any()):
        name = learner.lanes.name(int(bad.nonzero()[0]))
        raise LabError(f"{world.key} gave a reward that is not finite to {name} before step {learner.step}; mend the world.")


# value


def unfitted(prediction: Tensor, target: Tensor, k: SimpleNamespace) -> Tensor:
    """No critic: nothing to fit."""
    return 0 * prediction


def squared_error(prediction: Tensor, target: Tensor, k: SimpleNamespace) -> Tensor:
    """(V - target)^2"""
    return (prediction - target).square()


# advantage


def first_episode(batch: Batch) -> Tensor:
    """Which steps belong to the first episode of their environment, (L, T, E) bool."""
    return torch.cat([torch.ones_like(batch.done[:, :1]), (~batch.done).cumprod(1)[:, :-1].bool()], 1)


def reward_to_go(batch: Batch, k: SimpleNamespace) -> tuple[Tensor, Tensor]:
    """gamma^t (G_t - b_t) over the first episode of each environment, for batches of whole episodes. (L, T, E)

    b_t is the mean of G_t over the other environments still running at t, times k.baseline (leave-one-out, Kool et
    al. 2019): it never sees its own episode, so the gradient stays unbiased. Scaled by T, because losses average
    over T * E samples where the policy gradient sums over t.
    """
    running = first_episode(batch)
    go, later = torch.empty_like(batch.reward), torch.zeros_like(batch.reward[:, 0])
    for t in reversed(range(go.shape[1])):
        later = go[:, t] = running[:, t] * (batch.reward[:, t] + k.gamma * later)
    others = (running.sum(2, keepdim=True) - 1).clamp_min(1)
    baseline = k.baseline[..., None] * (go.sum(2, keepdim=True) - go) / others
    time = torch.arange(go.shape[1], device=go.device)
    discount = (time * k.gamma.log()).exp()[..., None]
    return go.shape[1] * discount * running * (go - baseline), go


def gae(batch: Batch, k: SimpleNamespace) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16) and its lambda-returns, (L, T, E).

    Bootstraps at truncation, never at termination.
    """
    delta = batch.reward + k.gamma[..., None] * batch.next_value * ~batch.terminated - batch.value
    decay = (k.gamma * k.lam)[..., None] * ~batch.done
    adv, later = torch.empty_like(delta), torch.zeros_like(delta[:, 0])
    for t in reversed(range(delta.shape[1])):
        later = adv[:, t] = delta[:, t] + decay[:, t] * later
    return adv, adv + batch.value


def normalised_gae(batch: Batch, k: SimpleNamespace) -> tuple[Tensor, Tensor]:
    """GAE with zero mean and unit deviation over each lane's batch; the critic's target is not touched."""
    adv, target = gae(batch, k)
    return normalise(adv.flatten(1)).view_as(adv), target


# surrogate


def importance(ratio: Tensor, adv: Tensor, k: SimpleNamespace) -> Tensor:
    """ratio * advantage: at ratio 1 its gradient is the policy gradient's."""
    return ratio * adv


def clipped(ratio: Tensor, adv: Tensor, k: SimpleNamespace) -> Tensor:
    """The lesser of ratio * adv and clip(ratio, 1 - eps, 1 + eps) * adv (Schulman et al. 2017, eq. 7)."""
    return torch.minimum(ratio * adv, ratio.clamp(1 - k.eps, 1 + k.eps) * adv)


# improve


def policy_loss(algo: OnPolicy, learner: Learner, batch: Batch, k: SimpleNamespace) -> Tensor:
    """-(surrogate + entropy bonus), averaged over a flat batch: (L,)."""
    policy = learner.policy(batch.obs)
    ratio = (policy.log_prob(batch.action) - batch.log_prob).exp()
    return -algo.surrogate(ratio, batch.adv, k).mean(1) - k.ent[:, 0] * policy.entropy().mean(1)


def fit_critic(algo: OnPolicy, learner: Learner, batch: Batch, k: SimpleNamespace, where: Tensor) -> None:
    """One step of the critic on a flat batch."""
    loss = algo.value(learner.value(batch.obs), batch.target, k).mean(1)
    learner.descend("v", loss, k.lr, where, clip=0.5)


def one_step(algo: OnPolicy, learner: Learner, batch: Batch, k: SimpleNamespace) -> None:
    """One gradient step on the whole batch, which is then spent."""
    batch, always = batch.flat(), learner.on[:, 0]
    learner.descend("pi", policy_loss(algo, learner, batch, k), k.lr, always, clip=0.5)
    fit_critic(algo, learner, batch, k, always)


def minibatches(algo: OnPolicy, learner: Learner, batch: Batch, k: SimpleNamespace) -> Iterator[tuple[Batch, Tensor]]:
    """k.epochs passes over the batch in shuffled minibatches, each with the lanes (L,) that still have epochs left."""
    batch, stream = batch.flat(), learner.stream()
    for epoch in range(int(k.epochs.max())):
        order = stream(epoch, batch.reward.shape[1]).argsort(1)
        for rows in order.chunk(algo.shape.minibatches, 1):
            yield batch.take(rows), k.epochs[:, 0] > epoch


def epochs(algo: OnPolicy, learner: Learner, batch: Batch, k: SimpleNamespace) -> None:
    """Several passes over the same batch: the further they go, the staler its samples."""
    for part, where in minibatches(algo, learner, batch, k):
        learner.descend("pi", policy_loss(algo, learner, part, k), k.lr, where, clip=0.5)
        fit_critic(algo, learner, part, k, where)


KNOBS = {
    "lr": Knob(3e-3, 1e-4, 3e-2, "step size of Adam"),
    "gamma": Knob(0.99, 0.8, 0.999, "discount"),
    "ent": Knob(0.0, 0.0, 0.1, "weight of the entropy bonus"),
}

reinforce = OnPolicy(
    collect=whole_episodes,
    value=unfitted,
    advantage=reward_to_go,
    surrogate=importance,
    improve=one_step,
    knobs=KNOBS | {"baseline": Knob(1.0, 0.0, 1.0, "weight of the leave-one-out baseline")},
    paper=Paper(
        key="reinforce",
        title="Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning",
        year=1992,
        url="https://doi.org/10.1007/BF00992696",
        claim="The sampled gradient is unbiased, and a leave-one-out baseline shrinks its variance without moving its mean.",
        lesson="A policy gradient is a noisy arrow: its mean is right, and its spread decides how far the policy drifts by accident.",
        lost="Nothing essential.",
        chapter=2,
    ),
)

a2c = replace(
    reinforce,
    collect=on_policy,
    value=squared_error,
    advantage=normalised_gae,
    knobs=KNOBS | {"lam": Knob(0.95, 0.0, 1.0, "trust in later rewards over the critic")},
    paper=Paper(
        key="a2c",
        title="Asynchronous Methods for Deep Reinforcement Learning",
        year=2016,
        url="https://arxiv.org/abs/1602.01783",
        claim="With an imperfect critic the advantage errs least at a lambda strictly between 0 and 1.",
        lesson="Lambda decides how much of the critic's mistake you accept in exchange for less noise.",
        lost="Asynchronous workers.",
        base="reinforce",
        chapter=2,
    ),
)

ppo = replace(
    a2c,
    surrogate=clipped,
    improve=epochs,
    knobs=a2c.knobs | {"eps": Knob(0.2, 0.02, 1.0, "clip: how far a ratio may go and still be rewarded"),
                       "epochs": Knob(4, 1, 16, "passes over each batch")},
    paper=Paper(
        key="ppo",
        title="Proximal Policy Optimization Algorithms",
        year=2017,
        url="https://arxiv.org/abs/1707.06347",
        claim="With many passes over a batch the clip keeps learning stable where the unclipped ratio collapses; with one pass they agree.",
        lesson="Clipping stops pushing; it does not pull back, so drift still leaks past the fence.",
        lost="Nothing essential.",
        base="a2c",
        chapter=3,
    ),
)
