"""Exact values of a policy beside SciPy's sparse solver, and how they grow with the number of states."""
import torch
from harness import Row, against, cpu
from scipy.sparse import identity
from scipy.sparse.linalg import spsolve

from labkit.worlds.finite import cliff, values

SIDES = (10, 32, 100, 316)  # of a square floor: 10^2 to 10^5 states


def pair(side: int, repeats: int) -> list[Row]:
    mdp = cliff(side, side).mdp
    sparse = mdp if mdp.sparse else mdp.to_sparse()
    pi = torch.full((1, mdp.states, 4), 0.25, dtype=torch.float64)
    chain = sum(sparse.P[a::4] for a in range(4)) / 4
    system = (identity(mdp.states) - float(mdp.gamma) * chain).tocsc()
    reward = (mdp.r[0] * pi[0]).sum(-1).numpy()
    what = f"values of a policy, {mdp.states:,} states"
    ours = Row(what, "CPU-s", "labkit", cpu(lambda: values(mdp, pi), repeats), note="" if mdp.sparse else "dense")
    return against(ours, Row(what, "CPU-s", "scipy.sparse spsolve", cpu(lambda: spsolve(system, reward), repeats)))


def rows(repeats: int, share: float) -> list[Row]:
    return [row for side in SIDES for row in pair(side, repeats)]
