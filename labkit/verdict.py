"""What became of a claim: an interval held against a bound by a rule that was written before the numbers."""
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from labkit.stats import iqm

Held = Literal["held", "not held", "inconclusive"]
_ORDER: tuple[Held, ...] = ("not held", "inconclusive", "held")


@dataclass(frozen=True)
class Verdict:
    """A value with its 95% interval over seeds, the decision, and the rule that decided."""

    value: float
    low: float
    high: float
    held: Held
    rule: str


def above(x: Tensor, bound: float, what: str) -> Verdict:
    """Is the interquartile mean of x (S,), one number a seed, above `bound`? Held if all of its 95% interval is, not held if none is."""
    found = iqm(x)
    value, low, high = (float(v) for v in (found.value, found.low, found.high))
    held: Held = "held" if low > bound else "not held" if high <= bound else "inconclusive"
    return Verdict(value, low, high, held, f"{what}: interquartile mean over {found.n} seeds above {bound:g}")


def below(x: Tensor, bound: float, what: str) -> Verdict:
    """The same for below."""
    v = above(-x, -bound, what)
    return Verdict(-v.value, -v.high, -v.low, v.held, v.rule.replace(f"above {-bound:g}", f"below {bound:g}"))


def exactly(truth: bool, value: float, what: str) -> Verdict:
    """A part of a claim that is counted, not estimated: its interval has no width."""
    return Verdict(value, value, value, "held" if truth else "not held", what)


def together(*parts: Verdict) -> Verdict:
    """A claim is as good as its weakest part: its numbers are that part's, an estimate's where there is one; its rule names all."""
    weakest = min(parts, key=lambda v: (_ORDER.index(v.held), v.low == v.high))
    return Verdict(weakest.value, weakest.low, weakest.high, weakest.held, "; and ".join(f"{v.rule} ({v.held})" for v in parts))
