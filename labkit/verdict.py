"""What became of a claim: an interval held against a bound by a rule that was written before the numbers.

With the truth on the bound, so that there is no effect, 20 seeds say "held" in about 2% of all cases and at most in 3.5%, "not
held" as rarely, and else "inconclusive" (tests/test_coverage.py).
"""
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from labkit.errors import LabError
from labkit.stats import iqm

Held = Literal["held", "not held", "inconclusive"]
Side = Literal["above", "below"]
_ORDER: tuple[Held, ...] = ("not held", "inconclusive", "held")


@dataclass(frozen=True)
class Verdict:
    """A value with its 95% interval over seeds, the decision, and the rule that decided."""

    value: float
    low: float
    high: float
    held: Held
    rule: str
    bound: float | None = None  # where the rule draws its line; None where nothing is held against a number
    side: Side = "above"  # the side of the bound on which the claim holds
    parts: tuple["Verdict", ...] = ()  # of a claim that has several


def above(x: Tensor, bound: float, what: str) -> Verdict:
    """Is the interquartile mean of x (S,), one number a seed, above `bound`? Held if all of its 95% interval is, not held if none is."""
    if x.numel() < 2:
        raise LabError(f"A verdict takes at least 2 seeds; got {x.numel()}.")
    found = iqm(x)
    value, low, high = (float(v) for v in (found.value, found.low, found.high))
    held: Held = "held" if low > bound else "not held" if high <= bound else "inconclusive"
    return Verdict(value, low, high, held, f"{what}: interquartile mean over {found.n} seeds above {bound:g}", bound)


def below(x: Tensor, bound: float, what: str) -> Verdict:
    """The same for below."""
    v = above(-x, -bound, what)
    return Verdict(-v.value, -v.high, -v.low, v.held, v.rule.replace(f"above {-bound:g}", f"below {bound:g}"), bound, "below")


def exactly(truth: bool, value: float, what: str) -> Verdict:
    """A part of a claim that is counted, not estimated: its interval has no width."""
    return Verdict(value, value, value, "held" if truth else "not held", what)


def weakest(parts: Sequence[Verdict]) -> Verdict:
    """The part that decides a claim: the one that holds least, of those an estimate where there is one."""
    return min(parts, key=lambda v: (_ORDER.index(v.held), v.low == v.high))


def together(*parts: Verdict) -> Verdict:
    """A claim is as good as its weakest part: its numbers are that part's; its rule names all.

    It holds only if every part does, so it is held wrongly no more often than any false part is: an intersection-union test
    (Berger 1982), which needs no correction for the number of parts. "Not held" has no such shelter: with n parts that are true
    but lie on their bounds it comes up to n times as often as with one.
    """
    return replace(weakest(parts), rule="; and ".join(f"{v.rule} ({v.held})" for v in parts), parts=parts)
