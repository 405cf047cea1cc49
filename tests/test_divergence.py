"""Divergences against enumeration, torch.distributions, numerical integration, SciPy, finite differences and inequalities."""
import math

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.stats
import torch
from torch.distributions import kl_divergence

from labkit import divergence as dv
from labkit.errors import LabError
from labkit.policy import Categorical, Gaussian, TanhGaussian
from labkit.worlds import finite

SYMMETRIC = ("total_variation", "jensen_shannon", "hellinger", "renyi", "wasserstein2")  # renyi: at its default, 1/2


def numbers(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def categorical(seed, shape=(3, 7, 4), scale=1.5):
    return Categorical(scale * numbers(*shape, seed=seed))


def gaussian(seed, shape=(3, 5, 1), spread=0.4):
    return Gaussian(numbers(*shape, seed=seed), spread * numbers(*shape, seed=seed + 100))


def close(a, b, tol=1e-10):
    torch.testing.assert_close(torch.as_tensor(a, dtype=torch.float64), torch.as_tensor(b, dtype=torch.float64), rtol=tol, atol=tol)


KINDS = {"categorical": categorical, "gaussian": gaussian}
every = pytest.mark.parametrize("name", dv.DIVERGENCES)
both = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)

ENUMERATED = {  # of plain lists of probabilities
    "kl": lambda p, q: sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)),
    "reverse_kl": lambda p, q: sum(b * math.log(b / a) for a, b in zip(p, q, strict=True)),
    "total_variation": lambda p, q: sum(max(a - b, 0) for a, b in zip(p, q, strict=True)),
    "jensen_shannon": lambda p, q: scipy.spatial.distance.jensenshannon(p, q) ** 2,
    "chi2": lambda p, q: sum(a * a / b for a, b in zip(p, q, strict=True)) - 1,
    "hellinger": lambda p, q: 1 - sum(math.sqrt(a * b) for a, b in zip(p, q, strict=True)),
    "renyi": lambda p, q: -2 * math.log(sum(math.sqrt(a * b) for a, b in zip(p, q, strict=True))),
}


@pytest.mark.parametrize("name", ENUMERATED)
def test_categorical_by_enumeration(name):
    p, q = categorical(1), categorical(2)
    got = dv.DIVERGENCES[name](p, q)
    assert got.shape == (3, 7)
    for i in range(3):
        for j in range(7):
            close(got[i, j], ENUMERATED[name](p.probs[i, j].tolist(), q.probs[i, j].tolist()))


@pytest.mark.parametrize("alpha", [0.3, 0.999999, 1.0, 1.000001, 2.0, 5.0])
def test_renyi_of_any_order(alpha):
    p, q = categorical(1), categorical(2)
    if alpha in (0.3, 2.0, 5.0):
        close(dv.renyi(p, q, alpha), (p.probs**alpha * q.probs ** (1 - alpha)).sum(-1).log() / (alpha - 1))
    else:
        close(dv.renyi(p, q, alpha), dv.kl(p, q), 1e-4)
        close(dv.renyi(gaussian(1), gaussian(2), alpha), dv.kl(gaussian(1), gaussian(2)), 1e-3)


def test_kl_is_torchs():
    p, q = categorical(1), categorical(2)
    close(dv.kl(p, q), kl_divergence(torch.distributions.Categorical(probs=p.probs), torch.distributions.Categorical(probs=q.probs)))
    p, q = gaussian(1, (4, 3)), gaussian(2, (4, 3))
    normal = [torch.distributions.Normal(x.mean, x.log_std.exp()) for x in (p, q)]
    close(dv.kl(p, q), kl_divergence(*normal).sum(-1))


INTEGRAND = {
    "kl": lambda a, b: a * math.log(a / b),
    "reverse_kl": lambda a, b: b * math.log(b / a),
    "total_variation": lambda a, b: 0.5 * abs(a - b),
    "jensen_shannon": lambda a, b: 0.5 * a * math.log(2 * a / (a + b)) + 0.5 * b * math.log(2 * b / (a + b)),
    "chi2": lambda a, b: (a - b) ** 2 / b,
    "hellinger": lambda a, b: 0.5 * (math.sqrt(a) - math.sqrt(b)) ** 2,
}


@pytest.mark.parametrize("name", INTEGRAND)
@pytest.mark.parametrize(
    "case",
    [(0, 0, 0.5, 0.2), (0.3, -0.4, -0.2, 0.1), (1, 0, 0, 0), (0, -0.7, 0, -0.1), (0.1, 0, 0.1, 1e-7), (0, -1.5, 1, 0.2)],
)
def test_gaussian_by_integration(name, case):
    m, a, n, b = case
    p, q = (Gaussian(torch.tensor([x], dtype=torch.float64), torch.tensor([y], dtype=torch.float64)) for x, y in ((m, a), (n, b)))
    densities = [scipy.stats.norm(x, math.exp(y)).pdf for x, y in ((m, a), (n, b))]
    ends = min(m - 12 * math.exp(a), n - 12 * math.exp(b)), max(m + 12 * math.exp(a), n + 12 * math.exp(b))
    want, _ = scipy.integrate.quad(
        lambda x: INTEGRAND[name](*(max(f(x), 1e-300) for f in densities)), *ends, limit=2000, epsabs=1e-11, epsrel=1e-11,
        points=sorted({m - math.exp(a), m, m + math.exp(a), n - math.exp(b), n, n + math.exp(b)}),
    )  # fmt: skip
    close(dv.DIVERGENCES[name](p, q), want, 1e-7)


def test_gaussian_tv_of_equal_spreads_is_the_error_function():
    p, q = Gaussian(torch.tensor([[0.0], [2.0]]), torch.zeros(2, 1)), Gaussian(torch.tensor([[1.0], [2.0]]), torch.zeros(2, 1))
    close(dv.total_variation(p, q), [math.erf(0.5 / math.sqrt(2)), 0.0], 1e-6)


def test_gaussian_divergences_factorise_over_dimensions():
    p, q = gaussian(1, (4, 3), 0.1), gaussian(2, (4, 3), 0.1)
    parts = [tuple(one.map(lambda x, i=i: x[:, i : i + 1]) for one in (p, q)) for i in range(3)]
    for f in (dv.kl, dv.renyi, dv.wasserstein2):
        close(f(p, q), sum(f(*pair) for pair in parts))
    close(1 - dv.hellinger(p, q), math.prod(1 - dv.hellinger(*pair) for pair in parts))
    close(1 + dv.chi2(p, q), math.prod(1 + dv.chi2(*pair) for pair in parts))


@pytest.mark.parametrize("name", [name for name in dv.DIVERGENCES if name != "wasserstein2"])
def test_tanh_gaussians_differ_as_the_gaussians_below_them(name):
    p, q = gaussian(1), gaussian(2)
    f = dv.DIVERGENCES[name]
    assert torch.equal(f(TanhGaussian(p.mean, p.log_std), TanhGaussian(q.mean, q.log_std)), f(p, q))


def test_tanh_gaussian_kl_by_integration():
    x = torch.linspace(-1, 1, 400_001, dtype=torch.float64)[1:-1, None]
    p, q = (TanhGaussian(torch.full_like(x, mean), torch.full_like(x, log_std)) for mean, log_std in ((0.3, -0.5), (0.0, -0.3)))
    close((p.log_prob(x).exp() * (p.log_prob(x) - q.log_prob(x))).sum() * 2 / 400_000, dv.kl(p, q)[0], 1e-5)


# ---- laws -------------------------------------------------------------------------------------------------------


@every
@both
def test_zero_iff_equal_and_never_negative(name, make):
    f = dv.DIVERGENCES[name]
    p, q = make(1), make(2)
    assert f(p, p).abs().max() < 1e-14
    assert f(p, q).min() > 1e-4


@every
@both
def test_symmetric_ones_are_symmetric_and_others_are_not(name, make):
    f, p, q = dv.DIVERGENCES[name], make(1), make(2)
    if name in SYMMETRIC:
        close(f(p, q), f(q, p), 1e-12)
    else:
        assert (f(p, q) - f(q, p)).abs().max() > 1e-3
    assert torch.equal(dv.reverse_kl(p, q), dv.kl(q, p))


@pytest.mark.parametrize("make", [lambda s: categorical(s, (500, 4), 4.0), lambda s: gaussian(s, (500, 1), 1.5)])
def test_inequalities(make):
    p, q = make(1), make(2)
    tv, js, h2 = dv.total_variation(p, q), dv.jensen_shannon(p, q), dv.hellinger(p, q)
    assert tv.max() > 0.9 and tv.min() >= 0 and tv.max() <= 1 and js.max() <= math.log(2) + 1e-12
    assert (tv <= (dv.kl(p, q) / 2).sqrt() + 1e-12).all()  # Pinsker
    assert (h2 <= tv + 1e-12).all() and (tv <= (h2 * (2 - h2)).sqrt() + 1e-12).all()  # Le Cam
    assert (js <= tv * math.log(2) + 1e-9).all()  # Lin
    assert (dv.kl(p, q) <= torch.log1p(dv.chi2(p, q)) + 1e-9).all()  # the ladder of Renyi's orders
    assert (dv.renyi(p, q, 0.5) <= dv.kl(p, q) + 1e-9).all()


@every
@both
def test_gradients_are_finite_differences(name, make):
    f, (p, q) = dv.DIVERGENCES[name], (categorical(s, (2, 3, 4)) if make is categorical else gaussian(s, (2, 3, 1), 0.1) for s in (1, 2))
    kind = type(p)
    fields = [x.requires_grad_() for x in (*vars(p).values(), *vars(q).values())]
    half = len(fields) // 2
    assert torch.autograd.gradcheck(lambda *x: f(kind(*x[:half]), kind(*x[half:])), fields, atol=1e-6)


@pytest.mark.parametrize("name", ["total_variation", "jensen_shannon", "kl", "hellinger", "chi2"])
def test_gradients_stay_finite_where_spreads_or_policies_are_equal(name):
    for mean in (0.0, 1.0):
        x, y, s = (torch.tensor([v], requires_grad=True) for v in (mean, 0.0, 0.0))
        grads = torch.autograd.grad(dv.DIVERGENCES[name](Gaussian(x, s), Gaussian(y, torch.zeros(1))).sum(), (x, y, s))
        assert all(torch.isfinite(g).all() for g in grads)


@pytest.mark.parametrize("name", [n for n in dv.DIVERGENCES if n != "wasserstein2"])
def test_impossible_actions(name):
    p = Categorical(torch.tensor([0.0, 0.0, -torch.inf], requires_grad=True))
    q = Categorical(torch.tensor([0.0, 1.0, -torch.inf], requires_grad=True))
    f = dv.DIVERGENCES[name]
    value = f(p, q)
    close(value.detach(), f(Categorical(p.logits[:2]), Categorical(q.logits[:2])).detach(), 1e-6)  # the third never happens
    (grad,) = torch.autograd.grad(value, q.logits)
    assert torch.isfinite(grad).all()
    wide = Categorical(torch.tensor([0.0, 0.0, 0.0]))
    assert dv.kl(wide, p).isinf() and dv.chi2(wide, p).isinf() and dv.renyi(wide, p, 2.0).isinf()
    assert dv.kl(p, wide) < 1 and dv.renyi(wide, p, 0.5) < 1 and dv.chi2(p, wide) < 1


def test_gaussian_chi2_is_infinite_where_the_tails_are_too_heavy():
    narrow, wide = (Gaussian(torch.zeros(1), torch.full((1,), x)) for x in (0.0, 0.4))
    assert dv.chi2(wide, narrow).isinf() and dv.chi2(narrow, wide) < 1


@every
@both
def test_a_lane_beside_others_is_the_lane_alone_bit_for_bit(name, make):
    kind, width = (Categorical, 3) if make is categorical else (Gaussian, 1)
    fields = [[numbers(5, 11, width, seed=10 * s + i).float() for i in range(2 if make is gaussian else 1)] for s in (1, 2)]

    def ask(lanes):
        return dv.DIVERGENCES[name](*(kind(*(x[lanes].clone() for x in of)) for of in fields))

    together = ask(slice(None))
    for k in range(5):
        assert torch.equal(ask(slice(k, k + 1))[0], together[k])


# ---- Wasserstein, energy, effective samples ---------------------------------------------------------------------


def test_wasserstein2_of_categoricals_is_the_cheapest_transport():
    p, q, place = categorical(1, (6, 5)), categorical(2, (6, 5)), torch.tensor([0.0, 0.5, 2.0, 2.5, 4.0])
    cost = (place[:, None] - place).square().flatten().numpy()
    rows, columns = np.kron(np.eye(5), np.ones(5)), np.kron(np.ones(5), np.eye(5))
    for i in range(6):
        plan = scipy.optimize.linprog(cost, A_eq=np.vstack([rows, columns]), b_eq=torch.cat([p.probs[i], q.probs[i]]).numpy())
        close(dv.wasserstein2(p, q, place)[i], plan.fun, 1e-8)
    sure = Categorical(torch.tensor([[0.0, -torch.inf, -torch.inf], [-torch.inf, -torch.inf, 0.0]]))
    close(dv.wasserstein2(sure.map(lambda x: x[:1]), sure.map(lambda x: x[1:])), [4.0])


def test_wasserstein2_of_gaussians_is_the_limit_of_its_samples():
    p, q = Gaussian(torch.tensor([0.5]), torch.tensor([-0.3])), Gaussian(torch.tensor([-0.2]), torch.tensor([0.4]))
    u = (torch.arange(200_000.0) + 0.5)[:, None] / 200_000
    close(dv.wasserstein2_samples(p.sample(u)[:, 0].double(), q.sample(u)[:, 0].double()), dv.wasserstein2(p, q), 1e-3)


def test_wasserstein2_of_unequal_samples():
    x, y = numbers(2, 6, seed=1), numbers(2, 4, seed=2)
    close(dv.wasserstein2_samples(x, y), dv.wasserstein2_samples(x.repeat(1, 2), y.repeat(1, 3)))
    close(dv.wasserstein2_samples(x[:, :4], y), (x[:, :4].sort().values - y.sort().values).square().mean(-1))
    close(dv.wasserstein2_samples(x[:, :1], y), (x[:, :1] - y).square().mean(-1))


def test_energy_distance_is_scipys_squared():
    x, y = numbers(50, 1, seed=1), 0.5 + 2 * numbers(30, 1, seed=2)
    close(dv.energy_distance(x, y), scipy.stats.energy_distance(x[:, 0], y[:, 0]) ** 2)
    z = numbers(4, 30, 3, seed=3)
    assert dv.energy_distance(z, z).abs().max() < 1e-12 and dv.energy_distance(z, z.flip(0)).min() > 0


def test_effective_sample_size():
    close(dv.effective_sample_size(torch.zeros(3, 8)), [8.0] * 3, 1e-5)
    w = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    close(dv.effective_sample_size(w.log()), 36 / 14)
    p, q = Categorical(torch.zeros(1, 3)), Categorical(torch.tensor([[0.0, 1.0, -1.0]]))
    u = torch.rand(200_000, 1, generator=torch.Generator().manual_seed(0))
    a = p.map(lambda x: x.expand(200_000, -1)).sample(u)
    share = dv.effective_sample_size((q.logits - p.logits)[0, a]) / 200_000
    close(share, dv.effective_share(p, q)[0], 5e-3)
    close(dv.effective_share(p, q), 1 / (q.probs.square() / p.probs).sum(-1), 1e-6)


# ---- estimators -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", [dv.k1, dv.k2, dv.k3])
@both
def test_estimators_meet_their_exact_means(estimator, make):
    n = 40_000
    p, q = make(1, (1, 4 if make is categorical else 1)), make(3, (1, 4 if make is categorical else 1))
    wide = p.map(lambda x: x.expand(n, -1))
    action = wide.sample(torch.rand(n, 1, generator=torch.Generator().manual_seed(7), dtype=torch.float64))
    estimate = estimator(q.map(lambda x: x.expand(n, -1)).log_prob(action) - wide.log_prob(action))
    error = 4 * estimate.std() / n**0.5
    if estimator is not dv.k2:
        assert (estimate.mean() - dv.kl(p, q)).abs() < error
    if make is categorical:
        exact = dv.exact_mean(estimator, p, q)
        assert (estimate.mean() - exact).abs() < error
        close(exact, {dv.k2: 0.5 * (p.probs * (p.logits - q.logits) ** 2).sum(-1)}.get(estimator, dv.kl(p, q)))


def test_k2_and_k3_are_never_negative_and_k1_is():
    r = torch.cat([torch.linspace(-20, 20, 4001), torch.tensor([1e-4, -1e-4, 1e-7, -1e-7, 1e-30])])
    assert (dv.k2(r) >= 0).all() and (dv.k3(r) >= 0).all() and (dv.k1(r) < 0).any()
    close(dv.k3(r.double()), r.double().exp() - 1 - r.double(), 1e-9)


def test_k2_has_the_slope_and_the_curvature_of_kl_where_policies_agree():
    p = categorical(1, (1, 4))
    for order in (torch.autograd.functional.jacobian, torch.autograd.functional.hessian):
        of_k2 = order(lambda x: dv.exact_mean(dv.k2, p, Categorical(x)).sum(), p.logits)
        of_kl = order(lambda x: dv.kl(p, Categorical(x)).sum(), p.logits)
        close(of_k2, of_kl)
    assert of_kl.abs().max() > 0.01


# ---- occupancies ------------------------------------------------------------------------------------------------


def test_occupancies_are_compared_as_distributions():
    mdp = finite.frozenlake(gamma=0.9).mdp
    pi = numbers(2, 16, 4, seed=1).softmax(-1)
    d = finite.occupancy(mdp, pi)
    one, two = (dv.occupancy_policy(d[k : k + 1]) for k in range(2))
    close(one.probs.sum(-1), [1.0])
    close(one.probs[0, :16], d[0])
    close(dv.total_variation(one, two), 0.5 * ((d[0] - d[1]).abs().sum() + (d[0].sum() - d[1].sum()).abs())[None])
    assert torch.isfinite(dv.kl(one, two)).all() and dv.kl(one, two) > 0
    pairs = [dv.occupancy_policy((d[..., None] * pi)[k : k + 1]) for k in range(2)]
    chain_rule = dv.kl(one, two) + (d[0] * dv.kl(Categorical(pi[0].log()), Categorical(pi[1].log()))).sum()
    close(dv.kl(*pairs), chain_rule)
    for f in dv.DIVERGENCES.values():
        assert torch.isfinite(f(one, two)).all()


def test_an_occupancy_that_never_ends_has_no_rest():
    mdp = finite.riverswim().mdp
    one = dv.occupancy_policy(finite.occupancy(mdp, torch.full((1, 6, 2), 0.5)))
    assert one.probs[0, -1] == 0 and torch.isfinite(dv.kl(one, one)).all()


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (lambda: dv.kl(categorical(1), gaussian(1)), "got Categorical and Gaussian"),
        (lambda: dv.kl(categorical(1), categorical(1, (3, 7, 5))), r"\(3, 7, 4\).*\(3, 7, 5\)"),
        (lambda: dv.total_variation(categorical(1), categorical(1, (1, 7, 4))), "one shape"),
        (lambda: dv.kl(torch.zeros(3), torch.zeros(3)), "got Tensor"),
        (lambda: dv.total_variation(gaussian(1, (2, 3)), gaussian(2, (2, 3))), "energy_distance on samples"),
        (lambda: dv.jensen_shannon(gaussian(1, (2, 3)), gaussian(2, (2, 3))), "one action dimension; here are 3"),
        (lambda: dv.renyi(categorical(1), categorical(2), 0.0), "alpha is 0"),
        (lambda: dv.wasserstein2(*[TanhGaussian(torch.zeros(1), torch.zeros(1))] * 2), "wasserstein2_samples"),
        (lambda: dv.wasserstein2(categorical(1), categorical(2), torch.zeros(4)), "increasing"),
        (lambda: dv.wasserstein2_samples(torch.zeros(2, 3), torch.zeros(3, 3)), "takes"),
        (lambda: dv.energy_distance(torch.zeros(2, 3, 1), torch.zeros(2, 3, 2)), "takes"),
        (lambda: dv.exact_mean(dv.k1, gaussian(1), gaussian(2)), "enumerates"),
        (lambda: dv.occupancy_policy(torch.full((1, 3), 0.5)), "at most 1"),
    ],
)
def test_bad_input_is_named(bad, says):
    with pytest.raises(LabError, match=says):
        bad()


@pytest.mark.parametrize(
    "bad",
    [
        lambda: dv.wasserstein2(categorical(1), categorical(2), torch.arange(3.0)),  # three places for four actions
        lambda: dv.wasserstein2(categorical(1), categorical(2), torch.tensor([0.0, 1.0, 1.0, 2.0])),  # increasing but for one
        lambda: dv.energy_distance(torch.zeros(3), torch.zeros(3)),
        lambda: dv.energy_distance(torch.zeros(2, 3, 1), torch.zeros(4, 3, 1)),
        lambda: dv.exact_mean(dv.k1, categorical(1), categorical(1, (3, 7, 5))),
        lambda: dv.occupancy_policy(torch.tensor([[-0.1, 0.5]])),
        lambda: dv.occupancy_policy(torch.tensor([[0.6, 0.6], [0.5, 0.1]])),  # one lane of two
    ],
)
def test_one_thing_wrong_is_enough(bad):
    with pytest.raises(LabError):
        bad()


def test_exact_means_are_of_each_state_and_without_what_p_never_does():
    p, q = categorical(1), categorical(2)
    close(dv.exact_mean(dv.k1, p, q), dv.kl(p, q))
    sure = Categorical(torch.tensor([[0.0, -torch.inf]]))
    close(dv.exact_mean(dv.k1, sure, Categorical(torch.zeros(1, 2))), [math.log(2)], 1e-6)


def test_renyi_leaves_out_what_neither_does():
    p, q = (Categorical(torch.tensor([*x, -torch.inf])) for x in ((0.0, 0.0), (0.0, 1.0)))
    close(dv.renyi(p, q, 2.0), dv.renyi(Categorical(p.logits[:2]), Categorical(q.logits[:2]), 2.0), 1e-6)


def test_at_twice_the_variance_chi2_is_infinite_already():
    p, q = (Gaussian(torch.zeros(1, dtype=torch.float64), torch.tensor([x], dtype=torch.float64)) for x in (0.5 * math.log(2), 0.0))
    assert dv.renyi(p, q, 2.0).isinf()
