"""Networks of lanes against PyTorch's own layers and optimisers, lane by lane."""
import pytest
import torch

from labkit import nn
from labkit.lanes import Lanes
from labkit.nn import Belief, Net, Table, clip_norm, normalise

LANES = Lanes((0, 1, 2))
SIZES = (5, 8, 8, 2)


def net(lanes=LANES, **kw):
    tick = iter(range(1, 99))
    return Net(lambda n: lanes.rand(next(tick), n), SIZES, **kw)


def torch_twin(ours, lane):
    twin = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    *wb, _ = ours.layers(ours.theta.detach())
    for j, layer in enumerate(twin[::2]):
        layer.weight.data, layer.bias.data = wb[2 * j][lane].T.clone(), wb[2 * j + 1][lane, 0].clone()
    return twin


def test_forward_is_torchs():
    ours, x = net(), LANES.rand(50, 7, 5)
    for lane in range(3):
        assert torch.allclose(ours(x)[0][lane], torch_twin(ours, lane)(x[lane]), atol=1e-6)


def test_adam_is_torchs_in_every_lane():
    ours, lr = net(), torch.tensor([[1e-2], [1e-3], [3e-2]])
    twins = [torch_twin(ours, i) for i in range(3)]
    optimisers = [torch.optim.Adam(t.parameters(), lr=float(lr[i]), eps=1e-5) for i, t in enumerate(twins)]
    on = torch.ones(3, 1, dtype=torch.bool)
    for t in range(20):
        x = LANES.rand(60 + t, 7, 5)
        ours.adam(torch.autograd.grad(ours(x)[0].square().sum(), ours.theta)[0], lr, on)
        for i in range(3):
            optimisers[i].zero_grad()
            twins[i](x[i]).square().sum().backward()
            optimisers[i].step()
    for i in range(3):
        assert torch.allclose(ours(x)[0][i], twins[i](x[i]), atol=2e-5)


def test_a_lane_at_rest_keeps_everything_even_beside_nan():
    ours, lr = net(), torch.full((3, 1), 0.1)
    ours.adam(torch.ones_like(ours.theta), lr, torch.ones(3, 1, dtype=torch.bool))
    before = [t.detach().clone() for t in (ours.theta, ours.moments, ours.clock)]
    grad = torch.ones_like(ours.theta)
    grad[1] = float("nan")
    ours.adam(grad, lr, torch.tensor([[True], [False], [True]]))
    assert torch.equal(ours.theta[1], before[0][1]) and torch.equal(ours.moments[:, 1], before[1][:, 1]) and ours.clock[1] == 1
    assert not torch.equal(ours.theta[0], before[0][0]) and bool(ours.theta.isfinite().all())


def test_what_dead_units_leave_ends_in_nothing_and_not_in_denormals(monkeypatch):
    def trained(small):
        monkeypatch.setattr(nn, "SMALL", small)
        ours, lr, on = net(), torch.full((3, 1), 0.01), torch.ones(3, 1, dtype=torch.bool)
        live = LANES.rand(90, ours.theta.shape[1]) < 0.5
        for t in range(1000):
            ours.adam(torch.where(live | torch.tensor(t < 3), 1e-3, 0.0), lr, on)
        return ours, live

    (ours, live), (plain, _) = trained(nn.SMALL), trained(0.0)
    denormal = (plain.moments[0] != 0) & (plain.moments[0].abs() < torch.finfo(torch.float32).tiny)
    assert torch.equal(denormal, ~live) and torch.equal(ours.moments[0] == 0, ~live)
    assert torch.equal(ours.theta, plain.theta)


def test_sgd_step():
    ours = net()
    before = ours.theta.detach().clone()
    ours.sgd(torch.ones_like(before), torch.tensor([[0.5], [0.1], [0.2]]), torch.tensor([[True], [True], [False]]))
    assert torch.allclose(before - ours.theta.detach(), torch.tensor([[0.5], [0.1], [0.0]]).expand_as(before), atol=1e-6)


@pytest.mark.parametrize("sizes", [(4, 64, 64, 1), (1, 8, 2), (1, 1), (3, 16, 5)])
@pytest.mark.parametrize("batch", [1, 7, 256])
def test_a_lane_alone_equals_a_lane_beside_others(sizes, batch):
    lanes = Lanes(tuple(range(9)))

    def outcome(some):
        tick = iter(range(1, 99))
        n, x = Net(lambda size: some.rand(next(tick), size), sizes), some.rand(500, batch, sizes[0])
        for _ in range(3):
            grad = torch.autograd.grad(n(x)[0].square().sum(), n.theta)[0]
            n.adam(clip_norm(grad, 0.5), torch.full((len(some), 1), 0.01), torch.ones(len(some), 1, dtype=torch.bool))
        return torch.cat([n.theta.detach(), n(x)[0].detach().flatten(1)], 1)

    together = outcome(lanes)
    for k in (0, 4, 8):
        assert torch.equal(outcome(Lanes((k,)))[0], together[k])
        assert torch.equal(outcome(Lanes((77, k)))[1], together[k])


def test_clip_and_normalise_work_per_lane():
    x = LANES.rand(3, 40) * torch.tensor([[1.0], [100.0], [1e-3]])
    assert torch.allclose(clip_norm(x, 0.5).norm(dim=1), x.norm(dim=1).clamp_max(0.5))
    assert torch.equal(clip_norm(x, float("inf")), x) and not clip_norm(0 * x, 0.5).any()
    y = normalise(x)
    assert torch.allclose(y.mean(1), torch.zeros(3), atol=1e-5) and torch.allclose(y.std(1, unbiased=False), torch.ones(3), atol=1e-3)


def test_a_table_reads_its_rows():
    table = Table(2, (4, 3))
    table.move(torch.arange(24.0).view(2, 12), torch.tensor([[True], [False]]))
    out, free = table(torch.eye(4)[[2, 0]].expand(2, -1, -1))
    assert out[0].tolist() == [[6, 7, 8], [0, 1, 2]] and out[1].abs().sum() == 0 and free.shape == (2, 1, 0)


def test_a_belief_reads_means_and_deviations():
    """m'x and sqrt(x'Cx) of each arm, x with a constant at its end."""
    belief = Belief(2, (2, 6))
    mean, root = LANES.rand(9, 3, 3)[:2] - 0.5, LANES.rand(10, 3, 3, 3)[:2]
    cov = root @ root.mT  # (L, N, 3, 3)
    belief.move(torch.cat([mean.mT.flatten(1), cov.permute(0, 2, 3, 1).flatten(1)], 1), torch.ones(2, 1, dtype=torch.bool))
    out, free = belief(torch.tensor([[0.3, -2.0], [1.0, 0.0]]).expand(2, -1, -1))
    for b, x in enumerate(torch.tensor([[0.3, -2.0, 1.0], [1.0, 0.0, 1.0]])):
        torch.testing.assert_close(out[:, b, :3], mean @ x)
        torch.testing.assert_close(out[:, b, 3:], (x @ cov @ x).sqrt())
    assert out.shape == (2, 2, 6) and free.shape == (2, 1, 0)


def outputs_by_autograd(ours, x):
    return ours.activations(x, ours.theta)[-1]


@pytest.mark.parametrize("sizes", [(4, 16, 16, 1), (4, 64, 64, 2), (3, 8, 8, 5)])
@pytest.mark.parametrize("batch", [7, 256])
def test_the_gradient_written_out_is_autograds_and_so_is_the_gradient_of_the_gradient(sizes, batch):
    tick = iter(range(1, 99))
    ours, x = Net(lambda n: LANES.rand(next(tick), n), sizes, free=2), LANES.rand(500, batch, sizes[0])
    way = LANES.rand(501, ours.theta.shape[1])
    found = []
    for out in (ours(x)[0], outputs_by_autograd(ours, x)):
        first = torch.autograd.grad(out.sin().sum(), ours.theta, retain_graph=True)[0]
        slope = torch.autograd.grad(out.sin().sum(), ours.theta, create_graph=True)[0]
        found.append((first, slope.detach(), torch.autograd.grad((slope * way).sum(), ours.theta)[0]))
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


def test_the_gradient_is_that_of_finite_differences():
    tick = iter(range(1, 99))
    ours, x = Net(lambda n: LANES.rand(next(tick), n).double(), (3, 5, 4, 2)), LANES.rand(500, 6, 3).double()
    assert torch.autograd.gradcheck(lambda theta: ours(x, theta)[0], ours.theta.detach().clone().requires_grad_())
