"""Recordings of chapter 22: what the age of data costs, and what each paper makes of it."""
from dataclasses import replace

import torch

from labkit import worlds
from labkit.course.recordings import Recording
from labkit.divergence import kl
from labkit.grpo.arpo import arpo, remembering
from labkit.grpo.avatar import avatar
from labkit.grpo.bapo import bapo
from labkit.grpo.erpd import erpd, stages
from labkit.grpo.family import Shape, aged, clipped, grpo, importance
from labkit.grpo.missing_old_logits import missing_old_logits, recalled
from labkit.grpo.outcome import exact, policy_at
from labkit.lanes import Lanes
from labkit.record import Record, record
from labkit.worlds.tokens import truth
from labkit.worlds.tokens.plan import LENGTH

SEEDS, UPDATES, FORMS, EVERY = tuple(range(10)), 200, 120, 10
chains = worlds.make("tokens.chain")


def of_now(logp, batch, k):
    """The ratio of whoever has lost the old log-probabilities, and takes the policy of now for the writer."""
    return (logp - logp.detach()).exp()


def outside(ratio, batch, k):
    """`clipped`, which also says what share of the tokens was outside the clip when the batch came."""
    batch.info.setdefault("outside", (((ratio - 1).abs() > k.eps[..., None, None]) & batch.mask).sum((1, 2, 3)) / batch.length.sum((1, 2)))
    return clipped(ratio, batch, k)


def since_written(world, lanes):
    """A field: the exact KL of a response under the policy of now from the one that writes the next batch, (L,)."""
    lag = lanes.knobs(grpo.knobs).lag

    def apart(snapshot):
        now, then = (policy_at(world, snapshot.learner, theta) for theta in (None, aged(snapshot.learner, lag)))
        return truth.expected(world.graph, now.probs, (kl(now, then),))[0][:, world.start[world.pool]].mean(1)

    return apart


def lagged(**pieces):
    """GRPO at five lags, with these slots in place of its own: 200 updates."""
    method = replace(grpo, shape=Shape(updates=EVERY), **pieces)
    lanes = Lanes(SEEDS, {"lag": (0, 1, 2, 4, 8)})
    made = record(method, chains, lanes, UPDATES * 128, fields={"age": since_written(chains, lanes)})
    return Recording(replace(made, curves=made.curves | {"kl from writer": made.fields["age"]}, fields={}), method, {})


def lags() -> Recording:
    """As it is."""
    return lagged(surrogate=outside)


def unclipped() -> Recording:
    """With the bare ratio."""
    return lagged(surrogate=importance)


def forgetful() -> Recording:
    """With the policy of now taken for the writer."""
    return lagged(ratio=of_now)


def counted(algo, world, learner, problem, k):
    """`remembering`, which also counts for each task what was put into its groups, and sums up its age in updates."""
    batch = remembering(algo, world, learner, problem, k)
    put, age = (batch.extra["age"] >= 0).long(), batch.extra["age"].clamp_min(0) / (algo.shape.prompts * algo.shape.group)
    for name, number in (("put", put.float()), ("age", age.float())):
        total = learner.memory.setdefault(name, number.new_zeros(len(number), len(world.start)))
        learner.memory[name] = total.scatter_add(1, problem, number)
    return batch


def remembered(grid):
    """arpo on web forms, 120 updates: of each task the exact success, and how many successes of what age were put into its groups."""
    forms, method = worlds.make("web.form"), replace(arpo, rollout=counted, shape=replace(arpo.shape, updates=EVERY))
    keep = {"success": lambda s: exact(forms, s.learner)["success"][:, forms.pool].float()}
    keep |= {name: lambda s, name=name: s.learner.memory[name][:, forms.pool] for name in ("put", "age")}
    return Recording(record(method, forms, Lanes(SEEDS, grid), FORMS * 128, fields=keep), method, {})


def stores() -> Recording:
    """With stores of three sizes."""
    return remembered({"store": (1, 4, 16)})


def no_store() -> Recording:
    """Without replay."""
    return remembered({"replay": (0,)})


def trained(method, grid, **options):
    """A method at the settings of `grid` on chains of these options."""
    here, method = worlds.make("tokens.chain", **options), replace(method, shape=replace(method.shape, updates=EVERY))
    return Recording(record(method, here, Lanes(SEEDS, grid), UPDATES * 128), method, options)


def balances() -> Recording:
    """bapo on batches four updates old, at four targets; 0 leaves its bounds where they are."""
    return trained(bapo, {"target": (0.0, 0.5, 1.0, 2.0), "lag": (4,)}, levels=(3, 4, 5))


def averages() -> Recording:
    """missing_old_logits with an average in the middle, at four decays; 0 is the policy of now."""
    return trained(missing_old_logits, {"decay": (0.0, 0.5, 0.8, 0.95)})


def versions() -> Recording:
    """missing_old_logits with every version kept."""
    return trained(replace(missing_old_logits, rollout=recalled), {})


def by_place(world):
    """A field: the exact KL from the start that a response gathers at each of its places, (L, LENGTH)."""

    def apart(snapshot):
        now, start = (policy_at(world, snapshot.learner, theta) for theta in (None, snapshot.learner.memory["reference"]))
        spent = truth.visits(world.graph, now.probs, world.start[world.pool]) * kl(now, start)
        return spent @ world.graph.obs[:, -LENGTH:].double()  # the last features of what is seen say the place

    return apart


def credited(**options):
    """avatar at four weights of the ends, where those or the middle decide."""
    world, method = worlds.make("tokens.plan", **options), replace(avatar, shape=replace(avatar.shape, updates=EVERY))
    lanes = Lanes(SEEDS, {"ends": (-0.9, 0.0, 1.0, 3.0)})
    return Recording(record(method, world, lanes, UPDATES * 128, fields={"kl by place": by_place(world)}), method, options)


def ends_decide() -> Recording:
    """Where plan and result are the first and the last token."""
    return credited()


def middle_decides() -> Recording:
    """Where they are the two in the middle."""
    return credited(middle=True)


PASSES = (4, 16, 64, 256)


def teacher() -> Recording:
    """The way of stage one of erpd, after every step."""
    one, _ = stages(worlds.make("tokens.countdown"), Lanes(SEEDS), passes=PASSES[-1], updates=1)
    curves = {"return": one["success"], "kl": one["kl"]}
    return Recording(Record("erpd", "tokens.countdown", Lanes(SEEDS), torch.arange(len(one["kl"])), curves), erpd, {})


def pupils() -> Recording:
    """Stage two of erpd after 4, 16, 64 and 256 steps of stage one."""
    method = replace(erpd, shape=replace(erpd.shape, updates=2))
    made = record(method, worlds.make("tokens.countdown"), Lanes(SEEDS, {"passes": PASSES}), 640 + 60 * 128)
    return Recording(replace(made, curves={name: made.curves[name] for name in ("return", "kl", "entropy")}), method, {})
