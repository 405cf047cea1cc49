"""Everything runs on another device unchanged, `device=` being given once, at the world and at the lanes. Shown without a GPU, on a
device that pretends: its results are those of the CPU bit for bit, and no operation meets tensors of both."""
import itertools

import pytest
import torch

from labkit import occupancy, worlds
from labkit.divergence import DIVERGENCES
from labkit.lanes import Lanes
from labkit.meter import DriftMeter, evaluate, probe
from labkit.on_policy.family import ppo
from labkit.store.parts import pack_learner, unpack_learner
from labkit.tabular.family import exact_pg, policy_gradient
from labkit.worlds import finite
from labkit.worlds.grid.table import enumerate_states, exact_return
from labkit.worlds.world import Discrete
from tests.methods import METHODS, assert_same, everywhere, lane, short, small
from tests.pretend import DEVICE, Remote, home, pretend_device

each_world = pytest.mark.parametrize("key", worlds.names())


def both(ask):
    """What ask(device) gives on the CPU and, brought home, on the pretend device."""
    here = ask("cpu")
    with pretend_device():
        there = ask(DEVICE)
    return here, there


def tiny(method):
    """The method in batches of few steps: here operations are slow, however small."""
    return small(method, steps=8)


# ---- the device itself ------------------------------------------------------------------------------------------


@pytest.fixture
def pair():
    """A tensor on the CPU and its twin on the device, within the pretence."""
    with pretend_device():
        x = torch.arange(6.0).view(2, 3)
        yield x, x.to(DEVICE)


@pytest.mark.parametrize(
    "mix",
    [
        lambda x, y: x + y,
        lambda x, y: y.add_(x),
        lambda x, y: x.add_(y),
        lambda x, y: torch.cat([x, y]),
        lambda x, y: torch.stack([y[0, 0], x[0, 0]]),
        lambda x, y: y @ x.T,
        lambda x, y: torch.where(x > 0, y, y),
        lambda x, y: x[y[0].long()],
        lambda x, y: y.gather(0, x[:1].long()),
        lambda x, y: y.index_select(0, x[0, :1].long()),
        lambda x, y: torch.searchsorted(y, x),
        lambda x, y: y.index_put_((x[:, 0].long(),), x),
        lambda x, y: y.detach().numpy(),
    ],
)
def test_it_refuses_what_cuda_refuses(pair, mix):
    with pytest.raises((RuntimeError, TypeError)):
        mix(*pair)


def test_it_takes_what_cuda_takes_and_computes_what_the_cpu_computes(pair):
    x, y = pair
    for ask in (
        lambda z: z * torch.tensor(2.0) + 1,
        lambda z: z[torch.tensor([1, 0])],
        lambda z: z[:, 1:][z[:, 1:] > 1],
        lambda z: torch.where(z > 1, z, torch.tensor(0.0)),
        lambda z: z.new_tensor((1.0, 2.0)),
        lambda z: z.clone().index_put_((torch.tensor([0]),), torch.tensor(5.0)),
        lambda z: torch.autograd.grad((w := z.clone().requires_grad_()).square().sum(), w)[0],
    ):
        assert torch.equal(ask(x), home(ask(y)))
    assert isinstance(torch.tensor([3.0], device=DEVICE), Remote) and y[1, 2].item() == 5 and y.tolist() == x.tolist()
    assert torch.equal(x.to(DEVICE).cpu(), x) and type(y.cpu()) is torch.Tensor


# ---- worlds and methods -----------------------------------------------------------------------------------------


@each_world
def test_a_world_moves_alike(key):
    def ask(device):
        world, lanes, rows = worlds.make(key, device=device), Lanes((3, 4), device=device), []
        state = world.reset(lanes.rand(0, 5, world.reset_noise))
        for t in range(12):
            u = lanes.rand(2 * t + 1, 5, world.actions.noise)
            action = (u[..., 0] * world.actions.n).long() if isinstance(world.actions, Discrete) else 2 * u - 1
            state, reward, terminated, truncated = world.step(state, action, lanes.rand(2 * t + 2, 5, world.step_noise))
            rows.append({"obs": world.observe(state), "reward": reward, "terminated": terminated, "truncated": truncated} | state)
            state = world.restart(state, terminated | (u[..., 0] < 0.2), lanes.rand(99 + t, 5, world.reset_noise))
        return rows

    here, there = both(ask)
    for one, other in zip(here, there, strict=True):
        assert_same(one, home(other))


@everywhere
def test_a_method_learns_alike(key, world):
    def ask(device):
        return list(itertools.islice(tiny(METHODS[key]).run(short(world, device=device), Lanes((0, 1), device=device)), 2))

    here, there = both(ask)
    for one, other in zip(here, there, strict=True):
        for i in range(2):
            assert_same(lane(one, i), home(lane(other, i)))


def test_a_run_stored_on_a_device_goes_on_there_bit_for_bit():
    lanes = Lanes((0, 1), device=DEVICE)
    with pretend_device():
        run = [s.learner for s in itertools.islice(tiny(ppo).run(short("control.cartpole", device=DEVICE), lanes), 3)]
        start = unpack_learner(pack_learner(run[0]), lanes)
        again = [s.learner for s in itertools.islice(tiny(ppo).run(short("control.cartpole", device=DEVICE), lanes, start), 2)][-1]
        assert_same(home(run[-1].pack()[0]), home(again.pack()[0]))


# ---- measuring --------------------------------------------------------------------------------------------------


def snapshots(method, world, device, updates=3):
    return list(itertools.islice(tiny(method).run(world, Lanes((0, 1), device=device)), updates))


@pytest.mark.parametrize("world", ["control.cartpole", "control.pendulum"])
def test_the_meter_reads_alike(world):
    def ask(device):
        place = short(world, device=device)
        run = snapshots(ppo, place, device, 2)
        learner, found = run[0].learner, {}
        states = probe(place, learner.copy().rand, learner.policy, 20)
        for name in DIVERGENCES:
            meter = DriftMeter(states, name)
            meter(run[0])
            found |= {f"{name} {part}": x for part, x in vars(meter(run[1])).items()}
        return found | {"evaluated": evaluate(place, learner, 3), "greedy": evaluate(place, learner, 3, greedy=True)}

    here, there = both(ask)
    assert_same(here, home(there))


def test_exact_occupancies_are_alike():
    def ask(device):
        garnet = worlds.make("finite.garnet", device=device)
        rooms = worlds.make("grid.fourrooms", size=7, layout_seed=0, view="state", device=device)
        runs = snapshots(exact_pg, garnet, device), snapshots(ppo, rooms, device)
        models = garnet.mdp, enumerate_states(rooms)
        meters = [DriftMeter(occupancy.exact_states(model)) for model in models]
        readings = [[vars(meter(s)) for s in run][-1] for meter, run in zip(meters, runs, strict=True)]
        uniform = torch.full((2, *models[1].next.shape), 1 / 7, device=device)
        return {"mdp": readings[0], "table": readings[1], "returns": {"exact": exact_return(models[1], uniform)}}

    here, there = both(ask)
    for name in here:
        assert_same(here[name], home(there[name]))


@pytest.mark.parametrize("key", ["finite.garnet", "finite.chain", "finite.cliff"])
def test_the_exact_solver_answers_alike(key):
    def ask(device):
        mdp = worlds.make(key, gamma=0.9, device=device).mdp
        logits = Lanes((0, 1), device=device).rand(1, mdp.states, mdp.actions).requires_grad_()
        pi, other = logits.softmax(-1), Lanes((2, 3), device=device).rand(1, mdp.states, mdp.actions).softmax(-1)
        (q, v), best = finite.values(mdp, pi), finite.optimal(mdp)
        return {
            "q": q, "v": v, "occupancy": finite.occupancy(mdp, pi), "gradient": policy_gradient(mdp, pi, q), "best": best[0],
            "optimal": best[2], "by autograd": torch.autograd.grad(finite.expected_return(mdp, pi).sum(), logits)[0],
            "difference": finite.performance_difference(mdp, pi, other)[1], "by step": finite.occupancy(mdp, pi, 4),
            "values by step": finite.values(mdp, pi, 4)[0], "plan": finite.optimal(mdp, 4)[2],
        }  # fmt: skip

    here, there = both(ask)
    assert_same({name: x.detach() for name, x in here.items()}, home(there))


# ---- a real one -------------------------------------------------------------------------------------------------

real = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here; the pretend device stands in for it")


@real
@everywhere
def test_a_method_learns_on_cuda_what_it_learns_on_the_cpu(key, world):
    """Sums are taken in another order there: after an update a policy has moved the same way, but for rounding."""

    def moved(device):
        run = tiny(METHODS[key]).run(short(world, device=device), Lanes((0, 1), device=device))
        first, second = (s.learner.nets["pi"].theta.detach().double().cpu() for s in itertools.islice(run, 2))
        return second - first

    here, there = moved("cpu"), moved("cuda")
    assert (here - there).norm(dim=1).le(0.05 * here.norm(dim=1) + 1e-9).all()


@real
@each_world
def test_a_world_moves_on_cuda_as_on_the_cpu(key):
    def walk(device):
        world, lanes = worlds.make(key, device=device), Lanes((3, 4), device=device)
        state = world.reset(lanes.rand(0, 5, world.reset_noise))
        for t in range(12):
            u = lanes.rand(2 * t + 1, 5, world.actions.noise)
            action = (u[..., 0] * world.actions.n).long() if isinstance(world.actions, Discrete) else 2 * u - 1
            state, reward, terminated, truncated = world.step(state, action, lanes.rand(2 * t + 2, 5, world.step_noise))
            state = world.restart(state, terminated | truncated, lanes.rand(99 + t, 5, world.reset_noise))
        return world.observe(state), reward

    for one, other in zip(walk("cpu"), walk("cuda"), strict=True):
        torch.testing.assert_close(one, other.cpu(), rtol=1e-4, atol=1e-4)


@real
def test_a_run_on_cuda_is_the_same_each_time():
    def final():
        lanes = Lanes((0, 1), device="cuda")
        run = tiny(ppo).run(short("control.cartpole", device="cuda"), lanes)
        return [s.learner for s in itertools.islice(run, 3)][-1].nets["pi"].theta.detach().cpu()

    assert torch.equal(final(), final())
