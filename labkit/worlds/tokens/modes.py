"""Chains of operations that may be answered at once, from a guess that is given, or in steps: the first token says which."""
from collections.abc import Sequence
from typing import NamedTuple

from labkit.errors import LabError
from labkit.worlds.registry import register
from labkit.worlds.tokens.chain import DIGITS, LONGEST, MOD, NOTHING, OPERATIONS, chain_of
from labkit.worlds.tokens.world import EMPTY, Problem, TokenWorld, each, spread

STEPS, DIRECT = MOD, MOD + 1  # the tokens that choose
CHOOSING, GUESSING, STEPPING, DONE = range(4)  # what a response is at


class Writing(NamedTuple):
    """A node: what the response is at, the digit that it sees, the operations left, the right result; the guess while it may be used."""

    mode: int
    value: int
    left: tuple[int, ...]
    result: int
    guess: int = EMPTY


@register("tokens.modes")
class Modes(TokenWorld):
    """A chain of D operations, D = level, and a guess at its result, right for a share of the problems: `accuracy(D)`.

    A response begins with "direct", and then one digit is its answer, for which a policy sees the guess; or with "steps", and then the
    value after each operation follows, the last being the answer, for which it sees the last digit and the next operation. Before it
    chooses it sees how long the chain is. Any other token ends the response without an answer. steps: the share of the solutions, which
    a warm start learns, that go in steps, at every level. problems, held: as in tokens.chain.
    """

    features = (DONE, MOD + 1, NOTHING + 1, LONGEST + 1)

    def __init__(
        self, levels: Sequence[int] = tuple(range(1, LONGEST + 1)), problems: int | Sequence[int] = 32, held: int | Sequence[int] = 8,
        steps: float = 0.5, seed: int = 0, text: bool = False,
    ) -> None:  # fmt: skip
        """LabError for levels or a share that cannot be, or more problems than there are."""
        if not levels or not all(1 <= level <= LONGEST for level in levels):
            raise LabError(f"Levels of tokens.modes go from 1 to {LONGEST}; got {tuple(levels)}.")
        if not 0 <= steps <= 1:
            raise LabError(f"The share of solutions in steps lies between 0 and 1; got steps={steps!r}.")
        counts = zip(levels, each(problems, levels), each(held, levels), strict=True)
        listed = [p for level, n, kept in counts for p in self._problems(level, n, kept, steps, seed)]
        guesses = [f"{digit}?" for digit in DIGITS]
        super().__init__("tokens.modes", (*DIGITS, "steps", "direct"), (*OPERATIONS, *guesses, "="), listed, text)

    @staticmethod
    def accuracy(level: int) -> float:
        """The share of right guesses: 1 for one operation, in equal steps down to that of a die, 1/11, for six."""
        return 1 - (level - 1) / (LONGEST - 1) * (1 - 1 / MOD)

    def _problems(self, level: int, n: int, held: int, steps: float, seed: int) -> list[Problem]:
        drawn = spread(MOD * NOTHING**level, n + held, seed)
        right, stepped = (_some(n, held, share, seed + i) for i, share in enumerate((self.accuracy(level), steps), 1))
        return [self._problem(number, level, i in right, i in stepped, i >= n) for i, number in enumerate(drawn)]

    def _problem(self, number: int, level: int, right: bool, stepped: bool, held_out: bool) -> Problem:
        operations, values = chain_of(number, level, range(NOTHING))
        guess = values[-1] if right else (values[-1] + 1 + number % (MOD - 1)) % MOD
        solution = ("steps", *(DIGITS[v] for v in values[1:])) if stepped else ("direct", DIGITS[values[-1]])
        prompt = (DIGITS[values[0]], *(OPERATIONS[o] for o in operations), f"{DIGITS[guess]}?", "=")
        return Problem(prompt, level, solution, Writing(CHOOSING, values[0], operations, values[-1], guess), held_out)

    def after(self, node: Writing, token: int) -> Writing:
        if node.mode == CHOOSING and token == STEPS:
            return node._replace(mode=STEPPING, guess=EMPTY)
        if node.mode == CHOOSING and token == DIRECT:
            return node._replace(mode=GUESSING, value=node.guess)
        if node.mode == STEPPING and token < MOD and len(node.left) > 1:
            return node._replace(value=token, left=node.left[1:])
        return Writing(DONE, token if node.mode != CHOOSING and token < MOD else EMPTY, (), node.result)

    def over(self, node: Writing) -> bool:
        return node.mode == DONE

    def mark(self, node: Writing) -> float:
        return float(node.value == node.result)

    def answer(self, node: Writing) -> int:
        return node.value

    def see(self, node: Writing) -> tuple[int, ...]:
        value = MOD if node.mode == CHOOSING else node.value
        return node.mode, value, node.left[0] if node.mode == STEPPING else NOTHING, len(node.left)


def _some(n: int, held: int, share: float, seed: int) -> set[int]:
    """A share, drawn by lot, of the numbers below n, and of the `held` after them."""
    return {*spread(n, round(share * n), seed), *(n + i for i in spread(held, round(share * held), seed))}
