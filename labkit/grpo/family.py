"""One loop: tasks, rollout, verify, advantage, ratio, surrogate, penalty, reduce. Its bases: sft, grpo, dapo.

L lanes, P prompts of an update, G responses to each, T tokens a response has at most, V tokens to choose from.
"""
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import torch
from torch import Tensor

from labkit.divergence import k3
from labkit.errors import LabError
from labkit.grpo.models import model_of
from labkit.grpo.outcome import outcome
from labkit.lanes import Knob, Lanes
from labkit.learner import Learner, branch
from labkit.paper import Algorithm, Paper
from labkit.policy import Categorical
from labkit.snapshot import Snapshot
from labkit.worlds.tokens.world import EMPTY, TokenWorld
from labkit.worlds.world import World

TINY = 1e-6  # added to a deviation before dividing by it
PATIENCE = 2000  # supervised steps after which a warm start gives up
ROUNDS = 8  # of sampling after which a batch is used as full as it is

Law = Callable[[Categorical], Categorical]


@dataclass
class Batch:
    """Responses to the prompts of an update. The policy that is learnt is read as (L, R, V); `row` says where each token's place is."""

    problem: Tensor  # (L, P) int64
    token: Tensor  # (L, P, G, T) int64, EMPTY where nothing was written
    passed: Tensor  # (L, P, G, T) int64: the node before each token
    row: Tensor  # (L, P, G, T) int64
    node: Tensor  # (L, P, G) int64: where each response ended
    old: Tensor  # (L, P, G, T): log-probability of each token under the policy that wrote it, 0 where there is none
    real: Tensor  # (L, P, G) bool: False for an empty place, which counts for nothing
    reward: Tensor = field(init=False)  # (L, P, G)
    adv: Tensor = field(init=False)  # (L, P, G, 1), or (L, P, G, T) where tokens differ
    ref: Tensor = field(init=False)  # like old, under the reference policy
    extra: dict[str, Tensor] = field(default_factory=dict)  # what the slots of one method tell each other, each (L, ...)
    info: dict[str, Tensor] = field(default_factory=dict)  # numbers (L,) that a slot wants in the metrics

    @property
    def mask(self) -> Tensor:
        """Which tokens count, (L, P, G, T) bool."""
        return (self.token != EMPTY) & self.real[..., None]

    @property
    def length(self) -> Tensor:
        """Tokens of each response that count, (L, P, G)."""
        return self.mask.sum(-1)

    @property
    def dead(self) -> Tensor:
        """Which groups have one reward for all, and so nothing to compare: (L, P) bool."""
        high = torch.where(self.real, self.reward, -torch.inf).amax(-1)
        return high <= torch.where(self.real, self.reward, torch.inf).amin(-1)

    def pick(self, policy: Categorical) -> Tensor:
        """The log-probability of each token under a policy read as (L, R, V); 0 where nothing was written. (L, P, G, T)"""
        place = self.row * policy.logits.shape[-1] + self.token.clamp_min(0)
        return policy.logits.flatten(1).gather(1, place.flatten(1)).view_as(place) * (self.token != EMPTY)

    def at(self, x: Tensor) -> Tensor:
        """x (L, R) at the place of each token, (L, P, G, T)."""
        return x.gather(1, self.row.flatten(1)).view_as(self.row)


@dataclass(frozen=True)
class Shape:
    """Settings that change the shapes of tensors, and so cannot differ between lanes.

    warm: the chance of a right token, given right ones before it, at which supervised training ends before the first update.
    """

    prompts: int = 16  # of an update
    group: int = 8  # responses to each
    width: int = 32  # of a model's layers
    layers: int = 2  # of a transformer
    heads: int = 2  # of each
    updates: int = 1  # between snapshots
    warm: float = 0.5

    def __post_init__(self) -> None:
        for name, size in vars(self).items():
            if name != "warm" and (not isinstance(size, int) or size < 1):
                raise LabError(f"Shape takes whole numbers from 1 up; got {name}={size!r}.")
        if not 0 <= self.warm < 1:
            raise LabError(f"A warm start ends at a chance of 0 or more and below 1; got warm={self.warm!r}.")


@dataclass(frozen=True)
class Grpo(Algorithm):
    """Draw prompts, write responses, mark them, compare them, learn. The callables are the slots."""

    tasks: Callable[..., Tensor]  # (algo, world, learner, k) -> problem (L, P)
    rollout: Callable[..., Batch]  # (algo, world, learner, problem, k)
    verify: Callable[..., Tensor]  # (world, batch, k) -> reward (L, P, G)
    advantage: Callable[..., Tensor]  # (batch, k) -> (L, P, G, 1) or (L, P, G, T)
    ratio: Callable[..., Tensor]  # (logp, batch, k) -> (L, P, G, T), from the tokens' log-probabilities under the policy of now
    surrogate: Callable[..., Tensor]  # (ratio, batch, k) -> what to raise, per token
    penalty: Callable[..., Tensor]  # (logp, policy (L, R, V), batch, k) -> what it costs, per token
    reduce: Callable[..., Tensor]  # (loss, batch, k): the mean of a loss per token (L, P, G, T) that counts, (L,)
    shape: Shape = Shape()

    def run(self, world: World, lanes: Lanes, start: Learner | None = None) -> Iterator[Snapshot]:
        self.expect(world, lanes, start)
        world, k = readable(world), lanes.knobs(self.knobs)
        learner = start.resume(lanes, self.begin(world, start.lanes, warm=0)) if start else self.begin(world, lanes, self.shape.warm)
        while True:
            for _ in range(self.shape.updates):
                batch = self.gather(world, learner, k)
                self.learn(world, learner, batch, k)
            yield Snapshot(learner.step, learner.copy(), outcome(world, learner, batch) | batch.info)

    def begin(self, world: TokenWorld, lanes: Lanes, warm: float) -> Learner:
        """A learner before its first update. Equal seeds begin alike, so each is trained once."""
        learner = Learner(Lanes(lanes.seeds, device=lanes.device))
        learner.nets["pi"] = model_of(world).net(world, learner.rand, self.shape)
        warm_up(world, learner, warm)
        learner = branch(learner, lanes.grid, 0)
        anchor(learner, int(self.knobs["lag"].high) if "lag" in self.knobs else 0)
        learner.memory |= {name: learner.on.new_zeros(len(lanes), dtype=torch.int64) for name in ("rollouts", "tokens")}
        return learner

    @torch.no_grad()
    def gather(self, world: TokenWorld, learner: Learner, k: SimpleNamespace) -> Batch:
        """The batch of the next update. A copy of the learner gathers the same one: so it can be looked at."""
        problem = self.tasks(self, world, learner, k)
        batch = self.rollout(self, world, learner, problem, k)
        batch.reward = self.verify(world, batch, k)
        batch.adv = self.advantage(batch, k)
        batch.ref = batch.pick(read(world, learner, batch, learner.memory["reference"]))
        return batch

    def learn(self, world: TokenWorld, learner: Learner, batch: Batch, k: SimpleNamespace) -> None:
        """k.epochs steps down the loss."""
        for epoch in range(int(k.epochs.max())):
            loss = self.loss(read(world, learner, batch), batch, k)
            learner.descend("pi", loss, k.lr, k.epochs[:, 0] > epoch, clip=1.0)
        remember(learner)
        learner.step += self.shape.prompts * self.shape.group

    def loss(self, policy: Categorical, batch: Batch, k: SimpleNamespace) -> Tensor:
        """(L,), of the policy read as (L, R, V)."""
        logp = batch.pick(policy)
        gain = self.surrogate(self.ratio(logp, batch, k), batch, k)
        return self.reduce(self.penalty(logp, policy, batch, k) - gain, batch, k)


def readable(world: World) -> TokenWorld:
    """The world, which must be one of text. LabError where it is not."""
    if not isinstance(world, TokenWorld):
        raise LabError(f"{world.key} has no prompts and responses; take a tokens.* world.")
    return world


def read(world: TokenWorld, learner: Learner, batch: Batch, theta: Tensor | None = None) -> Categorical:
    """The learner's policy, or with other parameters theta (L, P), at all places of a batch: (L, R, V)."""
    net = learner.nets["pi"]
    return model_of(world).read(world, net, net.theta if theta is None else theta, batch.problem, batch.token)


# the start, and what is remembered of the way


def warm_up(world: TokenWorld, learner: Learner, level: float) -> None:
    """Supervised training on the solutions of all training problems until a lane's chance of a right token is `level`.

    The optimiser then starts afresh. LabError where a lane does not get there.
    """
    batch, rate = demonstration(world, world.pool.expand(len(learner.lanes), -1)), torch.full((len(learner.lanes), 1), 1e-2)
    for _ in range(PATIENCE):
        logp, mask = batch.pick(read(world, learner, batch)), batch.mask
        unready = (logp.detach().exp() * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3)) < level
        if not bool(unready.any()):
            break
        learner.descend("pi", token_mean(-logp, batch), rate.to(logp), unready, clip=1.0)
    else:
        raise LabError(f"After {PATIENCE} supervised steps a right token is still not {level:g} likely in {world.key}; ask for less.")
    net = learner.nets["pi"]
    net.moments, net.clock = torch.zeros_like(net.moments), torch.zeros_like(net.clock)


def anchor(learner: Learner, lag: int = 0) -> Learner:
    """Make the policy of now the reference, and all that is remembered. A phase that follows another begins so. Returns the learner."""
    theta = learner.nets["pi"].theta.detach()
    kept = 1 + lag if lag or "past" not in learner.memory else learner.memory["past"].shape[1]
    learner.memory |= {"reference": theta.clone(), "past": theta[:, None].repeat(1, kept, 1)}
    return learner


def remember(learner: Learner) -> None:
    """Put the policy of now before those of the past."""
    past = learner.memory["past"]
    learner.memory["past"] = torch.cat([learner.nets["pi"].theta.detach()[:, None], past[:, :-1]], 1)


def aged(learner: Learner, lag: Tensor) -> Tensor:
    """The parameters of `lag` (L, 1) updates ago, (L, P)."""
    past = learner.memory["past"]
    return past.gather(1, lag.long()[..., None].expand(-1, 1, past.shape[2]))[:, 0]


# tasks


def uniform(algo: Grpo, world: TokenWorld, learner: Learner, k: SimpleNamespace) -> Tensor:
    """Training problems, all alike likely."""
    return world.pool[(learner.rand(algo.shape.prompts) * len(world.pool)).long()]


# rollout


def sampled(algo: Grpo, world: TokenWorld, learner: Learner, problem: Tensor, k: SimpleNamespace) -> Batch:
    """G responses to each problem by the policy of k.lag updates ago."""
    batch = write(world, learner, problem, noise(algo, world, learner)(0), aged(learner, k.lag))
    pay(learner, batch)
    return batch


def noise(algo: Grpo, world: TokenWorld, learner: Learner) -> Callable[[int], Tensor]:
    """From a number the noise of so many a round of responses, (L, P, G, T), all from one stream."""
    stream, sizes = learner.stream(), (algo.shape.prompts, algo.shape.group, world.solution.shape[1])
    return lambda i: stream(i, *sizes)


def write(world: TokenWorld, learner: Learner, problem: Tensor, u: Tensor, theta: Tensor, law: Law = lambda policy: policy) -> Batch:
    """Sample responses to problem (L, P) with parameters theta (L, any) from u (L, P, G, T) in [0, 1).

    `law` is what sampling makes of the policy (L, P G, V) at each token. LabError where the text is longer than the model can read.
    """
    say = model_of(world).speak(world, learner.nets["pi"], theta, problem, u.shape[2])
    node, token, columns = world.start[problem].repeat_interleave(u.shape[2], 1), None, []
    for x in u.flatten(1, 2).unbind(-1):
        policy = law(say(node, token))
        token = policy.sample(x[..., None])
        columns.append((token, node, policy.log_prob(token)))
        node = world.graph.next[node, token]
    tokens, passed, logp = (torch.stack(column, -1).view(u.shape) for column in zip(*columns, strict=True))
    return assemble(world, problem, tokens, passed, node.view(u.shape[:3]), logp)


def assemble(world: TokenWorld, problem: Tensor, token: Tensor, passed: Tensor, node: Tensor, old: Tensor) -> Batch:
    """A batch of tokens written at the nodes `passed`, all (L, P, G, T), which end at node (L, P, G). What follows the end is left out."""
    mask, row = passed >= world.graph.finished, model_of(world).rows(world, passed)
    return Batch(problem, torch.where(mask, token, EMPTY), passed, row, node, old * mask, torch.ones_like(node, dtype=torch.bool))


def chosen(world: TokenWorld, batch: Batch, groups: Tensor) -> Batch:
    """The groups (L, p) of a batch, before it is marked."""

    def take(x: Tensor) -> Tensor:
        return x.gather(1, groups.view(*groups.shape, *[1] * (x.dim() - 2)).expand(-1, -1, *x.shape[2:]))

    return assemble(world, *(take(x) for x in (batch.problem, batch.token, batch.passed, batch.node, batch.old)))


def pay(learner: Learner, batch: Batch, where: Tensor | None = None) -> None:
    """Count the responses and tokens of a batch, in the lanes `where` (L,)."""
    for name, number in (("rollouts", batch.real.sum((1, 2))), ("tokens", batch.length.sum((1, 2)))):
        learner.memory[name] = learner.memory[name] + (number if where is None else number * where)


def demonstration(world: TokenWorld, problem: Tensor) -> Batch:
    """The solutions of problem (L, P), one each, as if a policy had been certain to write them; nothing where there is none."""
    return retrace(world, problem, world.solution[problem][:, :, None])


def retrace(world: TokenWorld, problem: Tensor, token: Tensor) -> Batch:
    """Responses token (L, P, G, T) to problem (L, P) as a batch, with old log-probabilities of 0."""
    node, passed = world.begin(problem)["node"][..., None].expand(token.shape[:3]), []
    for t in token.unbind(-1):
        passed.append(node)
        node = torch.where(t == EMPTY, node, world.graph.next[node, t.clamp_min(0)])
    return assemble(world, problem, token, torch.stack(passed, -1), node, torch.zeros(token.shape, device=token.device))


def filtered(algo: Grpo, world: TokenWorld, learner: Learner, problem: Tensor, k: SimpleNamespace) -> Batch:
    """Dynamic sampling (Yu et al. 2025, section 3.2): groups that are all right or all wrong are dropped and further problems drawn until
    the batch is full. What is dropped is paid for as well; places that stay empty are not real."""
    draw, lacking, rounds = noise(algo, world, learner), learner.on.new_ones(len(problem)), list[tuple[Batch, Tensor]]()
    for i in range(ROUNDS):
        batch = write(world, learner, problem, draw(i), aged(learner, k.lag))
        pay(learner, batch, lacking)
        rounds.append((batch, mixed(world, batch) | (k.filter == 0)))
        lacking = torch.stack([kept.sum(1) for _, kept in rounds]).sum(0) < algo.shape.prompts
        if not bool(lacking.any()):
            break
        problem = world.pool[(draw(ROUNDS + i)[..., 0, 0] * len(world.pool)).long()]  # its first round is `sampled`'s
    return fill(world, rounds, algo.shape.prompts)


def mixed(world: TokenWorld, batch: Batch) -> Tensor:
    """Which groups hold right and wrong responses, (L, P) bool."""
    right = world.graph.reward[batch.node] > 0
    return right.any(-1) & ~right.all(-1)


def fill(world: TokenWorld, rounds: Sequence[tuple[Batch, Tensor]], places: int) -> Batch:
    """The first groups of several batches that were kept, (L, P) bool each; `places` of them, empty where there are fewer."""
    batches, kept = zip(*rounds, strict=True)
    every = [torch.cat([getattr(b, name) for b in batches], 1) for name in ("problem", "token", "passed", "node", "old")]
    keep = torch.cat(kept, 1)
    first = (~keep).long().argsort(dim=1, stable=True)[:, :places]
    batch = chosen(world, assemble(world, *every), first)
    batch.real &= keep.gather(1, first)[..., None]
    return batch


def demonstrated(algo: Grpo, world: TokenWorld, learner: Learner, problem: Tensor, k: SimpleNamespace) -> Batch:
    """The solutions in place of responses of one's own."""
    return demonstration(world, problem)


# verify


def marked(world: TokenWorld, batch: Batch, k: SimpleNamespace) -> Tensor:
    """What the verifier gives, (L, P, G)."""
    return world.graph.reward[batch.node]


def not_too_long(world: TokenWorld, batch: Batch, k: SimpleNamespace) -> Tensor:
    """The verifier's mark, less up to 1 within k.band tokens of the longest response (Yu et al. 2025, eq. 13)."""
    over = (batch.length - (world.horizon - k.band[..., None])) / k.band[..., None]
    return marked(world, batch, k) - torch.where(k.band[..., None] > 0, over.clamp_min(0), 0.0)


# advantage


def group_mean(x: Tensor, batch: Batch) -> Tensor:
    """The mean of x (L, P, G) over the real responses of each group, (L, P, 1)."""
    return (x * batch.real).sum(-1, keepdim=True) / batch.real.sum(-1, keepdim=True).clamp_min(1)


def centred(batch: Batch, k: SimpleNamespace) -> Tensor:
    """reward - mean of its group; exactly 0 in a group that agrees. (L, P, G, 1)"""
    alive = batch.real & ~batch.dead[..., None]
    return ((batch.reward - group_mean(batch.reward, batch)) * alive)[..., None]


def standardised(batch: Batch, k: SimpleNamespace) -> Tensor:
    """The same over the group's standard deviation + 1e-6 (Shao et al. 2024, section 4.1.2; of a sample, as in the field's code)."""
    adv = centred(batch, k)[..., 0]
    variance = adv.square().sum(-1, keepdim=True) / (batch.real.sum(-1, keepdim=True) - 1).clamp_min(1)
    return (adv / (variance.sqrt() + TINY))[..., None]


def plain_reward(batch: Batch, k: SimpleNamespace) -> Tensor:
    """The reward itself, compared with nothing. (L, P, G, 1)"""
    return (batch.reward * batch.real)[..., None]


# ratio


def to_sampler(logp: Tensor, batch: Batch, k: SimpleNamespace) -> Tensor:
    """New over old probability of each token, the old one that of the policy which wrote it."""
    return (logp - batch.old).exp()


def log_likelihood(logp: Tensor, batch: Batch, k: SimpleNamespace) -> Tensor:
    """No ratio: the log-probability itself."""
    return logp


# surrogate


def importance(ratio: Tensor, batch: Batch, k: SimpleNamespace) -> Tensor:
    """ratio * advantage"""
    return ratio * batch.adv


def clip(ratio: Tensor, adv: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The lesser of ratio * adv and clip(ratio, low, high) * adv, per token; low, high (L, 1) or as ratio."""
    low, high = (x.view(-1, 1, 1, 1) if x.dim() == 2 else x for x in (low, high))
    return torch.minimum(ratio * adv, torch.minimum(torch.maximum(ratio, low), high) * adv)


def clipped(ratio: Tensor, batch: Batch, k: SimpleNamespace) -> Tensor:
    """PPO's clip with one width for both sides."""
    return clip(ratio, batch.adv, 1 - k.eps, 1 + k.eps)


def clipped_higher(ratio: Tensor, batch: Batch, k: SimpleNamespace) -> Tensor:
    """PPO's clip with room of its own above: 1 - eps to 1 + eps_high (Yu et al. 2025, eq. 10)."""
    return clip(ratio, batch.adv, 1 - k.eps, 1 + k.eps_high)


# penalty


def pull(logp: Tensor, policy: Categorical, batch: Batch, k: SimpleNamespace) -> Tensor:
    """beta times k3, the estimate of KL(pi || reference) that is never negative (Schulman 2020; Shao et al. 2024, eq. 4)."""
    return k.beta[..., None, None] * k3(batch.ref - logp)


def free(logp: Tensor, policy: Categorical, batch: Batch, k: SimpleNamespace) -> Tensor:
    """No penalty."""
    return torch.zeros_like(logp)


# reduce


def response_mean(loss: Tensor, batch: Batch, k: SimpleNamespace) -> Tensor:
    """Over the tokens of each response, then over the responses: a token of a short one weighs more. (L,)"""
    each = (loss * batch.mask).sum(-1) / batch.length.clamp_min(1)
    return each.sum((1, 2)) / batch.real.sum((1, 2)).clamp_min(1)


def token_mean(loss: Tensor, batch: Batch, k: SimpleNamespace | None = None) -> Tensor:
    """Over all tokens of all responses, each alike. (L,)"""
    return (loss * batch.mask).sum((1, 2, 3)) / batch.length.sum((1, 2)).clamp_min(1)


KNOBS = {"lr": Knob(0.01, 0.001, 0.05, "step size of Adam"), "epochs": Knob(1, 1, 8, "steps on each batch")}

sft = Grpo(
    tasks=uniform,
    rollout=demonstrated,
    verify=marked,
    advantage=plain_reward,
    ratio=log_likelihood,
    surrogate=importance,
    penalty=free,
    reduce=token_mean,
    knobs=KNOBS,
    shape=Shape(warm=0.0),
    paper=Paper(
        key="sft",
        title="Training language models to follow instructions with human feedback",
        year=2022,
        url="https://arxiv.org/abs/2203.02155",
        claim="Imitating right answers moves the policy further from its start where nothing is said than rewards do, at equal success.",
        lesson="Imitation fixes what is said, and forgets where nothing is said.",
        lost="Demonstrations written by people, and a model that has read the world before.",
        chapter=20,
    ),
)

grpo = replace(
    sft,
    rollout=sampled,
    advantage=standardised,
    ratio=to_sampler,
    surrogate=clipped,
    penalty=pull,
    reduce=response_mean,
    knobs=KNOBS | {"beta": Knob(0.02, 0.0, 0.5, "pull towards the reference policy"),
                   "eps": Knob(0.2, 0.05, 1.0, "clip: how far a ratio may go and still be rewarded"),
                   "lag": Knob(0, 0, 8, "updates by which the policy that writes lies behind")},
    shape=Shape(),
    paper=Paper(
        key="grpo",
        title="DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models",
        year=2024,
        url="https://arxiv.org/abs/2402.03300",
        claim="A group's own mean makes gradients less noisy than plain rewards do, and beta trades success against drift from the start.",
        lesson="A group supplies its own baseline, so a group that agrees teaches nothing.",
        lost="A model that was pretrained on text, long answers, and many machines.",
        chapter=20,
    ),
)  # fmt: skip

dapo = replace(
    grpo,
    rollout=filtered,
    verify=not_too_long,
    surrogate=clipped_higher,
    penalty=free,
    reduce=token_mean,
    knobs={name: knob for name, knob in grpo.knobs.items() if name != "beta"}
    | {"eps": Knob(0.2, 0.05, 0.5, "clip below: how far a ratio may fall and still be rewarded"),
       "eps_high": Knob(0.28, 0.2, 1.0, "clip above: how far it may rise"),
       "filter": Knob(1, 0, 1, "1: groups that agree are dropped and others drawn; 0: they stay"),
       "band": Knob(3, 0, 6, "tokens before the longest response from which length costs; 0: it never does"),
       "epochs": Knob(4, 1, 8, "steps on each batch")},
    paper=Paper(
        key="dapo",
        title="DAPO: An Open-Source LLM Reinforcement Learning System at Scale",
        year=2025,
        url="https://arxiv.org/abs/2503.14476",
        claim="With several steps on each batch, more room above than below in the clip keeps more entropy at equal success.",
        lesson="The clip range decides which rare tokens may ever become common.",
        lost="A model of 32 billion parameters, and chains of thought of thousands of tokens.",
        base="grpo",
        chapter=20,
    ),
)  # fmt: skip
