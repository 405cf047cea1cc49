"""Chains of operations of which two can be done in three ways: at once, or in either order of two halves, which takes a token more."""
from collections.abc import Sequence
from typing import NamedTuple

from labkit.errors import LabError
from labkit.worlds.registry import register
from labkit.worlds.tokens.chain import DIGITS, LONGEST, MOD, NOTHING, OPERATIONS, apply
from labkit.worlds.tokens.world import EMPTY, Problem, TokenWorld, each, spread

FORKS = {"*6": ("*2", "*3"), "+8": ("+3", "+5")}  # and the two halves of each
LETTERS = ("a", "b", "c")  # the tokens that choose: at once, in two halves, or in two halves the other way round
WAYS = range(MOD, MOD + len(LETTERS))
STEPS = (*OPERATIONS, *FORKS, *(f"{fork} at once" for fork in FORKS))  # all that can come next
FORKING = range(NOTHING, NOTHING + len(FORKS))  # those at which a choice is due
SHORTEST = 4  # operations, so that two of them can be forks


class Walking(NamedTuple):
    """A node: the last digit written (at first the prompt's), the steps left, numbers of STEPS, and the right result; lost: it has gone off
    the way, by a digit where a choice was due or a choice where a digit was."""

    value: int
    left: tuple[int, ...]
    result: int
    lost: bool = False


LOST = Walking(0, (), EMPTY, True)


@register("tokens.fork")
class Fork(TokenWorld):
    """A start digit and D operations, D = level; the second and the last but one are forks, "*6" or "+8". Only the last value is marked.

    At a fork the policy first chooses: "a" does it at once, by one digit; "b" and "c" in two halves, in either order, by two. So each
    problem has nine right responses, the longest two tokens longer than the shortest. The other tokens are forced: one digit is right. A
    policy sees the last digit, what is next, and how many steps are left. Solutions take each of the three ways equally often.
    problems, held: how many of each level are to train on and held out, one number or one for each level.
    """

    features = (MOD, len(STEPS), LONGEST + 3)

    def __init__(
        self, levels: Sequence[int] = (4, 5, 6), problems: int | Sequence[int] = 16, held: int | Sequence[int] = 4, seed: int = 0,
        text: bool = False,
    ) -> None:  # fmt: skip
        """LabError for levels that are none, or more problems than there are."""
        if not levels or not all(SHORTEST <= level <= LONGEST for level in levels):
            raise LabError(f"Levels of tokens.fork go from {SHORTEST} to {LONGEST}; got {tuple(levels)}.")
        counts = zip(levels, each(problems, levels), each(held, levels), strict=True)
        listed = [p for level, n, kept in counts for p in _problems(level, n, kept, seed)]
        super().__init__("tokens.fork", (*DIGITS, *LETTERS), (*OPERATIONS, *FORKS, "="), listed, text)

    def after(self, node: Walking, token: int) -> Walking:
        return walk(node, token)

    def over(self, node: Walking) -> bool:
        return node.lost or not node.left

    def mark(self, node: Walking) -> float:
        return float(node.value == node.result)

    def answer(self, node: Walking) -> int:
        return EMPTY if node.lost else node.value

    def see(self, node: Walking) -> tuple[int, ...]:
        return node.value, node.left[0], len(node.left)


def walk(node: Walking, token: int) -> Walking:
    """The node after a token."""
    if (node.left[0] in FORKING) != (token in WAYS):
        return LOST
    if token in WAYS:
        return node._replace(left=(*ways(node.left[0])[token - MOD], *node.left[1:]))
    return node._replace(value=token, left=node.left[1:])


def ways(fork: int) -> tuple[tuple[int, ...], ...]:
    """What each choice makes of a fork; all are numbers of STEPS."""
    first, second = (OPERATIONS.index(half) for half in FORKS[STEPS[fork]])
    return (fork + len(FORKS),), (first, second), (second, first)


def done(step: int, value: int) -> int:
    """The value after a step; a fork has the same one whichever way it goes."""
    if step < NOTHING:
        return apply(step, value)
    for half in ways(FORKING[(step - NOTHING) % len(FORKS)])[1]:
        value = apply(half, value)
    return value


def _problems(level: int, n: int, held: int, seed: int) -> list[Problem]:
    """n to train on and so many held out, drawn by `seed`."""
    total = MOD * NOTHING ** (level - 2) * len(FORKS) ** 2
    return [_problem(number, level, i, i >= n) for i, number in enumerate(spread(total, n + held, seed))]


def _problem(number: int, level: int, i: int, held_out: bool) -> Problem:
    """Number `number` of all of a level. Its solution takes number i % 9 of the nine pairs of ways."""
    number, value = divmod(number, MOD)
    steps: list[int] = []
    for place in range(level):
        kinds = FORKING if place in (1, level - 2) else range(NOTHING)
        number, kind = divmod(number, len(kinds))
        steps.append(kinds[kind])
    result = value
    for step in steps:
        result = done(step, result)
    start = Walking(value, tuple(steps), result)
    solution = tuple((*DIGITS, *LETTERS)[token] for token in _solution(start, [i % 3, i // 3 % 3]))
    return Problem((DIGITS[value], *(STEPS[s] for s in steps), "="), level, solution, start, held_out)


def _solution(node: Walking, choices: list[int]) -> list[int]:
    """The tokens of a right response that makes these choices."""
    tokens: list[int] = []
    while node.left:
        tokens.append(WAYS[choices.pop()] if node.left[0] in FORKING else done(node.left[0], node.value))
        node = walk(node, tokens[-1])
    return tokens
