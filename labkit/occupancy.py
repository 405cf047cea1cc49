"""Where a policy goes, exactly: occupancies of listed worlds as the states of a drift meter."""
from collections.abc import Callable

import torch
from torch import Tensor

from labkit.errors import LabError
from labkit.meter import States
from labkit.policy import Categorical
from labkit.snapshot import Snapshot
from labkit.worlds.finite import MDP, occupancy
from labkit.worlds.grid.table import StateTable
from labkit.worlds.tokens import truth
from labkit.worlds.tokens.world import TokenWorld

Where = Callable[[Tensor], Tensor]


def exact_states(model: MDP | StateTable | TokenWorld) -> Callable[[Snapshot], States]:
    """A function of a snapshot for DriftMeter: every state, weighted by how often the snapshot's policy is there."""
    obs, where = listing(model)

    def states(snapshot: Snapshot) -> States:
        policy = snapshot.learner.policy(obs)
        if not isinstance(policy, Categorical):
            raise LabError(f"Exact states need a policy over finitely many actions; this one is {type(policy).__name__}.")
        return States(obs, where(policy.probs.detach().double()))

    return states


def listing(model: MDP | StateTable | TokenWorld) -> tuple[Tensor, Where]:
    """What is observed in S states, (S, n), and a function from policies (L, S, A) to how often they are there, (L, S), summing to 1.

    Of an MDP (world.mdp of a finite world): one-hot observations and the discounted occupancy.
    Of a StateTable (enumerate_states of a fixed grid): its observations and the share of an episode's steps (`visits`).
    Of a TokenWorld that is not read as text: all that can be seen of its nodes, and the share of a response's tokens, over its training
    problems. LabError for anything else.
    """
    if isinstance(model, MDP):
        return torch.eye(model.states, device=model.r.device), discounted(model)
    if isinstance(model, StateTable):
        return model.obs, visits(model)
    if isinstance(model, TokenWorld) and not model.text:
        return model.graph.obs, tokens(model)
    name = getattr(model, "key", type(model).__name__)
    raise LabError(f"The states of {name} cannot be listed; take a finite world, a grid with layout_seed=0, or tokens.* without text.")


def tokens(world: TokenWorld) -> Where:
    """A function from policies (L, R, V) to the share of tokens that are written at each thing to see, (L, R), on average."""

    def where(pi: Tensor) -> Tensor:
        seen = truth.visits(world.graph, pi, world.start[world.pool])
        return seen / seen.sum(-1, keepdim=True)

    return where


def discounted(mdp: MDP) -> Where:
    """A function from policies (L, S, A) to discounted occupancies (L, S) that sum to 1: of the time before episodes end."""

    def where(pi: Tensor) -> Tensor:
        d = occupancy(mdp, pi)
        return d / d.sum(-1, keepdim=True)

    return where


def visits(table: StateTable) -> Where:
    """A function from policies (L, S, A) to the mean share of an episode's steps spent in each state, (L, S), summing to 1.

    Undiscounted, with the step limit: the states of on-policy batches. Forward sweeps over the horizon, float64.
    """
    pair, source, arrivals = _moves(table)

    def where(pi: Tensor) -> Tensor:
        chance = pi.new_zeros(len(pi), int(pair.max()) + 2).index_add_(1, pair.flatten(), pi.flatten(1))
        weight = chance.T[arrivals].contiguous()  # (P, S, L): lanes last, so that gathering copies whole rows
        here = table.mu.to(pi)[:, None].repeat(1, len(pi))
        total = here.clone()
        for _ in range(table.horizon - 1):
            arriving = (here.index_select(0, s) * w for s, w in zip(source, weight, strict=True))
            here = sum(arriving, torch.zeros_like(here))  # in order: a reduction may add up otherwise beside other lanes
            total += here
        shares = total.T.contiguous()
        return shares / shares.sum(-1, keepdim=True)

    return where


def _moves(table: StateTable) -> tuple[Tensor, Tensor, Tensor]:
    """The pairs (from, to) that some action joins, numbered from 1 by `to`: pair (S, A) of each action, 0 where it ends, which
    nobody reads. For every state its P predecessors (P, S) and the pairs by which they arrive (P, S), padded with an unused pair."""
    size = len(table.mu)
    start = torch.arange(size, device=table.next.device)[:, None]
    names = torch.where(table.done, -1, table.next * size + start)
    known, pair = torch.cat([names.new_tensor([-1]), names.flatten()]).unique(return_inverse=True)
    to, source = known[1:] // size, known[1:] % size
    order = torch.arange(len(to), device=to.device)
    rank = order - torch.searchsorted(to, to)
    arrivals = to.new_full((int(rank.max()) + 1, size), len(known)).index_put((rank, to), order + 1)
    before = torch.zeros_like(arrivals).index_put((rank, to), source)
    return pair[1:].view(table.next.shape), before, arrivals
