"""Everything that changes while an algorithm runs, in one object that can be copied, forked and stored."""
from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from labkit.errors import LabError
from labkit.lanes import Lanes
from labkit.nn import NETS, Net, clip_norm
from labkit.policy import HEADS, Policy
from labkit.transformer import Transformer

NETS["Transformer"] = Transformer


class Learner:
    """Networks, optimiser moments, world state, noise counter, memories: all mutable state of L lanes.

    nets["pi"] is the policy and nets["v"] the critic where there is one. `memory` is a nested dictionary of
    tensors (L, ...) and plain values, free for slots to use. `step` counts environment steps per lane.
    `on` (L, 1) is False for lanes that were stopped; `notes` says why.
    """

    def __init__(self, lanes: Lanes, head: str = "categorical") -> None:
        self.lanes, self.head = lanes, head
        self.tick = self.step = 0
        self.nets: dict[str, Net] = {}
        self.memory: dict[str, Any] = {}
        self.on = torch.ones(len(lanes), 1, dtype=torch.bool, device=lanes.device)
        self.notes: list[str] = []

    def stream(self) -> Callable[..., Tensor]:
        """The next noise stream: stream(i, *shape) is its draw number i, (L, *shape) in [0, 1).

        How much is drawn from one stream never shifts the next, so lanes may draw unequally often.
        """
        self.tick += 1
        tick = self.tick
        return lambda i, *shape: self.lanes.rand(tick + (i << 32), *shape)

    def rand(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1), (L, *shape), from the next stream."""
        return self.stream()(0, *shape)

    def policy(self, obs: Tensor) -> Policy:
        """The policy at obs (L, N, obs_size); obs (N, obs_size) is shared by all lanes. LabError for another obs_size."""
        if obs.shape[-1] != self.nets["pi"].sizes[0]:
            raise LabError(f"This policy sees {self.nets['pi'].sizes[0]} numbers; got observations of shape {tuple(obs.shape)}.")
        out, free = self.nets["pi"](self._spread(obs))
        return HEADS[self.head](out, free)

    def value(self, obs: Tensor) -> Tensor:
        """The critic at obs (L, N, obs_size) -> (L, N)."""
        return self.nets["v"](self._spread(obs))[0][..., 0]

    def _spread(self, obs: Tensor) -> Tensor:
        return obs.expand(len(self.lanes), -1, -1) if obs.dim() == 2 else obs

    def descend(self, net: str, loss: Tensor, lr: Tensor, where: Tensor | None = None, clip: float = float("inf")) -> None:
        """One Adam step per lane down loss (L,), at rate lr (L, 1), gradient norm at most `clip`.

        Where `where` (L,) is False nothing moves. A lane whose loss or gradient is not finite is stopped for good.
        """
        grad = self.gradient(net, loss)
        self.nets[net].adam(clip_norm(grad, clip), lr, self.on if where is None else self.on & where[:, None])

    def gradient(self, net: str, loss: Tensor) -> Tensor:
        """d loss / d theta, (L, P), of loss (L,). Stops the lanes where either is not finite."""
        grad = torch.autograd.grad(loss.sum(), self.nets[net].theta)[0]
        fine = torch.isfinite(loss.detach()) & torch.isfinite(grad.sum(1))
        if not bool(fine.all()):
            self.stop(~fine, loss.detach())
        return grad

    def stop(self, lanes: Tensor, loss: Tensor) -> None:
        """Freeze the lanes marked in `lanes` (L,), and note each with its loss (L,)."""
        for i in (lanes & self.on[:, 0]).nonzero()[:, 0].tolist():
            value = "NaN" if loss[i].isnan() else "infinite" if loss[i].isinf() else "not finite in its gradient"
            self.notes.append(f"{self.lanes.name(i)} stopped at step {self.step}: loss is {value}")
        self.on = self.on & ~lanes[:, None]

    def copy(self) -> Learner:
        """An independent copy: nothing is shared but the frozen Lanes."""
        return copy.deepcopy(self, {id(self.lanes): self.lanes})

    def fork(self, lanes: Lanes) -> Learner:
        """A copy that goes on with other settings: as many lanes, with the same seeds. LabError for any other number."""
        if len(lanes) != len(self.lanes) or lanes.seeds != self.lanes.seeds:
            mine = f"{len(self.lanes)} lanes with seeds {self.lanes.seeds}"
            raise LabError(f"This learner has {mine}; start it with as many, not {len(lanes)}.")
        twin = self.copy()
        twin.lanes = lanes
        return twin

    def resume(self, lanes: Lanes, fresh: Learner) -> Learner:
        """A fork that goes on where `fresh` would begin. LabError where this one comes from another world or method."""
        for name, net in fresh.nets.items():
            mine, ends = self.nets.get(name), (net.sizes[0], net.sizes[-1])
            if self.head != fresh.head or mine is None or (mine.sizes[0], mine.sizes[-1]) != ends:
                raise LabError(f"This learner was not trained here: {name!r} must go from {ends[0]} numbers to {ends[1]} ({fresh.head}).")
        if self.memory.get("world", {}).keys() != fresh.memory.get("world", {}).keys():
            raise LabError("This learner's world is in another state than this world can be; start in the world that it was trained in.")
        return self.fork(lanes)

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All state as named tensors and a JSON-able rest; `unpack` is the inverse."""
        tensors: dict[str, Tensor] = {"on": self.on}
        nets = {}
        for name, net in self.nets.items():
            nets[name] = {"kind": type(net).__name__, "sizes": list(net.sizes), "free": net.free}
            tensors |= {f"nets/{name}/{part}": getattr(net, part).detach() for part in ("theta", "moments", "clock")}
        memory = _flatten(self.memory, "memory", tensors)
        plain = {"head": self.head, "tick": self.tick, "step": self.step, "notes": self.notes, "nets": nets, "memory": memory}
        return tensors, plain | {"seeds": self.lanes.seeds, "grid": self.lanes.grid}

    @classmethod
    def unpack(cls, tensors: dict[str, Tensor], plain: dict[str, Any], device: str = "cpu") -> Learner:
        """Rebuild a learner from `pack`'s two parts. LabError where a part is missing or misshapen."""
        try:
            learner = cls(Lanes(tuple(plain["seeds"]), plain["grid"], device), plain["head"])
            learner.tick, learner.step, learner.notes = plain["tick"], plain["step"], list(plain["notes"])
            learner.on = tensors["on"].clone()
            for name, spec in plain["nets"].items():
                parts = {part: tensors[f"nets/{name}/{part}"].clone() for part in ("theta", "moments", "clock")}
                learner.nets[name] = NETS[spec["kind"]].restore(tuple(spec["sizes"]), spec["free"], **parts)
            learner.memory = _nest(plain["memory"], "memory", tensors)
        except (KeyError, TypeError, AttributeError) as error:
            raise LabError(f"The stored learner lacks {error}; it was damaged or written by another program.") from error
        return learner


def _flatten(tree: dict[str, Any], path: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Move the tensors of a nested dictionary into `tensors`; in their place stands None."""
    plain: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            plain[key] = _flatten(value, f"{path}/{key}", tensors)
        elif isinstance(value, Tensor):
            tensors[f"{path}/{key}"], plain[key] = value.detach(), None
        else:
            plain[key] = value
    return plain


def _nest(plain: dict[str, Any], path: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The inverse of `_flatten`."""

    def back(key: str, value: Any) -> Any:
        if isinstance(value, dict):
            return _nest(value, f"{path}/{key}", tensors)
        return tensors[f"{path}/{key}"].clone() if value is None else value

    return {key: back(key, value) for key, value in plain.items()}


def branch(learner: Learner, grid: Mapping[str, tuple[float, ...]], setting: int | None = None) -> Learner:
    """A copy that goes on with other knobs and the same seeds.

    Lane k goes on from lane k; with `setting`, every setting of `grid` goes on from that one. LabError where the settings
    are not as many as here, and `setting` does not say from which they go on.
    """
    mine, lanes = learner.lanes, Lanes(learner.lanes.seeds, grid, learner.lanes.device)
    points = range(len(lanes.points)) if setting is None else [setting] * len(lanes.points)
    if not 0 <= max(points) < len(mine.points) or (setting is None and len(points) != len(mine.points)):
        raise LabError(f"This run has {len(mine.points)} settings, the fork {len(points)}; say from which `setting` it goes on.")
    seeds = len(mine.seeds)
    return take(learner, torch.tensor([point * seeds + i for point in points for i in range(seeds)]), lanes)


def take(learner: Learner, rows: Tensor, lanes: Lanes) -> Learner:
    """A copy of a learner whose lane k is lane rows[k] of the old one; lanes may be repeated or left out. rows (L') int64."""

    def pick(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: pick(v) for key, v in value.items()}
        return value[rows].clone() if isinstance(value, Tensor) else copy.deepcopy(value)

    new = Learner(lanes, learner.head)
    new.tick, new.step, new.on, new.notes = learner.tick, learner.step, learner.on[rows].clone(), list(learner.notes)
    new.memory = pick(learner.memory)
    for name, net in learner.nets.items():
        parts = (net.theta.detach()[rows].clone(), net.moments[:, rows].clone(), net.clock[rows].clone())
        new.nets[name] = type(net).restore(net.sizes, net.free, *parts)
    return new
