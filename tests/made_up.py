"""Entries for a ledger that nothing was computed for."""
import torch

from labkit.claims import ledger
from labkit.verdict import Verdict, above, exactly, together

SPREAD = torch.linspace(-1, 1, 21)


def entry(key, verdict, seeds=range(20), time="2026-01-02T03:04:05+00:00", code="0" * 16, **settings):
    """What `labkit claims` would write down of this verdict."""
    numbers = (verdict.held, verdict.value, verdict.low, verdict.high, verdict.rule, verdict.parts or (verdict,))
    return ledger.Entry(key, *numbers, tuple(seeds), settings, 12.5, code, {"torch": "2"}, "some machine", time)


def own(key, verdict, **more):
    """The same on the check's own seeds and settings: what the ledger's verdict is."""
    seeds, settings = ledger.defaults(ledger.check_of(key))
    return entry(key, verdict, seeds, **settings | more)


def estimate(middle, bound=0.0, what="return minus ppo's") -> Verdict:
    """An estimated part around `middle`, held against `bound` from above; its interval reaches about 0.4 to each side."""
    return above(SPREAD + middle, bound, what)


def part_counted(truth) -> Verdict:
    """A part that was counted."""
    return exactly(truth, 0.95 if truth else 0.4, "share of seeds is at least 0.8")


FAILED = together(estimate(2), part_counted(False))
