"""Chains of sums and products modulo 11: the response holds the value after each operation, and only the last one is marked."""
from collections.abc import Sequence
from typing import NamedTuple

from labkit.errors import LabError
from labkit.worlds.registry import register
from labkit.worlds.tokens.world import EMPTY, Problem, TokenWorld, each, spread

MOD = 11
DIGITS = tuple(str(i) for i in range(MOD))
OPERATIONS = ("+2", "+3", "+5", "*2", "*3", "*7")  # each a permutation of the digits, so a guess is right once in 11 times
NOTHING = len(OPERATIONS)  # seen in place of an operation where none is left
STOP = "."
LONGEST = 6  # operations of the hardest level


def apply(operation: int, value: int) -> int:
    """The value after an operation."""
    sign, number = OPERATIONS[operation][0], int(OPERATIONS[operation][1:])
    return (value + number if sign == "+" else value * number) % MOD


def chain_of(number: int, length: int, operations: Sequence[int]) -> tuple[tuple[int, ...], list[int]]:
    """The chain with this number, of 11 len(operations)^length that there are: its operations, and its values from the start digit on."""
    number, value = divmod(number, MOD)
    some, values = len(operations), [value]
    chosen = tuple(operations[number // some**i % some] for i in range(length))
    for operation in chosen:
        values.append(apply(operation, values[-1]))
    return chosen, values


class Writing(NamedTuple):
    """A node: the last digit written (at first the prompt's), the operations left, the right result, tokens left, and is it stopped?"""

    value: int
    left: tuple[int, ...]
    result: int
    room: int
    stopped: bool = False


@register("tokens.chain")
class Chain(TokenWorld):
    """A start digit and D operations, D = level. A policy sees the last digit, the operation that is next, and how many are left.

    So one step is the same skill at every level, and D of them must succeed, or a guess of the last. Without stop a response has D
    digits. With stop it ends at "." or after `room` tokens, and its answer is the digit before the "."; one that is not stopped has
    none. problems, held: how many of each level are to train on and held out, one number or one for each level. operations: those that
    occur in them; what a policy sees is the same whichever do.
    """

    features = (MOD, NOTHING + 1, LONGEST + 1)

    def __init__(
        self, levels: Sequence[int] = tuple(range(1, LONGEST + 1)), problems: int | Sequence[int] = 32, held: int | Sequence[int] = 8,
        operations: Sequence[str] = OPERATIONS, stop: bool = False, room: int = 10, seed: int = 0, text: bool = False,
    ) -> None:  # fmt: skip
        """LabError for levels or operations that are none, more problems than there are, or no room for an answer."""
        if not levels or not all(1 <= level <= LONGEST for level in levels):
            raise LabError(f"Levels of tokens.chain go from 1 to {LONGEST}; got {tuple(levels)}.")
        if not operations or not set(operations) <= set(OPERATIONS):
            raise LabError(f"Operations of tokens.chain are some of {', '.join(OPERATIONS)}; got {tuple(operations)}.")
        if stop and room <= max(levels):
            raise LabError(f"{max(levels)} digits and a stop need room for {max(levels) + 1} tokens or more; got room={room}.")
        self.stop, self.room, self.operations = stop, room, tuple(OPERATIONS.index(o) for o in operations)
        counts = zip(levels, each(problems, levels), each(held, levels), strict=True)
        listed = [p for level, n, kept in counts for p in self._problems(level, n, kept, seed)]
        super().__init__("tokens.chain", (*DIGITS, STOP) if stop else DIGITS, (*OPERATIONS, "="), listed, text)

    def _problems(self, level: int, n: int, held: int, seed: int) -> list[Problem]:
        drawn = spread(MOD * len(self.operations) ** level, n + held, seed)
        return [self._problem(number, level, i >= n) for i, number in enumerate(drawn)]

    def _problem(self, number: int, level: int, held_out: bool) -> Problem:
        operations, values = chain_of(number, level, self.operations)
        start = Writing(values[0], operations, values[-1], self.room if self.stop else level)
        solution = (*(DIGITS[v] for v in values[1:]), *[STOP] * self.stop)
        return Problem((DIGITS[values[0]], *(OPERATIONS[o] for o in operations), "="), level, solution, start, held_out)

    def after(self, node: Writing, token: int) -> Writing:
        if token == MOD:
            return node._replace(room=node.room - 1, stopped=True)
        return node._replace(value=token, left=node.left[1:], room=node.room - 1)

    def over(self, node: Writing) -> bool:
        return node.stopped or node.room == 0

    def mark(self, node: Writing) -> float:
        return float(self.answer(node) == node.result)

    def answer(self, node: Writing) -> int:
        return node.value if node.stopped or not self.stop else EMPTY

    def see(self, node: Writing) -> tuple[int, ...]:
        return node.value, node.left[0] if node.left else NOTHING, len(node.left)
