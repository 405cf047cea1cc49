"""What a server grants to all, to a user and to a run; and an account of what each user has taken."""
import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass

from labkit.errors import LabError

HOUR = 3600.0
PACE = 100_000  # environment steps that a core takes in a second, over all lanes of PPO on CartPole


@dataclass(frozen=True)
class Limits:
    """The defaults suit one person at their own machine."""

    sessions: int = 64  # pages open at once
    pages: int = 64  # of them, one user's
    message: int = 2**20  # bytes of a message from a browser
    open: int = 4  # runs of a page that can still go on
    seconds: float = 600.0  # for which a run computes
    run: int = 10**9  # environment steps of a run over all lanes
    hour: int = 10**10  # environment steps of a user within an hour, over all runs and lanes
    idle: float = 4 * HOUR  # seconds after which an untouched page ends

    def told(self) -> str:
        """What each may use, in a sentence."""
        return (
            f"Each seat may open {self.pages} pages with {self.open} runs each, and train {self.hour:,} environment steps an hour over "
            f"all lanes, {self.run:,} in one run, which computes for at most {self.seconds:g} seconds; a page that is not touched for "
            f"{self.idle / 60:g} minutes ends."
        )


def for_class(seats: int, cores: int) -> Limits:
    """Fair shares of `cores` for so many people at once. LabError for none, or for more than one process can serve."""
    if not 1 <= seats <= 200:
        raise LabError(f"A class has 1 to 200 seats; got {seats}.")
    share = int(PACE * HOUR * cores / seats)
    return Limits(sessions=2 * seats + 4, pages=2, open=1, seconds=120.0, run=share // 4, hour=share, idle=HOUR / 2)


class Account:
    """Environment steps of each user within the last hour."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits, self._clock = limits, clock
        self._spent: defaultdict[str, deque[tuple[float, int]]] = defaultdict(deque)

    def spend(self, user: str, steps: int) -> None:
        """Write down what was taken. LabError once a user has none left."""
        now, spent = self._clock(), self._spent[user]
        spent.append((now, steps))
        while spent[0][0] < now - HOUR:
            spent.popleft()
        total = sum(steps for _, steps in spent)
        if total >= self._limits.hour:
            wait = (spent[0][0] + HOUR - now) / 60
            raise LabError(f"You have trained {total:,} environment steps within the hour, all that you may; resume in {wait:.0f} minutes.")
