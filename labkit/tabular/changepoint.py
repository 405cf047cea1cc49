"""Has a stream of outcomes changed? A restarted Bayesian detector (Alami, Maillard and Feraud 2020; Alami et al. 2023 for many outcomes).

Forecasters watch a stream x_1, x_2, ... of O outcomes. Each began at its own time s and predicts by Laplace's rule from what it has
seen, (count of x + 1) / (n + O), so that the product of its predictions is the evidence of x_s .. x_t under a Dirichlet(1) prior. The
oldest, r, stands for "no change since the last restart"; one that began at s for "a change before x_s", which is believed with
chance h beforehand:

    v_r = ev(x_r .. x_t),    v_s = h ev(x_r .. x_{s-1}) ev(x_s .. x_t),

and the detector restarts where some v_s exceeds v_r. A newcomer's first outcome counts, too, at 1 / O; the authors leave it out.
"""
import torch
from torch import Tensor

NOBODY = -1e9  # log_v where there is no forecaster: finite, so that learners stay so, yet below all that can be believed
Watch = dict[str, Tensor]  # log_v (..., R): of forecasters, the oldest first; seen (..., R, O): what each has seen, in counts


def fresh(streams: tuple[int, ...], outcomes: int, runs: int = 32, device: str | torch.device = "cpu") -> Watch:
    """Detectors that have seen nothing, one for each of `streams`, such as (L, S, A), with places for `runs` forecasters."""
    log_v = torch.full((*streams, runs), NOBODY, dtype=torch.float64, device=device)
    log_v[..., 0] = 0
    return {"log_v": log_v, "seen": log_v.new_zeros(*streams, runs, outcomes)}


def predictions(seen: Tensor) -> Tensor:
    """Laplace's rule: counts (..., O) -> chances of the next outcome (..., O)."""
    return (seen + 1) / (seen.sum(-1, keepdim=True) + seen.shape[-1])


def belief(watch: Watch) -> tuple[Tensor, Tensor]:
    """The run-length posterior of "one change since the restart, or none": chances (..., R) and lengths (..., R)."""
    return watch["log_v"].softmax(-1), watch["seen"].sum(-1)


def observe(watch: Watch, x: Tensor, h: Tensor, streams: Tensor) -> Tensor:
    """Show outcomes x (n,) to the detectors numbered streams (n,), no one twice; h (n,): chance of a change. Which restart, (n,)?

    Those begin anew, without this outcome. A newcomer takes a free place, or that of the least likely forecaster.
    """
    all_v, all_seen = watch["log_v"].flatten(0, -2), watch["seen"].flatten(0, -3)
    log_v, seen = all_v.index_select(0, streams), all_seen.index_select(0, streams)
    place = 1 + log_v[:, 1:].argmin(-1, keepdim=True)
    log_v = log_v.scatter(1, place, h.log().clamp_min(NOBODY)[:, None] + log_v[:, :1])
    seen = seen.scatter(1, place[..., None].expand(-1, -1, seen.shape[-1]), 0.0)
    shown = x[:, None, None].expand(-1, seen.shape[1], 1)
    log_v = log_v + predictions(seen).gather(2, shown)[..., 0].log()
    seen = seen.scatter_add(2, shown, torch.ones_like(log_v)[..., None])
    changed = log_v[:, 1:].amax(-1) > log_v[:, 0]
    new = fresh((1,), seen.shape[-1], seen.shape[1], seen.device)
    all_v.index_copy_(0, streams, torch.where(changed[:, None], new["log_v"], log_v))
    all_seen.index_copy_(0, streams, torch.where(changed[:, None, None], new["seen"], seen))
    return changed
