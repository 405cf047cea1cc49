"""The claims of the family's bases, put to the test. A paper's own check stands in its file."""
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice, pairwise

import torch
from torch import Tensor

from labkit.grpo.family import Grpo, centred, dapo, free, grpo, plain_reward, read, sft
from labkit.grpo.outcome import exact
from labkit.lanes import Lanes
from labkit.learner import Learner
from labkit.stats import by_setting
from labkit.verdict import Verdict, above, below, together
from labkit.worlds.tokens.chain import LONGEST, OPERATIONS, Chain
from labkit.worlds.tokens.world import TokenWorld

EVERY = 10  # updates between two looks


def curves(method: Grpo, world: TokenWorld, lanes: Lanes, updates: int, start: Learner | None = None) -> dict[str, Tensor]:
    """The metrics of a run at every tenth update, (T, settings, seeds) each."""
    run = replace(method, shape=replace(method.shape, updates=EVERY)).run(world, lanes, start)
    metrics = [snapshot.metrics for snapshot in islice(run, updates // EVERY)]
    return {name: torch.stack([by_setting(m[name], lanes) for m in metrics]) for name in metrics[0]}


def at_level(level: Tensor, success: Tensor, x: Tensor) -> Tensor:
    """x (T, S) at the moment when success (T, S) first reaches `level` (S,): between two looks in proportion, at the end if never."""
    reached = success >= level
    after = torch.where(reached.any(0), reached.long().argmax(0), len(success) - 1)
    before = (after - 1).clamp_min(0)
    (s0, s1), (x0, x1) = ((y.gather(0, before[None])[0], y.gather(0, after[None])[0]) for y in (success, x))
    share = ((level - s0) / (s1 - s0).clamp_min(1e-12)).clamp(0, 1)
    return x0 + share * (x1 - x0)


def matched(success: tuple[Tensor, Tensor], x: tuple[Tensor, Tensor], level: float) -> Tensor:
    """x of one arm minus x of the other, (S,), all (T, S), where their success is `level`, or the most that both of a seed reach."""
    both = torch.stack([s.amax(0) for s in success]).amin(0).clamp_max(level)
    one, other = (at_level(both, s, y) for s, y in zip(success, x, strict=True))
    return one - other


def spread_of_gradients(methods: Sequence[Grpo], world: TokenWorld, lanes: Lanes, redraws: int) -> Tensor:
    """The trace of the covariance of each method's gradient before its first update, over batches that all share, (M, L)."""
    learner, k = methods[0].begin(world, lanes, methods[0].shape.warm), lanes.knobs(methods[0].knobs)
    drawn: list[Tensor] = []
    for _ in range(redraws):
        batch, grads = methods[0].gather(world, learner, k), []
        for method in methods:
            batch.adv = method.advantage(batch, k)
            grads.append(learner.gradient("pi", method.loss(read(world, learner, batch), batch, k)))
        drawn.append(torch.stack(grads))
    return torch.stack(drawn).var(0).sum(-1)


def check_grpo(seeds: Sequence[int] = range(20), updates: int = 300, redraws: int = 200) -> Verdict:
    """Chains of 1 to 6 operations. The spread of gradients at the start, groups without division by the deviation, over that of plain
    rewards on the same responses; the gain in exact success; and the exact KL from the start, for beta 0, 0.02, 0.1 and 0.5."""
    world, betas = Chain(), (0.0, 0.02, 0.1, 0.5)
    arms = [replace(grpo, advantage=how, penalty=free) for how in (centred, plain_reward)]
    grouped, plain = spread_of_gradients(arms, world, Lanes(tuple(seeds)), redraws)
    told = curves(grpo, world, Lanes(tuple(seeds), {"beta": betas}), updates)
    start = grpo.begin(world, Lanes(tuple(seeds)), grpo.shape.warm)
    begun = exact(world, start)["success"][:, world.pool].mean(1)
    return together(
        below(grouped / plain, 0.8, "spread of the gradient, groups over plain rewards"),
        above(told["return"][-1, 1] - begun, 0.2, "success after training minus before, beta 0.02"),
        *(above(told["kl"][-1, i] - told["kl"][-1, i + 1], 0, f"KL at beta {a:g} minus that at {b:g}")
          for i, (a, b) in enumerate(pairwise(betas))),
    )  # fmt: skip


def check_dapo(seeds: Sequence[int] = range(20), updates: int = 300) -> Verdict:
    """Chains whose responses end when the policy stops. The exact entropy of a token where success is 0.6 (or what both reach), with
    room 0.28 above minus room 0.2; and that success does not suffer for it."""
    told = curves(dapo, Chain(stop=True), Lanes(tuple(seeds), {"eps_high": (0.2, 0.28)}), updates)
    (low, high), (flat, kept) = (told[name].unbind(1) for name in ("return", "entropy"))
    return together(
        above(matched((high, low), (kept, flat), 0.6), 0, "entropy at equal success, room 0.28 above minus 0.2"),
        above(high[-1] - low[-1], -0.02, "success after training, room 0.28 above minus 0.2"),
    )


def check_sft(seeds: Sequence[int] = range(20), updates: int = 300) -> Verdict:
    """A policy that half knows all operations learns chains of 2 to 6 sums alone, from right answers or from rewards. The exact KL from
    the start on products, which it never meets, where success on sums is 0.6 (or what both reach): imitation minus rewards.

    A short look at two seeds had rewards without the pull to the start, and the same sign; the rule is the one of before that look.
    """
    sums, products = (Chain(range(2, LONGEST + 1), operations=[o for o in OPERATIONS if o[0] == sign]) for sign in "+*")
    lanes = Lanes(tuple(seeds))
    start = grpo.begin(Chain(), lanes, grpo.shape.warm)
    taught, driven = (_learnt(method, sums, products, lanes, updates, start) for method in (sft, grpo))
    success, drift = zip(taught, driven, strict=True)
    return above(matched(success, drift, 0.6), 0, "KL from the start on products at equal success on sums, imitation minus rewards")


def _learnt(method: Grpo, world: TokenWorld, old: TokenWorld, lanes: Lanes, updates: int, start: Learner) -> tuple[Tensor, Tensor]:
    """Success in a world, and KL from the start in another, at every tenth update, (T, L)."""
    run = replace(method, shape=replace(method.shape, updates=EVERY)).run(world, lanes, start)
    rows = [(s.metrics["return"], exact(old, s.learner)["kl"].mean(1)) for s in islice(run, updates // EVERY)]
    success, drift = zip(*rows, strict=True)
    return torch.stack(success), torch.stack(drift)
