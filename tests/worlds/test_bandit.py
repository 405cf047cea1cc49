"""Bandit worlds: what arms pay now, how plays change it, and that no policy beats the exact best or its bound."""
import itertools

import pytest
import torch

from labkit import worlds
from labkit.errors import LabError
from labkit.lanes import Lanes
from labkit.worlds.bandit import Arms, Bandit, Recovering, Tallying, best_shares, hull

LANES = Lanes((3, 4, 5))


def begun(world, lanes=LANES, plays=2):
    return world.reset(lanes.rand(0, plays, world.reset_noise))


def quiet(world, lanes=LANES, plays=2):
    """Noise in the middle of a payment's distribution: a payment is its mean."""
    return torch.full((len(lanes), plays, world.step_noise), 0.5)


@pytest.mark.parametrize("world", [Arms(), Recovering(), Tallying()], ids=lambda w: w.key)
def test_payments_have_the_mean_and_the_spread_that_the_world_states(world):
    lanes = Lanes(range(4000))
    state = {name: x[:1].expand(len(lanes), *x.shape[1:]) for name, x in begun(world, lanes, 1).items()}
    action = torch.ones(len(lanes), 1, world.arms) if world.key == "bandit.recovering" else torch.full((len(lanes), 1), 2)
    after, reward, *_ = world.step(state, action, lanes.rand(1, 1, world.step_noise))
    pulled = world.pulled(action)[0, 0].bool()
    mean, paid = world.expected(state)[0, 0], after["paid"][:, 0]
    assert ((paid.mean(0) - mean)[pulled].abs() < 4.5 * world.sigma / len(lanes) ** 0.5).all()
    torch.testing.assert_close(paid.std(0)[pulled], torch.full_like(mean, world.sigma)[pulled], rtol=0.06, atol=0)
    assert (paid[:, ~pulled] == 0).all() and torch.equal(reward[:, 0], paid.sum(-1))


# arms


def test_one_arm_is_better_by_the_gap_of_its_lane_and_every_arm_is_so_somewhere():
    lanes = Lanes(range(100), {})
    world = Arms(gap=[0.1 + 0.001 * i for i in range(100)])
    mean = begun(world, lanes)["mean"]
    ordered = mean.sort(-1, descending=True).values
    assert (ordered[..., 0] == 1).all() and set(mean.argmax(-1).unique().tolist()) == set(range(10))
    torch.testing.assert_close(1 - ordered[:, 0, 1:], world.gap[:, 0].expand(-1, 9))
    assert torch.equal(world.best({"mean": mean}), mean.amax(-1))


# recovering


def test_an_arm_pays_by_its_rest_and_rest_starts_anew_where_it_is_pulled():
    world = Recovering(pulls=1, arms=2, rest=4, sigma=0.0)
    state, rests = begun(world), []
    for arm in (0, 0, 1, 1, 1, 0):
        action = torch.full((3, 2, 2), -1.0)
        action[..., arm] = 0.5
        rests.append(state["idle"][0, 0].tolist())
        curve = state["curve"].gather(-1, state["idle"][..., None] - 1)[..., 0]
        state, reward, *_ = world.step(state, action, quiet(world))
        torch.testing.assert_close(reward, curve[..., arm])
    assert rests == [[4, 4], [1, 4], [1, 4], [2, 1], [3, 1], [4, 1]]


def test_the_curves_are_those_of_the_formula():
    world = Recovering(pulls=3, sharp=[0.5, 1.5, 4.0])
    u = LANES.rand(7, 2, world.reset_noise).double()
    top, delay = 0.5 + 0.5 * u[..., :6], 1 + 7 * u[..., 6:]
    sharp, d = torch.tensor([0.5, 1.5, 4.0])[:, None, None, None], torch.arange(1, 17)
    want = top[..., None] / (1 + (-sharp * (d - delay[..., None])).exp())
    torch.testing.assert_close(world.reset(u.float())["curve"].double(), want, rtol=1e-4, atol=1e-6)


def test_no_more_arms_are_pulled_than_allowed_and_those_with_the_largest_numbers():
    world = Recovering(pulls=2, arms=4)
    action = torch.tensor([[0.1, 0.9, 0.5, 0.4], [-0.1, -0.9, 0.2, 0.0], [-1.0, -1.0, -1.0, -1.0], [0.5, 0.5, 0.5, 0.5]])[None]
    assert world.pulled(action)[0].tolist() == [[0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0], [1, 1, 0, 0]]


def test_the_hull_is_concave_and_lies_on_or_above_every_point():
    curve = begun(Recovering(sharp=0.7))["curve"].double()
    width, slope = hull(curve)
    used = width > 1e-9
    assert (width.sum(-1) - 1).abs().max() < 1e-12  # from 0 to a pull in every round
    falling = torch.where(used[..., 1:], slope.diff(dim=-1), 0.0)
    assert (falling <= 1e-9).all() and used.any(-1).all()
    edge, height = width.cumsum(-1), (width * slope).cumsum(-1)
    for d in range(1, 17):
        x = torch.full_like(edge[..., :1], 1 / d)
        i = (edge >= x - 1e-12).byte().argmax(-1, keepdim=True)
        at = height.gather(-1, i) - slope.gather(-1, i) * (edge.gather(-1, i) - x)
        assert (at >= curve[..., d - 1 : d] / d - 1e-9).all()


def long_run(curve, pulls):
    """The most that any policy earns per round in the long run, of curve (N, D): relative value iteration over all idle times."""
    n, rest = curve.shape
    states = torch.tensor(list(itertools.product(range(rest), repeat=n)))
    place, values, rewards, following = rest ** torch.arange(n - 1, -1, -1), torch.zeros(len(states)).double(), [], []
    for pull in (torch.tensor(p) for p in itertools.product((0, 1), repeat=n) if sum(p) <= pulls):
        rewards.append((pull * curve[torch.arange(n), states]).sum(-1))
        following.append((torch.where(pull == 1, 0, (states + 1).clamp_max(rest - 1)) * place).sum(-1))
    for _ in range(400):  # every other step, since periods make values swing
        before, values = values, 0.5 * values + 0.5 * torch.stack([r + values[f] for r, f in zip(rewards, following, strict=True)]).amax(0)
        gain, values = values - before, values - values[0]
    assert gain.max() - gain.min() < 1e-3
    return 2 * gain.mean()


def test_no_policy_beats_the_bound():
    world = Recovering(pulls=1, arms=4, rest=5, sharp=[0.5, 1.5, 4.0])
    state = begun(world, plays=1)
    for lane in range(3):
        best, bound = long_run(state["curve"][lane, 0].double(), 1), world.best(state)[lane, 0]
        assert 0.8 * bound < best <= bound + 1e-3


def test_the_best_shares_spend_the_pulls_on_the_steepest_pieces():
    curve = torch.tensor([[1.0, 1.0], [0.4, 0.9], [0.1, 0.2]]).double()  # always 1; 0.45 a round at half the time; a bit
    x, worth = best_shares(curve, [0.5, 1.0, 1.5, 3.0])
    want = torch.tensor([[0.5, 0, 0], [1, 0, 0], [1, 0.5, 0], [1, 0.5, 1]]).double()
    assert torch.equal(x[:3], want[:3]) and torch.equal(x[3, :2], want[3, :2])
    torch.testing.assert_close(worth, torch.tensor([0.5, 1.0, 1.45, 1.55]).double())


# tallying


def test_a_constant_arm_is_familiar_after_m_plays_and_not_before():
    world = Tallying(m=[1, 7, 40], sigma=0.0)
    state = begun(world)
    for n in range(1, 42):
        tally = world.tally(state["past"])[..., 3]
        assert (tally >= 1 - 1e-6).tolist() == [[n >= m] * 2 for m in (1, 7, 40)]
        state = world.step(state, torch.full((3, 2), 3), quiet(world))[0]


def test_the_tally_is_the_weighted_share_of_the_last_m_plays():
    world, m = Tallying(m=6, decay=0.8), 6
    state, played = begun(world), []
    for arm in (2, 2, 0, 1, 2, 4, 4, 2, 0):
        want = [sum(0.8**j for j, a in enumerate([b, *reversed(played)][:m]) if a == b) / sum(0.8**j for j in range(m)) for b in range(5)]
        torch.testing.assert_close(world.tally(state["past"]), torch.tensor(want).expand(3, 2, 5))
        costs, y = state["costs"], torch.tensor(want)
        torch.testing.assert_close(world.expected(state), 1 - (costs[..., 0] * (1 - y) + costs[..., 1] * y))
        state = world.step(state, torch.full((3, 2), arm), quiet(world))[0]
        played.append(arm)


def test_the_best_is_the_acquired_taste_played_from_the_first_round():
    world = Tallying(m=[1, 20, 40], sigma=0.0)
    state = begun(world)
    taste = state["costs"][..., 0].argmax(-1)  # it alone costs 0.8 when new
    for _ in range(45):
        torch.testing.assert_close(world.expected(state).gather(-1, taste[..., None])[..., 0], world.best(state))
        state = world.step(state, taste, quiet(world))[0]
    torch.testing.assert_close(world.best(state), torch.full((3, 2), 0.75))
    assert (1 - state["costs"].amin(-1) < 0.75 - 0.04).sum(-1).eq(4).all(), "no other arm pays as much at any tally"


def test_a_flat_tally_has_no_effect():
    world = Tallying(flat=True)
    state = begun(world)
    again = world.step(state, torch.ones(3, 2, dtype=torch.int64), quiet(world))[0]
    torch.testing.assert_close(world.expected(state), world.expected(again))
    assert state["costs"][..., 1].amin(-1).eq(0.25).all()


# bad input


@pytest.mark.parametrize(("key", "options", "part"), [
    ("bandit.arms", {"arms": 1}, "at least 2 arms"),
    ("bandit.arms", {"sigma": -1.0}, "-1.0"),
    ("bandit.arms", {"gap": -0.1}, "gap is -0.1"),
    ("bandit.arms", {"gap": ()}, "gap is"),
    ("bandit.recovering", {"pulls": 3, "arms": 2}, "from 1 to 2"),
    ("bandit.recovering", {"rest": 1}, "rest from 2"),
    ("bandit.recovering", {"sharp": float("nan")}, "sharp is nan"),
    ("bandit.tallying", {"arms": 1}, "at least 2 arms"),
    ("bandit.tallying", {"m": 41}, "m is 41"),
    ("bandit.tallying", {"decay": 0.0}, "decay"),
])  # fmt: skip
def test_bad_settings_get_one_sentence(key, options, part):
    with pytest.raises(LabError, match=part) as error:
        worlds.make(key, **options)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)


@pytest.mark.parametrize(("key", "name"), [("bandit.arms", "gap"), ("bandit.recovering", "sharp"), ("bandit.tallying", "m")])
def test_a_setting_for_other_lanes_is_refused(key, name):
    world = worlds.make(key, **{name: (1, 1)})
    assert isinstance(world, Bandit)
    with pytest.raises(LabError, match="for 2 lanes; run that many, not 3"):
        world.expected(begun(world))
