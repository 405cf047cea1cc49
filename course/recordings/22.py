"""Recordings of chapter 22: what the age of data costs, and what each paper makes of it."""
from dataclasses import replace

from labkit import worlds
from labkit.course.recordings import Recording
from labkit.divergence import kl
from labkit.grpo.arpo import arpo, remembering
from labkit.grpo.family import Shape, aged, clipped, grpo, importance
from labkit.grpo.outcome import exact, policy_at
from labkit.lanes import Lanes
from labkit.record import record
from labkit.worlds.tokens import truth

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
