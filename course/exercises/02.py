"""Exercises of chapter 02: the score, reward-to-go, leave-one-out, GAE, the natural direction, what a path is worth."""
import torch
from torch.nn.functional import one_hot

from labkit.course.progress import Exercise


def close(answer, truth, advice):
    """Fail with `advice` unless the answer has the truth's shape and, to 1e-5, its numbers."""
    assert answer is not None, "the function returns nothing yet."
    answer = torch.as_tensor(answer).double()
    assert answer.shape == truth.shape, f"the answer has shape {tuple(answer.shape)}; it should have {tuple(truth.shape)}."
    assert torch.allclose(answer, truth.double(), atol=1e-5), advice


# 02.1


def score(logits, action):
    """Gradient of log pi(action) with respect to the logits: logits (A,) -> (A,)."""
    ...


def score_solution(logits, action):
    return one_hot(torch.tensor(action), len(logits)) - logits.softmax(0)


def check_score(answer):
    logits = torch.tensor([0.0, 1.0, -0.5])
    pi = logits.softmax(0)
    rows = [answer(logits, a) for a in range(3)]
    assert rows[0] is not None, "the function returns nothing yet."
    mean = pi @ torch.stack([torch.as_tensor(row).float() for row in rows])
    close(mean, torch.zeros(3), "averaged over the policy, a score must be zero.")
    for a in range(3):
        theta = logits.clone().requires_grad_()
        truth = torch.autograd.grad(theta.log_softmax(0)[a], theta)[0]
        close(rows[a], truth, f"for action {a} autograd finds {[round(x, 3) for x in truth.tolist()]}.")


# 02.2


def to_go(reward, gamma):
    """G_t = r_t + gamma r_(t+1) + gamma^2 r_(t+2) + ...: reward (T,) -> (T,)."""
    ...


def to_go_solution(reward, gamma):
    total, out = 0.0, torch.zeros_like(reward)
    for t in reversed(range(len(reward))):
        total = out[t] = reward[t] + gamma * total
    return out


def check_to_go(answer):
    plain, late = answer(torch.tensor([1.0, 1.0, 1.0]), 1.0), answer(torch.tensor([0.0, 0.0, 1.0]), 0.5)
    close(plain, torch.tensor([3.0, 2.0, 1.0]), "undiscounted, three rewards of 1 leave 3, 2 and 1 to go.")
    close(late, torch.tensor([0.25, 0.5, 1.0]), "a reward counts gamma for each step that lies between you and it.")


# 02.3


def leave_one_out(returns):
    """For each of E episodes a baseline that is the mean return of the others: returns (E,) -> (E,)."""
    ...


def leave_one_out_solution(returns):
    return (returns.sum() - returns) / (len(returns) - 1)


def check_leave_one_out(answer):
    returns = torch.tensor([4.0, 0.0, 2.0, 6.0])
    baseline = answer(returns)
    assert baseline is not None, "the function returns nothing yet."
    assert torch.as_tensor(baseline).shape == (4,), "each episode has a baseline of its own: return (E,) numbers."
    moved = answer(returns + torch.tensor([100.0, 0.0, 0.0, 0.0]))[0] - baseline[0]
    assert abs(float(moved)) < 1e-4, "the first baseline moved when only the first return did: it still sees its own sample."
    close(baseline, torch.tensor([8.0, 12.0, 10.0, 6.0]) / 3, "there are E - 1 others.")


# 02.4


def advantages(reward, value, next_value, terminated, truncated, gamma, lam):
    """GAE of one stream of T steps that may hold several episodes; all arguments (T,), the flags bool -> (T,)."""
    ...


def advantages_solution(reward, value, next_value, terminated, truncated, gamma, lam):
    delta = reward + gamma * next_value * ~terminated - value
    later, out = 0.0, torch.zeros_like(reward)
    for t in reversed(range(len(reward))):
        later = out[t] = delta[t] + gamma * lam * later * float(not (terminated[t] or truncated[t]))
    return out


def bootstraps_at_termination(reward, value, next_value, terminated, truncated, gamma, lam):
    return advantages_solution(reward, value, next_value, terminated & False, terminated | truncated, gamma, lam)


def never_bootstraps_at_an_end(reward, value, next_value, terminated, truncated, gamma, lam):
    return advantages_solution(reward, value, next_value, terminated | truncated, truncated, gamma, lam)


def runs_on_past_truncation(reward, value, next_value, terminated, truncated, gamma, lam):
    return advantages_solution(reward, value, next_value, terminated, truncated & False, gamma, lam)


def check_advantages(answer):
    reward, value, next_value = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([10.0, 20.0, 30.0]), torch.tensor([20.0, 30.0, 40.0])
    never, second = torch.tensor([False] * 3), torch.tensor([False, True, False])
    short, long = (answer(reward, value, next_value, never, never, 0.5, lam) for lam in (0.0, 1.0))
    close(short, torch.tensor([1.0, -3.0, -7.0]), "with lambda 0 it is the TD error.")
    close(long, torch.tensor([-2.25, -6.5, -7.0]), "later TD errors count gamma * lambda a step.")
    over = answer(reward, value, next_value, second, never, 0.5, 1.0)
    close(over, torch.tensor([-8.0, -18.0, -7.0]), "after termination nothing follows: no value there, and no later TD error.")
    cut = answer(reward, value, next_value, never, second, 0.5, 1.0)
    close(cut, torch.tensor([-0.5, -3.0, -7.0]), "a truncated step keeps its next state's value, but not the next episode's TD errors.")


# 02.5


def natural_direction(visits, pi, q):
    """Natural gradient in the logits of a tabular softmax: visits (S,), pi (S, A), q (S, A) -> (S, A)."""
    ...


def natural_direction_solution(visits, pi, q):
    return q - (pi * q).sum(-1, keepdim=True)


def check_natural_direction(answer):
    visits, q = torch.tensor([5.0, 0.1]), torch.tensor([[1.0, 2.0, 4.0], [0.0, 3.0, 1.0]])
    pi = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]])
    step = answer(visits, pi, q)
    assert step is not None, "the function returns nothing yet."
    step = torch.as_tensor(step)
    assert step.shape == q.shape, f"the answer has shape {tuple(step.shape)}; it should have {tuple(q.shape)}."
    fisher = torch.block_diag(*(n * (torch.diag(p) - torch.outer(p, p)) for n, p in zip(visits, pi, strict=True)))
    plain = visits[:, None] * pi * (q - (pi * q).sum(-1, keepdim=True))
    advice = "the Fisher matrix times your direction must give back the plain gradient, in rare states and for rare actions too."
    close((fisher @ step.float().flatten()).view_as(q), plain, advice)


# 02.6


def exit_weights(reward, done):
    """The weight of each step's score: what its episode paid in all, for the steps of the first episode, else 0; (T,) both -> (T,)."""
    ...


def exit_weights_solution(reward, done):
    running = torch.cat([torch.ones(1), (~done).float().cumprod(0)[:-1]])
    return running * (running * reward).sum()


def weighs_by_what_is_to_come(reward, done):
    return to_go_solution(exit_weights_solution(reward, done).sign() * reward, 1.0)


def check_exit_weights(answer):
    reward, done = torch.tensor([1.0, 0.0, 2.0, 5.0]), torch.tensor([False, False, True, False])
    weight = answer(reward, done)
    assert weight is not None, "the function returns nothing yet."
    assert torch.as_tensor(weight).shape == (4,), "each step has a weight of its own: return (T,) numbers."
    assert float(weight[3]) == 0, "the fourth step belongs to the next episode: it counts for nothing."
    assert float(weight[0]) != 8, "the 5 was paid in the next episode; what is paid after the exit is not this path's."
    assert float(weight[2]) != 0, "the step at which the episode ends was still taken in it."
    close(weight, torch.tensor([3.0, 3.0, 3.0, 0.0]), "each running step is weighted by all that the path paid, 1 + 2.")
    close(answer(reward, done & False), torch.full((4,), 8.0), "without an exit the whole row is one episode.")


EXERCISES = [
    Exercise(
        key="02.1",
        prompt="Write score(logits, action), the gradient of log pi(action) of a softmax policy.",
        check=check_score,
        stub=score,
        solution=score_solution,
        wrong={
            "forgets the normaliser": lambda logits, action: one_hot(torch.tensor(action), len(logits)),
            "differentiates pi": lambda logits, action: logits.softmax(0)[action] * score_solution(logits, action),
            "has the sign turned": lambda logits, action: -score_solution(logits, action),
        },
        hints=("log pi(a) = theta_a - log sum_b exp(theta_b).", "The derivative of the second part with respect to theta_b is pi(b)."),
    ),
    Exercise(
        key="02.2",
        prompt="Write to_go(reward, gamma), the discounted sum of this and all later rewards of one episode.",
        check=check_to_go,
        stub=to_go,
        solution=to_go_solution,
        wrong={
            "gives every step the whole return": lambda reward, gamma: to_go_solution(reward, gamma)[:1].expand(len(reward)),
            "counts the past": lambda reward, gamma: reward.cumsum(0),
            "discounts from the start": lambda reward, gamma: (reward * gamma ** torch.arange(len(reward))).flip(0).cumsum(0).flip(0),
            "forgets to discount": lambda reward, gamma: reward.flip(0).cumsum(0).flip(0),
        },
        hints=("The last step has only its own reward to go: begin there.", "G_t = r_t + gamma G_(t+1), with nothing after the end."),
    ),
    Exercise(
        key="02.3",
        prompt="Write leave_one_out(returns), for each episode the mean return of all the others.",
        check=check_leave_one_out,
        stub=leave_one_out,
        solution=leave_one_out_solution,
        wrong={
            "includes its own sample": lambda returns: returns.mean().expand(len(returns)),
            "divides by E": lambda returns: (returns.sum() - returns) / len(returns),
            "gives one number": lambda returns: returns.mean(),
        },
        hints=("The sum of the others is the sum of all, less your own.", "How many others are there?"),
    ),
    Exercise(
        key="02.4",
        prompt="Write advantages(...), GAE over a stream of steps in which episodes terminate or are cut off.",
        check=check_advantages,
        stub=advantages,
        solution=advantages_solution,
        wrong={
            "bootstraps at termination": bootstraps_at_termination,
            "takes truncation for an end of the world": never_bootstraps_at_an_end,
            "runs on into the next episode": runs_on_past_truncation,
        },
        hints=(
            "Two questions at each step: does a state follow, so that its value counts? Does the same episode go on?",
            "The TD error asks only `terminated`; the sum over later TD errors stops at either flag.",
        ),
    ),
    Exercise(
        key="02.5",
        prompt="Write natural_direction(visits, pi, q), the natural gradient in the logits of a tabular softmax policy.",
        check=check_natural_direction,
        stub=natural_direction,
        solution=natural_direction_solution,
        wrong={
            "is the plain gradient": lambda visits, pi, q: visits[:, None] * pi * natural_direction_solution(visits, pi, q),
            "keeps the visits": lambda visits, pi, q: visits[:, None] * natural_direction_solution(visits, pi, q),
            "divides by pi once too often": lambda visits, pi, q: natural_direction_solution(visits, pi, q) / pi,
        },
        hints=(
            "The Fisher matrix of one state is visits * (diag(pi) - pi pi^T).",
            "Apply it to the vector of advantages and see what comes out.",
        ),
    ),
    Exercise(
        key="02.6",
        prompt="Write exit_weights(reward, done), what multiplies each step's score when a path is paid at its exit.",
        check=check_exit_weights,
        stub=exit_weights,
        solution=exit_weights_solution,
        wrong={
            "runs on into the next episode": lambda reward, done: reward.sum().expand(len(reward)),
            "leaves out the last step": lambda reward, done: (~done).float().cumprod(0) * exit_weights_solution(reward, done),
            "gives each step what is still to come": weighs_by_what_is_to_come,
            "weighs later steps too": lambda reward, done: exit_weights_solution(reward, done)[0].expand(len(reward)),
        },
        hints=(
            "A step is running if no step before it was done; a cumulative product of ~done, shifted by one, says so.",
            "Add the rewards of the running steps, and give that sum to each of them.",
        ),
    ),
]
