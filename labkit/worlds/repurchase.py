"""A share repurchase that ends when the last share is bought: a tree of prices small enough to solve by hand, date by date."""
from functools import cached_property

import torch
from torch import Tensor

from labkit.errors import LabError
from labkit.worlds.registry import register
from labkit.worlds.world import Discrete, State, World


@register("control.repurchase")
class Repurchase(World):
    """Buy `shares` shares within `dates` dates, one or none a date, for a client who pays the average price of the time it took.

    Each date the agent waits (0) or buys at today's price (1), then the price rises or falls by `move`, each with chance 1/2. The
    contract ends at the first date with all shares bought, and at the last date in any case. It pays, then and only then,
    shares * average - cash spent - pen * shares missing, in units of the first price. Hamdouche, Henry-Labordere and Pham (2023), whose
    contract this simplifies. The state holds `price`, `average` (of the prices after the first), `bought`, `cash` and the date `t`, (L, E)
    each. Observed: date / dates, price, average, bought / shares.
    """

    key = "control.repurchase"
    obs_size, actions, step_noise = 4, Discrete(2), 1

    def __init__(self, dates: int = 12, shares: int = 4, move: float = 0.1, pen: float = 2.0) -> None:
        for name, value, least, most in (("dates", dates, 1, 14), ("shares", shares, 1, dates), ("move", move, 0, 0.5), ("pen", pen, 0, 5)):
            if not least <= value <= most:
                raise LabError(f"{name} is {value}; in a repurchase it lies between {least} and {most}.")
        self.dates, self.shares, self.move, self.pen = dates, shares, move, pen
        self.horizon = dates
        self.obs_low, self.obs_high = (0.0, 0.0, 0.0, 0.0), (1.0, (1 + move) ** dates, (1 + move) ** dates, 1.0)

    def reset(self, u: Tensor) -> State:
        one, whole = torch.ones(u.shape[:2], device=u.device), torch.zeros(u.shape[:2], dtype=torch.int64, device=u.device)
        return {"price": one, "average": one, "bought": whole, "cash": 0 * one, "t": whole}

    def step(self, state: State, action: Tensor, u: Tensor) -> tuple[State, Tensor, Tensor, Tensor]:
        t, bought = state["t"] + 1, state["bought"] + action
        cash = state["cash"] + action * state["price"]
        price = state["price"] * torch.where(u[..., 0] < 0.5, 1 + self.move, 1 - self.move)
        average = state["average"] + (price - state["average"]) / t
        terminated = (bought >= self.shares) | (t >= self.dates)
        reward = torch.where(terminated, self.payoff(average, cash, bought), 0.0)
        after = {"price": price, "average": average, "bought": bought, "cash": cash, "t": t}
        return after, reward, terminated, t >= self.horizon

    def payoff(self, average: Tensor, cash: Tensor | float, bought: Tensor) -> Tensor:
        """What the contract pays where it ends; of any shape."""
        return self.shares * average - cash - self.pen * (self.shares - bought).clamp_min(0)

    def observe(self, state: State) -> Tensor:
        seen = (state["t"] / self.dates, state["price"], state["average"], state["bought"] / self.shares)
        return torch.stack(seen, -1).float()

    # ---- exact answers, on the whole tree ---------------------------------------------------------------------------

    @cached_property
    def paths(self) -> tuple[Tensor, Tensor]:
        """Every price path, equally likely: price and average at each date, (2^dates, dates + 1) float64. Histories stand in order."""
        ways = torch.tensor([1 + self.move, 1 - self.move], dtype=torch.float64)
        after = torch.cartesian_prod(*[ways] * self.dates).view(-1, self.dates).cumprod(1)
        one = after.new_ones(len(after), 1)
        return torch.cat([one, after], 1), torch.cat([one, after.cumsum(1) / torch.arange(1, self.dates + 1)], 1)

    def nodes(self) -> Tensor:
        """What is seen wherever a decision is due, (N, 4): date by date, history by history, with 0 to shares - 1 bought."""
        bought = torch.arange(self.shares).double() / self.shares
        rows = []
        for t in range(self.dates):
            price, average = self._at(t)
            columns = torch.broadcast_tensors(torch.tensor(t / self.dates).double(), price, average, bought)
            rows.append(torch.stack(columns, -1).flatten(0, 1))
        return torch.cat(rows).float()

    def by_date(self, x: Tensor) -> list[Tensor]:
        """Numbers at `nodes` (L, N) cut into dates, (L, histories, shares) each."""
        return [part.view(len(x), -1, self.shares) for part in x.split([self.shares * 2**t for t in range(self.dates)], 1)]

    def value(self, buy: Tensor) -> Tensor:
        """The expected payoff (L,) of buying at each of `nodes` with the chances buy (L, N) float64; gradients flow through them."""
        later = self._last().to(buy)
        for t, chance in reversed(list(enumerate(self.by_date(buy)))):
            wait, go = self._choices(t, later)
            later = torch.lerp(wait, go, chance)
        return later[:, 0, 0]

    def optimum(self) -> tuple[float, Tensor]:
        """The best expected payoff, and at which of `nodes` it buys, (N,) bool."""
        later, buys = self._last(), list[Tensor]()
        for t in reversed(range(self.dates)):
            wait, go = self._choices(t, later)
            later, buys = torch.maximum(wait, go), [(go > wait).flatten(), *buys]
        return later[0, 0, 0].item(), torch.cat(buys)

    def _at(self, t: int) -> tuple[Tensor, Tensor]:
        """Price and average after each history of t moves, (2^t, 1)."""
        price, average = (x[:: 2 ** (self.dates - t), t, None] for x in self.paths)
        return price, average

    def _last(self) -> Tensor:
        """The payoff at the last date, less cash, with 0 to shares - 1 bought: (1, histories, shares)."""
        return self.payoff(self._at(self.dates)[1], 0.0, torch.arange(self.shares))[None]

    def _choices(self, t: int, later: Tensor) -> tuple[Tensor, Tensor]:
        """What waiting and buying at date t are worth, (L, histories, shares), by the worth at the next date, `later`."""
        stopped = (self.shares * self._at(t + 1)[1]).to(later).expand(len(later), -1, -1)
        ahead = torch.cat([later, stopped], -1).unflatten(1, (-1, 2)).mean(2)
        return ahead[..., :-1], ahead[..., 1:] - self._at(t)[0].to(later)
