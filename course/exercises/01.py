"""Exercises of chapter 01: divergences by hand, occupancy, an estimator, and the split of a change of return."""
import torch

from labkit import divergence, worlds
from labkit.course.progress import Exercise
from labkit.lanes import Lanes
from labkit.policy import Categorical
from labkit.worlds import finite


def close(answer, truth):
    """Is the answer a tensor of the truth's shape and values?"""
    return isinstance(answer, torch.Tensor) and answer.shape == truth.shape and bool((answer.double() - truth).abs().max() < 1e-6)


def policies(*shape, seed=0):
    """Random distributions (*shape, A), away from the uniform one."""
    return (3 * Lanes((seed,)).rand(1, *shape)[0].double()).softmax(-1)


# 01.1


def both_kls(p, q):
    """p, q (A,), which may hold zeros -> KL(p || q), KL(q || p): two numbers, in nats."""
    forward = ...   # your code
    reverse = ...
    return forward, reverse


def both_kls_solution(p, q):
    def kl(a, b):
        return torch.where(a > 0, a * (a.log() - b.log()), 0.0).sum()

    return kl(p, q), kl(q, p)


def check_both_kls(answer):
    p, q, bit = policies(5, seed=1), policies(5, seed=2), torch.tensor(2.0).double().log()
    forward, reverse = answer(p, q)
    assert forward is not Ellipsis and reverse is not Ellipsis, "both_kls still holds its dots."
    truth = [divergence.kl(Categorical(a.log()), Categorical(b.log())) for a, b in ((p, q), (q, p))]
    pair = [torch.as_tensor(x).double() for x in (forward, reverse)]
    swapped = all(close(a, b) for a, b in zip(pair, truth[::-1], strict=True))
    assert not swapped, "The two are swapped: KL(p || q) averages over p, the policy that is named first."
    assert not all(close(a * bit, b) for a, b in zip(pair, truth, strict=True)), "These are bits; nats take the natural logarithm."
    assert close(pair[0], truth[0]), "KL(p || q) is the mean under p of log p - log q."
    assert close(pair[1], truth[1]), "The first is right; KL(q || p) is the mean under q of log q - log p."
    sure, even = torch.tensor([1.0, 0.0]).double(), torch.tensor([0.5, 0.5]).double()
    forward, reverse = (torch.as_tensor(x).double() for x in answer(sure, even))
    assert not bool(forward.isnan() or reverse.isnan()), "With p = (1, 0) and q = (1/2, 1/2) you return NaN: 0 * log 0 counts as 0."
    assert close(forward, bit) and reverse == torch.inf, "With p = (1, 0) and q = (1/2, 1/2) it is log 2 forward and infinity in reverse."


# 01.2


def best_event(p, q):
    """p, q (A,) -> the total variation, and the event that shows it: a mask (A,) of bools."""
    tv = ...        # your code
    event = ...
    return tv, event


def best_event_solution(p, q):
    event = p > q
    return (p - q)[event].sum(), event


def check_best_event(answer):
    p, q = torch.tensor([0.5, 0.2, 0.2, 0.1], dtype=torch.float64), torch.tensor([0.3, 0.1, 0.25, 0.35], dtype=torch.float64)
    tv, event = answer(p, q)
    assert tv is not Ellipsis and event is not Ellipsis, "best_event still holds its dots."
    tv = torch.as_tensor(tv).double()
    assert not close(tv, torch.tensor(0.6).double()), "The sum of |p - q| counts every moved bit of probability twice."
    assert not close(tv, torch.tensor(0.25).double()), "That is the best single action; an event may hold several."
    assert close(tv, torch.tensor(0.3).double()), "For p = (.5, .2, .2, .1) and q = (.3, .1, .25, .35) the total variation is 0.3."
    assert isinstance(event, torch.Tensor) and event.dtype == torch.bool and event.shape == p.shape, "The event is a mask (A,) of bools."
    assert bool(((p - q)[event].sum() - 0.3).abs() < 1e-9) or bool(((q - p)[event].sum() - 0.3).abs() < 1e-9), (
        "Summed over your event, p and q do not differ by 0.3; gather all actions on one side."
    )


# 01.3


def where_it_goes(P, pi, mu, gamma):
    """P (S, A, S), pi (S, A), mu (S,) -> d (S,), the normalised discounted occupancy."""
    d = ...         # your code: solve the flow equations
    return d


def where_it_goes_solution(P, pi, mu, gamma):
    step = (pi[:, :, None] * P).sum(1)
    return (1 - gamma) * torch.linalg.solve(torch.eye(len(mu), dtype=P.dtype) - gamma * step.T, mu)


def check_where_it_goes(answer):
    mdp = worlds.make("finite.garnet", states=6, actions=3, branching=2, seed=3, gamma=0.9).mdp
    pi, mu = policies(6, 3), torch.tensor([0.7, 0.3, 0, 0, 0, 0], dtype=torch.float64)
    start = finite.MDP(mdp.P, mdp.r, mu[None], 0.9)
    d, truth = answer(mdp.P[0], pi, mu, 0.9), finite.occupancy(start, pi[None])[0]
    assert d is not Ellipsis, "where_it_goes still holds its dots."
    assert isinstance(d, torch.Tensor) and d.shape == truth.shape, "An occupancy has one number per state, (S,)."
    assert not close(d, truth / 0.1), "Your d sums to 1 / (1 - gamma), the expected number of steps; as shares it sums to 1."
    assert bool((d.sum() - 1).abs() < 1e-6), "In a world without ends an occupancy sums to 1; is the matrix the right way round?"
    assert close(d, truth), "It sums to 1 but is not the flow: a state takes (1 - gamma) mu plus gamma times what arrives there."


# 01.4


def drift_estimate(log_p, log_q):
    """log p(a), log q(a) (N,) of actions a that p took -> k3 estimates (N,) of KL(p || q)."""
    each = ...      # your code
    return each


def drift_estimate_solution(log_p, log_q):
    log_ratio = log_q - log_p
    return torch.expm1(log_ratio) - log_ratio


def check_drift_estimate(answer):
    p, q = policies(4, seed=5), policies(4, seed=6)
    each, truth = answer(p.log(), q.log()), divergence.kl(Categorical(p.log()), Categorical(q.log()))
    assert each is not Ellipsis, "drift_estimate still holds its dots."
    assert isinstance(each, torch.Tensor) and each.shape == p.shape, "Return one estimate per sample, (N,); the mean comes later."
    assert bool((each >= 0).all()), "Some of your estimates are negative: k3 never is. This looks like k1, or a sign is lost."
    mean = (p * each.double()).sum()  # over every action as often as p takes it
    assert bool((mean - truth).abs() < 1e-6), (
        f"Averaged exactly over p, your estimates give {mean:.4f}, but KL(p || q) is {truth:.4f}: look at the direction of the ratio."
    )


# 01.5


def split_by_state(d_old, d_new, pi_old, pi_new, advantage_old, gamma):
    """d (S,), pi and advantage (S, A) -> (S,): what each state adds to J(new) - J(old)."""
    split = ...     # your code
    return split


def split_by_state_solution(d_old, d_new, pi_old, pi_new, advantage_old, gamma):
    return d_new * (pi_new * advantage_old).sum(-1) / (1 - gamma)


def check_split_by_state(answer):
    mdp = worlds.make("finite.garnet", states=8, actions=3, branching=2, seed=4, gamma=0.8).mdp
    old, new = policies(1, 8, 3, seed=7), policies(1, 8, 3, seed=8)
    d_old, d_new, A = finite.occupancy(mdp, old)[0], finite.occupancy(mdp, new)[0], finite.advantage(mdp, old)[0]
    split, truth = answer(d_old, d_new, old[0], new[0], A, 0.8), finite.performance_difference(mdp, old, new)[1][0]
    assert split is not Ellipsis, "split_by_state still holds its dots."
    assert isinstance(split, torch.Tensor) and split.shape == truth.shape, "One number per state, (S,)."
    assert not close(split, 0.2 * truth), "Your split sums to (1 - gamma) times the change: an occupancy is made of shares, not of steps."
    assert not close(split, (d_old * (new[0] * A).sum(-1)) / 0.2), "That is the surrogate: it weighs states as the old policy visits them."
    assert bool(split.abs().max() > 1e-6), "The old policy's mean advantage is zero in every state: which policy takes the actions?"
    assert close(split, truth), f"Your split sums to {split.sum():.4f}, the return changes by {truth.sum():.4f}."


EXERCISES = [
    Exercise(
        key="01.1",
        prompt="Write both_kls(p, q), the forward and the reverse KL of two distributions that may hold zeros, in nats.",
        check=check_both_kls,
        stub=both_kls,
        solution=both_kls_solution,
        wrong={
            "swapped": lambda p, q: both_kls_solution(q, p),
            "in bits": lambda p, q: tuple(x / torch.tensor(2.0).log() for x in both_kls_solution(p, q)),
            "a sign lost": lambda p, q: tuple(-x for x in both_kls_solution(p, q)),
            "the same twice": lambda p, q: (both_kls_solution(p, q)[0],) * 2,
            "NaN at zeros": lambda p, q: ((p * (p / q).log()).sum(), (q * (q / p).log()).sum()),
            "never infinite": lambda p, q: both_kls_solution(p.clamp(min=1e-12), q.clamp(min=1e-12)),
        },
        hints=(
            "A KL divergence is a mean of a difference of logarithms. Under which policy is the mean taken?",
            "The first named does the averaging; torch.where(p > 0, p * (p.log() - q.log()), 0.0) keeps its zeros from becoming NaN.",
        ),
    ),
    Exercise(
        key="01.2",
        prompt="Write best_event(p, q): the total variation, and the event on which p and q differ by that much.",
        check=check_best_event,
        stub=best_event,
        solution=best_event_solution,
        wrong={
            "without the half": lambda p, q: ((p - q).abs().sum(), p > q),
            "the best single action": lambda p, q: ((p - q).abs().max(), (p - q).abs() == (p - q).abs().max()),
            "every action that moved": lambda p, q: (0.5 * (p - q).abs().sum(), p != q),
        },
        hints=(
            "Put into the event every action that p likes better than q does. What would adding one more action do?",
            "event = p > q, and the total variation is how much more probability p gives to it.",
        ),
    ),
    Exercise(
        key="01.3",
        prompt="Write where_it_goes(P, pi, mu, gamma): the discounted occupancy, from the flow equations.",
        check=check_where_it_goes,
        stub=where_it_goes,
        solution=where_it_goes_solution,
        wrong={
            "forgets 1 - gamma": lambda P, pi, mu, gamma: where_it_goes_solution(P, pi, mu, gamma) / (1 - gamma),
            "not transposed": lambda P, pi, mu, gamma: (1 - gamma)
            * torch.linalg.solve(torch.eye(len(mu)).double() - gamma * (pi[:, :, None] * P).sum(1), mu),
            "never starts": lambda P, pi, mu, gamma: where_it_goes_solution(P, pi, torch.ones_like(mu) / len(mu), gamma),
        },
        hints=(
            "What is in s at any time has just started there, or it arrives from some state s' by an action: write that as d = b + M d.",
            "With step[s', s] = sum_a pi(a | s') P(s | s', a), arrivals are step.T @ d, so (I - gamma step.T) d = (1 - gamma) mu.",
        ),
    ),
    Exercise(
        key="01.4",
        prompt="Write drift_estimate(log_p, log_q): one k3 estimate of KL(p || q) per action that p took.",
        check=check_drift_estimate,
        stub=drift_estimate,
        solution=drift_estimate_solution,
        wrong={
            "k1": lambda log_p, log_q: log_p - log_q,
            "k2": lambda log_p, log_q: 0.5 * (log_q - log_p).square(),
            "ratio upside down": lambda log_p, log_q: torch.expm1(log_p - log_q) - (log_p - log_q),
            "averaged": lambda log_p, log_q: drift_estimate_solution(log_p, log_q).mean(),
        },
        hints=(
            "Start from k1 = -log r, with r = q / p, and add something whose mean under p is zero.",
            "The mean of r under p is 1, so r - 1 may be added; it makes (r - 1) - log r, never negative since log r <= r - 1.",
        ),
    ),
    Exercise(
        key="01.5",
        prompt="Write split_by_state(...): how much each state adds to the change of return.",
        check=check_split_by_state,
        stub=split_by_state,
        solution=split_by_state_solution,
        wrong={
            "old occupancy": lambda d_old, d_new, pi_old, pi_new, A, gamma: d_old * (pi_new * A).sum(-1) / (1 - gamma),
            "old policy": lambda d_old, d_new, pi_old, pi_new, A, gamma: d_new * (pi_old * A).sum(-1) / (1 - gamma),
            "forgets 1 - gamma": lambda d_old, d_new, pi_old, pi_new, A, gamma: d_new * (pi_new * A).sum(-1),
        },
        hints=(
            "New occupancy, new policy, old advantage.",
            "The advantage is averaged over the actions of pi_new, weighted with d_new, and divided by 1 - gamma.",
        ),
    ),
]
