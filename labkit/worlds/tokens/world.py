"""Worlds of text: a prompt is read, a response is written token by token, and a verifier marks it when it is finished.

All that can be written is a finite graph, so that success, length, entropy and every divergence of a policy which reads a node's
features are exact (truth.py). The same problems can be read as text by a language model.
"""
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from labkit.errors import LabError
from labkit.worlds.world import Discrete, State, World

Node = Any  # hashable: what a verifier needs to know of a prompt and of what has been written
Layers = tuple[tuple[int, int], ...]
EMPTY = -1  # where a text has no token
LIMIT = 200_000  # nodes that a graph may have


@dataclass(frozen=True)
class Problem:
    """A prompt in signs, how hard it is, a right response in tokens, none where there is none, and the node before the first token.

    Held-out problems are never drawn for training.
    """

    prompt: tuple[str, ...]
    level: int
    solution: tuple[str, ...]
    start: Node
    held_out: bool = False


@dataclass(frozen=True)
class Graph:
    """S nodes, V tokens; R different things to see. Sorted by height, the number of tokens that may follow at most.

    next (S, V) int64: the node after each token; a finished one stays. reward (S,) float32: the verifier's mark on finished
    responses. answer (S,) int64: which answer a finished response gives, EMPTY for none and in unfinished ones. row (S,) int64: which
    of the R things to see; obs (R, n) float32: their features. layers: (first, beyond) of the nodes of height 0, 1, ...; those of
    height 0 are finished.
    """

    next: Tensor
    reward: Tensor
    answer: Tensor
    row: Tensor
    obs: Tensor
    layers: Layers

    @property
    def finished(self) -> int:
        """Nodes below this number are finished."""
        return self.layers[0][1]


class TokenWorld(World):
    """N problems. The state holds `problem`, `node` and `t` (L, E), and `written` (L, E, horizon) where text is read.

    A subclass says in plain Python what may be written: `after`, `over`, `mark`, `answer`, and what a policy sees of it: `see`. Tokens
    0 .. V-1 can be written; the signs after them stand only in prompts.

    prompt (N, W) int64: signs of each problem, EMPTY where it is shorter, its last sign at the end. solution (N, horizon) int64:
    a right response, EMPTY throughout where there is none. level (N,), held_out (N,) bool, start (N,): the first node. pool: numbers
    of the problems to train on.
    With text=True a policy sees prompt and response as numbers of signs, EMPTY where there is none: a context.
    """

    features: tuple[int, ...]  # `see` gives as many numbers, each below its own of these
    tokens: tuple[str, ...]
    signs: tuple[str, ...]  # tokens, then what only prompts hold
    obs_low, obs_high = 0.0, 1.0
    reset_noise = 1

    def __init__(self, key: str, tokens: Sequence[str], signs: Sequence[str], problems: Sequence[Problem], text: bool = False) -> None:
        """LabError where no problem is left to train on, a solution is wrong, or too much can be written."""
        self.key, self.tokens, self.signs, self.text = key, tuple(tokens), (*tokens, *signs), text
        self.actions = Discrete(len(tokens))
        self.graph, number = self._explore(dict.fromkeys(p.start for p in problems))
        self.horizon = len(self.graph.layers) - 1
        self.start = torch.tensor([number[p.start] for p in problems])
        self.level = torch.tensor([p.level for p in problems])
        self.held_out = torch.tensor([p.held_out for p in problems])
        self.pool = (~self.held_out).nonzero()[:, 0]
        width = max(len(p.prompt) for p in problems)
        self.prompt = torch.tensor([self._ids(p.prompt[:-1], width - 1) + self._ids(p.prompt[-1:], 1) for p in problems])
        self.solution = torch.tensor([self._ids(p.solution, self.horizon) for p in problems])
        if not len(self.pool):
            raise LabError(f"{key} has no problem to train on; hold fewer out.")
        self._check_solutions()
        self.obs_size = width + self.horizon if text else self.graph.obs.shape[1]
        if text:
            self.obs_low, self.obs_high = float(EMPTY), float(len(self.signs) - 1)

    # what a subclass says; a node is whatever it likes to call one

    @abstractmethod
    def after(self, node: Node, token: int) -> Node:
        """The node after a token."""

    @abstractmethod
    def over(self, node: Node) -> bool:
        """Is the response finished?"""

    @abstractmethod
    def mark(self, node: Node) -> float:
        """What the verifier gives for a finished response."""

    @abstractmethod
    def answer(self, node: Node) -> int:
        """Which answer a finished response gives, from 0 up; EMPTY for none."""

    @abstractmethod
    def see(self, node: Node) -> tuple[int, ...]:
        """What a policy sees of an unfinished node: one number for each of `features`."""

    def featurise(self, seen: Tensor) -> Tensor:
        """seen (R, features) int64 -> what a policy is given, (R, n) float32: each number one-hot."""
        return torch.cat([one_hot(x, size) for x, size in zip(seen.unbind(1), self.features, strict=True)], 1).float()

    # as any world

    def reset(self, u: Tensor) -> State:
        return self.begin(self.pool[(u[..., 0] * len(self.pool)).long()])

    def begin(self, problem: Tensor) -> State:
        """The state before the first token of `problem` (L, E)."""
        state = {"problem": problem, "node": self.start[problem], "t": torch.zeros_like(problem)}
        return state | ({"written": problem.new_full((*problem.shape, self.solution.shape[1]), EMPTY)} if self.text else {})

    def step(self, state: State, action: Tensor, u: Tensor) -> tuple[State, Tensor, Tensor, Tensor]:
        writing = state["node"] >= self.graph.finished
        node, t = self.graph.next[state["node"], action], state["t"] + 1
        after = state | {"node": node, "t": t}
        if self.text:
            here = torch.arange(self.solution.shape[1], device=t.device) == state["t"][..., None]
            after["written"] = torch.where(here, action[..., None], state["written"])
        return after, self.graph.reward[node] * writing, node < self.graph.finished, t >= self.horizon

    def observe(self, state: State) -> Tensor:
        if self.text:
            return torch.cat([self.prompt[state["problem"]], state["written"]], -1).float()
        return self.graph.obs[self.graph.row[state["node"]]]

    # for the reader

    def words(self, ids: Tensor) -> list[str]:
        """The signs of a text (n,) int64, without the empty places."""
        return [self.signs[i] for i in ids.tolist() if i != EMPTY]

    # ---- building ------------------------------------------------------------------------------------------------

    def _ids(self, words: Sequence[str], width: int) -> list[int]:
        if unknown := set(words) - set(self.signs):
            raise LabError(f"{self.key} has no sign {min(unknown)!r}; it has {' '.join(self.signs)}.")
        return [*(self.signs.index(w) for w in words), *[EMPTY] * (width - len(words))]

    def _explore(self, starts: dict[Node, None]) -> tuple[Graph, dict[Node, int]]:
        """All that can be written from these nodes, and the number of every node."""
        follows: dict[Node, list[Node]] = {}
        left = list(starts)
        while left:
            if (node := left.pop()) not in follows:
                follows[node] = [] if self.over(node) else [self.after(node, token) for token in range(len(self.tokens))]
                left += follows[node]
            if len(follows) > LIMIT:
                raise LabError(f"In {self.key} more than {LIMIT:,} nodes can be written; make responses shorter or problems fewer.")
        height = _heights(follows)
        order = sorted(follows, key=lambda node: height[node])  # stable, so as found among equals
        number = {node: i for i, node in enumerate(order)}
        counts = torch.tensor([height[node] for node in order]).bincount().cumsum(0).tolist()
        return self._graph(order, number, follows, tuple(zip([0, *counts], counts, strict=False))), number

    def _graph(self, order: list[Node], number: dict[Node, int], follows: dict[Node, list[Node]], layers: Layers) -> Graph:
        over = range(layers[0][1])
        seen = {what: i for i, what in enumerate(dict.fromkeys(self.see(node) for node in order[len(over) :]))}
        return Graph(
            next=torch.tensor([[number[after] for after in follows[node]] or [i] * len(self.tokens) for i, node in enumerate(order)]),
            reward=torch.tensor([float(self.mark(node)) if i in over else 0.0 for i, node in enumerate(order)]),
            answer=torch.tensor([self.answer(node) if i in over else EMPTY for i, node in enumerate(order)]),
            row=torch.tensor([0 if i in over else seen[self.see(node)] for i, node in enumerate(order)]),
            obs=self.featurise(torch.tensor(list(seen))),
            layers=layers,
        )

    def _check_solutions(self) -> None:
        """LabError for a solution that the verifier does not accept."""
        node = self.start
        for token in self.solution.T:
            node = torch.where(token == EMPTY, node, self.graph.next[node, token.clamp_min(0)])
        known = (self.solution != EMPTY).any(1)
        wrong = (known & ((node >= self.graph.finished) | (self.graph.reward[node] <= 0))).nonzero()
        if len(wrong):
            said, asked = (" ".join(self.words(text[int(wrong[0])])) for text in (self.solution, self.prompt))
            raise LabError(f"{self.key}: {said!r} does not solve {asked!r}; mend that problem's solution.")


def _heights(follows: dict[Node, list[Node]]) -> dict[Node, int]:
    """The number of tokens that may follow each node at most."""
    height: dict[Node, int] = {}

    def climb(node: Node) -> int:
        if node not in height:
            height[node] = 1 + max(climb(after) for after in follows[node]) if follows[node] else 0
        return height[node]

    for node in follows:
        climb(node)
    return height


def spread(total: int, n: int, seed: int) -> list[int]:
    """n of the numbers 0 .. total - 1, none twice, drawn by `seed`. LabError where there are fewer."""
    if not 0 <= n <= total:
        raise LabError(f"There are {total} different problems of this kind; ask for at most as many, not {n}.")
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:n].tolist()


def each(number: int | Sequence[int], levels: Sequence[int]) -> Sequence[int]:
    """One number for each level. LabError for another number of them."""
    numbers = [number] * len(levels) if isinstance(number, int) else number
    if len(numbers) != len(levels):
        raise LabError(f"Give one number for each of {len(levels)} levels; got {tuple(numbers)}.")
    return numbers
