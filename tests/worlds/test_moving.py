"""Worlds that move: what holds when, that steps are taken in it, and that its optimum is known at every step."""
import pytest
import torch

from labkit import worlds
from labkit.errors import LabError
from labkit.lanes import Lanes
from labkit.worlds.finite import garnet_table, optimal, optimal_gain
from labkit.worlds.moving import drifting, recurring, reversing, switching

KEYS = ("finite.switching", "finite.recurring", "finite.drifting", "finite.reversing")


def clocks(*numbers):
    return torch.tensor(numbers)


@pytest.mark.parametrize("key", KEYS)
def test_the_optimum_now_is_that_of_the_world_now(key):
    world = worlds.make(key, seed=range(3), life=400)
    for t in (0, 120, 399, 5000):
        now = world.at(clocks(t, t // 2, 0))
        q, v, pi = optimal(now)
        torch.testing.assert_close(now.best.q, q, rtol=0, atol=1e-9)
        torch.testing.assert_close(now.best.v, v, rtol=0, atol=1e-9)
        assert torch.equal(now.best.pi, pi)
        torch.testing.assert_close(now.best_gain, optimal_gain(now)[0].amax(-1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("key", KEYS)
def test_steps_are_taken_in_the_world_as_it_stands(key):
    """From 4000 copies of each state, before and after a change: shares of next states and mean rewards are those of the MDP."""
    world = worlds.make(key, seed=(1, 2), life=400)
    S, A, n = world.mdp.states, world.mdp.actions, 4000
    for t in (0, 399):
        now = world.at(clocks(t, t))
        for s, a in ((0, 0), (S - 1, A - 1)):
            state = {"s": torch.full((2, n), s), "t": torch.full((2, n), t)}
            after, reward, done, _ = world.step(state, torch.full((2, n), a), Lanes((5, 6)).rand(t + s, n, 1))
            shares = torch.nn.functional.one_hot(after["s"], S).double().mean(1)
            torch.testing.assert_close(shares, now.P[:, s, a], rtol=0, atol=0.03)
            torch.testing.assert_close(reward.double().mean(1), now.r[:, s, a], rtol=0, atol=1e-6)
            assert not done.any()


def test_switching_switches_at_its_rate_to_another_mode():
    world = switching(modes=4, rate=0.01, seed=range(30))
    turned = world.schedule.diff() != 0
    assert turned.double().mean().item() == pytest.approx(0.01, rel=0.1)
    assert set(world.schedule.unique().tolist()) == {0, 1, 2, 3}
    jumps = (world.schedule.diff()[turned] % 4).bincount()
    assert jumps[0] == 0 and jumps[1:].min() > 0.9 * jumps[1:].max()
    assert (switching(rate=0.0, seed=range(3)).schedule == switching(rate=0.0, seed=range(3)).schedule[:, :1]).all()
    assert not torch.equal(world.schedule[0], world.schedule[1])


def test_modes_are_garnets_of_streams_of_their_own():
    world = switching(modes=2, seed=(3, 5))
    follow, prob, reward = garnet_table(5, 3, 3, [5, 1])
    second = world.in_mode(clocks(0, 1))
    torch.testing.assert_close(second.r[1], torch.tensor(reward[..., 0]), rtol=0, atol=1e-12)
    assert torch.equal(second.P[1].gather(-1, torch.tensor(follow)), torch.tensor(prob))


def test_recurring_modes_come_back():
    world = recurring(modes=3, period=50, life=400, seed=0)
    assert world.mode(clocks(0)).item() == 0 and world.mode(clocks(49)).item() == 0 and world.mode(clocks(50)).item() == 1
    assert torch.equal(world.at(clocks(149)).P, world.at(clocks(299)).P) and not torch.equal(world.at(clocks(0)).P, world.at(clocks(50)).P)


def test_drifting_goes_from_one_world_to_another_in_equal_small_moves():
    world = drifting(stages=5, life=100, seed=(1,))
    models = world.models
    for name in ("P", "r"):
        steps = getattr(models, name).diff(dim=0)
        torch.testing.assert_close(steps, steps[:1].expand_as(steps), rtol=0, atol=1e-12)
    first, last = (garnet_table(5, 3, 3, [1, end])[2][..., 0] for end in (0, 1))
    torch.testing.assert_close(models.r[[0, -1]], torch.stack([torch.tensor(first), torch.tensor(last)]), rtol=0, atol=1e-12)
    assert [world.mode(clocks(t)).item() for t in (0, 19, 20, 99, 1000)] == [0, 0, 1, 4, 4]


def test_a_reversed_river_swaps_the_strokes():
    world = reversing(seed=(0, 0, 0), shift=(0.0, 0.5, 1.0), life=4000)
    before, after = world.in_mode(clocks(0, 0, 0)), world.in_mode(clocks(1, 1, 1))
    swapped = before.P.flip(2)
    for lane, share in enumerate((0.0, 0.5, 1.0)):
        torch.testing.assert_close(after.P[lane], (1 - share) * before.P[lane] + share * swapped[lane])
    assert torch.equal(before.r, after.r) and before.r[0, 0].tolist() == [0.005, 0.005] and before.r[0, -1].tolist() == [1.0, 1.0]
    assert before.best.pi[2, :, 1].sum() == 6 and after.best.pi[2, :, 0].sum() == 6
    assert torch.equal(before.P[2], worlds.make("finite.riverswim").mdp.P[0])


def test_a_river_turns_when_it_should():
    life, segments = 4000, 4
    turns = [(row.diff() != 0).nonzero()[:, 0] + 1 for row in reversing(seed=range(20), life=life).schedule]
    for turn in turns:
        off = turn.double() / life * segments - torch.arange(1, segments)
        assert len(turn) == segments - 1 and (off.abs() <= 0.251).all()
    assert len({tuple(t.tolist()) for t in turns}) == 20


def test_what_is_asked_twice_is_answered_alike():
    """The world keeps its last answer."""
    world = switching(seed=range(2), life=50)
    one = world.in_mode(clocks(1, 2))
    assert world.in_mode(clocks(1, 2)) is one
    assert not torch.equal(world.in_mode(clocks(2, 1)).P, one.P) and torch.equal(world.in_mode(clocks(1, 2)).P, one.P)


@pytest.mark.parametrize(("make", "part"), [
    (lambda: switching(rate=1.5), "rate is 1.5"),
    (lambda: switching(modes=0), "modes is 0"),
    (lambda: recurring(period=0), "period is 0"),
    (lambda: drifting(stages=10, life=5), "stages is 10"),
    (lambda: reversing(shift=2.0), "shift is 2.0"),
    (lambda: reversing(shift=(0.1, 0.2), seed=range(3)), "each of the 3 seeds"),
    (lambda: switching(seed=range(3)).at(clocks(0, 0)), "3 MDPs"),
])  # fmt: skip
def test_bad_input(make, part):
    with pytest.raises(LabError, match=part) as error:
        make()
    assert str(error.value).endswith(".") and "\n" not in str(error.value)
