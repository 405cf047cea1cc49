"""Exercises of chapter 22: the clip's slope, how many updates it takes, old log-probabilities that are wrong, a group restarted; then those
of its other papers."""
import math

import torch

from labkit.course.progress import Exercise


def close(answer, truth, tolerance=1e-5):
    """Is the answer a tensor of the truth's shape and values?"""
    return isinstance(answer, torch.Tensor) and answer.shape == truth.shape and bool(((answer - truth).abs() < tolerance).all())


# 22.1


def slope(logp, old, adv, eps):
    """logp, old, adv (B,): log-probabilities of tokens now and when written, and advantages -> d gain / d logp of PPO's clip, (B,)."""
    ...  # your code, without autograd


def slope_solution(logp, old, adv, eps):
    ratio = (logp - old).exp()
    spent = torch.where(adv > 0, ratio > 1 + eps, ratio < 1 - eps)
    return torch.where(spent, 0.0, ratio * adv)


def clamped_slope(logp, old, adv, eps):
    """The slope of clamp(ratio) * adv alone."""
    ratio = (logp - old).exp()
    return torch.where((ratio - 1).abs() > eps, 0.0, ratio * adv)


def check_slope(answer):
    ratio, adv = torch.tensor([0.5, 1.0, 2.0, 0.5, 1.0, 2.0]), torch.tensor([1.0, 1, 1, -1, -1, -1])
    got = answer(ratio.log() - 1, torch.full((6,), -1.0), adv, 0.2)
    assert got is not None, "slope returns nothing yet."
    assert close(got, got) and got.shape == (6,), "Give one number per token, (B,)."
    assert got[2] == 0, "At a ratio of 2 and a positive advantage there is nothing more to earn."
    assert got[5] == -2, "A bad token that has become twice as likely must go back at its full slope, ratio * adv = -2."
    assert abs(got[0] - 0.5) < 1e-6, "A good token that has become half as likely keeps its slope, ratio * adv = 0.5."
    assert got[3] == 0, "A bad token that has lost half of its probability has gone far enough."
    wide = answer(ratio.log(), torch.zeros(6), adv, 1.5)
    assert close(wide, ratio * adv), "With eps = 1.5 none of these is switched off; is 0.2 written into your function?"


# 22.2


def updates_needed(p, q, eps):
    """At least how many updates lift a token from probability p to q > p, if each stops it at the clip?"""
    ...  # your code


def updates_needed_solution(p, q, eps):
    return math.ceil(math.log(q / p) / math.log(1 + eps) - 1e-9)


def check_updates_needed(answer):
    got = answer(0.01, 0.5, 0.2)
    assert got is not None, "updates_needed returns nothing yet."
    assert got != math.ceil(0.49 / (0.2 * 0.01)), "The room grows: after one update the clip stands around the new probability."
    assert got == 22 and isinstance(got, int), f"From 0.01 to 0.5 in factors of 1.2: 21.5, so 22 updates; yours says {got}."
    assert answer(0.01, 0.5, 0.28) == 16, "With DAPO's 0.28 it takes 16."
    assert answer(0.1, 0.121, 0.1) == 2, "From 0.1 to 0.121 in factors of 1.1 it takes exactly 2."


# 22.3


def climb(score, token, adv, eps, steps, lr):
    """Several steps on one batch of tokens (B,) with advantages (B,), drawn by softmax(score) (V,). Returns the score after them.

    A symptom: on the same data it ends as far away with eps = 0.2 as with eps = 1000, and much further than it should.
    """
    for _ in range(steps):
        score = score.detach().requires_grad_()
        logp = score.log_softmax(0)[token]
        old = score.log_softmax(0)[token].detach()
        ratio = (logp - old).exp()
        gain = torch.minimum(ratio * adv, ratio.clamp(1 - eps, 1 + eps) * adv).mean()
        score = score + lr * torch.autograd.grad(gain, score)[0]
    return score.detach()


def climb_solution(score, token, adv, eps, steps, lr):
    old = score.log_softmax(0)[token].detach()  # of the policy that drew the tokens, once
    for _ in range(steps):
        score = score.detach().requires_grad_()
        ratio = (score.log_softmax(0)[token] - old).exp()
        gain = torch.minimum(ratio * adv, ratio.clamp(1 - eps, 1 + eps) * adv).mean()
        score = score + lr * torch.autograd.grad(gain, score)[0]
    return score.detach()


def climb_attached(score, token, adv, eps, steps, lr):
    """The old log-probabilities carry a gradient, so that the ratio has none."""
    for _ in range(steps):
        score = score.detach().requires_grad_()
        logp = score.log_softmax(0)[token]
        ratio = (logp - score.log_softmax(0)[token]).exp()
        gain = torch.minimum(ratio * adv, ratio.clamp(1 - eps, 1 + eps) * adv).mean()
        score = score + lr * torch.autograd.grad(gain, score)[0]
    return score.detach()


def climb_lagging(score, token, adv, eps, steps, lr):
    """The old log-probabilities are those of the step before."""
    old = score.log_softmax(0)[token].detach()
    for _ in range(steps):
        score = score.detach().requires_grad_()
        logp = score.log_softmax(0)[token]
        ratio = (logp - old).exp()
        gain = torch.minimum(ratio * adv, ratio.clamp(1 - eps, 1 + eps) * adv).mean()
        old = logp.detach()
        score = score + lr * torch.autograd.grad(gain, score)[0]
    return score.detach()


def check_climb(answer):
    score = torch.tensor([0.3, -0.2, 0.1, 0.0])
    token, adv = torch.tensor([0, 0, 1, 2, 3, 1]), torch.tensor([1.0, 1, -1, -0.5, 0.5, -1])
    got = answer(score, token, adv, 0.2, 1, 1.0)
    assert got is not None, "climb returns nothing yet."
    assert close(got, climb_solution(score, token, adv, 0.2, 1, 1.0)), "With one step nothing is wrong; leave that as it was."
    few, free = answer(score, token, adv, 0.2, 12, 1.0), answer(score, token, adv, 1000.0, 12, 1.0)
    assert not close(few, score, 1e-3), "Now nothing moves at all: a ratio whose two sides move together has no slope."
    assert not close(few, free), "The clip still changes nothing: compare with the policy that drew the tokens."
    assert close(few, climb_solution(score, token, adv, 0.2, 12, 1.0)), "The old log-probabilities must stay the same in all steps."
    assert close(free, climb_solution(score, token, adv, 1000.0, 12, 1.0)), "Without a clip the ratio must still be that to the old policy."


# 22.4


def restarted(reward, stored):
    """reward (P, G) of P groups, 0 or 1; stored (P,) bool: has the task a success in its store? -> advantages (P, G) after replay.

    A success goes into the first place of a group that failed altogether. Deviation of a sample, plus 1e-6.
    """
    ...  # your code


def restarted_solution(reward, stored):
    reward = reward.clone()
    reward[(reward.sum(1) == 0) & stored, 0] = 1.0
    return (reward - reward.mean(1, keepdim=True)) / (reward.std(1, keepdim=True) + 1e-6)


def restarted_everywhere(reward, stored):
    """A success goes into every group whose task has one."""
    return restarted_solution(torch.cat([torch.maximum(reward[:, :1], stored[:, None].float()), reward[:, 1:]], 1), stored)


def check_restarted(answer):
    reward = torch.tensor([[0.0, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0], [1, 1, 1, 1]])
    stored = torch.tensor([True, False, True, True])
    kept = reward.clone()
    got = answer(reward, stored)
    assert got is not None, "restarted returns nothing yet."
    assert torch.equal(reward, kept), "Leave the rewards that you were given as they were: clone them."
    assert isinstance(got, torch.Tensor) and got.shape == (4, 4), "Give one advantage per response, (P, G)."
    assert not got[1].any(), "A group that failed and has nothing in its store stays dead."
    assert close(got[2], torch.tensor([-0.5, 1.5, -0.5, -0.5]), 1e-4), "A group with a success of its own is left as it is."
    assert not got[3].any(), "A group without a failure needs no success."
    assert close(got[0], torch.tensor([1.5, -0.5, -0.5, -0.5]), 1e-4), "One success of four has (G - 1) / sqrt(G)."


# 22.5


def lower_bound(ratio, adv, target):
    """ratio, adv (B,) -> the lower bound of bapo's clip: the first of 0.60, 0.65 .. 0.90 at which good news reach target * bad news.

    Good tokens count up to a ratio of 1.2, bad ones from the lower bound on, each with ratio * |adv|. 0.90 if none of them does.
    """
    ...  # your code


def lower_bound_solution(ratio, adv, target):
    weight = ratio * adv
    good = weight[(adv > 0) & (ratio <= 1.2)].sum()
    for low in (0.60, 0.65, 0.70, 0.75, 0.80, 0.85, 0.90):
        if good >= -target * weight[(adv < 0) & (ratio >= low)].sum():
            break
    return low


def lower_bound_clamped(ratio, adv, target):
    """What is clipped counts at its bound."""
    good = (ratio.clamp_max(1.2) * adv)[adv > 0].sum()
    for low in (0.60, 0.65, 0.70, 0.75, 0.80, 0.85, 0.90):
        if good >= -target * (ratio.clamp_min(low) * adv)[adv < 0].sum():
            break
    return low


def lower_bound_counting(ratio, adv, target):
    """Every token counts alike."""
    return lower_bound_solution(ratio, adv.sign() / ratio, target)


def check_lower_bound(answer):
    ratio, adv = torch.tensor([1.0, 1.1, 1.5, 0.62, 0.78, 1.0, 0.5]), torch.tensor([1.0, 1.0, 4.0, -1.0, -1.0, -1.0, -9.0])
    got = answer(ratio, adv, 0.8)
    assert got is not None, "lower_bound returns nothing yet."
    assert got == 0.60, "Good 1.0 + 1.1 = 2.1, bad 0.62 + 0.78 + 1.0 = 2.4: that is 0.8 at once. What is clipped does not count."
    assert answer(ratio, adv, 1.0) == 0.65, "For a target of 1 the token at 0.62 must go: 2.1 against 1.78."
    assert answer(ratio, adv, 2.0) == 0.80, "For a target of 2 the one at 0.78 must go, too: 2.1 against 1.0."
    assert answer(ratio, adv, 3.0) == 0.90, "A target of 3 is out of reach: then the bound is at its end."
    assert answer(ratio, 2 * adv, 1.0) == 0.65, "With all advantages doubled nothing changes."


# 22.6


def split_gain(now, middle, engine, adv, cap, eps):
    """now, middle, engine, adv (B,) -> the gain (B,): weight of the engines' mismatch, at most cap, times PPO's clip of the age.

    The first three are log-probabilities of tokens: under the policy of now, under what stands in the middle, of the engine that wrote.

    A symptom: in the trainer the weight is always 1, whatever the engine does.
    """
    weight = (now - engine).exp() / (now - engine).exp().detach()
    ratio = (now - middle).exp()
    return weight.clamp_max(cap) * torch.minimum(ratio * adv, ratio.clamp(1 - eps, 1 + eps) * adv)


def split_gain_solution(now, middle, engine, adv, cap, eps):
    weight = (middle - engine).exp().clamp_max(cap)
    ratio = (now - middle).exp()
    return weight * torch.minimum(ratio * adv, ratio.clamp(1 - eps, 1 + eps) * adv)


def split_gain_whole(now, middle, engine, adv, cap, eps):
    """The age is counted twice."""
    return split_gain_solution(now, middle, engine + middle - now.detach(), adv, cap, eps)


def split_gain_inside(now, middle, engine, adv, cap, eps):
    """The mismatch is clipped along with the age."""
    return split_gain_solution(now, engine, engine, adv, cap, eps)


def check_split_gain(answer):
    now, middle, engine = (torch.tensor(x).log() for x in ([0.55, 0.5, 0.3], [0.5, 0.4, 0.3], [0.4, 0.5, 0.1]))
    got = answer(now, middle, engine, torch.ones(3), 2.0, 0.2)
    assert got is not None, "split_gain returns nothing yet."
    assert not close(got, split_gain(now, middle, engine, torch.ones(3), 2.0, 0.2)), "The weight is still 1: a number over itself."
    assert abs(got[2] - 2.0) < 1e-5, "The third token's mismatch is 0.3 / 0.1 = 3, and counts 2; its age is 1: the gain is 2."
    assert abs(got[0] - 1.375) < 1e-5, "The first token's mismatch is 0.5 / 0.4 = 1.25, its age 0.55 / 0.5 = 1.1: the gain is 1.375."
    assert abs(got[1] - 0.96) < 1e-5, "The second token's mismatch is 0.8, its age 1.25, clipped at 1.2: the gain is 0.96."
    slope_at = now.clone().requires_grad_()
    slope = torch.autograd.grad(answer(slope_at, middle, engine, torch.ones(3), 2.0, 0.2).sum(), slope_at)[0]
    assert close(slope, torch.tensor([1.375, 0.0, 2.0])), "Only the age has a slope in the policy of now; the clipped token has none."


# 22.7


def unusual(reward, history, weight):
    """reward (G,) of an old group, history (H,): the mean rewards of its prompt's visits, newest first -> its advantages (G,).

    weight * (reward - usual) / (spread + 1e-4): usual is the mean of the last four visits, spread the deviation of the group (of a sample).
    """
    ...  # your code


def unusual_solution(reward, history, weight):
    return weight * (reward - history[:4].mean()) / (reward.std() + 1e-4)


def check_unusual(answer):
    history = torch.tensor([0.5, 0.25, 0.25, 0.0, 1.0, 1.0])
    mixed, right = torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.ones(4)
    got = answer(mixed, history, 0.5)
    assert got is not None, "unusual returns nothing yet."
    assert close(answer(mixed, history, 1.0), 2 * got, 1e-4), "The weight multiplies the advantages."
    assert bool((answer(right, history, 0.5) > 0).all()), "A group that agrees is news where its prompt mostly fails."
    assert abs(got[0] - 0.75) < 1e-3, "Usual is 0.25, the mean of the last four visits; the spread is 0.5: 0.5 * 0.75 / 0.5 = 0.75."
    assert not answer(right, torch.ones(3), 0.5).any(), "What is as usual has no advantage; a prompt may have had fewer than four visits."


EXERCISES = [
    Exercise(
        key="22.1",
        prompt="Write slope(logp, old, adv, eps), the slope of PPO's clipped gain in each token's log-probability.",
        check=check_slope,
        stub=slope,
        solution=slope_solution,
        wrong={
            "switches off on both sides": clamped_slope,
            "forgets the slope of the ratio": lambda logp, old, adv, eps: slope_solution(logp, old, adv, eps).sign() * adv.abs(),
            "never switches off": lambda logp, old, adv, eps: (logp - old).exp() * adv,
        },
        hints=("The gain is ratio * adv, or a constant. Where is it a constant?", "d ratio / d logp = ratio; adv says which side is flat."),
    ),
    Exercise(
        key="22.2",
        prompt="Write updates_needed(p, q, eps): the fewest updates from p to q if each stops at the clip.",
        check=check_updates_needed,
        stub=updates_needed,
        solution=updates_needed_solution,
        wrong={
            "adds": lambda p, q, eps: math.ceil((q - p) / (eps * p)),
            "rounds down": lambda p, q, eps: int(math.log(q / p) / math.log(1 + eps)),
            "takes eps for log(1 + eps)": lambda p, q, eps: math.ceil(math.log(q / p) / eps),
        },
        hints=("Each update multiplies the probability by at most 1 + eps.", "Solve p (1 + eps)^n >= q for n, and round up."),
    ),
    Exercise(
        key="22.3",
        prompt="Find the silent bug in climb: the clip has no effect.",
        check=check_climb,
        stub=climb,
        solution=climb_solution,
        wrong={"keeps the gradient of old": climb_attached, "compares with the step before": climb_lagging},
        hints=("Print the ratio at each step. Which values does it take?", "Which policy drew the tokens? What it said never changes."),
    ),
    Exercise(
        key="22.4",
        prompt="Write restarted(reward, stored): the advantages of groups of which those that failed may get a remembered success.",
        check=check_restarted,
        stub=restarted,
        solution=restarted_solution,
        wrong={
            "every group gets one": restarted_everywhere,
            "whatever the store holds": lambda reward, stored: restarted_solution(reward, torch.ones_like(stored)),
            "population deviation": lambda reward, stored: restarted_solution(reward, stored) * (4 / 3) ** 0.5,
        },
        hints=("Which groups have a reward sum of 0 and something stored?", "In those put one reward to 1; then standardise each row."),
    ),
    Exercise(
        key="22.5",
        prompt="Write lower_bound(ratio, adv, target): how far bapo raises the lower bound of its clip.",
        check=check_lower_bound,
        stub=lower_bound,
        solution=lower_bound_solution,
        wrong={
            "counts what is clipped at its bound": lower_bound_clamped,
            "counts tokens": lower_bound_counting,
            "never moves": lambda ratio, adv, target: 0.60,
        },
        hints=("Sum ratio * adv over the good and over the bad tokens that the bounds let through.", "The good sum never changes."),
    ),
    Exercise(
        key="22.6",
        prompt="Find the silent bug in split_gain: the weight of the engines' mismatch is always 1.",
        check=check_split_gain,
        stub=split_gain,
        solution=split_gain_solution,
        wrong={"counts the age twice": split_gain_whole, "forgets the middle": split_gain_inside},
        hints=("Which two policies differ in the engine alone?", "The weight is middle over engine; neither depends on the policy of now."),
    ),
    Exercise(
        key="22.7",
        prompt="Write unusual(reward, history, weight): the advantages of an old group against its prompt's past.",
        check=check_unusual,
        stub=unusual,
        solution=unusual_solution,
        wrong={
            "against the group": lambda reward, history, weight: weight * (reward - reward.mean()) / (reward.std() + 1e-4),
            "all visits": lambda reward, history, weight: weight * (reward - history.mean()) / (reward.std() + 1e-4),
            "forgets the weight": lambda reward, history, weight: unusual_solution(reward, history, 1.0),
        },
        hints=("What is usual is a property of the prompt, not of the group.", "history[:4] also works where there are fewer than four."),
    ),
]
