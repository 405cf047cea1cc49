"""What came of checking a paper's claim."""
from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """A claim's measured `value` with its 95% interval (low, high), and whether it held by the `rule` set beforehand.

    held is None where the interval leaves it open.
    """

    value: float
    low: float
    high: float
    held: bool | None
    rule: str
