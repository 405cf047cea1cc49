"""Exercises of chapter 03: the clip, a natural step, the repair's exit, a drift function, leaning, reading a clip, and evolution."""
import torch

from labkit.course.progress import Exercise
from labkit.lanes import Lanes
from labkit.on_policy.discovered_po import drift
from labkit.on_policy.family import clipped


def close(answer, truth, tolerance=1e-5):
    """Is the answer a tensor of the truth's shape and values?"""
    if not isinstance(answer, torch.Tensor) or answer.shape != truth.shape:
        return False
    return bool(((answer.double() - truth.double()).abs() < tolerance).all())


class K:
    """Knobs as attributes."""

    def __init__(self, **knobs):
        vars(self).update(knobs)


RATIO = torch.tensor([0.3, 0.7, 0.95, 1.0, 1.1, 1.4, 2.5]).repeat(2)
ADV = torch.tensor([2.0] * 7 + [-1.5] * 7)


# 03.1


def fence(ratio, adv, eps):
    """ratio, adv (B,); eps a number -> PPO's gain, sample by sample, (B,)."""
    ...  # your code


def fence_solution(ratio, adv, eps):
    return torch.minimum(ratio * adv, ratio.clamp(1 - eps, 1 + eps) * adv)


def check_fence(answer):
    gain = answer(RATIO, ADV, 0.2)
    assert gain is not None, "fence returns nothing yet."
    truth = clipped(RATIO, ADV, K(eps=0.2))
    assert isinstance(gain, torch.Tensor) and gain.shape == truth.shape, "The gain has one number per sample, (B,)."
    assert abs(gain[6] - 2.4) < 1e-5, "A good action (A = 2) at ratio 2.5 gains 1.2 * 2 = 2.4 and no more."
    assert abs(gain[0] - 0.6) < 1e-5, "A good action that became unlikely (ratio 0.3) must feel it: its gain is 0.3 * 2 = 0.6."
    assert abs(gain[13] + 3.75) < 1e-5, "A bad action that became likely (ratio 2.5) keeps its whole penalty, 2.5 * -1.5 = -3.75."
    assert close(gain, truth), "Take the smaller of the clipped and the unclipped gain, for both signs of the advantage."
    wide = answer(RATIO, ADV, 0.5)
    assert close(wide, clipped(RATIO, ADV, K(eps=0.5))), "At eps = 0.5 the gain differs; is 0.2 written into your function?"


# 03.2

BOWL = torch.tensor([[4.0, 1.0], [1.0, 9.0]]).double()


def to_the_edge(way, product, delta):
    """way (L, P), product(v) = F v -> the step along `way` to where the bowl 1/2 x'Fx reaches delta, (L, P)."""
    ...  # your code


def to_the_edge_solution(way, product, delta):
    height = 0.5 * (way * product(way)).sum(1, keepdim=True)
    return way * (delta / height).sqrt()


def check_to_the_edge(answer):
    way = torch.tensor([[1.0, 0.0], [0.5, -2.0]]).double()
    step = answer(way, lambda v: v @ BOWL, 0.02)
    assert step is not None, "to_the_edge returns nothing yet."
    assert isinstance(step, torch.Tensor) and step.shape == way.shape, "The step has the shape of `way`, (L, P)."
    along = (step * way).sum(1) / way.norm(dim=1) / step.norm(dim=1)
    assert bool((along > 1 - 1e-9).all()), "The step goes along `way` in every lane; only its length is yours to choose."
    bowl = 0.5 * (step * (step @ BOWL)).sum(1)
    spent = ", ".join(f"{b / 0.02:.3g}" for b in bowl)
    assert close(bowl, torch.full((2,), 0.02), 1e-9), f"1/2 x'Fx at the end should be delta in every lane; yours is {spent} times that."


# 03.3


def repaired(gap, bound):
    """gap (L, B): the KL of every state; bound (L, 1) -> which lanes may leave the repair, (L,) bool."""
    ...  # your code


def repaired_solution(gap, bound):
    return gap.amax(1) <= bound[:, 0]


def check_repaired(answer):
    gap = torch.tensor([[0.01, 0.02, 0.09], [0.0, 0.0, 0.3], [0.2, 0.2, 0.2], [0.05, 0.05, 0.05]])
    bound = torch.tensor([[0.1], [0.15], [0.2], [0.04]])
    done = answer(gap, bound)
    assert done is not None, "repaired returns nothing yet."
    assert isinstance(done, torch.Tensor) and done.shape == (4,) and done.dtype == torch.bool, "Give one truth value per lane, (L,)."
    assert not done[1], "Lane 1 has a mean KL of 0.1, below its bound, but one state at 0.3: a guarantee counts the worst state."
    assert bool(done[0]), "Lane 0 may leave: each of its states is within 0.1. Every lane has its own states and its own bound."
    assert done.tolist() == [True, False, True, False], "Compare the largest KL of each lane with the bound of that lane; equal is inside."


# 03.4


def brake_on_bad(ratio, adv, beta):
    """ratio, adv (B,), adv < 0 -> the discovered drift of these samples, (B,)."""
    ...  # your code


def brake_on_bad_solution(ratio, adv, beta):
    seen = ratio.log() * adv
    return (seen - beta * (seen / beta).tanh()).relu()


def check_brake_on_bad(answer):
    ratio, adv = torch.tensor([0.1, 0.4, 0.8, 1.0, 1.5, 3.0]), torch.full((6,), -1.5)
    f = answer(ratio, adv, 0.6)
    assert f is not None, "brake_on_bad returns nothing yet."
    assert isinstance(f, torch.Tensor) and f.shape == ratio.shape, "The drift has one number per sample, (B,)."
    assert bool((f >= 0).all()), "A drift function is nowhere negative; here it is for a bad action that became likelier."
    good = ((ratio - 1) * adv - 0.6 * ((ratio - 1) * adv / 0.6).tanh()).relu()
    assert not close(f, good), "That is the branch for good actions with another constant: bad ones are seen through log ratio."
    assert close(f, drift(ratio, adv, K(alpha=torch.tensor(2.0), beta=torch.tensor(0.6)))), "f = relu(A log r - beta tanh(A log r / beta))."
    wide = answer(ratio, adv, 2.0)
    assert close(wide, drift(ratio, adv, K(alpha=torch.tensor(2.0), beta=torch.tensor(2.0)))), "At beta = 2 it differs; is 0.6 written in?"


# 03.5


def lean(counts, pi):
    """counts (S, A) of the data; pi (S, A), a softmax of logits -> the first direction of the behaviour's logits, (S, A)."""
    ...  # your code


def lean_solution(counts, pi):
    visits = counts.sum(1, keepdim=True)
    return (visits * pi - counts) / counts.sum()


def check_lean(answer):
    counts = torch.tensor([[7.0, 2.0, 1.0], [0.0, 0.0, 0.0], [3.0, 3.0, 4.0]])
    logits = (4 * Lanes((5,)).rand(1, 3, 3)[0] - 2).requires_grad_()
    pi = logits.softmax(-1)
    loss = (counts * pi.log()).sum() / counts.sum()
    truth = -torch.autograd.grad(loss, logits)[0]
    way = answer(counts, pi.detach())
    assert way is not None, "lean returns nothing yet."
    assert isinstance(way, torch.Tensor) and way.shape == counts.shape, "The direction has the shape of the logits, (S, A)."
    assert bool(way.isfinite().all()), "State 1 was never visited; its direction is 0, not a division by 0."
    assert bool((way[1].abs() < 1e-6).all()), "State 1 was never visited: nothing is known there that could be repeated, so nothing moves."
    assert not close(way, -truth), "This repeats what the data hold; the behaviour descends mean log pi, so turn the sign."
    assert bool((way.sum(1).abs() < 1e-5).all()), "Within a state the direction sums to 0: the score of a softmax is one-hot minus pi."
    assert close(way, truth), "Minus the gradient of mean log pi over all samples: (visits * pi - counts) / all samples."


# 03.6


def smallest_honest(ratios, clips, share):
    """ratios (P, B): row p was trained with clips[p] -> the smallest clip that at most `share` of its own ratios leave, or None."""
    ...  # your code


def smallest_honest_solution(ratios, clips, share):
    outside = ((ratios - 1).abs() > torch.tensor(clips)[:, None]).float().mean(1)
    return min((clip for clip, out in zip(clips, outside.tolist(), strict=True) if out <= share), default=None)


def check_smallest_honest(answer):
    u = Lanes((0,)).rand(3, 4, 2000)[0]
    clips = (0.4, 0.1, 0.2, 0.05)
    low = 1 - torch.tensor([0.5, 0.35, 0.26, 0.3])[:, None]  # the left tails are the long ones
    high = 1 + torch.tensor([0.3, 0.05, 0.1, 0.02])[:, None]
    ratios = low + u * (high - low)  # outside their own clips: 12.5%, 62%, 17%, 78%
    found = answer(ratios, clips, 0.2)
    assert found is not None or answer(ratios, clips, 1.0) is not None, "smallest_honest returns nothing yet."
    assert found != 0.05, "Ratios below 1 - eps are outside as well; here nearly all of the leak is on that side."
    assert found == 0.2, f"With a share of 0.2 the answer is 0.2, yours is {found}: each row by its own clip; then the least."
    assert answer(ratios, clips, 0.15) == 0.4, "With a share of 0.15 only the clip of 0.4 is left."
    assert answer(ratios, clips, 0.05) is None, "With a share of 0.05 no clip passes; the answer is None."


def unclipped_side(ratios, clips, share):
    outside = (ratios > 1 + torch.tensor(clips)[:, None]).float().mean(1)
    return min((clip for clip, out in zip(clips, outside.tolist(), strict=True) if out <= share), default=None)


def widest(ratios, clips, share):
    outside = ((ratios - 1).abs() > torch.tensor(clips)[:, None]).float().mean(1)
    return max((clip for clip, out in zip(clips, outside.tolist(), strict=True) if out <= share), default=None)


def one_fence(ratios, clips, share):
    outside = ((ratios - 1).abs() > 0.2).float().mean(1)
    return min((clip for clip, out in zip(clips, outside.tolist(), strict=True) if out <= share), default=None)


# 03.7


def uphill(plus, minus, noise, sigma):
    """Fitness (n,) of the tries at +sigma noise and at -sigma noise, noise (n, P), sigma a number -> estimated gradient (P,)."""
    ...  # your code


def uphill_solution(plus, minus, noise, sigma):
    return ((plus - minus)[:, None] * noise).mean(0) / (2 * sigma)


def check_uphill(answer):
    slope, noise = torch.tensor([2.0, -1.0, 0.5]), 3**0.5 * torch.eye(3)
    plus, minus = (4.0 + sign * 0.1 * noise @ slope + (0.1 * noise).square().sum(1) for sign in (1, -1))
    found = answer(plus, minus, noise, 0.1)
    assert found is not None, "uphill returns nothing yet."
    assert isinstance(found, torch.Tensor) and found.shape == (3,), "The gradient has one number per weight, (P,)."
    assert bool((found * slope > 0).all()), "Every weight should move towards the better of its two tries."
    scale = (found @ slope / slope.square().sum()).item()
    assert close(found, scale * slope, 1e-4), "A curve common to both tries of a pair must cancel: use their difference."
    assert close(found, slope, 1e-4), f"The direction is right, but it is {scale:.3g} times as long as the slope of this bowl."


EXERCISES = [
    Exercise(
        key="03.1",
        prompt="Write fence(ratio, adv, eps), the gain that PPO climbs.",
        check=check_fence,
        stub=fence,
        solution=fence_solution,
        wrong={
            "clips both": lambda ratio, adv, eps: ratio.clamp(1 - eps, 1 + eps) * adv,
            "max": lambda ratio, adv, eps: torch.maximum(ratio * adv, ratio.clamp(1 - eps, 1 + eps) * adv),
            "min of ratios": lambda ratio, adv, eps: torch.minimum(ratio, ratio.clamp(1 - eps, 1 + eps)) * adv,
            "clips the gain": lambda ratio, adv, eps: (ratio * adv).clamp(1 - eps, 1 + eps),
            "no clip": lambda ratio, adv, eps: ratio * adv,
        },
        hints=("Write the clipped and the unclipped gain first, each times the advantage.", "PPO believes the worse of the two."),
    ),
    Exercise(
        key="03.2",
        prompt="Write to_the_edge(way, product, delta): the step along `way` that the quadratic model of the KL allows.",
        check=check_to_the_edge,
        stub=to_the_edge,
        solution=to_the_edge_solution,
        wrong={
            "forgets the root": lambda way, product, delta: way * 2 * delta / (way * product(way)).sum(1, keepdim=True),
            "forgets the 2": lambda way, product, delta: way * (delta / (way * product(way)).sum(1, keepdim=True)).sqrt(),
            "one length for all lanes": lambda way, product, delta: way * (2 * delta / (way * product(way)).sum()).sqrt(),
            "measures in parameters": lambda way, product, delta: way * (2 * delta / way.square().sum(1, keepdim=True)).sqrt(),
        },
        hints=(
            "If x is c times `way`, then 1/2 x'Fx is c^2 times that of `way`.",
            "Set c^2 * 1/2 way'F way = delta and solve for c, lane by lane.",
        ),
    ),
    Exercise(
        key="03.3",
        prompt="Write repaired(gap, bound): which lanes may leave fixpo's second phase.",
        check=check_repaired,
        stub=repaired,
        solution=repaired_solution,
        wrong={
            "mean": lambda gap, bound: gap.mean(1) <= bound[:, 0],
            "some state inside": lambda gap, bound: gap.amin(1) <= bound[:, 0],
            "all lanes at once": lambda gap, bound: (gap.max() <= bound)[:, 0],
            "turned around": lambda gap, bound: gap.amax(1) > bound[:, 0],
        },
        hints=("The guarantee speaks of every state of the batch.", "Which single state of a lane decides? Compare it with bound[:, 0]."),
    ),
    Exercise(
        key="03.4",
        prompt="Write brake_on_bad(ratio, adv, beta): the discovered drift where the advantage is negative.",
        check=check_brake_on_bad,
        stub=brake_on_bad,
        solution=brake_on_bad_solution,
        wrong={
            "as for good actions": lambda r, a, b: ((r - 1) * a - b * ((r - 1) * a / b).tanh()).relu(),
            "no relu": lambda r, a, b: r.log() * a - b * (r.log() * a / b).tanh(),
            "no tanh": lambda r, a, b: (r.log() * a).relu(),
            "size of the advantage": lambda r, a, b: (r.log() * -a - b * (r.log() * -a / b).tanh()).relu(),
        },
        hints=(
            "Everything is the same as for good actions except how the ratio is seen.",
            "Put log r in the place of r - 1, and beta in that of alpha.",
        ),
    ),
    Exercise(
        key="03.5",
        prompt="Write lean(counts, pi): where the first step of props moves the behaviour's logits.",
        check=check_lean,
        stub=lean,
        solution=lean_solution,
        wrong={
            "repeats the data": lambda n, pi: (n - n.sum(1, keepdim=True) * pi) / n.sum(),
            "no baseline": lambda n, pi: -n / n.sum(),
            "per state": lambda n, pi: pi - n / n.sum(1, keepdim=True),
            "all states alike": lambda n, pi: pi - n / n.sum(1, keepdim=True).clamp_min(1),
        },
        hints=(
            "At phi = theta the ratio g is 1, and the gradient of g is that of log pi_phi.",
            "The gradient of log pi(a) for the logits of its state is one-hot(a) - pi. Average it over all samples, and descend.",
        ),
    ),
    Exercise(
        key="03.6",
        prompt="Write smallest_honest(ratios, clips, share): choose a clip by what it really holds.",
        check=check_smallest_honest,
        stub=smallest_honest,
        solution=smallest_honest_solution,
        wrong={"one side": unclipped_side, "widest": widest, "one fence for all": one_fence},
        hints=(
            "Outside means further than the clip from 1, on either side.",
            "Compute a share per row with that row's clip; then min(...) with default=None.",
        ),
    ),
    Exercise(
        key="03.7",
        prompt="Write uphill(plus, minus, noise, sigma), the gradient that evolution strategies estimate from antithetic pairs.",
        check=check_uphill,
        stub=uphill,
        solution=uphill_solution,
        wrong={
            "forgets sigma": lambda plus, minus, noise, sigma: ((plus - minus)[:, None] * noise).mean(0) / 2,
            "adds up the pairs": lambda plus, minus, noise, sigma: ((plus - minus)[:, None] * noise).sum(0) / (2 * sigma),
            "looks at one side only": lambda plus, minus, noise, sigma: (plus[:, None] * noise).mean(0) / sigma,
            "goes downhill": lambda plus, minus, noise, sigma: -uphill_solution(plus, minus, noise, sigma),
        },
        hints=(
            "A pair tells how much better one side is than the other, along its own direction: a difference quotient times the direction.",
            "The two tries lie 2 sigma apart, and the estimate is the mean over pairs.",
        ),
    ),
]
