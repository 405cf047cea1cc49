"""Every equation of chapter 02, compared with the code it stands beside: the chapter's own functions and labkit's."""
import ast
import itertools
import math
from fractions import Fraction
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import one_hot

from labkit import worlds
from labkit.course import build
from labkit.divergence import kl
from labkit.lanes import Lanes
from labkit.on_policy.family import Batch, gae, reward_to_go
from labkit.policy import Categorical
from labkit.tabular.family import policy_gradient
from labkit.worlds.finite import advantage, expected_return, occupancy, values

ROOMS = worlds.make("finite.chain", n=2, gamma=0.8, horizon=40)
COIN = torch.full((1, 2, 2), 0.5, dtype=torch.float64)
GARNET = worlds.make("finite.garnet", states=6, actions=3, seed=range(4), gamma=0.9)


def chapter():
    """The functions that the chapter defines, without running its cells."""
    cells = [c.source for c in build.draft(build.sources(["02"])[0]).cells if c.cell_type == "code"]
    kept = (ast.FunctionDef, ast.Import, ast.ImportFrom)
    code = [node for cell in cells for node in ast.parse(cell).body if isinstance(node, kept)]
    space: dict = {}
    exec(compile(ast.Module(code, []), "chapter 02", "exec"), space)
    return SimpleNamespace(**space)


CHAPTER = chapter()


def random_policy(world, seed=0):
    logits = 3 * torch.randn(world.mdp.lanes, world.mdp.states, world.mdp.actions, generator=torch.Generator().manual_seed(seed)).double()
    return logits, logits.softmax(-1)


def fraction(x):
    return Fraction(float(x)).limit_denominator(1000)


# 1: the score


def test_the_score_is_the_gradient_of_log_pi_and_averages_to_zero():
    theta = torch.tensor([0.4, -1.0, 2.0], dtype=torch.float64, requires_grad=True)
    jacobian = torch.autograd.functional.jacobian(lambda x: x.log_softmax(0), theta)
    pi = theta.detach().softmax(0)
    torch.testing.assert_close(torch.eye(3) - pi, jacobian)
    torch.testing.assert_close(pi @ jacobian, torch.zeros(3).double())


def test_a_baseline_moves_the_noise_and_not_the_mean():
    pi, reward = torch.tensor([0.25, 0.75]).double(), torch.tensor([2.0, 1.0]).double()
    score = (torch.eye(2) - pi)[:, 0]
    deviation = []
    for b in (-10.0, 0.0, 1.25, 1.75):
        sample = (reward - b) * score
        assert (pi * sample).sum().item() == pytest.approx(3 / 16, abs=1e-12)
        deviation.append((pi * (sample - 3 / 16) ** 2).sum().sqrt().item())
    assert deviation == pytest.approx([5.0879, 0.7578, 0.2165, 0.0], abs=1e-4)


# 2: the theorem


def test_the_two_rooms_by_hand():
    V = values(ROOMS.mdp, COIN)[1][0]
    visits = occupancy(ROOMS.mdp, COIN)[0] / (1 - 0.8)
    assert [fraction(x) for x in V] == [Fraction(5, 11), Fraction(15, 22)]
    assert [fraction(x) for x in advantage(ROOMS.mdp, COIN)[0, :, 1]] == [Fraction(1, 11), Fraction(7, 22)]
    assert [fraction(x) for x in visits] == [Fraction(25, 11), Fraction(10, 11)]
    gradient = policy_gradient(ROOMS.mdp, COIN, values(ROOMS.mdp, COIN)[0])[0]
    assert [fraction(x) for x in gradient[:, 1]] == [Fraction(25, 242), Fraction(35, 242)]


def test_the_gradient_of_v_obeys_the_equation_of_a_value():
    """grad V(s) = sum_a grad pi Q + gamma sum_s' P_pi grad V(s')."""
    mdp, (logits, pi) = GARNET.mdp, random_policy(GARNET)
    jacobian = torch.autograd.functional.jacobian(lambda x: values(mdp, x.softmax(-1))[1].sum(0), logits)  # (S, L, S, A)
    grad_v = jacobian.permute(1, 0, 2, 3)  # (L, S, S, A)
    q = values(mdp, pi)[0]
    score = torch.diag_embed(pi) - pi[..., None] * pi[..., None, :]  # d pi(a|s) / d logit (s, b)
    here = torch.diag_embed((score * q[..., None]).sum(2).transpose(1, 2)).permute(0, 2, 3, 1)  # (L, S, S, A), where the states agree
    P_pi = (pi[..., None] * mdp.P).sum(2)
    torch.testing.assert_close(grad_v, here + 0.9 * torch.einsum("lst,ltua->lsua", P_pi, grad_v))


def test_the_theorem_is_the_gradient_by_autograd_and_by_differences():
    mdp, (logits, pi) = GARNET.mdp, random_policy(GARNET)
    theorem = policy_gradient(mdp, pi, values(mdp, pi)[0])
    torch.testing.assert_close(theorem, CHAPTER.by_differentiation(mdp, logits), rtol=0, atol=1e-12)
    bump = torch.zeros_like(logits)
    bump[:, 2, 1] = 1e-5
    slope = (expected_return(mdp, (logits + bump).softmax(-1)) - expected_return(mdp, (logits - bump).softmax(-1))) / 2e-5
    torch.testing.assert_close(theorem[:, 2, 1], slope, rtol=0, atol=1e-8)


# 3: REINFORCE


def every_episode(horizon):
    """All action sequences in the two rooms, each as one lane with one episode, and the chance of each under COIN."""
    actions = torch.tensor(list(itertools.product(range(2), repeat=horizon)))[..., None]
    state, rows = ROOMS.reset(torch.zeros(len(actions), 1, 1)), []
    running = torch.ones(len(actions), 1, dtype=torch.bool)
    for t in range(horizon):
        s = state["s"]
        state, reward, ended, _ = ROOMS.step(state, actions[:, t], torch.zeros(len(actions), 1, 1))
        rows.append((s, reward * running, running))
        running = running & ~ended
    s, reward, running = (torch.stack(x, 1) for x in zip(*rows, strict=True))
    return s, actions, reward, running, torch.full((len(actions),), 0.5**horizon)


def test_the_mean_of_all_possible_arrows_is_the_exact_gradient():
    s, action, reward, running, chance = every_episode(8)
    weight = CHAPTER.weights(reward, running, 0.8, baseline=0.0)
    mean = (chance[:, None, None] * CHAPTER.arrows(COIN[0], s, action, weight)).sum(0)
    logits = torch.zeros(1, 2, 2, dtype=torch.float64, requires_grad=True)
    exact = torch.autograd.grad(expected_return(ROOMS.mdp, logits.softmax(-1), 8).sum(), logits)[0][0]
    torch.testing.assert_close(mean.double(), exact, rtol=0, atol=1e-6)


def test_without_gamma_to_the_t_states_count_by_undiscounted_visits():
    s, action, reward, running, chance = every_episode(8)
    weight = CHAPTER.weights(reward, running, 0.8, 0.0) / 0.8 ** torch.arange(8)[:, None]
    mean = (chance[:, None, None] * CHAPTER.arrows(COIN[0], s, action, weight)).sum(0)
    stepwise = occupancy(ROOMS.mdp, COIN, 8)[..., None] * COIN[:, None] * advantage(ROOMS.mdp, COIN, 8)
    torch.testing.assert_close(mean.double(), stepwise.sum(1)[0], rtol=0, atol=1e-6)


def test_an_own_sample_in_the_baseline_shortens_the_arrow():
    """By 1 - 1/E: here E = 2, over all pairs of one-choice episodes."""
    pi, reward = torch.tensor([0.25, 0.75]).double(), torch.tensor([2.0, 1.0]).double()
    score, mean = torch.eye(2) - pi, torch.zeros(2).double()
    for a, b in itertools.product(range(2), repeat=2):
        base = (reward[a] + reward[b]) / 2
        mean += pi[a] * pi[b] * ((reward[a] - base) * score[a] + (reward[b] - base) * score[b]) / 2
    torch.testing.assert_close(mean, 0.5 * (pi * reward) @ score)


def test_the_error_of_an_average_falls_with_the_square_root():
    s, action, reward, running, _ = CHAPTER.play(ROOMS, COIN[0], Lanes(range(600)), 32, 40)
    spread = []
    for size in (2, 32):
        weight = CHAPTER.weights(reward[..., :size], running[..., :size], 0.8, 0.0)
        spread.append(CHAPTER.arrows(COIN[0], s[..., :size], action[..., :size], weight)[..., 1].std(0).norm().item())
    assert spread[0] / spread[1] == pytest.approx(4, rel=0.12)


def test_the_leave_one_out_weights_are_those_of_labkit():
    _, _, reward, running, ended = CHAPTER.play(ROOMS, COIN[0], Lanes(range(3)), 5, 12)
    k = SimpleNamespace(gamma=torch.tensor([[0.8]]), baseline=torch.tensor([[1.0]]))
    batch = Batch(None, None, None, None, reward, ended, torch.zeros_like(ended), None)
    torch.testing.assert_close(CHAPTER.weights(reward, running, 0.8, 1.0), reward_to_go(batch, k)[0] / 12, rtol=0, atol=1e-5)


# 4: the critic


@pytest.fixture(scope="module")
def corridor():
    """A corridor where steps slip, a policy (1, S, A), and a wrong critic (1, S)."""
    world = worlds.make("finite.chain", n=4, slip=0.2, gamma=0.9)
    pi = torch.tensor([0.4, 0.6], dtype=torch.float64).expand(1, 4, 2)
    V = values(world.mdp, pi)[1]
    return world, pi, V + torch.tensor([0.2, -0.1, 0.3, 0.0])


@pytest.mark.parametrize("lam", [0.0, 0.6, 1.0])
def test_the_moments_are_those_of_sampled_gae(corridor, lam):
    world, pi, critic = corridor
    s, action, reward, _, ended = CHAPTER.play(world, pi[0], Lanes(range(4000)), 1, 80)
    value = torch.cat([critic[0].float()[s], torch.zeros(len(s), 1, 1)], 1)
    batch = Batch(None, None, None, None, reward, ended, torch.zeros_like(ended), None)
    batch.value, batch.next_value = value[:, :-1], value[:, 1:]
    estimate = gae(batch, SimpleNamespace(gamma=torch.tensor([[0.9]]), lam=torch.tensor([[lam]])))[0][:, 0, 0].double()
    for a in range(2):
        mine = estimate[action[:, 0, 0] == a]
        for power, exact in zip((1, 2), CHAPTER.moments(world, pi, critic, lam), strict=True):
            x = mine**power
            assert abs(x.mean() - exact[0, 0, a]) < 4 * x.std() / math.sqrt(len(x)) + 1e-6


def test_the_td_error_of_an_exact_critic_has_the_advantage_as_its_mean(corridor):
    world, pi, _ = corridor
    V = values(world.mdp, pi)[1]
    for lam in (0.0, 0.5, 0.95):
        torch.testing.assert_close(CHAPTER.moments(world, pi, V, lam)[0], advantage(world.mdp, pi))


def test_at_lambda_one_the_mean_is_q_less_the_critic(corridor):
    world, pi, critic = corridor
    torch.testing.assert_close(CHAPTER.moments(world, pi, critic, 1.0)[0], values(world.mdp, pi)[0] - critic[..., None])


def test_bias_and_noise_of_the_arrow_by_enumeration(corridor):
    """At lambda 0 one sample of the arrow is delta * score, of finitely many (state, action, outcome)."""
    world, pi, critic = corridor
    A, d = advantage(world.mdp, pi), occupancy(world.mdp, pi)
    share = (d / d.sum())[..., None] * pi
    CHAPTER.arrow_error.__globals__.update(share=share, A=A, corridor=world)
    bias, noise = CHAPTER.arrow_error(pi, critic, 0.0)
    table = world.table
    delta = table.reward + 0.9 * critic[:, table.next[0]] * ~table.done - critic[:, :, None, None]  # (1, S, A, B)
    score = torch.einsum("st,sab->satb", torch.eye(4).double(), torch.eye(2).double() - pi[0, :, None])  # (S, A, S, A)
    chance, sample = (share[..., None] * table.prob)[0], delta[0, ..., None, None] * score[:, :, None]  # (S, A, B), (S, A, B, S, A)
    mean, exact = torch.einsum("sab,sabtc->tc", chance, sample), share[0] * A[0]
    assert bias.item() == pytest.approx(((mean - exact).square().sum() / exact.square().sum()).item())
    spread = torch.einsum("sab,sabtc->", chance, (sample - mean).square())
    assert noise.item() == pytest.approx((spread / exact.square().sum()).item())


def test_the_length_of_a_score():
    pi = torch.tensor([0.1, 0.2, 0.7]).double()
    torch.testing.assert_close((torch.eye(3) - pi).square().sum(1), 1 - 2 * pi + (pi * pi).sum())


# 5: the natural gradient


def test_half_the_fisher_form_is_the_kl_of_a_small_step():
    p, step = torch.tensor([0.1, 0.2, 0.7]).double(), torch.tensor([0.3, -0.2, 0.5]).double()
    score = torch.eye(3) - p
    F = torch.einsum("a,ai,aj->ij", p, score, score)
    torch.testing.assert_close(F, torch.diag(p) - torch.outer(p, p))
    torch.testing.assert_close(F, torch.autograd.functional.jacobian(lambda x: x.softmax(0), p.log()))
    for size in (1e-2, 1e-3):
        exact = kl(Categorical(p.log()), Categorical(p.log() + size * step))
        assert exact.item() == pytest.approx((size**2 / 2 * step @ F @ step).item(), rel=size)


def test_the_natural_step_is_the_advantage_in_any_units():
    p, pay = torch.tensor([0.1, 0.2, 0.7], dtype=torch.float64), torch.tensor([1.0, 0.8, 0.0], dtype=torch.float64)
    F, g = torch.diag(p) - torch.outer(p, p), p * (pay - p @ pay)
    space = CHAPTER.natural_step.__globals__
    space.update(F=F, g=g)
    for seed in range(3):
        units = torch.randn(3, 3, generator=torch.Generator().manual_seed(seed)).double()
        step = CHAPTER.natural_step(units)
        torch.testing.assert_close(step - p @ step, pay - p @ pay, rtol=0, atol=1e-8)
        torch.testing.assert_close(F @ step, g, rtol=0, atol=1e-10)


def test_in_an_mdp_the_fisher_matrix_turns_the_gradient_into_the_advantage():
    mdp, (_, pi) = GARNET.mdp, random_policy(GARNET)
    d, A = occupancy(mdp, pi), advantage(mdp, pi)
    fisher = d[..., None, None] * (torch.diag_embed(pi) - pi[..., None] * pi[..., None, :])
    gradient = policy_gradient(mdp, pi, values(mdp, pi)[0])
    torch.testing.assert_close((fisher @ (A / (1 - 0.9))[..., None])[..., 0], gradient)
    states = one_hot(torch.arange(mdp.states)).double()  # the mean of score score^T over d and pi, whole, not by blocks
    score = torch.einsum("st,lsab->lsatb", states, torch.eye(mdp.actions) - pi[:, :, None])
    whole = torch.einsum("ls,lsa,lsaub,lsavc->lubvc", d, pi, score, score)
    torch.testing.assert_close(torch.einsum("lubub->lub", whole), torch.diagonal(fisher, dim1=-2, dim2=-1))
    torch.testing.assert_close(torch.einsum("lubvc,lvc->lub", whole, A / (1 - 0.9)), gradient)


# 6: the end is one's own doing


def test_the_contract_pays_what_the_equation_says():
    contract = worlds.make("control.repurchase", dates=6, shares=2)
    average, cash, bought = torch.tensor([1.1, 0.9]).double(), torch.tensor([2.05, 0.8]).double(), torch.tensor([2, 1])
    expected = [2 * 1.1 - 2.05, 2 * 0.9 - 0.8 - 2.0 * 1]
    torch.testing.assert_close(contract.payoff(average, cash, bought), torch.tensor(expected).double())


# 8: the map


def test_vmpos_direction_is_the_gradient_over_eta_to_first_order():
    """E[exp(A / eta) score] = g / eta + O(1 / eta^2): the rest falls a hundredfold where eta grows tenfold."""
    pi, adv = torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor([1.0, -0.5, -1.75]).double()
    score, off = torch.eye(3).double() - pi, []
    for eta in (100.0, 1000.0):
        off.append(((pi * (adv / eta).exp()) @ score - (pi * adv) @ score / eta).norm())
    assert off[0] / off[1] == pytest.approx(100, rel=0.02)
