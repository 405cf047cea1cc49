"""Four digits out of those on offer whose sum modulo 11 hits a target: from a handful of solutions to hundreds."""
import itertools
from typing import NamedTuple

from labkit.errors import LabError
from labkit.worlds.registry import register
from labkit.worlds.tokens.chain import DIGITS, MOD
from labkit.worlds.tokens.world import EMPTY, Problem, TokenWorld, spread

LENGTH = 4  # digits of a response
SIZES = range(3, 9)  # digits on offer; a problem's level


class Summing(NamedTuple):
    """A node: the digits on offer, what is missing to the target modulo 11, tokens left, and was another digit written?"""

    offer: tuple[int, ...]
    missing: int
    room: int = LENGTH
    spoilt: bool = False


@register("tokens.countdown")
class Countdown(TokenWorld):
    """The prompt shows 3 to 8 digits and a target; a digit may be taken more than once. Of m digits m^4 / 11 responses or so are right.

    A policy sees the digits on offer, what is missing to the target, how many tokens are left, and whether a digit that was not on offer
    has spoilt the response. `offers` sets of digits of each size, each with all its targets; `held` targets of each are held out.
    """

    features = (*[2] * MOD, MOD, LENGTH + 1, 2)

    def __init__(self, offers: int = 2, held: int = 2, seed: int = 0, text: bool = False) -> None:
        """LabError for no offer or more than there are, or as many targets held out as there are."""
        if offers < 1 or not 0 <= held < MOD:
            raise LabError(f"tokens.countdown takes 1 offer or more, and holds 0 to {MOD - 1} targets of each out; got {offers}, {held}.")
        every = [list(itertools.combinations(range(MOD), size)) for size in SIZES]
        chosen = [sets[i] for sets in every for i in spread(len(sets), offers, seed)]
        listed = [p for i, offer in enumerate(chosen) for p in _problems(offer, held, seed + i)]
        super().__init__("tokens.countdown", DIGITS, ("=",), listed, text)

    def after(self, node: Summing, token: int) -> Summing:
        if node.spoilt or token not in node.offer:
            return Summing(node.offer, 0, node.room - 1, True)
        return Summing(node.offer, (node.missing - token) % MOD, node.room - 1)

    def over(self, node: Summing) -> bool:
        return node.room == 0

    def mark(self, node: Summing) -> float:
        return float(node.missing == 0 and not node.spoilt)

    def answer(self, node: Summing) -> int:
        return EMPTY if node.spoilt else node.missing

    def see(self, node: Summing) -> tuple[int, ...]:
        return (*(int(d in node.offer) for d in range(MOD)), node.missing, node.room, int(node.spoilt))


def _problems(offer: tuple[int, ...], held: int, seed: int) -> list[Problem]:
    """One for each target that can be hit; `held` of them are held out, and each has one of its solutions, all drawn by `seed`."""
    right: dict[int, list[tuple[int, ...]]] = {}
    for digits in itertools.product(offer, repeat=LENGTH):
        right.setdefault(sum(digits) % MOD, []).append(digits)
    out = set(spread(len(right), held, seed))
    return [
        Problem(
            prompt=(*(DIGITS[d] for d in offer), "=", DIGITS[target]),
            level=len(offer),
            solution=tuple(DIGITS[d] for d in found[spread(len(found), 1, MOD * seed + target)[0]]),
            start=Summing(offer, target),
            held_out=i in out,
        )
        for i, (target, found) in enumerate(sorted(right.items()))
    ]
