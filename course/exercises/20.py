"""Exercises of chapter 20: what a full batch costs, and four silent bugs: the length of responses, the sign of a KL, the padding of a
batch, the advantage of a group that agrees; then which responses tell most, what a prompt is worth, and who gets the next response."""
from dataclasses import replace
from itertools import combinations, product
from math import log2

import torch

from labkit import stats
from labkit.course.progress import Exercise
from labkit.grpo import family
from labkit.grpo.outcome import policy_at
from labkit.lanes import Lanes
from labkit.worlds.tokens import truth
from labkit.worlds.tokens.world import EMPTY


def close(answer, truth, tolerance=1e-6):
    """Is the answer a tensor of the truth's shape and values?"""
    if not isinstance(answer, torch.Tensor) or answer.shape != truth.shape:
        return False
    return bool(((answer.double() - truth.double()).abs() < tolerance).all())


# what is measured: slots of a reader's own beside the family's

FREE = replace(family.grpo, penalty=family.free, knobs={name: knob for name, knob in family.grpo.knobs.items() if name != "beta"})


def symptom(what, world, mine, theirs, base=FREE, grid=None):
    """what(world, snapshot), (L,), after 60 updates of ten seeds, with slots of your own and with others, in words."""

    def end(slots):
        method = replace(base, shape=family.Shape(updates=60), **slots)
        return what(world, next(method.run(world, Lanes(range(10), grid or {}))))

    yours, right = end(mine), end(theirs)
    gap = stats.paired_difference(yours, right)
    told = f"difference {gap.value:+.2f} (95% interval {gap.low:+.2f} to {gap.high:+.2f})"
    return f"{yours.mean():.2f} with yours, {right.mean():.2f} without a bug; {told}"


def wrong_length(world, snapshot):
    """The exact mean length of wrong responses, (L,): a token counts with the chance that it is written and all ends wrong."""
    chances, begun = policy_at(world, snapshot.learner).probs, world.start[world.pool]
    wrong = 1 - truth.success(world.graph, chances)
    passed = truth.arrivals(world.graph, chances, begun)[:, world.graph.finished :]
    return (passed * wrong[:, world.graph.finished :]).sum(1) / wrong[:, begun].mean(1)


def filled_up(counts):
    """The rollout of a program that fills up with the stop token, and must say which tokens count: counts(token, stop), (B, T)."""

    def rollout(algo, world, learner, problem, k):
        batch, stop = family.sampled(algo, world, learner, problem, k), len(world.tokens) - 1
        real, last = batch.mask, (batch.length - 1)[..., None]
        for name in ("row", "passed", "old"):  # what is read at the filling is the place where the response ended
            setattr(batch, name, torch.where(real, getattr(batch, name), getattr(batch, name).gather(-1, last)))
        token = torch.where(real, batch.token, stop)
        batch.token = torch.where(counts(token.flatten(0, 2), stop).view_as(token), token, EMPTY)
        return batch

    return rollout


# 20.1


def until_full(success, group, places):
    """success (N,) of each problem, group and places whole numbers -> how many groups are drawn on average until `places` teach."""
    ...  # your code


def until_full_solution(success, group, places):
    alive = 1 - success**group - (1 - success) ** group
    return places / alive.mean()


def check_until_full(answer):
    success = torch.tensor([0.5, 0.9, 0.02, 0.0], dtype=torch.float64)
    got = answer(success[:1], 2, 3)
    assert got is not None, "until_full returns nothing yet."
    assert abs(float(got) - 6) < 1e-6, "At success 0.5 two responses differ half of the time: 3 places take 6 groups."
    assert abs(float(answer(success[1:2], 8, 1)) - 1 / (1 - 0.9**8 - 0.1**8)) < 1e-6, "A group that is all right teaches nothing, too."
    got, truth = float(answer(success, 8, 16)), float(until_full_solution(success, 8, 16))
    assert got < float("inf"), "One problem is never solved; it is drawn in vain, but others are drawn after it. Average before you divide."
    assert abs(got - truth) < 1e-6, f"A draw is of any problem: its chance to teach is a mean over problems. {truth:.2f}, not {got:.2f}."


# 20.2


def averaged(loss, mask):
    """loss (B, T) of tokens, mask (B, T) of those that were written -> their mean, in which every token weighs the same."""
    each = (loss * mask).sum(-1) / mask.sum(-1).clamp_min(1)
    return each.mean()


def averaged_solution(loss, mask):
    return (loss * mask).sum() / mask.sum().clamp_min(1)


def check_averaged(answer):
    mask = torch.arange(8) < torch.tensor([[2], [8], [5]])
    loss = torch.linspace(-1, 1, 24, dtype=torch.float64).view(3, 8).requires_grad_()
    got = answer(loss, mask)
    assert isinstance(got, torch.Tensor) and got.dim() == 0, "Give one number for the batch."
    weight = torch.autograd.grad(got, loss)[0]
    assert float(weight[~mask].abs().max()) == 0, "Tokens that were not written have no weight."
    assert float(weight[0, 0]) < 1.01 * float(weight[1, 0]), (
        f"A token of the response of 2 weighs {float(weight[0, 0] / weight[1, 0]):.1f} times one of the response of 8; count tokens alone."
    )
    assert close(weight[mask], weight[0, 0].expand(15)), "Every written token must weigh the same."
    assert close(weight.sum(), torch.tensor(1.0)), f"The weights of a mean sum to 1, yours to {float(weight.sum()):.3g}."
    assert close(answer(loss[:, :5], mask[:, :5] & False), torch.tensor(0.0)), "A batch without any token has loss 0."


# 20.3


def drifted(logp, ref):
    """log-probabilities of written tokens under policy and reference, any shape -> from each an estimate of KL(policy || reference)."""
    return logp - ref


def drifted_solution(logp, ref):
    d = ref - logp
    return d.exp() - d - 1


def check_drifted(answer):
    logits = torch.linspace(-1.5, 1.5, 11, dtype=torch.float64)
    logp, ref = (0.7 * logits + logits.cos()).log_softmax(0), (-logits).log_softmax(0)
    got = answer(logp, ref)
    assert isinstance(got, torch.Tensor) and got.shape == logp.shape, "Give one estimate for each token."
    truth = float((logp.exp() * (logp - ref)).sum())
    assert float(got.min()) >= 0, f"A token has the estimate {float(got.min()):.2f}; a KL is never negative, so let no estimate of it be."
    mean = float((logp.exp() * got).sum())
    assert abs(mean - truth) < 1e-9, (
        f"Over tokens as the policy writes them the mean is {mean:.3f}; the KL from the reference is {truth:.3f}. Which way round is it?"
    )
    assert float(answer(ref, ref).abs().max()) == 0, "Where policy and reference agree there is no drift."


# 20.4


def written(token, stop):
    """token (B, T) int64, each row filled up with `stop` after the response's end -> which tokens the policy wrote, (B, T) bool."""
    return token >= 0


def written_solution(token, stop):
    return (token == stop).long().cumsum(-1) <= 1


def check_written(answer):
    token = torch.tensor([[3, 1, 9, 9, 9], [9, 9, 9, 9, 9], [4, 4, 4, 4, 4], [2, 0, 5, 7, 9]])
    got = answer(token, 9)
    assert isinstance(got, torch.Tensor) and got.shape == token.shape and got.dtype == torch.bool, "Give one truth value for each token."
    assert not bool(got[0, 3:].any()), "Row 0 ends with its first 9; the two after it only fill the row, and nobody chose to write them."
    assert bool(got[0, 2]) and bool(got[3, 4]), "The first 9 was written: a policy that is never told so does not learn when to stop."
    assert got[1].tolist() == [True, False, False, False, False], "Row 1 says nothing and stops: one token."
    assert bool(got[2].all()), "Row 2 was cut off before it stopped; all of its tokens were written."
    truth = written_solution(token, 9)
    assert torch.equal(got, truth), "Count up to the first stop, and the stop itself."
    assert torch.equal(answer(token + 2, 11), truth), "Which number means stop is told by `stop`."


# 20.5


def compared(reward):
    """reward (P, G) float32 -> the advantage of each response in its group, (P, G)."""
    centred = reward - reward.mean(-1, keepdim=True)
    return centred / (reward.std(-1, keepdim=True) + 1e-8)


def compared_solution(reward):
    alive = reward.amax(-1, keepdim=True) > reward.amin(-1, keepdim=True)
    centred = reward - reward.mean(-1, keepdim=True)
    return torch.where(alive, centred / (reward.std(-1, keepdim=True) + 1e-8), 0.0)


def check_compared(answer):
    reward = torch.tensor([[0.7] * 8, [0.0] * 8, [0.1] * 8, [1.0, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7], [0.7] * 7 + [0.701]])
    got = answer(reward)
    assert isinstance(got, torch.Tensor) and got.shape == reward.shape, "Give one advantage for each response, (P, G)."
    assert bool(got.isfinite().all()), "Every advantage is a number."
    for row in (0, 2):
        size = float(got[row].abs().max())
        assert size < 0.01, f"Eight rewards of {float(reward[row, 0]):.1f} have advantages of {size:.2f}: their mean is off by a rounding."
        assert size == 0, f"Better, but {size:.1g} is not 0, and Adam makes large steps of small gradients. Nothing to compare: exactly 0."
    assert float(got[1].abs().max()) == 0, "Eight rewards of 0 have nothing to compare."
    truth = compared_solution(reward)
    assert close(got[3], truth[3], 1e-3), "One response was better than seven: that group must teach as before."
    assert float(got[4].abs().max()) > 1, "Rewards of 0.7 and 0.701 differ: a small difference is divided by a small deviation."
    assert close(got[4], truth[4], 1e-2), "Where rewards differ the advantages are those of before."


# 20.6


def widest_of(adv, m):
    """adv (N,) of N responses -> which m of them have the largest variance among themselves, (N,) bool."""
    ...  # your code


def widest_of_solution(adv, m):
    order, n = adv.argsort(), len(adv)
    ends = [torch.cat([order[: m - k], order[n - k :]]) for k in range(m + 1)]
    best = max(ends, key=lambda some: float(adv[some].var(correction=0)))
    return torch.zeros(n, dtype=torch.bool).index_fill(0, best, True)


def check_widest_of(answer):
    skewed = torch.tensor([2.4, -0.2, -0.3, -0.4, 2.0, -0.25, -0.35, -0.9])
    easy = torch.tensor([0.6, 0.6, 0.6, 0.6, 0.6, -1.5, -1.5])
    for adv, m in ((easy, 2), (-easy, 4), (skewed, 3), (skewed, 6), (-skewed, 5), (skewed, 8)):
        got = answer(adv, m)
        fits = isinstance(got, torch.Tensor) and got.shape == adv.shape and got.dtype == torch.bool
        assert fits, "Give one truth value for each response."
        assert int(got.sum()) == m, f"Choose {m} responses, not {int(got.sum())}."
        best = max(float(adv[list(some)].var(correction=0)) for some in combinations(range(len(adv)), m))
        mine = float(adv[got].var(correction=0))
        assert mine > best - 1e-6, f"Of {[round(x, 2) for x in adv.tolist()]} some {m} have variance {best:.3f}; yours have {mine:.3f}."


# 20.7


def prompt_reward(answer, reward):
    """answer (P, G) int64, reward (P, G) -> mean reward times consistency of each prompt, (P,): 1 - lam H, H the entropy in bits."""
    ...  # your code


def prompt_reward_solution(answer, reward):
    share = (answer[..., None] == answer[:, None]).double().mean(-1)
    lam = (1 - 1 / answer.shape[1]) / log2(answer.shape[1])
    return reward.double().mean(-1) * (1 + lam * share.log2().mean(-1))


def check_prompt_reward(answer):
    told = torch.tensor([[4, 4, 4, 4], [0, 1, 2, 3], [7, 7, 1, 1], [5, 5, 5, 2], [6, 6, 6, 6]])
    reward = torch.tensor([[1.0] * 4, [1.0] * 4, [1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0], [0.0] * 4])
    got = answer(told, reward)
    assert isinstance(got, torch.Tensor) and got.shape == (5,), "Give one number for each prompt."
    assert abs(float(got[0]) - 1) < 1e-6, "One answer, and right: nothing is taken off."
    assert abs(float(got[1]) - 0.25) < 1e-6, f"Four answers, no two alike, keep a fourth of the reward; yours keep {float(got[1]):.2f}."
    assert abs(float(got[2]) - 0.5 * 0.625) < 1e-6, "Two answers, twice each: one bit. Half of the reward, times 1 - 0.375."
    assert float(got[4]) == 0, "A consistent error is worth nothing."
    assert close(got, prompt_reward_solution(told, reward)), "An answer that three of four give weighs as three."
    wide, mark = torch.arange(8)[None], torch.ones(1, 8)
    assert abs(float(answer(wide, mark)) - 1 / 8) < 1e-6, "Eight different answers keep an eighth: lam depends on G."


# 20.8


def allot(success, budget):
    """success, the chances of P prompts, a list; budget, a whole number -> responses to each, a list: at least 2, `budget` in all."""
    ...  # your code


def allot_solution(success, budget):
    n = [2] * len(success)
    for _ in range(budget - sum(n)):
        gain = [p**m * (1 - p) + (1 - p) ** m * p for p, m in zip(success, n, strict=True)]
        n[gain.index(max(gain))] += 1
    return n


def check_allot(answer):
    def mixed(success, n):
        return sum(1 - p**m - (1 - p) ** m for p, m in zip(success, n, strict=True))

    for success, budget in (([0.5, 0.5], 8), ([0.5, 0.1], 9), ([0.95, 0.6, 0.02], 14), ([0.3, 0.0, 0.2], 12)):
        n = answer(success, budget)
        assert isinstance(n, list) and len(n) == len(success), "Give a list with one whole number for each prompt."
        assert min(n) >= 2, f"A group of {min(n)} has nothing to compare."
        assert sum(n) == budget, f"There are {budget} responses to give; you gave {sum(n)}."
        every = (x for x in product(range(2, budget), repeat=len(success)) if sum(x) == budget)
        best = max(every, key=lambda x: mixed(success, x))
        assert mixed(success, n) > mixed(success, best) - 1e-9, f"At success {success}, {list(best)} makes more groups mixed than {n}."


EXERCISES = [
    Exercise(
        key="20.1",
        prompt="Write until_full(success, group, places): what dynamic sampling costs.",
        check=check_until_full,
        stub=until_full,
        solution=until_full_solution,
        wrong={
            "forgets all right": lambda success, group, places: places / (1 - (1 - success) ** group).mean(),
            "divides before it averages": lambda success, group, places: (places / (1 - success**group - (1 - success) ** group)).mean(),
            "of the mean problem": lambda success, group, places: places / (1 - success.mean() ** group - (1 - success.mean()) ** group),
            "forgets the places": lambda success, group, places: 1 / (1 - success**group - (1 - success) ** group).mean(),
        },
        hints=(
            "A group teaches unless all its responses are right or all are wrong. What is the chance of that for one problem?",
            "If a draw teaches with chance q, `places` of them take places / q draws on average. q is a mean over problems.",
        ),
    ),
    Exercise(
        key="20.2",
        prompt="Mend averaged(loss, mask): wrong answers grow longer.",
        check=check_averaged,
        stub=averaged,
        solution=averaged_solution,
        wrong={
            "over the padding, too": lambda loss, mask: (loss * mask).sum() / mask.numel(),
            "without a mask": lambda loss, mask: loss.mean(),
            "sums of responses": lambda loss, mask: (loss * mask).sum(-1).mean(),
            "no token is no number": lambda loss, mask: loss[mask].mean(),
            "over the longest": lambda loss, mask: ((loss * mask).sum(-1) / mask.sum(-1).max().clamp_min(1)).mean(),
        },
        hints=(
            "Take a wrong answer of 2 tokens and one of 10. By how much does each of their tokens sink?",
            "Divide once, at the end, by the number of all tokens that were written.",
        ),
    ),
    Exercise(
        key="20.3",
        prompt="Mend drifted(logp, ref): the pull to the start does not pull.",
        check=check_drifted,
        stub=drifted,
        solution=drifted_solution,
        wrong={
            "its size": lambda logp, ref: (logp - ref).abs(),
            "cut off at 0": lambda logp, ref: (logp - ref).clamp_min(0),
            "half the square": lambda logp, ref: (logp - ref).square() / 2,
            "the wrong way round": lambda logp, ref: (logp - ref).exp() - (logp - ref) - 1,
            "without the 1": lambda logp, ref: (ref - logp).exp() - (ref - logp),
        },
        hints=(
            "Add something to log(policy / reference) whose mean under the policy is 0, so that no sum is negative.",
            "The ratio reference / policy has mean 1 under the policy. With d = ref - logp: exp(d) - 1 - d is never below 0.",
        ),
    ),
    Exercise(
        key="20.4",
        prompt="Mend written(token, stop): what fills up a batch is trained on.",
        check=check_written,
        stub=written,
        solution=written_solution,
        wrong={
            "never the stop": lambda token, stop: token != stop,
            "always a stop at the end": lambda token, stop: torch.arange(token.shape[1]) < (token != stop).sum(-1, keepdim=True),
            "one too many": lambda token, stop: (token == stop).long().cumsum(-1) <= 2,
            "9 is the stop": lambda token, stop: (token == 9).long().cumsum(-1) <= 1,
        },
        hints=(
            "`token != stop` drops the filling, and with it the one stop that the policy did write.",
            "How many stops have there been up to and with each place? .cumsum(-1) tells.",
        ),
    ),
    Exercise(
        key="20.5",
        prompt="Mend compared(reward): groups that agree teach.",
        check=check_compared,
        stub=compared,
        solution=compared_solution,
        wrong={
            "a larger epsilon": lambda reward: (reward - reward.mean(-1, keepdim=True)) / (reward.std(-1, keepdim=True) + 1e-4),
            "without the deviation": lambda reward: reward - reward.mean(-1, keepdim=True),
            "small deviations are none": lambda reward: torch.where(
                reward.std(-1, keepdim=True) > 0.01, (reward - reward.mean(-1, keepdim=True)) / (reward.std(-1, keepdim=True) + 1e-8), 0.0
            ),
            "against 0 and 1 alone": lambda reward: torch.where(
                (reward.mean(-1, keepdim=True) > 0) & (reward.mean(-1, keepdim=True) < 1),
                (reward - reward.mean(-1, keepdim=True)) / (reward.std(-1, keepdim=True) + 1e-8), 0.0,
            ),
        },
        hints=(
            "Print the mean of eight times 0.7 in float32, less 0.7; then the deviation. What is one divided by the other?",
            "Do not ask whether the deviation is small. Ask whether the largest and the smallest reward are the same.",
        ),
    ),
    Exercise(
        key="20.6",
        prompt="Write widest_of(adv, m): the responses that tell most.",
        check=check_widest_of,
        stub=widest_of,
        solution=widest_of_solution,
        wrong={
            "the largest": lambda adv, m: adv >= adv.sort(descending=True).values[m - 1],
            "the largest sizes": lambda adv, m: torch.zeros(len(adv), dtype=torch.bool).index_fill(0, adv.abs().argsort()[-m:], True),
            "as many from both ends": lambda adv, m: torch.zeros(len(adv), dtype=torch.bool).index_fill(
                0, torch.cat([adv.argsort()[: (m + 1) // 2], adv.argsort()[len(adv) - m // 2 :]]), True
            ),
        },
        hints=(
            "Move a response from the middle to either end: one of both makes the variance larger. So nobody is from the middle.",
            "Sort. For every k from 0 to m take the k largest and the m - k smallest, and keep the k with the largest variance.",
        ),
    ),
    Exercise(
        key="20.7",
        prompt="Write prompt_reward(answer, reward): what a prompt is worth among prompts.",
        check=check_prompt_reward,
        stub=prompt_reward,
        solution=prompt_reward_solution,
        wrong={
            "in nats": lambda answer, reward: reward.double().mean(-1) * (
                1 + (1 - 1 / answer.shape[1]) / log2(answer.shape[1])
                * (answer[..., None] == answer[:, None]).double().mean(-1).log().mean(-1)
            ),
            "without lam": lambda answer, reward: reward.double().mean(-1) * (
                1 + (answer[..., None] == answer[:, None]).double().mean(-1).log2().mean(-1)
            ),
            "by the number of answers": lambda answer, reward: reward.double().mean(-1) / torch.tensor(
                [len(set(a.tolist())) for a in answer]
            ),
            "lam for four": lambda answer, reward: reward.double().mean(-1) * (
                1 + 0.375 * (answer[..., None] == answer[:, None]).double().mean(-1).log2().mean(-1)
            ),
        },
        hints=(
            "Which share of the group gives the same answer as response i? (answer[..., None] == answer[:, None]) compares all pairs.",
            "The mean over responses of -log2 of that share is the entropy: each answer comes up as often as it is given.",
        ),
    ),
    Exercise(
        key="20.8",
        prompt="Write allot(success, budget): where the next response tells most.",
        check=check_allot,
        stub=allot,
        solution=allot_solution,
        wrong={
            "the same for all": lambda success, budget: [budget // len(success) + (i < budget % len(success)) for i in range(len(success))],
            "the rest to the hardest": lambda success, budget: [
                2 + (budget - 2 * len(success)) * (i == success.index(min(success))) for i in range(len(success))
            ],
            "the rest to the surest to be mixed": lambda success, budget: [
                2 + (budget - 2 * len(success)) * (i == min(range(len(success)), key=lambda j: abs(success[j] - 0.5)))
                for i in range(len(success))
            ],
            "one each at least": lambda success, budget: [1] * (len(success) - 1) + [budget - len(success) + 1],
        },
        hints=(
            "With n responses a group is mixed with chance 1 - p^n - (1 - p)^n. What does one more add?",
            "It adds p^n (1 - p) + (1 - p)^n p, less each time: so give one after the other to whom it adds most.",
        ),
    ),
]  # fmt: skip
