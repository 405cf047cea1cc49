"""erpd: a policy that was driven to the extreme on a few old responses is no goal but a signal, which is distilled into where it came from.

Stage one makes very many steps on one batch under a clip so wide that it hardly holds back. Stage two starts again from the beginning:
what the extreme policy says of a token, against what the first one said, is the token's advantage, and the penalty keeps it near. Of the
paper no more than its abstract was at hand: the form of the signal, its scale and the clip of stage one are our reading.
"""
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import torch
from torch import Tensor

from labkit.grpo.checks import at_level
from labkit.grpo.family import Batch, Grpo, clip, free, grpo, read, sampled, standardised
from labkit.grpo.outcome import exact
from labkit.lanes import Knob, Lanes
from labkit.learner import Learner
from labkit.paper import Paper
from labkit.verdict import Verdict, above, below, together
from labkit.worlds.tokens.countdown import Countdown
from labkit.worlds.tokens.world import TokenWorld

DATA = 4  # batches' worth of prompts in the responses that stage one learns from


def loosely(ratio: Tensor, batch: Batch, k: SimpleNamespace) -> Tensor:
    """PPO's clip with the width of stage one."""
    return clip(ratio, batch.adv, 1 - k.wide, 1 + k.wide)


def extreme(algo: Grpo) -> Grpo:
    """Stage one of erpd: rewards of one large batch, a wide clip, no pull. Each of its updates makes k.epochs steps."""
    large = replace(algo.shape, prompts=DATA * algo.shape.prompts)
    return replace(algo, rollout=sampled, advantage=standardised, surrogate=loosely, penalty=free, shape=large)


def taught(start: Learner, teacher: Learner) -> Learner:
    """The learner `start`, as it was before stage one, with the policy that stage one led to as its teacher. Stage two goes on from it, and
    what stage one has sampled is counted as its own."""
    pupil = start.copy()
    pupil.tick, pupil.step = teacher.tick, teacher.step
    pupil.memory |= {name: teacher.memory[name].clone() for name in ("rollouts", "tokens")}
    pupil.memory["teacher"] = teacher.nets["pi"].theta.detach().clone()
    return pupil


def signalled(algo: Grpo, world: TokenWorld, learner: Learner, problem: Tensor, k: SimpleNamespace) -> Batch:
    """Responses; "signal": log-probability of each token under the teacher minus that under the reference, (L, P, G, T).

    A learner without a teacher first makes one from where it stands, by stage one with k.passes steps.
    """
    if "teacher" not in learner.memory:
        learner.memory["teacher"] = first_stage(algo, world, learner, k)
    batch = sampled(algo, world, learner, problem, k)
    teacher, reference = (batch.pick(read(world, learner, batch, learner.memory[name])) for name in ("teacher", "reference"))
    batch.extra["signal"] = teacher - reference
    return batch


@torch.enable_grad()
def first_stage(algo: Grpo, world: TokenWorld, learner: Learner, k: SimpleNamespace) -> Tensor:
    """The parameters that stage one leads to from where the learner stands, (L, any); the learner pays for its responses."""
    first, hard, teacher = extreme(algo), SimpleNamespace(**vars(k) | {"epochs": k.passes}), learner.copy()
    first.learn(world, teacher, first.gather(world, teacher, hard), hard)
    after = taught(learner, teacher)
    learner.tick, learner.step = after.tick, after.step
    learner.memory |= {name: after.memory[name] for name in ("rollouts", "tokens")}
    return after.memory["teacher"]


def distilled(batch: Batch, k: SimpleNamespace) -> Tensor:
    """The signal of each token less the mean of all tokens of the batch, (L, P, G, T). Not divided by its deviation: so beta alone says how
    far the policy goes, to pi0 * beta / (beta + c - signal) with the constant c that makes it sum to 1."""
    signal, mask = batch.extra["signal"], batch.mask
    return (signal - (signal * mask).sum((1, 2, 3), keepdim=True) / mask.sum((1, 2, 3), keepdim=True).clamp_min(1)) * mask


erpd = replace(
    grpo,
    rollout=signalled,
    advantage=distilled,
    knobs=grpo.knobs | {
        "lr": replace(grpo.knobs["lr"], default=0.003),
        "beta": Knob(2.0, 0.5, 8.0, "pull towards the start, against the signal"),
        "passes": Knob(64, 1, 256, "steps of stage one on its one batch"),
        "wide": Knob(1.0, 0.2, 1.0, "clip of stage one"),
    },
    paper=Paper(
        key="erpd",
        title="Extreme Region Policy Distillation",
        year=2026,
        url="https://arxiv.org/abs/2605.25582",
        claim="The distilled policy is as good as its extreme teacher much nearer to the start, where the teacher's own path was worse.",
        lesson="Much drift bought nothing, and a second pass can hand it back.",
        lost="Large models, mathematics, several teachers, and weak ones, of which only the contrast with an unlearned policy helps.",
        base="grpo",
        chapter=22,
    ),
)  # fmt: skip


def stages(world: TokenWorld, lanes: Lanes, passes: int, updates: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Exact "success" and "kl" from the start, (T, L) each: after every step of stage one, and after every update of stage two."""
    begun, first, k = erpd.begin(world, lanes, erpd.shape.warm), extreme(erpd), lanes.knobs(erpd.knobs)
    teacher = begun.copy()
    batch, rows = first.gather(world, teacher, k), [exact(world, begun)]
    for _ in range(passes):
        first.learn(world, teacher, batch, k)
        rows.append(exact(world, teacher))
    second = erpd.run(world, lanes, taught(begun, teacher))
    told = rows, [rows[0], *(exact(world, snapshot.learner) for snapshot in islice(second, updates))]
    one, two = ({name: torch.stack([row[name][:, world.pool].mean(1) for row in stage]) for name in ("success", "kl")} for stage in told)
    return one, two


def check(seeds: Sequence[int] = range(20), passes: int = 64, updates: int = 100) -> Verdict:
    """Countdown. Where the distilled policy's exact success first comes within 0.02 of its teacher's: its exact KL from the start over the
    teacher's, 1 for a seed that never gets there; and its success minus that of stage one where that one's KL first was as large.

    Beta, the step size, the scale of the signal and the clip of stage one were chosen on seeds 100 to 102; the rule was there before.
    """
    one, two = stages(Countdown(), Lanes(tuple(seeds)), passes, updates)
    level = one["success"][-1] - 0.02
    there, near = (at_level(level, two["success"], two[name]) for name in ("success", "kl"))
    ratio = torch.where(two["success"].amax(0) >= level, near / one["kl"][-1], 1.0)
    early = at_level(near, one["kl"], one["success"])
    return together(
        below(ratio, 0.7, "KL from the start, distilled over teacher, at the teacher's success"),
        above(there - early, 0, "success at equal KL, distilled minus stage one stopped early"),
    )
