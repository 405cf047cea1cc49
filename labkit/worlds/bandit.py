"""Bandits: worlds whose only question is which arm to pull, and whose arms may answer to how they were pulled."""
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, one_hot

from labkit.errors import LabError
from labkit.policy import gaussian_noise
from labkit.worlds.registry import register
from labkit.worlds.world import Continuous, Discrete, State, World


class Bandit(World):
    """N arms, one of them pulled in each round. What each would pay now, and what the best policy earns, is known exactly.

    A subclass says what is drawn (`reset`), what arms pay (`expected`, `best`) and how pulls change that (`answer`). The state
    holds `t` (L, E), the rounds played, and what the problem is: every environment has arms of its own, drawn at its reset.
    An observation without context is the number 1.
    """

    arms: int
    sigma: float = 0.0  # standard deviation of a payment
    horizon = 5000
    obs_size, obs_low, obs_high = 1, 1.0, 1.0

    def expected(self, state: State) -> Tensor:
        """The exact mean of what each arm would pay in this round, (L, E, N)."""
        raise NotImplementedError

    def best(self, state: State) -> Tensor:
        """What the best policy earns in this round on average, or a bound above it, (L, E)."""
        raise NotImplementedError

    def answer(self, state: State, pulled: Tensor) -> State:
        """The state after pulls (L, E, N): arms that do not mind stay as they are."""
        return state

    def pulled(self, action: Tensor) -> Tensor:
        """Which arms an action pulls: 1 or 0, (L, E, N)."""
        return one_hot(action, self.arms).float()

    def step(self, state: State, action: Tensor, u: Tensor) -> tuple[State, Tensor, Tensor, Tensor]:
        pulled, never = self.pulled(action), torch.zeros_like(u[..., 0], dtype=torch.bool)
        paid = pulled * (self.expected(state) + self.sigma * gaussian_noise(u))
        after = self.answer(state, pulled) | {"t": state["t"] + 1, "paid": paid}
        return after, paid.sum(-1), never, after["t"] >= self.horizon

    def observe(self, state: State) -> Tensor:
        return torch.ones_like(state["t"], dtype=torch.float32)[..., None]

    def fresh(self, u: Tensor, **problem: Tensor) -> State:
        """The state before the first round of a problem; u (L, E, reset_noise) says where it lies."""
        t = torch.zeros(u.shape[:2], dtype=torch.int64, device=u.device)
        return problem | {"t": t, "paid": torch.zeros(*u.shape[:2], self.arms, device=u.device)}


def per_lane(name: str, value: float | Sequence[float], low: float = 0.0, high: float = math.inf) -> Tensor:
    """A setting of a world, one for all lanes or one for each, as (K, 1, 1). LabError outside its range."""
    given = torch.as_tensor(value, dtype=torch.float32).reshape(-1, 1, 1)
    if not bool(((given >= low) & (given <= high)).all()) or not len(given):
        raise LabError(f"{name} is {value}; it is a number from {low:g} to {high:g}, or one for each lane.")
    return given


def given_for(value: Tensor, lanes: int) -> Tensor:
    """A setting (K, ...) for so many lanes. LabError where it was given for another number."""
    if len(value) not in (1, lanes):
        raise LabError(f"A setting of this world was given for {len(value)} lanes; run that many, not {lanes}.")
    return value


@register("bandit.arms")
class Arms(Bandit):
    """Arms that always pay the same on average, with normal noise: one pays 1, the others 1 - gap.

    gap: a number, or one for each lane. sigma: standard deviation of a payment. Which arm is the better one is drawn at reset.
    """

    key = "bandit.arms"
    reset_noise = step_noise = 1

    def __init__(self, arms: int = 10, gap: float | Sequence[float] = 0.3, sigma: float = 0.5) -> None:
        if arms < 2 or sigma < 0:
            raise LabError(f"Bandits take at least 2 arms and a sigma of at least 0; got {arms} and {sigma}.")
        self.arms, self.actions, self.sigma, self.gap = arms, Discrete(arms), sigma, per_lane("gap", gap)

    def reset(self, u: Tensor) -> State:
        good = one_hot((u[..., 0] * self.arms).long(), self.arms)
        return self.fresh(u, mean=1 - given_for(self.gap, len(u)) * (1 - good))

    def expected(self, state: State) -> Tensor:
        return state["mean"]

    def best(self, state: State) -> Tensor:
        return state["mean"].amax(-1)


@register("bandit.recovering")
class Recovering(Bandit):
    """Arms that tire and recover: after d idle rounds arm i pays top_i / (1 + exp(-sharp (d - delay_i))), d counted to `rest` at most.

    Simchi-Levi, Zheng and Zhu (2021). At most `pulls` arms are pulled in a round: an action (L, E, N) has a number for each arm,
    and the largest of those above 0 are pulled. All begin rested. Per problem top is drawn from [0.5, 1] and delay from
    [1, rest / 2] rounds. The state holds `curve` (L, E, N, rest), what an arm pays after 1, 2, ... idle rounds, and `idle` (L, E, N).
    arms: 2 * pulls unless told. sharp: a number, or one for each lane.
    """

    key = "bandit.recovering"

    def __init__(
        self, pulls: int = 8, arms: int | None = None, sharp: float | Sequence[float] = 1.5, rest: int = 16, sigma: float = 0.1
    ) -> None:
        self.arms = 2 * pulls if arms is None else arms
        if not 1 <= pulls <= self.arms or rest < 2 or sigma < 0:
            raise LabError(f"Recovering arms take pulls from 1 to {self.arms}, rest from 2 and sigma from 0; got {pulls}, {rest}, {sigma}.")
        self.pulls, self.rest, self.sigma, self.sharp = pulls, rest, sigma, per_lane("sharp", sharp)
        self.actions, self.reset_noise, self.step_noise = Continuous(self.arms, -1.0, 1.0), 2 * self.arms, self.arms

    def reset(self, u: Tensor) -> State:
        top, delay = (x[..., None] for x in u.split(self.arms, -1))
        idle = torch.arange(1, self.rest + 1, device=u.device)
        late = idle - (1 + (self.rest / 2 - 1) * delay)
        curve = (0.5 + 0.5 * top) * logsigmoid(given_for(self.sharp, len(u))[..., None] * late).exp()
        bound = best_shares(curve.double(), [self.pulls])[1][..., 0].float()
        return self.fresh(u, curve=curve, bound=bound, idle=torch.full_like(late[..., 0], self.rest, dtype=torch.int64))

    def pulled(self, action: Tensor) -> Tensor:
        rank = action.argsort(dim=-1, descending=True, stable=True).argsort(-1)
        return ((rank < self.pulls) & (action > 0)).float()

    def answer(self, state: State, pulled: Tensor) -> State:
        return state | {"idle": torch.where(pulled > 0, 1, state["idle"] + 1).clamp_max(self.rest)}

    def expected(self, state: State) -> Tensor:
        return state["curve"].gather(-1, state["idle"][..., None] - 1)[..., 0]

    def best(self, state: State) -> Tensor:
        """No policy earns more in the long run: the concave bound."""
        return state["bound"]


def hull(curve: Tensor) -> tuple[Tensor, Tensor]:
    """The concave hull of (0, 0) and the points (1 / d, curve(d) / d), as pieces from left to right: widths and slopes (..., D).

    curve (..., D), float64, does not fall with d. The hull says what an arm earns per round at most if it is pulled in a share x of all
    rounds; pieces that are not needed have no width.
    """
    d = torch.arange(1, curve.shape[-1] + 1, dtype=curve.dtype, device=curve.device)
    x, y = 1 / d, curve / d
    at, widths, slopes = torch.zeros_like(curve[..., :1]), [], []
    height = at
    for _ in d:
        slope = torch.where(x > at + 1e-12, (y - height) / (x - at), -torch.inf)
        steepest = slope.amax(-1, keepdim=True)
        ahead = slope >= steepest - 1e-12  # of points on one line the farthest
        following = torch.where(steepest.isfinite(), (ahead * x).amax(-1, keepdim=True), at)
        widths.append(following - at)
        slopes.append(torch.where(steepest.isfinite(), steepest, 0.0))
        height, at = height + widths[-1] * slopes[-1], following
    return torch.cat(widths, -1), torch.cat(slopes, -1)


def best_shares(curve: Tensor, pulls: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Shares x (..., B, N) of rounds that maximise the sum of hulls F_i(x_i) within sum x <= pulls, for each of B numbers of pulls, and
    that maximum (..., B).

    Steepest pieces first. No policy has a larger long-run reward (Simchi-Levi, Zheng and Zhu 2021). curve (..., N, D), float64.
    """
    width, slope = (piece.flatten(-2) for piece in hull(curve))
    order = slope.argsort(dim=-1, descending=True, stable=True)
    wide, steep = (width * (slope > 0)).gather(-1, order)[..., None, :], slope.gather(-1, order)[..., None, :]
    left = torch.tensor(pulls, dtype=curve.dtype, device=curve.device)[:, None] - (wide.cumsum(-1) - wide)
    taken = torch.minimum(wide, left.clamp_min(0))
    x = torch.zeros_like(taken).scatter(-1, order[..., None, :].expand_as(taken), taken).unflatten(-1, curve.shape[-2:]).sum(-1)
    return x, (taken * steep).sum(-1)


@register("bandit.tallying")
class Tallying(Bandit):
    """Arms to which one gets used. Arm a costs h_a(y) = new_a + (familiar_a - new_a) y, where the tally y is the weighted share of a in
    the last m plays, this one included; it pays 1 - h_a(y).

    Malik, Igoe, Li and Singh (2023): weights decay^j, j plays ago, scaled so that a constant arm has tally 1 after m plays. One arm,
    drawn at reset, is an acquired taste: it costs 0.8 when new and 0.25 when familiar. The others cost between 0.3 and 0.5 when new
    and 0.1 more when familiar, so that no sequence of plays costs less than the acquired taste in the end. `flat` leaves the
    tally without effect: every arm costs what it costs when familiar. m: a number from 1 to 40, or one for each lane. The state holds
    `costs` (L, E, N, 2), new and familiar, and `past` (L, E, N, 40), the last plays, the latest first.
    """

    key = "bandit.tallying"
    step_noise, longest = 1, 40

    def __init__(
        self, arms: int = 5, m: int | Sequence[int] = 20, decay: float = 0.9, flat: bool = False, sigma: float = 0.2
    ) -> None:
        if arms < 2 or sigma < 0 or not 0 < decay <= 1:
            raise LabError(f"Tallying arms take at least 2 arms, a decay in (0, 1] and a sigma from 0; got {arms}, {decay}, {sigma}.")
        self.arms, self.actions, self.sigma, self.flat, self.reset_noise = arms, Discrete(arms), sigma, flat, 1 + arms
        ago = torch.arange(self.longest)
        weight = torch.where(ago < per_lane("m", m, 1, self.longest), (ago * math.log(decay)).exp(), 0.0)
        self.weight = weight / weight.sum(-1, keepdim=True)  # (K, 1, 40)

    def reset(self, u: Tensor) -> State:
        acquired = one_hot((u[..., 0] * self.arms).long(), self.arms).bool()
        new = torch.where(acquired, 0.8, 0.3 + 0.2 * u[..., 1:])
        familiar = torch.where(acquired, 0.25, new + 0.1)
        costs = torch.stack([familiar if self.flat else new, familiar], -1)
        return self.fresh(u, costs=costs, past=torch.zeros(*new.shape, self.longest, device=u.device))

    def answer(self, state: State, pulled: Tensor) -> State:
        return state | {"past": torch.cat([pulled[..., None], state["past"][..., :-1]], -1)}

    def tally(self, past: Tensor) -> Tensor:
        """The tally that each arm has once it is played after plays past (L, E, N, 40), the latest first: (L, E, N)."""
        now, ago = given_for(self.weight, len(past)).split([1, self.longest - 1], -1)
        return now + (past[..., :-1] * ago[..., None, :]).sum(-1)

    def expected(self, state: State) -> Tensor:
        return pay(state["costs"], self.tally(state["past"]))

    def best(self, state: State) -> Tensor:
        """The acquired taste, played from the first round on."""
        filled = given_for(self.weight.cumsum(-1), len(state["t"])).expand(*state["t"].shape, -1)
        tally = filled.gather(-1, state["t"].clamp_max(self.longest - 1)[..., None])
        best = state["costs"][..., 1].argmin(-1, keepdim=True)
        return pay(state["costs"], tally).gather(-1, best)[..., 0]


def pay(costs: Tensor, tally: Tensor) -> Tensor:
    """1 - h(tally), of costs (..., 2), new and familiar."""
    new, familiar = costs.unbind(-1)
    return 1 - new - (familiar - new) * tally
