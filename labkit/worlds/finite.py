"""Finite worlds known exactly: values, occupancies, best policies and policy gradients without sampling noise."""
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from scipy.sparse import linalg
from scipy.sparse.csgraph import reverse_cuthill_mckee
from torch import Tensor
from torch.nn.functional import one_hot, pad

from labkit import nn
from labkit.errors import LabError
from labkit.worlds.registry import register
from labkit.worlds.world import Discrete, State, World

DENSE = 1000  # states up to which a table of outcomes becomes a dense P
SLACK = 1e-9  # by how much probabilities may miss 1
TIE = 1e-10  # actions whose values differ by less, relative to the state's largest, are equally good
LONG = 1e-9  # the same for long-run gains and biases, which are of order 1
DOUBLINGS = 50  # of the time that a chain is followed to see where it ends up
SPECK = 1e-15  # gains below this, relative to the largest value anywhere, are not pursued


# ---- what a finite world is -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class MDP:
    """A Markov decision process with S states and A actions, one for all lanes (K = 1) or one per lane (K = L).

    P (K, S, A, S) float64: P[k, s, a, s2] is the chance that s2 follows; what a row misses to 1 is the chance that the
    episode ends there. For many states P is a SciPy CSR matrix (S * A, S), row s * A + a; then K = 1.
    r (K, S, A): expected reward of a step. mu (K, S): where episodes start. gamma: one discount, or one per lane (K,);
    1 is allowed for questions with a `horizon`. labels and cells name the states and place them (row, column) in pictures.
    LabError for wrong shapes, rows that exceed 1, negative or non-finite numbers.
    """

    P: Any  # Tensor or sp.csr_matrix
    r: Tensor
    mu: Tensor
    gamma: float | Tensor
    labels: tuple[str, ...] = ()
    cells: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        for name in ("r", "mu") if self.sparse else ("P", "r", "mu"):
            object.__setattr__(self, name, torch.as_tensor(getattr(self, name), dtype=torch.float64))
        _check_shapes(self)
        _check_numbers(self)

    @property
    def sparse(self) -> bool:
        """Is P a SciPy matrix?"""
        return sp.issparse(self.P)

    @property
    def states(self) -> int:
        return self.r.shape[1]

    @property
    def actions(self) -> int:
        return self.r.shape[2]

    @property
    def lanes(self) -> int:
        """K: 1, or the number of lanes that have MDPs of their own."""
        return max(1 if self.sparse else len(self.P), len(self.r), len(self.mu), len(self.discount))

    @cached_property
    def discount(self) -> Tensor:
        """gamma as a tensor (1 | K,) float64."""
        return torch.as_tensor(self.gamma, dtype=torch.float64, device=self.r.device).reshape(-1)

    @cached_property
    def best(self) -> "Best":
        """What `optimal` says, asked once."""
        return Best(*optimal(self))

    @cached_property
    def best_gain(self) -> Tensor:
        """The most that a step can pay in the long run, from the best place to be, (K,)."""
        return optimal_gain(self)[0].amax(-1)

    @cached_property
    def below(self) -> Tensor:
        """Running sums of P, (K, S, A, S): a uniform number's place among them is the next state, S where the episode ends."""
        if self.sparse:
            raise LabError(f"A sparse MDP is not sampled from its matrix; take a world of up to {DENSE} states, not {self.states}.")
        return _cumulative(self.P)

    @cached_property
    def ends(self) -> bool:
        """Can an episode end?"""
        return not bool((self.below[..., -1] == 1).all())

    @cached_property
    def narrow(self) -> bool:
        """Of a sparse P: can its states be lined up so that successors are near (grids, chains)? Then elimination is cheap."""
        graph = sp.csr_matrix((np.ones(self.states * self.actions), *_rows(self)), shape=(self.states, self.P.shape[0])) @ self.P
        place = np.argsort(reverse_cuthill_mckee(graph))
        edges = graph.tocoo()
        return bool(np.abs(place[edges.row] - place[edges.col]).max(initial=0) <= 8 * self.states**0.5)

    def take(self, rows: Tensor) -> "MDP":
        """The MDPs of lanes rows (L,), int64, each with its optimum, which is solved for once for all of them."""
        facts = {name: getattr(self, name) for name in ("P", "r", "mu", "discount", "best_gain", "below", "ends")}
        facts = {name: _rows_of(fact, rows) for name, fact in facts.items()}
        twin = copy(self)  # past the constructor: what it checks has been checked
        vars(twin).update(facts, gamma=facts["discount"], best=Best(*(_rows_of(x, rows) for x in vars(self.best).values())))
        return twin

    def to_sparse(self) -> "MDP":
        """The same MDP with P as a CSR matrix. LabError where lanes have MDPs of their own."""
        if self.lanes > 1:
            raise LabError(f"A sparse MDP is one for all lanes; this one has {self.lanes}.")
        return replace(self, P=sp.csr_matrix(self.P[0].flatten(0, 1).cpu().numpy()))


@dataclass(frozen=True)
class Best:
    """Q* (K, S, A), V* (K, S) and a deterministic pi* (K, S, A) of an MDP, discounted."""

    q: Tensor
    v: Tensor
    pi: Tensor


def _rows_of(fact: Any, rows: Tensor) -> Any:
    """What a fact (K, ...) says of some lanes; what is said of all stays."""
    return fact[rows] if isinstance(fact, Tensor) and len(fact) > 1 else fact


def _check_shapes(m: MDP) -> None:
    if m.r.dim() != 3 or m.mu.dim() != 2 or m.mu.shape[1] != m.states:
        raise LabError(f"An MDP takes r (K, S, A) and mu (K, S); got {tuple(m.r.shape)} and {tuple(m.mu.shape)}.")
    want: tuple[int, ...] = (m.states * m.actions, m.states) if m.sparse else (m.states, m.actions, m.states)
    if tuple(m.P.shape) != want if m.sparse else (m.P.dim() != 4 or m.P.shape[1:] != want):
        raise LabError(f"With {m.states} states and {m.actions} actions P is {'' if m.sparse else 'K x '}{want}; got {tuple(m.P.shape)}.")
    counts = {len(m.r), len(m.mu), len(m.discount), 1 if m.sparse else len(m.P)} - {1}
    if len(counts) > 1 or (m.sparse and counts):
        raise LabError(f"P, r, mu and gamma are for 1 lane or all for the same number (1 if sparse); got {sorted(counts)} lanes.")
    for name, given in (("labels", m.labels), ("cells", m.cells)):
        if given and len(given) != m.states:
            raise LabError(f"There are {m.states} states but {len(given)} {name}; give one per state or none.")


def _check_numbers(m: MDP) -> None:
    if not bool(torch.isfinite(m.r).all()):
        k, s, a = (~torch.isfinite(m.r)).nonzero()[0].tolist()
        raise LabError(f"The reward of state {s}, action {a} (lane {k}) is {m.r[k, s, a].item()}; rewards are finite.")
    rows = torch.from_numpy(np.asarray(m.P.sum(1)).reshape(1, m.states, m.actions)) if m.sparse else m.P.sum(-1)
    least = min(0.0, float(m.P.data.min(initial=0.0) if m.sparse else m.P.min()))
    if not (bool((rows <= 1 + SLACK).all()) and least >= 0):
        worst = int(rows.nan_to_num(nan=torch.inf).argmax())
        raise LabError(
            f"P of state {worst // m.actions % m.states}, action {worst % m.actions} sums to {rows.flatten()[worst].item():.6g} "
            f"and P's least entry is {least:.6g}; chances are not negative and sum to at most 1 (the rest ends the episode)."
        )
    if not bool(((m.mu.sum(-1) - 1).abs() <= SLACK).all() and (m.mu >= 0).all()):
        raise LabError(f"mu is not a distribution over the {m.states} states: its sums are {m.mu.sum(-1).tolist()[:5]}; they must be 1.")
    if not bool(((m.discount >= 0) & (m.discount <= 1)).all()):
        raise LabError(f"gamma is {m.discount.tolist()[:5]}; a discount lies in [0, 1).")


@dataclass(frozen=True, eq=False)
class Table:
    """What may follow each state and action: B outcomes, all tensors (K, S, A, B).

    next (int64): the state shown next; prob sums to 1 over B; reward; done: the episode ends there.
    LabError for an unknown state, chances that do not sum to 1 and non-finite rewards.
    """

    next: Tensor
    prob: Tensor
    reward: Tensor
    done: Tensor

    def __post_init__(self) -> None:
        shape, states = self.next.shape, self.next.shape[1] if self.next.dim() == 4 else 0
        if len(shape) != 4 or not all(x.shape == shape for x in vars(self).values()):
            raise LabError(f"A table's next, prob, reward and done are (K, S, A, B); got {[tuple(x.shape) for x in vars(self).values()]}.")
        strange = self.next[(self.next < 0) | (self.next >= states)]
        if len(strange):
            raise LabError(f"A table leads to state {strange[0]}; it has states 0 to {states - 1}.")
        if not bool(((self.prob.sum(-1) - 1).abs() <= SLACK).all() and (self.prob >= 0).all()):
            raise LabError("The chances of a table's outcomes sum to 1 and are not negative; here some do not.")
        if not bool(torch.isfinite(self.reward).all()):
            k, s, a, _ = (~torch.isfinite(self.reward)).nonzero()[0].tolist()
            raise LabError(f"The reward of state {s}, action {a} (lane {k}) is not finite; give a number.")

    def mdp(self, mu: Tensor, gamma: float | Tensor, **names: Any) -> MDP:
        """The MDP that forgets which outcome paid: dense up to DENSE states, else sparse."""
        K, S, A, B = self.next.shape
        alive, r = self.prob * ~self.done, (self.prob * self.reward).sum(-1)
        if S <= DENSE:
            return MDP(alive.new_zeros(K, S, A, S).scatter_add_(3, self.next, alive), r, mu, gamma, **names)
        if K > 1:
            raise LabError(f"Lanes may have MDPs of their own up to {DENSE} states; this table has {S}.")
        chance, follow = (x.flatten().cpu().numpy() for x in (alive, self.next))
        P = sp.csr_matrix((chance, follow, np.arange(0, S * A * B + 1, B)), shape=(S * A, S))
        P.sum_duplicates()
        P.eliminate_zeros()
        return MDP(P, r, mu, gamma, **names)


# ---- exact answers ----------------------------------------------------------------------------------------------


def values(mdp: MDP, pi: Tensor, horizon: int | None = None) -> tuple[Tensor, Tensor]:
    """Q (L, S, A) and V (L, S) of pi (L, S, A), discounted, float64; gradients flow through pi.

    With `horizon` H: of the steps h = 0 .. H-1 of an episode cut off after H, Q (L, H, S, A) and V (L, H, S);
    pi may then differ from step to step, (L, H, S, A).
    """
    pi = _fit(mdp, pi, horizon)
    if horizon is not None:
        return _values_by_step(mdp, pi)
    v = _solve(mdp, pi, (pi * mdp.r).sum(-1))
    return lookahead(mdp, v), v


def advantage(mdp: MDP, pi: Tensor, horizon: int | None = None) -> Tensor:
    """Q - V, shaped like Q of `values`."""
    q, v = values(mdp, pi, horizon)
    return q - v[..., None]


def expected_return(mdp: MDP, pi: Tensor, horizon: int | None = None) -> Tensor:
    """J (L,): the mean discounted return from mu. Its autograd gradient is the exact policy gradient."""
    v = values(mdp, pi, horizon)[1]
    return (mdp.mu * (v if horizon is None else v[:, 0])).sum(-1)


def occupancy(mdp: MDP, pi: Tensor, horizon: int | None = None) -> Tensor:
    """d (L, S) = (1 - gamma) sum_t gamma^t P(s_t = s): the normalised discounted occupancy of pi (L, S, A).

    It sums to 1 where episodes never end. Where they do, the missing mass is E[gamma^T], the discounted time after
    the end at step T, so J = sum_s d(s) r_pi(s) / (1 - gamma) holds in both cases. Times pi it is that of state-actions.
    With `horizon` H: P(s_h = s and not ended), undiscounted, (L, H, S).
    """
    pi = _fit(mdp, pi, horizon)
    start = mdp.mu.expand(len(pi), -1)
    if horizon is not None:
        return _occupancy_by_step(mdp, pi, start)
    return (1 - mdp.discount[:, None]) * _solve(mdp, pi, start, transposed=True)


@torch.no_grad()
def optimal(mdp: MDP, horizon: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Q* (K, S, A), V* (K, S) and a deterministic pi* (K, S, A), by policy iteration until no action is better.

    Among equally good actions (to TIE, and to the accuracy of the solve) pi* takes the lowest. With `horizon` H, by
    backward induction: Q* (K, H, S, A), V* (K, H, S) and pi* (K, H, S, A), which may look at the clock.
    """
    if horizon is not None:
        return _optimal_by_step(mdp, horizon)
    shape = (mdp.lanes, mdp.states, mdp.actions)
    q, v = values(mdp, mdp.r.new_full(shape, 1 / mdp.actions))  # chance goes everywhere, so it knows the way
    choice = q.argmax(-1)
    while True:
        choice = _settle(mdp, v, choice) if mdp.sparse else choice
        q, v = values(mdp, _sure(choice, mdp))
        own = q.gather(-1, choice[..., None])[..., 0]
        doubt = 2 * (own - v).abs().amax(-1, keepdim=True) / (1 - mdp.discount[:, None])  # twice the error v can have
        tie = TIE * q.abs().amax(-1) + doubt
        better = q.amax(-1) - own > tie + SPECK * q.abs().amax((1, 2))[:, None]
        if not better.any():
            return q, v, _sure((q >= (q.amax(-1) - tie)[..., None]).byte().argmax(-1), mdp)
        choice = torch.where(better, q.argmax(-1), choice)


def performance_difference(mdp: MDP, old: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
    """J(new) - J(old), (L,), and its exact split by state, (L, S), for policies (L, S, A).

    Kakade and Langford (2002), lemma 6.1: the split is d_new(s) sum_a new(a|s) A_old(s, a) / (1 - gamma), what the new
    actions gain in s, weighted by how often the new policy is there. It sums to the total, whether or not episodes end.
    """
    gain = (_fit(mdp, new) * advantage(mdp, old)).sum(-1)
    split = occupancy(mdp, new) * gain / (1 - mdp.discount[:, None])
    return expected_return(mdp, new) - expected_return(mdp, old), split


def _fit(mdp: MDP, pi: Tensor, horizon: int | None = None) -> Tensor:
    """pi as float64 for every lane; LabError where it does not fit the MDP or the question."""
    states, actions, stepwise = mdp.states, mdp.actions, horizon is not None and pi.dim() == 4
    if pi.dim() != 3 + stepwise or pi.shape[-2:] != (states, actions) or (stepwise and pi.shape[1] != horizon):
        raise LabError(f"A policy here is (L, {states}, {actions}), or (L, H, {states}, {actions}) with horizon=H; got {tuple(pi.shape)}.")
    if {len(pi), mdp.lanes} - {1, max(len(pi), mdp.lanes)}:
        raise LabError(f"The policy has {len(pi)} lanes and the MDP {mdp.lanes}; they must be equal, or one of them 1.")
    if not bool(((pi.detach().sum(-1) - 1).abs() < 1e-5).all() and (pi >= 0).all()):
        raise LabError("A policy's probabilities are not negative and sum to 1 in every state; give it a softmax.")
    if horizon is None and not bool((mdp.discount < 1).all()):
        raise LabError("gamma is 1, so values may be infinite; give horizon= or a gamma below 1.")
    if horizon is not None and not stepwise:
        pi = pi[:, None].expand(-1, horizon, -1, -1)
    return pi.double().expand(max(len(pi), mdp.lanes), *pi.shape[1:])


def _sure(choice: Tensor, mdp: MDP) -> Tensor:
    """Actions (...) as a deterministic policy (..., A)."""
    return one_hot(choice, mdp.actions).double()


def lookahead(mdp: MDP, v: Tensor) -> Tensor:
    """V of the next state (L, S) -> Q (L, S, A)."""
    return mdp.r + mdp.discount[:, None, None] * _ahead(mdp, v)


def _ahead(mdp: MDP, v: Tensor) -> Tensor:
    """The mean of v (L, S) over next states, (L, S, A)."""
    if mdp.sparse:
        return _SparseStep.apply(v, mdp, True)
    wide = v.expand(max(2, len(v)), -1)  # one lane alone would be summed in another order
    out = torch.bmm(mdp.P.flatten(1, 2).expand(len(wide), -1, -1), wide[..., None])[: len(v), :, 0]
    return out.unflatten(1, (mdp.states, mdp.actions))


def _flow(mdp: MDP, mass: Tensor) -> Tensor:
    """Where a mass on state-actions (L, S, A) goes in one step, (L, S)."""
    if mdp.sparse:
        return _SparseStep.apply(mass, mdp, False)
    wide = mass.flatten(1).expand(max(2, len(mass)), -1)
    return torch.bmm(wide[:, None], mdp.P.flatten(1, 2).expand(len(wide), -1, -1))[: len(mass), 0]


def _values_by_step(mdp: MDP, pi: Tensor) -> tuple[Tensor, Tensor]:
    v, steps = torch.zeros_like(pi[:, 0, :, 0]), []
    for h in reversed(range(pi.shape[1])):
        q = lookahead(mdp, v)
        v = (pi[:, h] * q).sum(-1)
        steps.append((q, v))
    return torch.stack([q for q, _ in reversed(steps)], 1), torch.stack([v for _, v in reversed(steps)], 1)


def _occupancy_by_step(mdp: MDP, pi: Tensor, start: Tensor) -> Tensor:
    steps = [start]
    for h in range(pi.shape[1] - 1):
        steps.append(_flow(mdp, steps[-1][..., None] * pi[:, h]))
    return torch.stack(steps, 1)


def _optimal_by_step(mdp: MDP, horizon: int) -> tuple[Tensor, Tensor, Tensor]:
    v, steps = mdp.r.new_zeros(mdp.lanes, mdp.states), []
    for _ in range(horizon):
        q = lookahead(mdp, v)
        v = q.amax(-1)
        tied = q >= (v - TIE * q.abs().amax(-1))[..., None]
        steps.append((q, v, _sure(tied.byte().argmax(-1), mdp)))
    q, v, pi = (torch.stack(part[::-1], 1) for part in zip(*steps, strict=True))
    return q, v, pi


def _solve(mdp: MDP, pi: Tensor, b: Tensor, transposed: bool = False) -> Tensor:
    """x (L, S) with (I - gamma P_pi) x = b, or with the transposed matrix."""
    if mdp.sparse:
        return _SparseSolve.apply(pi, b, mdp, transposed)
    step = sum((pi[:, :, a, None] * mdp.P[:, :, a] for a in range(1, mdp.actions)), pi[:, :, :1] * mdp.P[:, :, 0])
    more = -mdp.states % 8  # padded to whole cache lines, LAPACK rounds alike in every lane
    same = torch.eye(mdp.states + more, dtype=torch.float64, device=step.device)
    matrix = same - mdp.discount[:, None, None] * pad(step, (0, more, 0, more))
    return torch.linalg.solve(matrix.mT if transposed else matrix, pad(b, (0, more))[..., None])[:, : mdp.states, 0]


class _SparseStep(torch.autograd.Function):
    """`_ahead` or `_flow` of a sparse MDP; each is the other's gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mdp: MDP, ahead: bool) -> Tensor:
        ctx.mdp, ctx.ahead = mdp, ahead
        out = torch.from_numpy(np.stack([(mdp.P if ahead else mdp.P.T) @ lane for lane in x.flatten(1).cpu().numpy()])).to(x.device)
        return out.unflatten(1, (mdp.states, mdp.actions)) if ahead else out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        return _SparseStep.apply(grad, ctx.mdp, not ctx.ahead), None, None


class _SparseSolve(torch.autograd.Function):
    """`_solve` of a sparse MDP; its gradient is one more solve, with the other matrix (the adjoint)."""

    @staticmethod
    def forward(ctx: Any, pi: Tensor, b: Tensor, mdp: MDP, transposed: bool) -> Tensor:
        lanes = zip(pi.cpu().numpy(), b.cpu().numpy(), strict=True)
        x = torch.from_numpy(np.stack([_solve_sparse(mdp, p, c, transposed) for p, c in lanes])).to(pi.device)
        ctx.mdp, ctx.transposed = mdp, transposed
        ctx.save_for_backward(pi, x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        pi, x = ctx.saved_tensors
        adjoint = _solve(ctx.mdp, pi, grad, not ctx.transposed)
        row, column = (x, adjoint) if ctx.transposed else (adjoint, x)
        return ctx.mdp.discount * row[..., None] * _ahead(ctx.mdp, column), adjoint, None, None


def _rows(mdp: MDP) -> tuple[np.ndarray, np.ndarray]:
    """Column numbers and row ends of a CSR matrix (S, S * A) that sums each state's actions."""
    size = mdp.states * mdp.actions
    return np.arange(size), np.arange(0, size + 1, mdp.actions)


def _solve_sparse(mdp: MDP, pi: np.ndarray, b: np.ndarray, transposed: bool) -> np.ndarray:
    """By elimination where the graph is narrow or small, else by iteration. LabError where neither reaches a residual of 1e-10."""
    mean = sp.csr_matrix((pi.ravel(), *_rows(mdp)), shape=(mdp.states, mdp.P.shape[0]))
    mean.eliminate_zeros()
    matrix = sp.identity(mdp.states, format="csr") - mdp.discount.item() * (mean @ mdp.P)
    matrix = matrix.T.tocsr() if transposed else matrix
    if mdp.narrow or mdp.states <= DENSE:
        factors = linalg.splu(matrix.tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
        x = factors.solve(b)
    else:
        x = _iterate(matrix, b)
    left = float(np.linalg.norm(matrix @ x - b)) / max(float(np.linalg.norm(b)), 1e-300)
    if not left <= 1e-10:
        raise LabError(f"The sparse solve stopped at a relative residual of {left:.1e}; try a smaller gamma or at most {DENSE} states.")
    return x


def _iterate(matrix: sp.csr_matrix, b: np.ndarray) -> np.ndarray:
    """BiCGSTAB (few steps where chance mixes well), restarted on what is left; plain sweeps, which always converge, where it stalls."""
    x, left, goal = np.zeros_like(b), b, 1e-13 * float(np.linalg.norm(b))
    for _ in range(50):
        size = float(np.linalg.norm(left))
        if size <= goal:
            break
        trial = x + size * linalg.bicgstab(matrix, left / size, rtol=max(0.5 * goal / size, 1e-9), maxiter=300)[0]
        if not np.linalg.norm(b - matrix @ trial) < size / 2:
            trial = x
            for _ in range(200):
                trial = trial + (b - matrix @ trial)
        x, left = trial, b - matrix @ trial
    return x


def _settle(mdp: MDP, v: Tensor, choice: Tensor) -> Tensor:
    """Modified policy iteration from v (1, S) until the greedy choice (1, S) stays: cheaper than solving for each change."""
    every, A, gamma, now, kept = np.arange(mdp.states), mdp.actions, mdp.discount.item(), v[0].cpu().numpy(), choice[0].cpu().numpy()
    P, r = mdp.P[np.arange(mdp.P.shape[0]).reshape(-1, A).T.ravel()], mdp.r[0].T.cpu().numpy()  # by action, then state
    for _ in range(60):
        before, own, pay = now, mdp.P[every * A + kept], r[kept, every]
        for _ in range(60):
            now = pay + gamma * (own @ now)
        for _ in range(6):
            q = r + gamma * (P @ now).reshape(r.shape)
            now = q.max(0)
        better = now - q[kept, every] > TIE * np.abs(q).max(0) + SPECK * np.abs(q).max()
        kept = np.where(better, q.argmax(0), kept)
        if not better.any() and np.abs(now - before).max() <= 1e-2 * np.abs(now).max():
            break
    return torch.from_numpy(kept)[None].to(v.device)


# ---- the long run -----------------------------------------------------------------------------------------------


def gain(mdp: MDP, pi: Tensor) -> Tensor:
    """What a step of pi (L, S, A) pays in the long run, undiscounted, from each state: (L, S). An episode that ends begins anew."""
    return nn.product(_limiting(_unending(mdp, pi)), _paid(mdp, pi))[..., 0]


def stationary(mdp: MDP, pi: Tensor) -> Tensor:
    """The share of its time that pi (L, S, A) spends in each state in the long run, from mu: (L, S), summing to 1."""
    limit = _limiting(_unending(mdp, pi))
    return nn.product(mdp.mu.expand(len(limit), -1)[:, None], limit)[:, 0]


@torch.no_grad()
def optimal_gain(mdp: MDP) -> tuple[Tensor, Tensor, Tensor]:
    """The largest gain from each state (K, S), its bias (K, S) and a deterministic policy that has it (K, S, A).

    By policy iteration for any chain structure (Puterman 1994, section 9.2): better by gain first, and of equal gains by bias.
    Of equally good actions the one in use stays.
    """
    P = _unending(mdp)
    choice = lookahead(mdp, torch.zeros_like(mdp.r[..., 0])).expand(mdp.lanes, -1, -1).argmax(-1)
    while True:
        g, h = _gain_and_bias(mdp, _sure(choice, mdp))
        far, near = _over(P, g), mdp.r + _over(P, h)
        near = torch.where(_tied(far, far.amax(-1, keepdim=True)), near, -torch.inf)
        good = _tied(near, near.amax(-1, keepdim=True))
        stays = good.gather(-1, choice[..., None])[..., 0]
        if bool(stays.all()):
            return g, h, _sure(choice, mdp)
        choice = torch.where(stays, choice, good.byte().argmax(-1))


def _tied(x: Tensor, best: Tensor) -> Tensor:
    """Which of x (K, S, A) are as good as the best, but for rounding."""
    return x >= best - LONG * (1 + best.abs())


def _unending(mdp: MDP, pi: Tensor | None = None) -> Tensor:
    """P (L, S, A, S), or under pi (L, S, A) P (L, S, S), with episodes that end in P beginning anew. LabError where P is sparse."""
    if mdp.sparse:
        raise LabError(f"The long run needs a dense model, of up to {DENSE} states; this one has {mdp.states}.")
    P = mdp.P + (1 - mdp.P.sum(-1, keepdim=True)).clamp_min(0) * mdp.mu[:, None, None]
    return P if pi is None else (_fit(mdp, pi, 1)[:, 0, ..., None] * P).sum(2)


def _paid(mdp: MDP, pi: Tensor) -> Tensor:
    """The mean reward of a step in each state, (L, S, 1)."""
    return (_fit(mdp, pi, 1)[:, 0] * mdp.r).sum(-1, keepdim=True)


def _over(P: Tensor, x: Tensor) -> Tensor:
    """The mean of x (L, S) over the next states of P (L, S, A, S): (L, S, A)."""
    lanes = max(len(P), len(x))
    wide = P.flatten(1, 2).expand(lanes, -1, -1), x[..., None].expand(lanes, -1, -1)
    return nn.product(*wide)[..., 0].unflatten(1, P.shape[1:3])


def _limiting(P: Tensor) -> Tensor:
    """The mean of P^t over all t, (L, S, S): where each state leads in the long run.

    It is the limit of powers of (P + 1) / 2, which has no periods; squaring DOUBLINGS times takes it far beyond any slow mixing.
    """
    power = (P + torch.eye(P.shape[-1], dtype=P.dtype, device=P.device)) / 2
    for _ in range(DOUBLINGS):
        power = nn.product(power, power)
        power = power / power.sum(-1, keepdim=True)
    return power


def _gain_and_bias(mdp: MDP, pi: Tensor) -> tuple[Tensor, Tensor]:
    """Gain and bias of pi, (L, S) each: h solves (1 - P + P*) h = r - g, P* the limiting matrix (Puterman 1994, eq. A.14)."""
    P, r = _unending(mdp, pi), _paid(mdp, pi)
    limit = _limiting(P)
    g, more = nn.product(limit, r), -mdp.states % 8
    same = torch.eye(mdp.states + more, dtype=P.dtype, device=P.device)
    h = torch.linalg.solve(same + pad(limit - P, (0, more, 0, more)), pad(r - g, (0, 0, 0, more)))[:, : mdp.states]
    return g[..., 0], h[..., 0]


# ---- the same worlds, sampled -----------------------------------------------------------------------------------


class FiniteWorld(World):
    """A table of outcomes as a world: observation = one-hot state, one uniform number per step and per reset.

    `mdp` is the exact view of it, `table` the outcomes. The state holds `s` (L, E), the number of the state, and
    `t` (L, E), the steps taken. Where lanes have tables of their own, only as many lanes can be run.
    """

    obs_low, obs_high = 0.0, 1.0
    reset_noise = step_noise = 1

    def __init__(self, key: str, table: Table, mu: Tensor, gamma: float | Tensor, horizon: int, **names: Any) -> None:
        self.key, self.table, self.horizon = key, table, horizon
        self.mdp = table.mdp(mu, gamma, **names)
        self.obs_size, self.actions = self.mdp.states, Discrete(self.mdp.actions)
        self._below, self._first = _cumulative(table.prob), _cumulative(self.mdp.mu)

    def _lane(self, lanes: int) -> Tensor:
        """The world's own number of each lane, (L, 1): it has one for all or one for each."""
        if self.mdp.lanes not in (1, lanes):
            raise LabError(f"{self.key} has {self.mdp.lanes} MDPs, one per lane; run that many lanes, not {lanes}.")
        return torch.arange(lanes, device=self.table.next.device)[:, None] % self.mdp.lanes

    def _row(self, state: State) -> Tensor:
        """The table's row for each environment, (L, 1 | E)."""
        return self._lane(len(state["s"])) % len(self.table.next)

    modes = 1  # MDPs between which the world may change

    def at(self, clock: Tensor) -> MDP:
        """The MDP as it stands at clock (L,) int64, steps since the beginning: this world stays as it is."""
        return self.mdp

    def in_mode(self, mode: Tensor) -> MDP:
        """The MDP where each lane is in one of its modes, (L,) int64, whatever the clock says: this world has one."""
        return self.mdp

    def reset(self, u: Tensor) -> State:
        self._lane(len(u))
        s = torch.searchsorted(self._first.expand(len(u), -1).contiguous(), u[..., 0].double().contiguous(), right=True)
        return {"s": s, "t": torch.zeros_like(s)}

    def step(self, state: State, action: Tensor, u: Tensor) -> tuple[State, Tensor, Tensor, Tensor]:
        place = self._row(state), state["s"], action
        outcome = (*place, (u >= self._below[place]).sum(-1))
        t = state["t"] + 1
        after = {"s": self.table.next[outcome], "t": t}
        return after, self.table.reward[outcome].float(), self.table.done[outcome], t >= self.horizon

    def observe(self, state: State) -> Tensor:
        return one_hot(state["s"], self.obs_size).float()


def _cumulative(prob: Tensor) -> Tensor:
    """Running sums that end in exactly 1, so that every uniform number finds a place."""
    sums = prob.cumsum(-1)
    return torch.where(sums > 1 - SLACK, 1.0, sums)


def from_table(
    next: Any, reward: Any, done: Any, mu: Any, prob: Any = None, *, gamma: float | Tensor = 0.99, horizon: int = 100,
    key: str = "finite.table", **names: Any,
) -> FiniteWorld:  # fmt: skip
    """A world from what follows each state and action: next, reward, done, all (S, A), (S, A, B) or (K, S, A, B).

    prob: chances of the B outcomes, of the same shape, needed where B > 1. mu (S,) or (K, S). names: labels, cells.
    """
    wide = [torch.as_tensor(np.array(x)) for x in (next, np.ones(np.shape(next)) if prob is None else prob, reward, done)]
    wide = [x[None, ..., None] if x.dim() == 2 else x[None] if x.dim() == 3 else x for x in wide]
    table = Table(wide[0].long(), wide[1].double(), wide[2].double(), wide[3].bool())
    mu = torch.as_tensor(mu, dtype=torch.float64)
    return FiniteWorld(key, table, mu if mu.dim() == 2 else mu[None], gamma, horizon, **names)


def sampled(mdp: MDP, horizon: int = 100, key: str = "finite.mdp") -> FiniteWorld:
    """A dense MDP as a world: outcome b < S leads to state b, outcome S ends the episode; each pays r(s, a)."""
    if mdp.sparse:
        raise LabError("A sparse MDP is not sampled from its matrix; build its world from a table of outcomes (from_table).")
    K, S, A = len(mdp.P), mdp.states, mdp.actions
    ends = (1 - mdp.P.sum(-1, keepdim=True)).clamp(min=0)
    every = torch.arange(S, device=mdp.r.device)
    follow = torch.cat([every.expand(K, S, A, S), every[:, None, None].expand(K, S, A, 1)], -1)
    parts = follow, torch.cat([mdp.P, ends], -1), mdp.r[..., None], torch.arange(S + 1, device=mdp.r.device) == S
    table = Table(*(x.expand(mdp.lanes, S, A, S + 1) for x in parts))
    return FiniteWorld(key, table, mdp.mu, mdp.gamma, horizon, labels=mdp.labels, cells=mdp.cells)


# ---- makers -----------------------------------------------------------------------------------------------------


def _start(states: int, first: int = 0) -> Tensor:
    return one_hot(torch.tensor(first), states).double()


def at_least(name: str, value: int, least: int) -> None:
    """LabError where an option is too small."""
    if value < least:
        raise LabError(f"{name} is {value}; it must be at least {least}.")


@register("finite.chain")
def chain(n: int = 5, slip: float = 0.0, gamma: float = 0.99, horizon: int = 100) -> FiniteWorld:
    """A corridor of n states: left (0) and right (1); leaving it on the right pays 1 and ends the episode.

    With chance `slip` a step goes the other way. Without it V*(s) = gamma^(n - 1 - s).
    """
    at_least("n", n, 1)
    s = np.arange(n)
    moves = np.stack([np.maximum(s - 1, 0), np.minimum(s + 1, n - 1)], -1)
    follow = np.stack([moves, moves[:, ::-1]], -1)  # (S, A, B): as meant, or the other way
    out = (s == n - 1)[:, None, None] & np.array([[False, True], [True, False]])
    prob = np.broadcast_to([1 - slip, slip], follow.shape)
    cells = tuple((0, int(i)) for i in s)
    return from_table(follow, out, out, _start(n), prob, gamma=gamma, horizon=horizon, key="finite.chain", cells=cells)


@register("finite.riverswim")
def riverswim(n: int = 6, gamma: float = 0.99, horizon: int = 20) -> FiniteWorld:
    """Swim against a current: left (0) always works, right (1) mostly does not; 1 upstream, 0.005 for resting downstream.

    Strehl and Littman (2008), with the numbers of Osband, Russo and Van Roy (2013). It never ends by itself.
    """
    follow, prob = river(n)
    reward = np.zeros(follow.shape)
    reward[0, 0], reward[-1, 1] = 0.005, 1.0
    cells = tuple((0, s) for s in range(n))
    return from_table(
        follow, reward, np.zeros(follow.shape, bool), _start(n), prob, gamma=gamma, horizon=horizon, key="finite.riverswim", cells=cells
    )


def river(n: int) -> tuple[np.ndarray, np.ndarray]:
    """RiverSwim's moves, (S, A, 3): next places (back, stay, forward) and their chances, with the current (0) and against it (1)."""
    at_least("n", n, 2)
    s = np.arange(n)
    follow = np.repeat(np.stack([np.maximum(s - 1, 0), s, np.minimum(s + 1, n - 1)], -1)[:, None], 2, 1)
    swim = np.array([[0.05, 0.6, 0.35]] * n)
    swim[0], swim[-1] = [0.0, 0.4, 0.6], [0.4, 0.6, 0.0]
    return follow, np.stack([np.repeat([[1.0, 0.0, 0.0]], n, 0), swim], 1)


def _walk(rows: int, columns: int, ways: Sequence[tuple[int, int]], slip: float) -> tuple[np.ndarray, np.ndarray]:
    """Next cells and their chances, (S, 4, 3), on a walled floor: each of the two ways beside the one meant has slip / 2."""
    row, column = np.divmod(np.arange(rows * columns), columns)
    cell = [np.clip(row + down, 0, rows - 1) * columns + np.clip(column + right, 0, columns - 1) for down, right in ways]
    follow = np.stack([np.stack([cell[(a + turn) % 4] for turn in (-1, 0, 1)], -1) for a in range(4)], 1)
    return follow, np.broadcast_to([slip / 2, 1 - slip, slip / 2], follow.shape)


def _grid_cells(rows: int, columns: int) -> tuple[tuple[int, int], ...]:
    return tuple((row, column) for row in range(rows) for column in range(columns))


@register("finite.cliff")
def cliff(
    height: int = 4, width: int = 12, slip: float = 0.0, fatal: bool = False, gamma: float = 0.99, horizon: int = 200
) -> FiniteWorld:  # fmt: skip
    """Walk along a cliff: up, right, down, left; -1 a step, -100 for falling, which leads back to the start.

    Sutton and Barto (2018), example 6.6; rewards and moves are those of Gymnasium's CliffWalking. `fatal`: a fall ends
    the episode. `slip`: chance of going to one side of the way meant.
    """
    at_least("height", height, 2)
    at_least("width", width, 3)
    start, goal = (height - 1) * width, height * width - 1
    follow, prob = _walk(height, width, ((-1, 0), (0, 1), (1, 0), (0, -1)), slip)
    fall = (follow > start) & (follow < goal)
    follow = np.where(fall, start, follow)
    follow[goal] = goal
    done, reward = (follow == goal) | (fall & fatal), np.where(fall, -100.0, -1.0)
    reward[goal] = 0
    labels = tuple("S" if s == start else "G" if s == goal else "C" if s > start else "." for s in range(height * width))
    return from_table(
        follow, reward, done, _start(height * width, start), prob, gamma=gamma, horizon=horizon, key="finite.cliff",
        labels=labels, cells=_grid_cells(height, width),
    )  # fmt: skip


LAKES = {
    4: "SFFF FHFH FFFH HFFG",
    8: "SFFFFFFF FFFFFFFF FFFHFFFF FFFFFHFF FFFHFFFF FHHFFFHF FHFFHFHF FFFHFFFG",
}


@register("finite.frozenlake")
def frozenlake(size: int = 4, slip: float = 2 / 3, gamma: float = 0.99, horizon: int | None = None) -> FiniteWorld:
    """Cross a frozen lake with holes (H) to the goal (G), which pays 1: left, down, right, up. As Gymnasium's, sizes 4 and 8.

    `slip`: chance of sliding to one side of the way meant (0 is Gymnasium's is_slippery=False). horizon: 100, or 200 at size 8.
    """
    if size not in LAKES:
        raise LabError(f"There is no frozen lake of size {size}; sizes are {', '.join(map(str, LAKES))}.")
    letters = np.array(list(LAKES[size].replace(" ", "")))
    follow, prob = _walk(size, size, ((0, -1), (1, 0), (0, 1), (-1, 0)), slip)
    over = np.isin(letters, ["H", "G"])
    follow = np.where(over[:, None, None], np.arange(size**2)[:, None, None], follow)
    reward = (letters[follow] == "G") & ~over[:, None, None]
    return from_table(
        follow, reward, over[follow], _start(size**2), prob, gamma=gamma, horizon=horizon or 25 * size, key="finite.frozenlake",
        labels=tuple(letters.tolist()), cells=_grid_cells(size, size),
    )  # fmt: skip


@register("finite.garnet")
def garnet(
    states: int = 10, actions: int = 3, branching: int = 3, seed: int | Sequence[int] = 0, gamma: float = 0.99, horizon: int = 100
) -> FiniteWorld:  # fmt: skip
    """A random MDP that never ends, after Archibald, McKinnon and Thomas (1995); a sequence of seeds gives each lane its own.

    Each state and action leads to `branching` different states with chances cut at random from 1, and pays a standard
    normal reward. Episodes start anywhere.
    """
    tables = [garnet_table(states, actions, branching, one) for one in ([seed] if isinstance(seed, int) else seed)]
    follow, prob, reward = (np.stack(parts) for parts in zip(*tables, strict=True))
    mu = np.full((len(tables), states), 1 / states)
    return from_table(follow, reward, np.zeros(follow.shape, bool), mu, prob, gamma=gamma, horizon=horizon, key="finite.garnet")


def garnet_table(states: int, actions: int, branching: int, seed: int | list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Successors without repetition, their chances and rewards, (S, A, B) each, from the stream of a seed or of a list of numbers.

    LabError where there are not as many states as branches."""
    if not 1 <= branching <= states:
        raise LabError(f"branching is {branching}; it must lie between 1 and the {states} states.")
    rng = np.random.Generator(np.random.Philox(seed))
    follow = np.zeros((states, actions, 0), np.int64)
    for b in range(branching):  # the new one is the x-th of those not yet taken
        x = rng.integers(states - b, size=(states, actions))
        for i in range(b):
            x = x + (x >= follow[..., i])
        follow = np.sort(np.concatenate([follow, x[..., None]], -1), -1)
    cuts = np.sort(rng.random((states, actions, branching - 1)), -1)
    prob = np.diff(cuts, prepend=0.0, append=1.0)
    reward = np.broadcast_to(rng.standard_normal((states, actions, 1)), follow.shape)
    return follow, prob, reward
