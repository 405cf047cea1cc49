"""A plan, free steps and a result: of six tokens two decide, the first and the last, or in the mirror the two in the middle."""
from typing import NamedTuple

from labkit.errors import LabError
from labkit.worlds.registry import register
from labkit.worlds.tokens.chain import DIGITS, MOD, OPERATIONS, apply
from labkit.worlds.tokens.world import EMPTY, Problem, TokenWorld, spread

LENGTH = 6  # tokens of a response
PLANS = "abcdef"  # the tokens that name OPERATIONS, in their order
ENDS, MIDDLE = (0, LENGTH - 1), (LENGTH // 2 - 1, LENGTH // 2)  # where the plan and the result stand
NONE, WRONG = len(OPERATIONS), len(OPERATIONS) + 1  # in place of a plan: none needed now, and a digit was written instead


class Working(NamedTuple):
    """A node: the digit and the operation asked for, the plan written, the result written, tokens written."""

    value: int
    asked: int
    plan: int = NONE
    result: int = EMPTY
    t: int = 0


@register("tokens.plan")
class Plan(TokenWorld):
    """A digit and an operation: name the operation by its letter, later write what it makes of the digit. Four other tokens are free.

    A policy sees the digit, how many tokens are written, the operation that is asked for until the place of the plan, and from there to
    the result only what it has planned. Only the result is marked: whoever plans wrongly has lost what was asked. Plan and result come
    first and last; with middle=True third and fourth, so that the free tokens lie outside. held: of the 66 problems, how many are held
    out.
    """

    features = (MOD, len(OPERATIONS) + 1, len(OPERATIONS) + 2, LENGTH)

    def __init__(self, middle: bool = False, held: int = 12, seed: int = 0, text: bool = False) -> None:
        """LabError where no problem is left to train on."""
        self.plan_at, self.result_at = MIDDLE if middle else ENDS
        total = MOD * len(OPERATIONS)
        if not 0 <= held < total:
            raise LabError(f"tokens.plan has {total} problems and keeps one to train on; got held={held}.")
        listed = [self._problem(number, i < held) for i, number in enumerate(spread(total, total, seed))]
        super().__init__("tokens.plan", (*DIGITS, *PLANS), (*OPERATIONS, "="), listed, text)

    def _problem(self, number: int, held_out: bool) -> Problem:
        asked, value = divmod(number, MOD)
        solution = [DIGITS[value]] * LENGTH
        solution[self.plan_at], solution[self.result_at] = PLANS[asked], DIGITS[apply(asked, value)]
        return Problem((DIGITS[value], OPERATIONS[asked], "="), 1, tuple(solution), Working(value, asked), held_out)

    def after(self, node: Working, token: int) -> Working:
        if node.t == self.plan_at:
            node = node._replace(plan=token - MOD if token >= MOD else WRONG)
        if node.t == self.result_at:
            node = node._replace(result=token if token < MOD else EMPTY, plan=NONE)  # it has served
        return node._replace(t=node.t + 1)

    def over(self, node: Working) -> bool:
        return node.t == LENGTH

    def mark(self, node: Working) -> float:
        return float(node.result == apply(node.asked, node.value))

    def answer(self, node: Working) -> int:
        return node.result

    def see(self, node: Working) -> tuple[int, ...]:
        asked = node.asked if node.t <= self.plan_at else len(OPERATIONS)
        return node.value, asked, node.plan, node.t
