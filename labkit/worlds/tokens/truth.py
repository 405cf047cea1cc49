"""What a policy will write, exactly: sums over all responses, by dynamic programming over the graph of a TokenWorld.

Policies are given as probs (L, R, V): of each token at each of the R things to see.
"""
from collections.abc import Sequence

import torch
from torch import Tensor

from labkit.worlds.tokens.world import Graph


def expected(graph: Graph, probs: Tensor, gains: Sequence[Tensor], end: Tensor | None = None) -> Tensor:
    """What is gathered from each node to the end of the response on average, (Q, L, S), for each of Q kinds of gain (L, R).

    A gain is met at every token written; with `end` (S,) or (L, S) there is one kind more, the last, met at the finished node.
    Backward from the finished nodes; in the dtype of probs.
    """
    lanes, kinds = len(probs), len(gains) + (end is not None)
    p = probs.permute(1, 2, 0).contiguous()  # lanes last: gathering copies whole rows, and sums over tokens are in order
    gain = torch.stack([*(g.expand(lanes, -1).T for g in gains), *[torch.zeros_like(p[:, 0])] * (end is not None)], 1).to(p)
    told = p.new_zeros(len(graph.row), kinds, lanes)
    if end is not None:
        told[: graph.finished, -1] = end.to(p).expand(lanes, -1).T[: graph.finished]
    for first, beyond in graph.layers[1:]:
        row, follows = graph.row[first:beyond], graph.next[first:beyond]
        here, chance = gain[row], p[row]
        for token in range(p.shape[1]):
            here += chance[:, token, None] * told[follows[:, token]]
        told[first:beyond] = here
    return told.permute(1, 2, 0).contiguous()


def success(graph: Graph, probs: Tensor) -> Tensor:
    """The mean reward of a response from each node, (L, S)."""
    return expected(graph, probs, (), graph.reward)[0]


def arrivals(graph: Graph, probs: Tensor, start: Tensor) -> Tensor:
    """How often each node is passed in one response, (L, S), where it starts at one of `start` (n,) or (L, n), all alike likely.

    Forward; over the finished nodes it sums to 1, over the others to the mean length.
    """
    lanes, p = len(probs), probs.permute(1, 2, 0).contiguous()
    begun = p.new_zeros(len(graph.row), lanes)
    begun.scatter_add_(0, start.expand(lanes, -1).T, p.new_full((start.shape[-1], lanes), 1 / start.shape[-1]))
    for first, beyond in reversed(graph.layers[1:]):
        flow = begun[first:beyond]
        chance = p[graph.row[first:beyond]]
        for token in range(p.shape[1]):
            begun.index_add_(0, graph.next[first:beyond, token], flow * chance[:, token])
    return begun.T.contiguous()


def visits(graph: Graph, probs: Tensor, start: Tensor) -> Tensor:
    """How often each thing is seen in one response, (L, R); `start` as in `arrivals`. The weights of exact states, up to their sum."""
    passed = arrivals(graph, probs, start)[:, graph.finished :]
    return passed.new_zeros(len(probs), len(graph.obs)).index_add_(1, graph.row[graph.finished :], passed)


def pass_at(success: Tensor, k: int) -> Tensor:
    """The chance that one of k responses is right: 1 - (1 - p)^k, of success probabilities p of any shape."""
    return -torch.expm1(k * torch.log1p(-success.clamp(0, 1)))
